//! The network of the tests: a client, the node that runs `weir`, and servers on the node and beyond a router.
//!
//! ```text
//!                 up0 +------+ pod0 --- eth0 server 0 (local)
//!  client eth0 ------ | node | pod1 --- eth0 server 1 (local)
//!                     +------+ up1 --- near [router] host2 --- eth0 server 2 (remote)
//! ```
//! With `client_router`, a second router stands between client and node. The router of the remote servers knows no way to the client:
//! what comes back to it came through full NAT.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::{namespace::Namespace, server::Server};

/// An IPv4 frontend that is on no interface: the client routes it to the node.
pub const VIP4: &str = "10.99.0.1";
/// The same for IPv6.
pub const VIP6: &str = "fd99::1";
/// The node's own IPv4 address on the client's side.
pub const NODE4: &str = "10.10.0.2";
/// The same for IPv6.
pub const NODE6: &str = "fd10::2";
/// The node's interface towards clients.
pub const UPLINK: &str = "up0";
/// The node's interface towards the router of remote servers.
pub const FAR_UPLINK: &str = "up1";
/// The port on which servers listen.
pub const SERVER_PORT: u16 = 8080;
/// The node's name, given to `weir` and in endpoints of local servers.
pub const NODE_NAME: &str = "node-a";
/// The name in endpoints of remote servers.
pub const OTHER_NODE_NAME: &str = "node-b";

/// What to build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Servers on the node.
    pub local: usize,
    /// Servers beyond the router.
    pub remote: usize,
    /// A router between client and node.
    pub client_router: bool,
    /// The middle part of the namespaces' names.
    pub kind: Option<&'static str>,
}

/// A server's place.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// `server-<index>`.
    pub name: String,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
    /// Whether it is on the node.
    pub local: bool,
    /// The other end of its `eth0`: on the node if it is local, else on the router.
    pub peer_interface: String,
}

impl Host {
    /// Its address of the same family as another.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The built network; dropping it removes it.
#[derive(Debug)]
pub struct Topology {
    /// Where clients are.
    pub client: Namespace,
    /// Between client and node.
    pub client_router: Option<Namespace>,
    /// Where `weir` runs.
    pub node: Namespace,
    /// Between node and remote servers.
    pub router: Option<Namespace>,
    /// The servers, local ones first.
    pub hosts: Vec<Host>,
}

impl Topology {
    /// Builds it.
    pub fn new(layout: Layout) -> Result<Self> {
        let kind = layout.kind.unwrap_or("t");
        let (client, node) = (Namespace::new(kind)?, Namespace::new(kind)?);
        node.forward()?;
        let client_router = if layout.client_router {
            Some(connect_by_router(&client, &node, Namespace::new(kind)?)?)
        } else {
            connect_directly(&client, &node)?;
            None
        };
        let router = if layout.remote > 0 { Some(add_router(&node, Namespace::new(kind)?)?) } else { None };
        let mut topology = Self { client, client_router, node, router, hosts: Vec::new() };
        for index in 0..layout.local + layout.remote {
            let host = topology.add_host(index, index < layout.local, Namespace::new(kind)?)?;
            topology.hosts.push(host);
        }
        Ok(topology)
    }

    /// Switches an offload of every interface of every namespace.
    pub fn offload_everywhere(&self, feature: &str, on: bool) -> Result<()> {
        self.namespaces().iter().try_for_each(|namespace| {
            namespace.interfaces()?.iter().try_for_each(|interface| namespace.offload(interface, feature, on))
        })
    }

    /// Lets the node's neighbours take frames that XDP redirects to them: a veth without GRO or XDP of its own swallows them.
    pub fn accept_redirected_frames(&self) -> Result<()> {
        let around = self.namespaces();
        around.iter().filter(|namespace| namespace.name() != self.node.name()).try_for_each(|namespace| {
            namespace.interfaces()?.iter().try_for_each(|interface| namespace.offload(interface, "gro", true))
        })
    }

    /// Starts the test server on every host.
    pub fn start_servers(&self) -> Result<Vec<Server>> {
        self.hosts
            .iter()
            .map(|host| Server::start(&host.namespace, &host.name, &[host.v4, host.v6], SERVER_PORT))
            .collect()
    }

    fn namespaces(&self) -> Vec<&Namespace> {
        let hosts = self.hosts.iter().map(|host| &host.namespace);
        [&self.client, &self.node].into_iter().chain(&self.client_router).chain(&self.router).chain(hosts).collect()
    }

    fn add_host(&self, index: usize, local: bool, namespace: Namespace) -> Result<Host> {
        let (gateway, net, interface) = match &self.router {
            Some(router) if !local => (router, 30, format!("host{index}")),
            _ => (&self.node, 20, format!("pod{index}")),
        };
        gateway.link(&interface, &namespace, "eth0")?;
        gateway.address(&interface, &[&format!("10.{net}.{index}.1/24"), &format!("fd{net}:{index:x}::1/64")])?;
        let (v4, v6) = (format!("10.{net}.{index}.2"), format!("fd{net}:{index:x}::2"));
        namespace.address("eth0", &[&format!("{v4}/24"), &format!("{v6}/64")])?;
        namespace.route("default", &format!("10.{net}.{index}.1"))?;
        namespace.route("default", &format!("fd{net}:{index:x}::1"))?;
        let name = format!("server-{index}");
        Ok(Host { namespace, name, v4: v4.parse()?, v6: v6.parse()?, local, peer_interface: interface })
    }
}

/// An address and a port from their text; for constants of tests.
pub fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an IP address"), port)
}

fn connect_directly(client: &Namespace, node: &Namespace) -> Result<()> {
    node.link(UPLINK, client, "eth0")?;
    node.address(UPLINK, &["10.10.0.2/24", "fd10::2/64"])?;
    client.address("eth0", &["10.10.0.1/24", "fd10::1/64"])?;
    client.route("default", NODE4)?;
    client.route("default", NODE6)
}

fn connect_by_router(client: &Namespace, node: &Namespace, router: Namespace) -> Result<Namespace> {
    router.forward()?;
    node.link(UPLINK, &router, "node")?;
    router.link("client", client, "eth0")?;
    node.address(UPLINK, &["10.10.0.2/24", "fd10::2/64"])?;
    router.address("node", &["10.10.0.1/24", "fd10::1/64"])?;
    router.address("client", &["10.9.0.1/24", "fd09::1/64"])?;
    client.address("eth0", &["10.9.0.2/24", "fd09::2/64"])?;
    for (namespace, gateways) in [(client, ["10.9.0.1", "fd09::1"]), (&router, [NODE4, NODE6])] {
        gateways.iter().try_for_each(|gateway| namespace.route("default", gateway))?;
    }
    node.route("10.9.0.0/24", "10.10.0.1")?;
    node.route("fd09::/64", "fd10::1")?;
    Ok(router)
}

fn add_router(node: &Namespace, router: Namespace) -> Result<Namespace> {
    router.forward()?;
    node.link(FAR_UPLINK, &router, "near")?;
    node.address(FAR_UPLINK, &["10.40.0.2/24", "fd40::2/64"])?;
    router.address("near", &["10.40.0.1/24", "fd40::1/64"])?;
    node.route("10.30.0.0/16", "10.40.0.1")?;
    node.route("fd30::/16", "fd40::1")?;
    Ok(router)
}
