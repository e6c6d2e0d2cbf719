//! Nanoseconds per packet of Weir's XDP and tc programs and of a stateless NAT, run by the kernel on packets of many flows
//! (BPF_PROG_TEST_RUN), less what the driver costs with a program that returns at once.

use std::{net::SocketAddrV4, path::Path};

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use lb_common::Protocol;
use nix::net::if_::if_nametoindex;
use weir_tests::namespace::Namespace;

use crate::{
    driver::{Driver, Hook, Run, Tuples},
    report::Report,
    stage::{BACKENDS, Stage, backend_socket},
    traffic::{self, ACK, CLIENTS, FRONTEND, LEAST_PORT, MAGLEV_PORT, NEWCOMERS, SYN},
};

/// The default size of the flow table.
const ORDINARY_TABLE: u32 = 1 << 20;
/// Room for a million flows with the same spare room that the ordinary table has for a quarter of that.
const LARGE_TABLE: u32 = 1 << 22;
const MANY: u32 = 1 << 16;
const MILLION: u32 = 1 << 20;
/// New flows in one measurement.
const NEW: u32 = 1 << 15;
/// Turns of a measurement that changes nothing lasting.
const TURNS: u32 = 1 << 17;

/// What the programs answer when they send a packet on, and when they let it pass.
const SENT: [u32; 2] = [3, 7];
const PASSED: [u32; 2] = [2, -1_i32 as u32];

/// One row of the result.
struct Case {
    name: &'static str,
    /// Which of the stages.
    stage: usize,
    template: Vec<u8>,
    tuples: Tuples,
    turns: u32,
    kind: Kind,
    /// Whether the stateless NAT can do it too.
    nat: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sent on in a known flow.
    Known,
    /// Sent on in a new flow; the tables are put back before.
    New,
    /// Nobody's.
    Foreign,
}

/// A case's nanoseconds per packet of each round, for each subject.
#[derive(Default)]
struct Rounds {
    weir: Vec<f64>,
    nat: Vec<f64>,
}

/// Measures all cases at both hooks.
pub(crate) fn measure(object: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    let (node, peer) = (Namespace::new("bench")?, Namespace::new("bench")?);
    node.forward()?;
    node.link("up0", &peer, "eth0")?;
    node.address("up0", &["10.10.0.2/24"])?;
    node.ip("neigh add 10.10.0.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent\n\
             route add default via 10.10.0.1\nroute add 10.30.0.0/16 via 10.10.0.1")?;
    node.enter(|| measure_inside(object, rounds, report))?
}

fn measure_inside(object: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    let mut driver = Driver::load(object, if_nametoindex("up0")?)?;
    let backends: Vec<_> = (0..BACKENDS).map(|index| nat_socket(backend_socket(index))).collect();
    driver.configure_nat(nat_socket(SocketAddrV4::new(FRONTEND, MAGLEV_PORT)), &backends)?;
    let mut stages = [Stage::new(ORDINARY_TABLE)?, Stage::new(LARGE_TABLE)?];
    let cases = cases(&mut driver, &mut stages)?;
    let mut results: Vec<Rounds> = Hook::ALL.iter().flat_map(|_| &cases).map(|_| Rounds::default()).collect();
    for round in 0..=rounds {
        let rows = Hook::ALL.into_iter().flat_map(|hook| cases.iter().map(move |case| (hook, case)));
        for ((hook, case), result) in rows.zip(&mut results) {
            let (weir, nat) = measure_case(&mut driver, &mut stages[case.stage], hook, case)?;
            // The first round warms up.
            if round > 0 {
                result.weir.push(weir);
                result.nat.extend(nat);
            }
        }
        eprintln!("packets: round {round} of {rounds}");
    }
    let rows = Hook::ALL.into_iter().flat_map(|hook| cases.iter().map(move |case| (hook, case)));
    for ((hook, case), result) in rows.zip(&results) {
        let name = format!("{}: {}", hook.name(), case.name);
        report.case(&name, "weir", &result.weir);
        if case.nat {
            report.case(&name, "stateless-nat", &result.nat);
        }
    }
    Ok(())
}

fn nat_socket(socket: SocketAddrV4) -> [u32; 2] {
    [u32::from_ne_bytes(socket.ip().octets()), socket.port().to_be().into()]
}

