//! Where it happens: the network of the tests, and an attacker on a link of its own, by which the answers to its SYNs go back as well.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use serde_json::Value;
use weir_tests::{
    namespace::Namespace,
    server::Server,
    syn::Syns,
    topology::{Layout, Topology, UPLINK},
};

use crate::variant::{Backend, Place, Variant};

/// What is balanced.
pub(crate) const FRONTEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);
/// What is not: the node drops packets to it where it routes.
pub(crate) const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 9), 80);
/// The node's interface towards the attacker.
pub(crate) const ATTACKED: &str = "flood0";
/// The other end of every link of the node.
pub(crate) const OUTSIDE: &str = "eth0";

/// Lets a backend drop the flood before it does anything with it.
const DEAF: &str = "table ip deaf {
    chain first {
        type filter hook prerouting priority -300; policy accept;
        ip dscp cs1 drop
    }
}";

/// The built network; dropping it removes it.
pub(crate) struct Network {
    pub(crate) topology: Topology,
    pub(crate) attacker: Namespace,
    servers: Vec<Server>,
}

/// A link of the node's to somebody outside of it.
struct Link<'a> {
    interface: &'a str,
    /// The last byte of the node's hardware address; the other one's is one more.
    number: u8,
    node: &'a str,
    outside: &'a str,
}

/// Frames that an interface has sent and received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Network {
    pub(crate) fn new(variant: Variant) -> Result<Self> {
        let local = usize::from(variant.place == Place::Local);
        let layout = Layout { local, remote: 1 - local, kind: Some("flood"), ..Layout::default() };
        let (topology, attacker) = (Topology::new(layout)?, Namespace::new("flood")?);
        let node = &topology.node;
        node.link(ATTACKED, &attacker, OUTSIDE)?;
        node.address(ATTACKED, &["10.11.0.2/24"])?;
        attacker.address(OUTSIDE, &["10.11.0.1/24"])?;
        node.route("default", "10.11.0.1")?;
        node.ip(&format!("route add blackhole {}", NOBODY.ip()))?;
        let links = [
            (&topology.client, Link { interface: UPLINK, number: 0x10, node: "10.10.0.2", outside: "10.10.0.1" }),
            (&attacker, Link { interface: ATTACKED, number: 0x20, node: "10.11.0.2", outside: "10.11.0.1" }),
        ];
        for (outside, link) in links {
            keep_to_what_is_counted(node, outside, &link)?;
        }
        for host in &topology.hosts {
            match variant.backend {
                Backend::Deaf => drop(host.namespace.run("nft", &[DEAF])?),
                // With a cookie for each, so that no queue of theirs decides who is answered.
                Backend::Answering => host.namespace.sysctl("net.ipv4.tcp_syncookies", "2")?,
            }
        }
        let servers = topology.start_servers()?;
        Ok(Self { topology, attacker, servers })
    }

    /// The attacker's frames to a socket.
    pub(crate) fn syns(&self, to: SocketAddrV4, seed: u64) -> Syns {
        Syns::new(hardware_address(0x21), hardware_address(0x20), to, seed)
    }

    /// Connections that servers have accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.servers.iter().map(Server::accepted).sum()
    }
}

impl Frames {
    /// Of somebody outside of the node.
    pub(crate) fn of(outside: &Namespace) -> Result<Self> {
        let listing = outside.run("ip", &["-json", "-statistics", "link", "show", "dev", OUTSIDE])?;
        let links: Value = serde_json::from_str(&listing).context("output of ip -json link")?;
        let packets = |way: &str| {
            let count = links[0]["stats64"][way]["packets"].as_u64();
            count.with_context(|| format!("no count of packets in {listing}"))
        };
        Ok(Self { sent: packets("tx")?, received: packets("rx")? })
    }
}

/// Lets both ends of a link know each other for good, and speak IPv4 only: then every frame from outside is one that somebody here sends
/// on purpose.
fn keep_to_what_is_counted(node: &Namespace, outside: &Namespace, link: &Link<'_>) -> Result<()> {
    let [own, other] = [link.number, link.number + 1].map(|number| {
        let bytes = hardware_address(number).map(|byte| format!("{byte:02x}"));
        bytes.join(":")
    });
    outside.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let end = |interface: &str, own: &str, peer: &str, other: &str| {
        format!("link set {interface} address {own}\nneigh replace {peer} lladdr {other} dev {interface} nud permanent")
    };
    node.ip(&end(link.interface, &own, link.outside, &other))?;
    outside.ip(&end(OUTSIDE, &other, link.node, &own))
}

fn hardware_address(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}
