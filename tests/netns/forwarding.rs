//! `weir.dev/forwarding: dsr`: two nodes run `weir`, and clients are answered by the node of their backend.
//!
//! ```text
//!               up0 +--------+ up1 --- near +--------+
//!  client eth0 ---- | node-a |              | node-b | host1 --- eth0 server 1
//!         eth1 ------- pod0 -------- direct +--------+
//!                      server 0
//! ```
//! Both nodes route to the client by a link of their own; the client asks by the one that its route to the frontend says.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client::{self, Held},
    manifests::{Endpoint, Service},
    namespace::Namespace,
    process::wait_until,
    server::Server,
    topology::{FAR_UPLINK, NODE4, NODE6, OTHER_NODE_NAME, SERVER_PORT},
};

use crate::lab::{Lab, on_each_datapath, vip4, vip6};

const BYTES: u64 = 5_000_000;
/// The other node's address on the client's second link.
const DIRECT: [&str; 2] = ["10.11.0.2", "fd11::2"];

/// One server on each of two nodes.
struct Pair(Lab);

impl Pair {
    fn new() -> Result<Self> {
        let lab = Lab::mixed(1, 1)?;
        let (client, other) = (&lab.topology.client, other(&lab));
        other.link("direct", client, "eth1")?;
        other.address("direct", &["10.11.0.2/24", "fd11::2/64"])?;
        client.address("eth1", &["10.11.0.1/24", "fd11::1/64"])?;
        other.route("10.10.0.0/24", "10.11.0.1")?;
        other.route("fd10::/64", "fd11::1")?;
        other.route("10.20.0.0/16", "10.40.0.2")?;
        other.route("fd20::/16", "fd40::2")?;
        // Answers come by another link than questions leave by.
        client.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        client.sysctl("net.ipv4.conf.eth1.rp_filter", "0")?;
        lab.topology.accept_redirected_frames()?;
        // From the other node's XDP.
        lab.topology.node.offload(FAR_UPLINK, "gro", true)?;
        Ok(Self(lab))
    }

    fn web(&self) -> Service {
        self.0.web().annotate("weir.dev/forwarding", "dsr")
    }

    /// Served by the other node alone.
    fn far(&self) -> Service {
        self.0.web_of(false).annotate("weir.dev/forwarding", "dsr")
    }

    /// `weir` on both nodes.
    fn start(&self, service: &Service, options: Options) -> Result<[Agent<'_>; 2]> {
        let first = self.0.start(service, options.clone())?;
        let interfaces = ["near", "direct"].map(str::to_owned).to_vec();
        let options = Options { node_name: OTHER_NODE_NAME.to_owned(), interfaces, ..options };
        let second = Agent::start_on(other(&self.0), &self.0.manifests, options)?;
        second.wait_for("the Service is served", |backends| backends.len() == 2 * service.endpoints.len())?;
        Ok([first, second])
    }

    /// The client asks this node from now on.
    fn ask_by(&self, gateways: [&str; 2]) -> Result<()> {
        let client = &self.0.topology.client;
        client.route("10.99.0.1/32", gateways[0])?;
        client.route("fd99::1/128", gateways[1])
    }
}

fn other(lab: &Lab) -> &Namespace {
    lab.topology.router.as_ref().expect("a lab with remote servers has a router")
}

/// Connections that a node has counted for its backends, and for those of other nodes.
fn counted(agent: &Agent<'_>, protocol: &str) -> Result<(u64, u64)> {
    let backends = agent.backends_of(protocol)?;
    let of = |local: bool| backends.iter().filter(|b| b.local == local).map(|b| b.connections_total).sum();
    Ok((of(true), of(false)))
}

