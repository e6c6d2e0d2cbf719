//! A client behind two VLAN tags: it is served, and told of what is refused.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{agent::Options, client, manifests::Service, qinq::Qinq, topology::UPLINK};

use crate::lab::{Lab, vip4, vip6, vips};

const CLIENT: &str = "02:00:00:00:00:c1";
const NODE: &str = "02:00:00:00:00:0d";
const BYTES: u64 = 300_000;

/// A network whose client is behind two tags. The node knows where it is: questions by ARP and neighbour discovery would not pass, as it
/// has no VLAN interface.
fn tagged() -> Result<(Lab, Qinq)> {
    let lab = Lab::mixed(1, 1)?;
    let (client, node) = (&lab.topology.client, &lab.topology.node);
    node.ip(&format!("link del {UPLINK}"))?;
    let link = Qinq::new((client, "eth0", CLIENT), (node, UPLINK, NODE))?;
    client.address("eth0", &["10.10.0.1/24", "fd10::1/64"])?;
    node.address(UPLINK, &["10.10.0.2/24", "fd10::2/64"])?;
    for (namespace, interface, address, hosts) in
        [(client, "eth0", NODE, ["10.10.0.2", "fd10::2"]), (node, UPLINK, CLIENT, ["10.10.0.1", "fd10::1"])]
    {
        for host in hosts {
            namespace.ip(&format!("neigh replace {host} lladdr {address} dev {interface} nud permanent"))?;
        }
    }
    client.route("default", "10.10.0.2")?;
    client.route("default", "fd10::2")?;
    Ok((lab, link))
}

/// A port that nobody serves is refused: by a reset, and by an ICMP error.
fn is_refused(frontend: SocketAddr) -> Result<()> {
    let tcp = client::connect(frontend).err().context("somebody answered")?;
    let tcp = tcp.downcast::<std::io::Error>()?;
    ensure!(tcp.kind() == ErrorKind::ConnectionRefused, "TCP to {frontend}: {tcp}");
    let socket = client::datagram_socket(frontend)?;
    socket.send(b"hello")?;
    let udp = socket.recv(&mut [0; 16]).err().context("somebody answered")?;
    ensure!(udp.kind() == ErrorKind::ConnectionRefused, "UDP to {frontend}: {udp}");
    Ok(())
}

fn served_and_refused(datapath: &str) -> Result<()> {
    let (lab, link) = tagged()?;
    lab.write(&Service::web(&vips(), []).named("nobody", 81))?;
    let agent = lab.start(&lab.web(), Options::datapath(datapath))?;
    for frontend in [vip4(80), vip6(80)] {
        lab.client(|| {
            for _ in 0..8 {
                client::ask(frontend).context("TCP")?;
                client::ask_udp(frontend).context("UDP")?;
            }
            client::upload(frontend, BYTES)?;
            client::download(frontend, BYTES)
        })
        .with_context(|| frontend.to_string())?;
    }
    let [tagged, bare] = link.from_node()?;
    ensure!(tagged == 0 && bare > 0, "replies go as the routes say: {tagged} tagged, {bare} not");
    let backends = agent.backends_of("TCP")?;
    ensure!(backends.iter().all(|backend| backend.connections_total > 0), "both backends serve: {backends:?}");
    for frontend in [vip4(81), vip6(81)] {
        lab.client(|| is_refused(frontend))?;
        // Without tags there may be the end of a connection from before.
        let [tagged, _] = link.from_node()?;
        ensure!(tagged == 2, "{tagged} of 2 answers go back as the packets came");
    }
    Ok(())
}

#[test]
fn a_client_behind_two_vlan_tags_by_tc() -> Result<()> {
    served_and_refused("tc")
}

#[test]
fn a_client_behind_two_vlan_tags_by_generic_xdp() -> Result<()> {
    served_and_refused("xdp-generic")
}