/// Fills the flow tables, and says what is measured on them.
fn cases(driver: &mut Driver, stages: &mut [Stage; 2]) -> Result<Vec<Case>> {
    let web = SocketAddrV4::new(FRONTEND, MAGLEV_PORT);
    let least = SocketAddrV4::new(FRONTEND, LEAST_PORT);
    let nobody = SocketAddrV4::new(FRONTEND, 9);
    let [ordinary, large] = stages;
    open(driver, ordinary, MANY, Protocol::Tcp)?;
    open(driver, ordinary, MANY, Protocol::Udp)?;
    open(driver, large, MILLION, Protocol::Tcp)?;
    ordinary.establish()?;
    large.establish()?;
    let [tcp, replies] = ordinary.known(Protocol::Tcp);
    let [udp, _] = ordinary.known(Protocol::Udp);
    let [million, _] = large.known(Protocol::Tcp);
    eprintln!("packets: {} and {} TCP flows, {} UDP flows", tcp.len(), million.len(), udp.len());
    let (tcp, replies) = (driver.add(&tcp)?, driver.add(&replies)?);
    let (udp, million) = (driver.add(&udp)?, driver.add(&million)?);
    let new = driver.add(&traffic::clients(NEW, NEWCOMERS, web, Protocol::Tcp))?;
    let new_least = driver.add(&traffic::clients(NEW, NEWCOMERS, least, Protocol::Tcp))?;
    let foreign = driver.add(&traffic::clients(MANY, CLIENTS, nobody, Protocol::Tcp))?;
    let segment = || traffic::template(Protocol::Tcp, ACK);
    let syn = || traffic::template(Protocol::Tcp, SYN);
    let case = |name, template, tuples: Tuples, kind| {
        let turns = if kind == Kind::New { tuples.len() } else { TURNS };
        Case { name, stage: 0, template, tuples, turns, kind, nat: true }
    };
    let on_large = |case: Case| Case { stage: 1, turns: case.tuples.len(), ..case };
    Ok(vec![
        case("established TCP, 1 flow", segment(), tcp.one(), Kind::Known),
        case("established TCP, 64k flows", segment(), tcp, Kind::Known),
        on_large(case("established TCP, 1M flows", segment(), million, Kind::Known)),
        Case { nat: false, ..case("reply in established TCP, 64k flows", segment(), replies, Kind::Known) },
        case("new TCP flow, maglev", syn(), new, Kind::New),
        Case { nat: false, ..case("new TCP flow, least-connections", syn(), new_least, Kind::New) },
        case("known UDP flow, 64k flows", traffic::template(Protocol::Udp, 0), udp, Kind::Known),
        case("not a frontend", segment(), foreign, Kind::Foreign),
    ])
}

/// Opens so many flows. A few find their bucket full of others that were not answered yet, and take the place of one.
fn open(driver: &mut Driver, stage: &mut Stage, flows: u32, protocol: Protocol) -> Result<()> {
    let template = traffic::template(protocol, SYN);
    let clients = traffic::clients(flows, CLIENTS, SocketAddrV4::new(FRONTEND, MAGLEV_PORT), protocol);
    let run = Run { hook: Hook::Xdp, template: &template, tuples: driver.add(&clients)?, turns: flows };
    let program = stage.program(Hook::Xdp)?;
    run_weir(driver, stage, &program, run, Kind::New).map(drop)
}

/// One round of a case: nanoseconds per packet of Weir, and of the stateless NAT if it has the case.
fn measure_case(driver: &mut Driver, stage: &mut Stage, hook: Hook, case: &Case) -> Result<(f64, Option<f64>)> {
    if case.kind == Kind::New {
        stage.restore()?;
    }
    let run = Run { hook, template: &case.template, tuples: case.tuples, turns: case.turns };
    let empty = driver.program(hook, "empty")?;
    let (driver_alone, verdict) = driver.run(&empty, run)?;
    expect(hook, Kind::Foreign, verdict)?;
    let net = |took: std::time::Duration| (took.as_nanos() as f64 - driver_alone.as_nanos() as f64) / case.turns as f64;
    let program = stage.program(hook)?;
    let weir = net(run_weir(driver, stage, &program, run, case.kind)?);
    if !case.nat {
        return Ok((weir, None));
    }
    let (nat, verdict) = driver.run(&driver.program(hook, "nat")?, run)?;
    expect(hook, case.kind, verdict)?;
    Ok((weir, Some(net(nat))))
}

/// Runs Weir's program; fails unless it has sent on, by its own count, every packet that it should, and no other. Of new flows one
/// in a thousand may find no room.
fn run_weir(
    driver: &mut Driver,
    stage: &Stage,
    program: &ProgramFd,
    run: Run<'_>,
    kind: Kind,
) -> Result<std::time::Duration> {
    let before = stage.packets()?;
    let (took, verdict) = driver.run(program, run)?;
    expect(run.hook, kind, verdict)?;
    let sent = stage.packets()? - before;
    let most = if kind == Kind::Foreign { 0 } else { u64::from(run.turns) };
    let least = if kind == Kind::New { most - most / 1000 } else { most };
    ensure!((least..=most).contains(&sent), "Weir has sent on {sent} packets instead of {most}");
    Ok(took)
}

fn expect(hook: Hook, kind: Kind, verdict: u32) -> Result<()> {
    let [xdp, tc] = if kind == Kind::Foreign { PASSED } else { SENT };
    let expected = if hook == Hook::Xdp { xdp } else { tc };
    ensure!(verdict == expected, "{}: the program answered {verdict} instead of {expected}", hook.name());
    Ok(())
}
