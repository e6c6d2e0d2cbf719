//! CPU time per request through a node between veth pairs: plain routing, nftables as kube-proxy writes it, and `weir` at tc. Each has
//! a network of its own, so that nothing of one is in the way of another.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options},
    manifests::{Manifests, Service},
    namespace::Namespace,
    process::text,
    topology::{Layout, SERVER_PORT, Topology, VIP4, socket},
};

use crate::{
    load::{self, Ends},
    report::{self, Report},
};

const KUBE_PROXY: &str = include_str!("kube-proxy.nft");
/// Turns of each subject in a round. They are short, since the machine's mood changes within seconds.
const TURNS: usize = 25;
/// Requests of one turn.
const KEPT_REQUESTS: u32 = 1_600;
const CONNECTIONS: u32 = 120;
const NFTABLES: usize = 1;
const WEIR: usize = 2;
/// The subjects' names, in the order in which they take turns.
const SUBJECTS: [&str; 3] = ["direct", "nftables", "weir"];

type Measure = fn(&Ends<'_>, u32) -> Result<f64>;

/// What is measured: its name, how, and how many requests in one turn; and the ratio that follows, with the most it should be.
const CASES: [(&str, Measure, u32, &str, f64); 2] = [
    (
        "veth: keep-alive request",
        load::keep_alive,
        KEPT_REQUESTS,
        "established: (weir - direct) / (nftables - direct), keep-alive",
        0.4,
    ),
    (
        "veth: new connection",
        load::new_connections,
        CONNECTIONS,
        "new flow: (weir - direct) / (nftables - direct), new connection",
        1.0,
    ),
];

/// One subject's network.
struct Way {
    topology: Topology,
    listener: TcpListener,
    frontend: SocketAddr,
}

impl Way {
    fn new(frontend: Option<SocketAddr>) -> Result<Self> {
        let topology = Topology::new(Layout { local: 1, kind: Some("bench"), ..Layout::default() })?;
        // Room for many connections without one pair of ports twice.
        topology.client.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        let host = &topology.hosts[0];
        let server = SocketAddr::new(host.v4, SERVER_PORT);
        let listener = host.namespace.enter(|| TcpListener::bind(server))??;
        Ok(Self { topology, listener, frontend: frontend.unwrap_or(server) })
    }

    fn measure(&self, measure: Measure, requests: u32) -> Result<f64> {
        let ends = Ends { frontend: self.frontend, listener: &self.listener };
        self.topology.client.enter(|| measure(&ends, requests))?
    }
}

/// Measures both cases for all subjects.
pub(crate) fn measure(rounds: u32, report: &mut Report) -> Result<()> {
    let frontend = socket(VIP4, 80);
    let ways = [Way::new(None)?, Way::new(Some(frontend))?, Way::new(Some(frontend))?];
    load_ruleset(&ways[NFTABLES].topology.node)?;
    let manifests = Manifests::new()?;
    let service = Service::web(&[frontend.ip()], &ways[WEIR].topology.hosts);
    manifests.write("web.yaml", &service.yaml())?;
    let options = Options { show_log: false, ..Options::datapath("tc") };
    let agent = Agent::start(&ways[WEIR].topology, &manifests, options)?;
    agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
    for (name, how, requests, ratio, target) in CASES {
        let results = rounds_of(&ways, how, requests, rounds).with_context(|| name.to_owned())?;
        for (subject, result) in SUBJECTS.into_iter().zip(&results) {
            report.case(name, subject, result);
        }
        report.ratio(ratio, &net_ratios(&results), target);
    }
    check(&agent, rounds)
}

/// The subjects' nanoseconds per request of each round.
fn rounds_of(ways: &[Way; 3], how: Measure, requests: u32, rounds: u32) -> Result<[Vec<f64>; 3]> {
    let mut results = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        let medians = take_turns(ways, how, requests)?;
        // The first round warms up.
        if round > 0 {
            results.iter_mut().zip(medians).for_each(|(result, median)| result.push(median));
        }
    }
    Ok(results)
}

/// One round: the median of each subject's turns.
fn take_turns(ways: &[Way; 3], how: Measure, requests: u32) -> Result<[f64; 3]> {
    let mut turns = [const { Vec::new() }; 3];
    for turn in 0..TURNS {
        for index in 0..ways.len() {
            // Whoever is first now is last the next time.
            let subject = (index + turn) % ways.len();
            let took = ways[subject].measure(how, requests).with_context(|| SUBJECTS[subject])?;
            turns[subject].push(took);
        }
    }
    Ok(turns.map(|turns| report::median(&turns)))
}

/// Weir's share of nftables' cost in each round, both without what the same traffic costs anyway.
fn net_ratios([direct, nftables, weir]: &[Vec<f64>; 3]) -> Vec<f64> {
    let balanced = nftables.iter().zip(weir);
    direct.iter().zip(balanced).map(|(direct, (nftables, weir))| (weir - direct) / (nftables - direct)).collect()
}

fn load_ruleset(node: &Namespace) -> Result<()> {
    let mut nft = node
        .command("nft")?
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft")?;
    nft.stdin.take().context("stdin of nft")?.write_all(KUBE_PROXY.as_bytes())?;
    let output = nft.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", text(&output.stderr));
    Ok(())
}

/// Fails unless Weir has counted the connections that were made through it, and dropped nothing.
fn check(agent: &Agent<'_>, rounds: u32) -> Result<()> {
    let counted: u64 = agent.backends_of("TCP")?.iter().map(|backend| backend.connections_total).sum();
    let made = u64::from(rounds + 1) * u64::from(CONNECTIONS) * TURNS as u64;
    ensure!(counted >= made, "{made} connections were made, and Weir has counted {counted}");
    let drops = agent.drops()?;
    ensure!(drops.is_empty(), "Weir dropped packets: {drops:?}");
    Ok(())
}
