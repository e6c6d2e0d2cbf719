//! CPU time per request through a node between veth pairs: plain routing, nftables as kube-proxy writes it, and `weir`, at tc and at the
//! sockets of the node. Each has a network of its own, so that nothing of one is in the way of another.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options},
    cgroup::Cgroup,
    manifests::{Manifests, Service},
    topology::{Layout, SERVER_PORT, Topology, VIP4, socket},
};

use crate::{
    load::{self, Ends},
    report::{self, Report},
};

const KUBE_PROXY: &str = include_str!("kube-proxy.nft");
/// Turns of each subject in a round. They are short, since the machine's mood changes within seconds.
const TURNS: usize = 25;
const NFTABLES: usize = 1;
const WEIR: usize = 2;
/// The subjects' names, in the order in which they take turns.
const SUBJECTS: [&str; 3] = ["direct", "nftables", "weir"];

/// What is measured.
struct Case {
    name: &'static str,
    how: fn(&Ends<'_>, u32) -> Result<f64>,
    /// Requests of one turn.
    requests: u32,
    client: Client,
    /// Ratios with the most each should be.
    wanted: &'static [(Ratio, f64)],
}

/// Where the client is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Beyond the node's uplink.
    Outside,
    /// A process of the node, balanced when it connects.
    Node,
}

/// What Weir's cost is compared with.
#[derive(Clone, Copy)]
enum Ratio {
    Direct,
    Nftables,
    /// Both without what the same traffic costs anyway.
    Net,
}

use Ratio::{Direct, Net, Nftables};

static CASES: [Case; 6] = [
    Case {
        name: "veth: keep-alive request",
        how: load::keep_alive,
        requests: 1600,
        client: Client::Outside,
        wanted: &[(Net, 0.4), (Direct, 0.95)],
    },
    Case {
        name: "veth: new connection",
        how: load::new_connections,
        requests: 120,
        client: Client::Outside,
        wanted: &[(Net, 1.0), (Direct, 0.97)],
    },
    Case {
        name: "veth: small datagrams, there and back",
        how: load::datagrams,
        requests: 2000,
        client: Client::Outside,
        wanted: &[(Net, 0.25)],
    },
    Case {
        name: "veth: bulk TCP, 64 KiB",
        how: load::bulk,
        requests: 400,
        client: Client::Outside,
        wanted: &[(Direct, 1.05)],
    },
    Case {
        name: "sockets: connect and close",
        how: load::connect_and_close,
        requests: 150,
        client: Client::Node,
        wanted: &[(Direct, 1.1), (Nftables, 0.85)],
    },
    Case {
        name: "sockets: keep-alive request",
        how: load::keep_alive,
        requests: 1000,
        client: Client::Node,
        wanted: &[],
    },
];

/// One subject's network.
struct Way {
    topology: Topology,
    listener: TcpListener,
    datagrams: UdpSocket,
    frontend: SocketAddr,
    /// Where a client on the node has to be.
    cgroup: Option<Cgroup>,
}

impl Way {
    fn new(frontend: Option<SocketAddr>) -> Result<Self> {
        let topology = Topology::new(Layout { local: 1, kind: Some("bench"), ..Layout::default() })?;
        // Room for many connections without one pair of ports twice.
        for namespace in [&topology.client, &topology.node] {
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 60999")?;
        }
        // What is not for this node has a way, as on every node: else a client on it would be told so before anybody balances.
        topology.node.route("default", "10.10.0.1")?;
        let host = &topology.hosts[0];
        let server = SocketAddr::new(host.v4, SERVER_PORT);
        let (listener, datagrams) = host
            .namespace
            .enter(|| Ok::<_, std::io::Error>((TcpListener::bind(server)?, UdpSocket::bind(server)?)))??;
        datagrams.set_read_timeout(Some(load::LOST))?;
        Ok(Self { topology, listener, datagrams, frontend: frontend.unwrap_or(server), cgroup: None })
    }

