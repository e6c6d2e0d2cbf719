//! CPU time per request through a node between veth pairs: plain routing, what else balances ([`crate::peers`]), and `weir`, at tc and at
//! the sockets of the node. Each has a network of its own, so that nothing of one is in the way of another.

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
    peers::{Proxy, Subject},
    report::{self, Report},
};

/// Turns of each subject in a round. They are short, since the machine's mood changes within seconds.
const TURNS: usize = 25;
const SUBJECTS: usize = Subject::ALL.len();
const WEIR: usize = SUBJECTS - 1;
/// Of each subject, in the order of [`Subject::ALL`], what each round has shown; nothing if it does not take part.
type Results = [Vec<f64>; SUBJECTS];

/// What is measured.
struct Case {
    name: &'static str,
    how: fn(&Ends<'_>, u32) -> Result<f64>,
    /// Requests of one turn.
    requests: u32,
    client: Client,
    protocol: Protocol,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many connections a request.
    Tcp(u32),
    Udp,
}

/// What Weir's cost is compared with.
#[derive(Clone, Copy)]
enum Ratio {
    Direct,
    Nftables,
    /// Both without what the same traffic costs anyway.
    Net,
}

use Protocol::{Tcp, Udp};
use Ratio::{Direct, Net, Nftables};

static CASES: [Case; 6] = [
    Case {
        name: "veth: keep-alive request",
        how: load::keep_alive,
        requests: 1600,
        client: Client::Outside,
        protocol: Tcp(0),
        wanted: &[(Net, 0.4), (Direct, 0.95)],
    },
    Case {
        name: "veth: new connection",
        how: load::new_connections,
        requests: 120,
        client: Client::Outside,
        protocol: Tcp(1),
        wanted: &[(Net, 1.0), (Direct, 0.97)],
    },
    Case {
        name: "veth: small datagrams, there and back",
        how: load::datagrams,
        requests: 2000,
        client: Client::Outside,
        protocol: Udp,
        wanted: &[(Net, 0.25)],
    },
    Case {
        name: "veth: bulk TCP, 64 KiB",
        how: load::bulk,
        requests: 400,
        client: Client::Outside,
        protocol: Tcp(0),
        wanted: &[(Direct, 1.05)],
    },
    Case {
        name: "sockets: connect and close",
        how: load::connect_and_close,
        requests: 150,
        client: Client::Node,
        protocol: Tcp(1),
        wanted: &[(Direct, 1.1), (Nftables, 0.85)],
    },
    Case {
        name: "sockets: keep-alive request",
        how: load::keep_alive,
        requests: 1000,
        client: Client::Node,
        protocol: Tcp(0),
        wanted: &[],
    },
];

/// One subject's network.
struct Way {
    subject: Subject,
    topology: Topology,
    listener: TcpListener,
    datagrams: UdpSocket,
    frontend: SocketAddr,
    proxy: Option<Proxy>,
    /// Where a client on the node has to be.
    cgroup: Option<Cgroup>,
}

impl Case {
    fn is_for(&self, subject: Subject) -> bool {
        self.protocol != Udp || subject.has_udp()
    }
}

impl Way {
    fn new(subject: Subject) -> Result<Self> {
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
        let frontend = if subject == Subject::Direct { server } else { socket(VIP4, 80) };
        let proxy = subject.start(&topology.node, frontend, server).context(subject.name())?;
        Ok(Self { subject, topology, listener, datagrams, frontend, proxy, cgroup: None })
    }

    fn measure(&self, case: &Case) -> Result<f64> {
        let Self { frontend, listener, datagrams, proxy, .. } = self;
        let ends = Ends { frontend: *frontend, listener, datagrams, proxy: proxy.as_ref() };
        match case.client {
            Client::Outside => self.topology.client.enter(|| (case.how)(&ends, case.requests))?,
            Client::Node => self.topology.node.enter(|| {
                self.cgroup.as_ref().map_or(Ok(()), Cgroup::join)?;
                (case.how)(&ends, case.requests)
            })?,
        }
    }
}

/// Measures the cases whose names begin like this, for all subjects.
pub(crate) fn measure(rounds: u32, only: &str, report: &mut Report) -> Result<()> {
    let cases: Vec<_> = CASES.iter().filter(|case| case.name.starts_with(only)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let mut ways = Subject::ALL.into_iter().map(Way::new).collect::<Result<Vec<_>>>()?;
    let manifests = Manifests::new()?;
    let service = Service::web(&[ways[WEIR].frontend.ip()], &ways[WEIR].topology.hosts);
    manifests.write("web.yaml", &service.yaml())?;
    let cgroup = ways[WEIR].cgroup.insert(Cgroup::new("bench")?).path().display().to_string();
    let options = Options { show_log: false, ..Options::datapath("tc") };
    let options = options.with(&["--cgroup", &cgroup, "--socket-lb", "all"]);
    let agent = Agent::start(&ways[WEIR].topology, &manifests, options)?;
    agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
    for case in &cases {
        let results = rounds_of(&ways, case, rounds).context(case.name)?;
        for (subject, result) in Subject::ALL.into_iter().zip(&results).filter(|(_, result)| !result.is_empty()) {
            report.case(case.name, subject.name(), result, None);
        }
        for (ratio, most) in case.wanted {
            report.ratio(&format!("{}: {}", case.name, ratio.name()), &ratio.of(&results), *most);
        }
        eprintln!("{}: done", case.name);
    }
    check(&agent, &cases, rounds)
}

/// The subjects' nanoseconds per request of each round.
fn rounds_of(ways: &[Way], case: &Case, rounds: u32) -> Result<Results> {
    let mut results = Results::default();
    for round in 0..=rounds {
        let turns = take_turns(ways, case)?;
        // The first round warms up.
        if round > 0 {
            let taken = results.iter_mut().zip(turns).filter(|(_, turns)| !turns.is_empty());
            taken.for_each(|(result, turns)| result.push(report::median(&turns)));
        }
    }
    Ok(results)
}

/// One round: each subject's turns.
fn take_turns(ways: &[Way], case: &Case) -> Result<Results> {
    let mut turns = Results::default();
    for turn in 0..TURNS {
        for index in 0..ways.len() {
            // Whoever is first now is last the next time.
            let way = (index + turn) % ways.len();
            let subject = ways[way].subject;
            if case.is_for(subject) {
                turns[way].push(ways[way].measure(case).context(subject.name())?);
            }
        }
    }
    Ok(turns)
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
    fn of(self, [direct, nftables, .., weir]: &Results) -> Vec<f64> {
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
    let of_turn = |case: &&Case| if let Tcp(each) = case.protocol { each * case.requests } else { 0 };
    let connections: u32 = cases.iter().map(of_turn).sum();
    let made = u64::from(rounds + 1) * u64::from(connections) * TURNS as u64;
    ensure!(counted >= made, "{made} connections were made, and Weir has counted {counted}");
    let drops = agent.drops()?;
    ensure!(drops.is_empty(), "Weir dropped packets: {drops:?}");
    Ok(())
}
