//! Pods of the node as clients, past the sockets: what they reach, in whose name, by redirect and by the node's stack. And who asks
//! for a Service without a backend: refused at once, wherever it is.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client::{self, Held},
    process::wait_until,
};

use crate::lab::{Lab, vip4, vip6};

const BYTES: u64 = 20_000_000;

fn options(delivery: &str) -> Options {
    Options::datapath("tc").with(&["--delivery", delivery])
}

/// Servers 0 and 1 on the node, of which the first is a client too, and server 2 beyond a router that knows the way to pods.
fn lab() -> Result<Lab> {
    let lab = Lab::mixed(2, 1)?;
    let router = lab.topology.router.as_ref().context("a router")?;
    router.route("10.20.0.0/16", "10.40.0.2")?;
    router.route("fd20::/16", "fd40::2")?;
    Ok(lab)
}

/// A Service for each server, on ports 81, 82 and 83.
fn start<'a>(lab: &'a Lab, delivery: &str) -> Result<Agent<'a>> {
    for (index, host) in lab.topology.hosts.iter().enumerate() {
        let mut service = lab.web().named(&host.name, 81 + index as u16);
        service.endpoints.retain(|endpoint| [host.v4, host.v6].contains(&endpoint.address));
        lab.write(&service)?;
    }
    let agent = Agent::start(&lab.topology, &lab.manifests, options(delivery))?;
    agent.wait_for("the Services are served", |backends| backends.len() == 12)?;
    Ok(agent)
}

fn converse(frontend: SocketAddr, server: &str) -> Result<()> {
    ensure!(client::ask(frontend).context("TCP")? == server);
    ensure!(client::ask_udp(frontend).context("UDP")? == server);
    Held::open(frontend).context("a connection that stays open")?.check()?;
    client::upload(frontend, BYTES).context("upload")?;
    client::download(frontend, BYTES).context("download")
}

fn pods_reach_servers(delivery: &str, offload: bool) -> Result<()> {
    let lab = lab()?;
    lab.topology.offload_everywhere("tx", offload)?;
    let agent = start(&lab, delivery)?;
    let pod = &lab.topology.hosts[0];
    for (port, server) in [(81, "server-0"), (82, "server-1"), (83, "server-2")] {
        for frontend in [vip4(port), vip6(port)] {
            let talk = || converse(frontend, server);
            pod.namespace.enter(talk)?.with_context(|| format!("{server} through {frontend}"))?;
        }
    }
    for (index, seen) in [(1, [pod.v4, pod.v6]), (2, [pod.v4, pod.v6])] {
        let peers = lab.servers[index].peers();
        ensure!(peers.iter().all(|peer| seen.contains(&peer.ip())), "server {index} sees {peers:?}");
    }
    let peers = lab.servers[0].peers();
    ensure!(!peers.iter().any(|peer| [pod.v4, pod.v6].contains(&peer.ip())), "a pod must not see itself: {peers:?}");
    assert_eq!(agent.drops()?, []);
    Ok(())
}

#[test]
fn pods_reach_servers_by_redirect() -> Result<()> {
    pods_reach_servers("redirect", true)
}

#[test]
fn pods_reach_servers_by_redirect_without_checksum_offload() -> Result<()> {
    pods_reach_servers("redirect", false)
}

#[test]
fn pods_reach_servers_by_the_stack() -> Result<()> {
    pods_reach_servers("stack", true)
}

#[test]
fn pods_reach_servers_by_the_stack_without_checksum_offload() -> Result<()> {
    pods_reach_servers("stack", false)
}

/// Fails unless a connection, and a datagram, are refused.
fn refused(frontend: SocketAddr) -> Result<()> {
    let connected = std::net::TcpStream::connect_timeout(&frontend, Duration::from_secs(5));
    ensure!(connected.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "TCP: {connected:?}");
    let socket = client::datagram_socket(frontend)?;
    socket.send(b"?")?;
    let received = socket.recv(&mut [0; 8]);
    ensure!(received.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "UDP: {received:?}");
    Ok(())
}

fn nobody_serves(datapath: &str, offload: bool) -> Result<()> {
    let lab = Lab::local(1)?;
    lab.topology.offload_everywhere("tx", offload)?;
    lab.write(&lab.web().named("served", 81))?;
    let mut empty = lab.web();
    empty.endpoints.clear();
    lab.write(&empty)?;
    let agent = Agent::start(&lab.topology, &lab.manifests, Options { datapath: datapath.into(), ..options("auto") })?;
    agent.wait_for("the other Service is served", |backends| backends.len() == 4)?;
    for frontend in [vip4(80), vip6(80)] {
        lab.client(|| refused(frontend)).with_context(|| format!("a client outside, {frontend}"))?;
        let pod = &lab.topology.hosts[0].namespace;
        pod.enter(|| refused(frontend))?.with_context(|| format!("a pod, {frontend}"))?;
    }
    // No client had to say anything twice.
    let expected = [("no-backend".to_owned(), 8)];
    wait_until(PATIENCE, || Ok(agent.drops()? == expected)).with_context(|| format!("drops {:?}", agent.drops()))
}

#[test]
fn nobody_serves_at_tc() -> Result<()> {
    nobody_serves("tc", true)
}

#[test]
fn nobody_serves_at_tc_without_checksum_offload() -> Result<()> {
    nobody_serves("tc", false)
}

#[test]
fn nobody_serves_at_xdp() -> Result<()> {
    nobody_serves("xdp", true)
}