/// Which address of the client a server sees, by a datagram.
fn seen_by(frontend: SocketAddr) -> Result<String> {
    let socket = client::datagram_socket(frontend)?;
    socket.send(b"source")?;
    let mut buffer = [0; 200];
    let length = socket.recv(&mut buffer).context("wait for the answer")?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn the_backend_s_node_answers_and_counts() -> Result<()> {
    on_each_datapath(|datapath| {
        let pair = Pair::new()?;
        let [first, second] = pair.start(&pair.far(), Options::datapath(datapath))?;
        for (frontend, own) in [(vip4(80), "10.10.0.1"), (vip6(80), "fd10::1")] {
            let tally = pair.0.client(|| Ok(client::ask_times(frontend, 50, client::ask)))?;
            tally.expect_no_failure().with_context(|| frontend.to_string())?;
            let seen = pair.0.client(|| seen_by(frontend)).with_context(|| frontend.to_string())?;
            ensure!(seen.contains(own), "{frontend}: the server sees {seen}");
            pair.0.client(|| client::ask_udp(frontend)).with_context(|| frontend.to_string())?;
        }
        ensure!(counted(&first, "TCP")? == (0, 0), "the node that forwards counts nothing: {:?}", first.backends()?);
        ensure!(counted(&second, "TCP")? == (100, 0), "the other counts everything: {:?}", second.backends()?);
        ensure!(counted(&second, "UDP")? == (4, 0), "datagrams too: {:?}", second.backends()?);
        second.wait_for("nothing is open", |backends| {
            backends.iter().filter(|b| b.protocol == "TCP").all(|b| b.active_connections + b.pending_connections == 0)
        })?;
        let flows = first.json(&["get", "flows"])?.to_string();
        ensure!(flows.contains("forwarded"), "{flows}");
        ensure!(first.drops()?.is_empty() && second.drops()?.is_empty(), "{:?} {:?}", first.drops()?, second.drops()?);
        Ok(())
    })
}

/// With checksums made by the "hardware" and without; segments that the client makes large too.
fn delivers(options: Options, offload: bool) -> Result<()> {
    let pair = Pair::new()?;
    pair.0.topology.offload_everywhere("tx", offload)?;
    let [first, second] = pair.start(&pair.far(), options)?;
    for frontend in [vip4(80), vip6(80)] {
        let transfer = || client::upload(frontend, BYTES).and_then(|()| client::download(frontend, BYTES));
        pair.0.client(transfer).with_context(|| frontend.to_string())?;
    }
    for backend in second.backends_of("TCP")? {
        ensure!(backend.bytes_in > Some(BYTES) && backend.bytes_out > Some(BYTES), "{backend:?}");
    }
    ensure!(first.drops()?.is_empty() && second.drops()?.is_empty(), "{:?} {:?}", first.drops()?, second.drops()?);
    Ok(())
}

#[test]
fn everything_arrives() -> Result<()> {
    on_each_datapath(|datapath| delivers(Options::datapath(datapath), true))
}

#[test]
fn everything_arrives_without_checksum_offload() -> Result<()> {
    on_each_datapath(|datapath| delivers(Options::datapath(datapath), false))
}

/// What was taken out of a datagram goes through the stack like any other packet, and so past the node's packet filter.
#[test]
fn everything_arrives_by_the_stack() -> Result<()> {
    [true, false]
        .into_iter()
        .try_for_each(|offload| delivers(Options::datapath("tc").with(&["--delivery", "stack"]), offload))
}

/// Clients' segments leave room from the start, as the backend's node has its SYN-ACKs say; where the way between the nodes is narrower
/// still, the client is told.
#[test]
fn packets_that_do_not_fit_are_told_of() -> Result<()> {
    on_each_datapath(|datapath| {
        let pair = Pair::new()?;
        for (namespace, interface) in [(&pair.0.topology.node, "up1"), (other(&pair.0), "near")] {
            namespace.ip(&format!("link set {interface} mtu 1400"))?;
        }
        let [first, second] = pair.start(&pair.far(), Options::datapath(datapath))?;
        for frontend in [vip4(80), vip6(80)] {
            pair.0.client(|| client::upload(frontend, BYTES / 4)).with_context(|| frontend.to_string())?;
        }
        let mut drops = Vec::new();
        let told = wait_until(PATIENCE, || {
            drops = first.drops()?;
            Ok(!drops.is_empty())
        });
        ensure!(told.is_ok() && drops.iter().all(|(reason, _)| reason == "too-big"), "{drops:?}");
        ensure!(second.drops()?.is_empty(), "{:?}", second.drops()?);
        Ok(())
    })
}

/// A process of the node itself instead of a pod: its answers leave with the node's own stack.
#[test]
fn a_backend_in_the_node_s_own_namespace_is_reached() -> Result<()> {
    on_each_datapath(|datapath| {
        let pair = Pair::new()?;
        let addresses: [IpAddr; 2] = ["10.40.0.1".parse()?, "fd40::1".parse()?];
        let _server = Server::start(other(&pair.0), "own", &addresses, SERVER_PORT)?;
        let mut service = pair.far();
        let endpoint = |address| Endpoint { address, local: false, weight: None, terminating: false, resting: false };
        service.endpoints = addresses.map(endpoint).to_vec();
        let [_first, second] = pair.start(&service, Options::datapath(datapath))?;
        for frontend in [vip4(80), vip6(80)] {
            pair.0.client(|| client::upload(frontend, BYTES / 4)).with_context(|| frontend.to_string())?;
            let seen = pair.0.client(|| seen_by(frontend)).with_context(|| frontend.to_string())?;
            ensure!(seen.contains("own"), "{seen}");
        }
        ensure!(counted(&second, "TCP")? == (2, 0), "{:?}", second.backends()?);
        Ok(())
    })
}

/// Routers in front of the nodes may change their mind: by a hash every node finds the same backend, and its node knows the connection.
fn survives_changes_of_route(algorithm: &str, datapath: &str) -> Result<()> {
    let pair = Pair::new()?;
    // What XDP sends on by another veth loses what the sender has left to the card.
    pair.0.topology.offload_everywhere("tx", datapath == "tc")?;
    let [first, second] = pair.start(&pair.web().algorithm(algorithm), Options::datapath(datapath))?;
    let mut held = Vec::new();
    for frontend in [vip4(80), vip6(80)] {
        held.extend(pair.0.client(|| (0..16).map(|_| Held::open(frontend)).collect::<Result<Vec<_>>>())?);
    }
    for way in [DIRECT, [NODE4, NODE6], DIRECT] {
        pair.ask_by(way)?;
        for connection in &mut held {
            connection.check().with_context(|| format!("by {way:?}: {:?}", connection.local()))?;
        }
    }
    let total = counted(&first, "TCP")?.0 + counted(&second, "TCP")?.0;
    ensure!(total == 32, "{total} connections were counted");
    ensure!(first.drops()?.is_empty() && second.drops()?.is_empty(), "{:?} {:?}", first.drops()?, second.drops()?);
    Ok(())
}

#[test]
fn a_change_of_route_moves_no_connection() -> Result<()> {
    on_each_datapath(|datapath| survives_changes_of_route("maglev", datapath))
}

#[test]
fn a_change_of_route_moves_no_connection_of_an_address() -> Result<()> {
    survives_changes_of_route("ip-hash", "tc")
}

/// Without a hash nobody but the first node knows: the client is told at once, and not left waiting.
#[test]
fn a_connection_that_no_node_knows_is_reset() -> Result<()> {
    let pair = Pair::new()?;
    let [first, second] = pair.start(&pair.web().algorithm("round-robin"), Options::datapath("tc"))?;
    let mut held = pair.0.client(|| (0..2).map(|_| Held::open(vip4(80))).collect::<Result<Vec<_>>>())?;
    pair.ask_by(DIRECT)?;
    let lost = held.iter_mut().filter_map(|connection| connection.check().err()).collect::<Vec<_>>();
    // That of the second node's own backend goes on.
    ensure!(lost.len() == 1, "{lost:?}: {:?} {:?}", first.backends()?, second.backends()?);
    ensure!(format!("{:#}", lost[0]).contains("reset"), "{:#}", lost[0]);
    let told = wait_until(PATIENCE, || Ok(second.drops()?.iter().any(|(reason, _)| reason == "no-flow")));
    told.context("the drop is in the metrics")
}

/// Neither agent is in the way of packets, and a backend that is gone leaves nobody waiting.
#[test]
fn agents_may_die_and_backends_go() -> Result<()> {
    let pair = Pair::new()?;
    let [mut first, mut second] = pair.start(&pair.far(), Options::datapath("tc"))?;
    let mut held = pair.0.client(|| Held::open(vip4(80)))?;
    first.kill9()?;
    second.kill9()?;
    held.check()?;
    pair.0.client(|| client::ask(vip4(80)))?;
    first.restart()?;
    second.restart()?;
    held.check()?;
    let mut none = pair.far();
    none.endpoints.clear();
    pair.0.write(&none)?;
    let gone = wait_until(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        Ok(held.check().is_err_and(|error| format!("{error:#}").contains("reset")))
    });
    gone.context("a connection to a backend that is gone is reset")
}
