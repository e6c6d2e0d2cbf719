//! Every way to a server: each datapath, TCP and UDP, IPv4 and IPv6, servers on the node and beyond a router, a frontend that is on no
//! interface and one that is the node's own address.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options},
    client::{self, Held},
    topology::{FAR_UPLINK, SERVER_PORT, UPLINK},
};

use crate::lab::{Lab, node_addresses, vip4, vip6, vips};

/// The Services `near` (port 81, server 0 on the node) and `far` (port 82, server 1 beyond the router) on all frontends.
fn start_near_and_far(lab: &Lab, options: Options) -> Result<Agent<'_>> {
    for (local, name, port) in [(true, "near", 81), (false, "far", 82)] {
        let mut service = lab.web_of(local).named(name, port);
        service.frontends.extend(node_addresses());
        lab.write(&service)?;
    }
    let agent = Agent::start(&lab.topology, &lab.manifests, options)?;
    agent.wait_for("both Services are served", |backends| backends.len() == 8)?;
    Ok(agent)
}

fn ask_every_way(frontend: SocketAddr, server: &str) -> Result<()> {
    ensure!(client::ask(frontend).context("TCP")? == server);
    ensure!(client::ask_udp(frontend).context("UDP")? == server);
    let socket = client::datagram_socket(frontend)?;
    for length in [0, 1, 2, 511, 1200] {
        ensure!(client::exchange(&socket, &vec![7; length]).with_context(|| format!("UDP of {length}"))? == server);
    }
    let mut held = Held::open(frontend).context("a connection that stays open")?;
    (0..20).try_for_each(|_| held.check())
}

fn every_way(datapath: &str, offload: bool) -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    lab.topology.offload_everywhere("tx", offload)?;
    let agent = start_near_and_far(&lab, Options::datapath(datapath))?;
    let frontends: Vec<IpAddr> = vips().into_iter().chain(node_addresses()).collect();
    for (port, server) in [(81, "server-0"), (82, "server-1")] {
        for frontend in frontends.iter().map(|address| SocketAddr::new(*address, port)) {
            lab.client(|| ask_every_way(frontend, server)).with_context(|| format!("{server} through {frontend}"))?;
        }
    }
    assert_eq!(agent.drops()?, []);
    Ok(())
}

#[test]
fn tc() -> Result<()> {
    every_way("tc", true)
}

#[test]
fn tc_without_checksum_offload() -> Result<()> {
    every_way("tc", false)
}

#[test]
fn generic_xdp() -> Result<()> {
    every_way("xdp-generic", true)
}

#[test]
fn generic_xdp_without_checksum_offload() -> Result<()> {
    every_way("xdp-generic", false)
}

#[test]
fn native_xdp() -> Result<()> {
    every_way("xdp", true)
}

#[test]
fn native_xdp_without_checksum_offload() -> Result<()> {
    every_way("xdp", false)
}

#[test]
fn both_uplinks_may_be_named() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let options = Options { interfaces: vec![UPLINK.to_owned(), FAR_UPLINK.to_owned()], ..Options::default() };
    let _agent = start_near_and_far(&lab, options)?;
    for (port, server) in [(81, "server-0"), (82, "server-1")] {
        for frontend in [vip4(port), vip6(port)] {
            lab.client(|| ask_every_way(frontend, server)).with_context(|| format!("{server} through {frontend}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_local_server_sees_the_client_and_a_remote_one_the_node() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let _agent = start_near_and_far(&lab, Options::default())?;
    for port in [81, 82] {
        lab.client(|| client::ask(vip4(port)).and_then(|_| client::ask(vip6(port))))?;
    }
    let peers = |index: usize| lab.servers[index].peers().iter().map(|peer| peer.ip().to_string()).collect::<Vec<_>>();
    assert_eq!(peers(0), ["10.10.0.1", "fd10::1"]);
    assert_eq!(peers(1), ["10.40.0.2", "fd40::2"]);
    assert!(lab.servers[1].peers().iter().all(|peer| peer.port() >= 61000), "{:?}", lab.servers[1].peers());
    Ok(())
}

#[test]
fn what_is_not_for_a_frontend_passes() -> Result<()> {
    let lab = Lab::local(1)?;
    let _agent = lab.start(&lab.web(), Options::default())?;
    let host = &lab.topology.hosts[0];
    for address in [host.v4, host.v6] {
        let direct = SocketAddr::new(address, SERVER_PORT);
        assert_eq!(lab.client(|| client::ask(direct))?, "server-0");
        assert_eq!(lab.client(|| client::ask_udp(direct))?, "server-0");
    }
    // Another port of the frontend's address is nobody's: refused by the node, which does not know the address, and not balanced.
    assert!(lab.client(|| Ok(client::ask(vip4(81))))?.is_err());
    Ok(())
}
