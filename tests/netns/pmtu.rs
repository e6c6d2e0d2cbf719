//! Path MTU discovery works through the balancer: what is too big is announced to the end that sent it, in that end's own terms.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options},
    client,
    namespace::Namespace,
    topology::{FAR_UPLINK, Layout, UPLINK},
};

use crate::lab::{Lab, on_each_datapath, vip4, vip6};

const SMALL: u32 = 1300;
const BYTES: u64 = 2_000_000;

/// Where the path is narrow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Narrow {
    /// The node's own interface towards the clients.
    NodeToClient,
    /// The node's own interface towards remote servers.
    NodeToServer,
    /// A router between node and clients.
    BeforeClient,
    /// A router between node and remote servers.
    BeforeServer,
}

impl Narrow {
    pub(crate) fn apply(self, lab: &Lab) -> Result<()> {
        let (node, near) = (&lab.topology.node, lab.topology.client_router.as_ref().context("a router")?);
        let far = lab.topology.router.as_ref().context("a router")?;
        let narrow_link = |ends: [(&Namespace, &str); 2]| {
            ends.iter()
                .try_for_each(|(namespace, interface)| namespace.ip(&format!("link set {interface} mtu {SMALL}")))
        };
        match self {
            Self::NodeToClient => narrow_link([(node, UPLINK), (near, "node")]),
            Self::NodeToServer => narrow_link([(node, FAR_UPLINK), (far, "near")]),
            // A route and not the link: both ends must go on believing in 1500, else TCP agrees on less by itself.
            Self::BeforeClient => near.ip(&format!(
                "route replace 10.9.0.0/24 dev client mtu lock {SMALL}\nroute replace fd09::/64 dev client metric 256 mtu lock {SMALL}"
            )),
            Self::BeforeServer => far.ip(&format!(
                "route replace 10.30.1.0/24 dev host1 mtu lock {SMALL}\nroute replace fd30:1::/64 dev host1 metric 256 mtu lock {SMALL}"
            )),
        }
    }
}

impl Narrow {
    /// Sends much from the side where the path is wide. To be done before [`Self::against`]: who has learned of a narrow path tells
    /// its peer at the next connection's start, and nothing too big is sent any more.
    pub(crate) fn through(self, frontend: SocketAddr) -> Result<()> {
        match self {
            Self::NodeToClient | Self::BeforeClient => client::download(frontend, BYTES),
            Self::NodeToServer | Self::BeforeServer => client::upload(frontend, BYTES),
        }
    }

    /// Sends much the other way.
    fn against(self, frontend: SocketAddr) -> Result<()> {
        match self {
            Self::NodeToClient | Self::BeforeClient => client::upload(frontend, BYTES),
            Self::NodeToServer | Self::BeforeServer => client::download(frontend, BYTES),
        }
    }
}

/// Whether a namespace has learned that the path to an address is narrow.
pub(crate) fn has_learned(namespace: &Namespace, address: IpAddr) -> Result<()> {
    let route = namespace.run("ip", &["route", "get", &address.to_string()])?;
    ensure!(route.contains(&format!("mtu {SMALL}")), "{} has not learned it: {route}", namespace.name());
    Ok(())
}

fn discovery(narrow: Narrow) -> Result<()> {
    on_each_datapath(|datapath| {
        for offload in [true, false] {
            discovery_on(narrow, datapath, offload)
                .with_context(|| format!("{narrow:?}, {datapath}, tx offload {offload}"))?;
        }
        Ok(())
    })
}

fn discovery_on(narrow: Narrow, datapath: &str, offload: bool) -> Result<()> {
    let lab = Lab::new(Layout { local: 1, remote: 1, client_router: true, ..Layout::default() })?;
    lab.topology.offload_everywhere("tx", offload)?;
    narrow.apply(&lab)?;
    lab.write(&lab.web_of(true).named("near", 81))?;
    lab.write(&lab.web_of(false).named("far", 82))?;
    let agent = Agent::start(&lab.topology, &lab.manifests, Options::datapath(datapath))?;
    agent.wait_for("both Services are served", |backends| backends.len() == 8)?;
    let frontends =
        || [(81, 0), (82, 1)].into_iter().flat_map(|(port, index)| [(vip4(port), index), (vip6(port), index)]);
    for (frontend, index) in frontends() {
        lab.client(|| narrow.through(frontend)).with_context(|| frontend.to_string())?;
        check_sender(&lab, narrow, index, frontend)?;
    }
    for (frontend, _) in frontends() {
        lab.client(|| narrow.against(frontend)).with_context(|| frontend.to_string())?;
    }
    Ok(())
}

/// The sender before the narrow place must know of it.
fn check_sender(lab: &Lab, narrow: Narrow, index: usize, frontend: SocketAddr) -> Result<()> {
    let server = &lab.topology.hosts[index].namespace;
    let node_or_client = match (frontend.is_ipv4(), index) {
        (true, 0) => "10.9.0.2",
        (true, _) => "10.40.0.2",
        (false, 0) => "fd09::2",
        (false, _) => "fd40::2",
    };
    match narrow {
        Narrow::NodeToClient | Narrow::BeforeClient => has_learned(server, node_or_client.parse()?),
        Narrow::NodeToServer | Narrow::BeforeServer if index == 1 => has_learned(&lab.topology.client, frontend.ip()),
        Narrow::NodeToServer | Narrow::BeforeServer => Ok(()),
    }
}

#[test]
fn a_narrow_interface_of_the_node_towards_clients() -> Result<()> {
    discovery(Narrow::NodeToClient)
}

#[test]
fn a_narrow_interface_of_the_node_towards_servers() -> Result<()> {
    discovery(Narrow::NodeToServer)
}

#[test]
fn a_narrow_router_before_clients() -> Result<()> {
    discovery(Narrow::BeforeClient)
}

#[test]
fn a_narrow_router_before_servers() -> Result<()> {
    discovery(Narrow::BeforeServer)
}

#[test]
fn a_closed_udp_port_is_announced_to_the_client() -> Result<()> {
    on_each_datapath(|datapath| {
        let mut lab = Lab::mixed(1, 1)?;
        lab.servers.clear();
        // Their sockets close when their threads wake up.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let _agent = lab.start(&lab.web().algorithm("round-robin"), Options::datapath(datapath))?;
        for frontend in [vip4(80), vip6(80), vip4(80), vip6(80)] {
            let error = lab.client(|| {
                let socket = client::datagram_socket(frontend)?;
                socket.send(b"anybody?")?;
                Ok(socket.recv(&mut [0; 16]).map_err(|error| error.kind()))
            })?;
            assert_eq!(error, Err(std::io::ErrorKind::ConnectionRefused), "{datapath}, {frontend}");
        }
        Ok(())
    })
}