    fn measure(&self, case: &Case) -> Result<f64> {
        let ends = Ends { frontend: self.frontend, listener: &self.listener, datagrams: &self.datagrams };
        match case.client {
            Client::Outside => self.topology.client.enter(|| (case.how)(&ends, case.requests))?,
            Client::Node => self.topology.node.enter(|| {
                self.cgroup.as_ref().map_or(Ok(()), Cgroup::join)?;
                (case.how)(&ends, case.requests)
            })?,
        }
    }
}

/// Measures the cases with `only` in their names for all subjects.
pub(crate) fn measure(rounds: u32, only: &str, report: &mut Report) -> Result<()> {
    let cases: Vec<_> = CASES.iter().filter(|case| case.name.contains(only)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let frontend = socket(VIP4, 80);
    let mut ways = [Way::new(None)?, Way::new(Some(frontend))?, Way::new(Some(frontend))?];
    ways[NFTABLES].topology.node.run("nft", &[KUBE_PROXY])?;
    let manifests = Manifests::new()?;
    let service = Service::web(&[frontend.ip()], &ways[WEIR].topology.hosts);
    manifests.write("web.yaml", &service.yaml())?;
    let cgroup = ways[WEIR].cgroup.insert(Cgroup::new("bench")?).path().display().to_string();
    let options = Options { show_log: false, ..Options::datapath("tc") };
    let options = options.with(&["--cgroup", &cgroup, "--socket-lb", "all"]);
    let agent = Agent::start(&ways[WEIR].topology, &manifests, options)?;
    agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
    for case in &cases {
        let results = rounds_of(&ways, case, rounds).context(case.name)?;
        for (subject, result) in SUBJECTS.into_iter().zip(&results) {
            report.case(case.name, subject, result, None);
        }
        for (ratio, most) in case.wanted {
            report.ratio(&format!("{}: {}", case.name, ratio.name()), &ratio.of(&results), *most);
        }
        eprintln!("{}: done", case.name);
    }
    check(&agent, &cases, rounds)
}

/// The subjects' nanoseconds per request of each round.
fn rounds_of(ways: &[Way; 3], case: &Case, rounds: u32) -> Result<[Vec<f64>; 3]> {
    let mut results = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        let medians = take_turns(ways, case)?;
        // The first round warms up.
        if round > 0 {
            results.iter_mut().zip(medians).for_each(|(result, median)| result.push(median));
        }
    }
    Ok(results)
}

/// One round: the median of each subject's turns.
fn take_turns(ways: &[Way; 3], case: &Case) -> Result<[f64; 3]> {
    let mut turns = [const { Vec::new() }; 3];
    for turn in 0..TURNS {
        for index in 0..ways.len() {
            // Whoever is first now is last the next time.
            let subject = (index + turn) % ways.len();
            turns[subject].push(ways[subject].measure(case).context(SUBJECTS[subject])?);
        }
    }
    Ok(turns.map(|turns| report::median(&turns)))
}

impl Ratio {
    const fn name(self) -> &'static str {
        match self {
            Direct => "weir / direct",
            Nftables => "weir / nftables",
            Net => "(weir - direct) / (nftables - direct)",
        }
    }

    /// Its value in each round.
    fn of(self, [direct, nftables, weir]: &[Vec<f64>; 3]) -> Vec<f64> {
        let of_round = |((direct, nftables), weir): ((&f64, &f64), &f64)| match self {
            Direct => weir / direct,
            Nftables => weir / nftables,
            Net => (weir - direct) / (nftables - direct),
        };
        direct.iter().zip(nftables).zip(weir).map(of_round).collect()
    }
}

/// Fails unless Weir has counted the connections that were made through it, and dropped nothing.
fn check(agent: &Agent<'_>, cases: &[&Case], rounds: u32) -> Result<()> {
    let counted: u64 = agent.backends_of("TCP")?.iter().map(|backend| backend.connections_total).sum();
    let each = [CASES[1].name, CASES[4].name];
    let connections: u32 = cases.iter().filter(|case| each.contains(&case.name)).map(|case| case.requests).sum();
    let made = u64::from(rounds + 1) * u64::from(connections) * TURNS as u64;
    ensure!(counted >= made, "{made} connections were made, and Weir has counted {counted}");
    let drops = agent.drops()?;
    ensure!(drops.is_empty(), "Weir dropped packets: {drops:?}");
    Ok(())
}
