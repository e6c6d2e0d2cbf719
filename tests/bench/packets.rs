//! Nanoseconds per packet of Weir's XDP and tc programs and of those it is compared with, run by the kernel on packets of many flows
//! (BPF_PROG_TEST_RUN), less what the driver costs with a program that returns at once.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use nix::net::if_::if_nametoindex;
use weir_tests::namespace::Namespace;

use crate::{
    cases::{self, Case, Kind, Subject},
    driver::{Driver, Hook, Run},
    frontends::{BACKENDS, MAGLEV, backend_socket, front},
    programs,
    report::{self, Report},
    stage::Stage,
};

/// What the programs answer when they send a packet on, and when they let it pass.
const SENT: [u32; 2] = [3, 7];
const PASSED: [u32; 2] = [2, -1_i32 as u32];

/// A case at a hook.
struct Row<'a> {
    hook: Hook,
    case: &'a Case,
    /// Of each subject what each round has shown.
    results: Vec<Vec<Took>>,
}

/// What a subject did in one round.
#[derive(Clone, Copy)]
struct Took {
    /// Nanoseconds per packet.
    nanoseconds: f64,
    /// The share of the packets that was sent on, where that is counted.
    served: Option<f64>,
}

/// Measures the cases at both hooks whose names begin like this. `objects`: the benchmark's own programs, and Weir's over a kernel LRU hash.
pub(crate) fn measure(objects: [&Path; 2], rounds: u32, only: &str, report: &mut Report) -> Result<()> {
    let hooks = Hook::ALL.map(|hook| format!("{}: ", hook.name()));
    if !hooks.iter().any(|hook| hook.starts_with(only) || only.starts_with(hook)) {
        return Ok(());
    }
    let (node, peer) = (Namespace::new("bench")?, Namespace::new("bench")?);
    node.forward()?;
    node.link("up0", &peer, "eth0")?;
    node.address("up0", &["10.10.0.2/24", "fd00::10.10.0.2/120"])?;
    for gateway in ["10.10.0.1", "fd00::10.10.0.1"] {
        node.ip(&format!("neigh add {gateway} lladdr 02:00:00:00:00:01 dev up0 nud permanent"))?;
    }
    for (prefix, gateway) in [("default", "10.10.0.1"), ("10.30.0.0/16", "10.10.0.1"), ("fd00::/96", "fd00::10.10.0.1")]
    {
        node.route(prefix, gateway)?;
    }
    node.enter(|| measure_inside(objects, rounds, only, report))?
}

fn measure_inside([own, lru]: [&Path; 2], rounds: u32, only: &str, report: &mut Report) -> Result<()> {
    let mut driver = Driver::load(own, if_nametoindex("up0")?)?;
    let backends: Vec<_> = (0..BACKENDS).map(|index| nat_socket(backend_socket(index))).collect();
    driver.configure_nat(nat_socket(front(MAGLEV).socket()), &backends)?;
    let mut stages = cases::stages(&mut driver, lru)?;
    programs::describe(&driver, &mut stages[0], report)?;
    let cases = cases::all(&mut driver, &stages)?;
    let rows = Hook::ALL.into_iter().flat_map(|hook| cases.iter().map(move |case| Row::new(hook, case)));
    let is_asked_for = |row: &Row<'_>| row.case.hooks.contains(&row.hook) && row.name().starts_with(only);
    let mut rows: Vec<_> = rows.filter(is_asked_for).collect();
    for round in 0..=rounds {
        for row in &mut rows {
            let took = row.measure(&mut driver, &mut stages[row.case.stage], round).context(row.case.name.clone())?;
            // The first round warms up.
            if round > 0 {
                row.results.iter_mut().zip(took).for_each(|(results, took)| results.push(took));
            }
        }
        eprintln!("packets: round {round} of {rounds}");
    }
    rows.iter().for_each(|row| row.tell(report));
    Ok(())
}

fn nat_socket(socket: std::net::SocketAddrV4) -> [u32; 2] {
    [u32::from_ne_bytes(socket.ip().octets()), socket.port().to_be().into()]
}

impl<'a> Row<'a> {
    fn new(hook: Hook, case: &'a Case) -> Self {
        Self { hook, case, results: case.subjects.iter().map(|_| Vec::new()).collect() }
    }

    fn name(&self) -> String {
        format!("{}: {}", self.hook.name(), self.case.name)
    }

    /// One round: what each subject took.
    fn measure(&self, driver: &mut Driver, stage: &mut Stage, round: u32) -> Result<Vec<Took>> {
        let Self { hook, case, .. } = *self;
        let newcomers = if case.kind == Kind::New {
            // A full LRU hash remembers who was new at the other hook.
            case.newcomers(2 * round + u32::from(hook == Hook::Tc))
        } else {
            Vec::new()
        };
        driver.replace(case.tuples, &newcomers)?;
        let run = Run { hook, template: &case.template, tuples: case.tuples, turns: case.turns };
        let (alone, verdict) = driver.run(&driver.program(hook, "empty")?, run)?;
        expect(hook, PASSED, verdict)?;
        let net = |took: Duration| (took.as_nanos() as f64 - alone.as_nanos() as f64) / f64::from(case.turns);
        let mut all = Vec::new();
        for subject in case.subjects {
            let (took, served) = run_subject(driver, stage, case, run, *subject)?;
            all.push(Took { nanoseconds: net(took), served });
            if *subject == Subject::Lru && case.forgets() {
                stage.lru.forget(case.frontend, &newcomers)?;
            }
        }
        Ok(all)
    }

    fn tell(&self, report: &mut Report) {
        let name = self.name();
        let nanoseconds = |subject: Subject| -> Vec<f64> {
            let at = self.case.subjects.iter().position(|other| *other == subject);
            at.map(|at| self.results[at].iter().map(|took| took.nanoseconds).collect()).unwrap_or_default()
        };
        for (subject, results) in self.case.subjects.iter().zip(&self.results) {
            let served: Vec<_> = results.iter().filter_map(|took| took.served).collect();
            let served = (self.case.kind == Kind::New && !served.is_empty()).then(|| report::median(&served));
            report.case(&name, subject.name(), &nanoseconds(*subject), served);
        }
        if let Some((other, most)) = self.case.wanted.filter(|_| self.hook == Hook::Xdp) {
            let pairs = nanoseconds(Subject::Weir).into_iter().zip(nanoseconds(other));
            let ratios: Vec<_> = pairs.map(|(weir, other)| weir / other).collect();
            report.ratio(&format!("{name}: weir / {}", other.name()), &ratios, most);
        }
    }
}

/// Runs a subject's program; how long that took, and the share of the packets that it has sent on, if it counts them.
fn run_subject(
    driver: &mut Driver,
    stage: &mut Stage,
    case: &Case,
    run: Run<'_>,
    subject: Subject,
) -> Result<(Duration, Option<f64>)> {
    let (name, answers) = match subject {
        Subject::Weir => {
            // Those who are new make room for themselves at the cost of others, whom later cases ask for.
            let changes = matches!(case.kind, Kind::New | Kind::Last);
            if changes {
                stage.restore()?;
            }
            let program = stage.program(run.hook)?;
            let result = run_counted(driver, stage, &program, case, run)?;
            if changes {
                stage.restore()?;
            }
            return Ok(result);
        }
        Subject::Lru => {
            let program = stage.lru.program(run.hook)?;
            return run_counted(driver, stage, &program, case, run);
        }
        Subject::Nat => ("nat", if case.kind == Kind::Foreign { PASSED } else { SENT }),
        Subject::Parse => ("parse", PASSED),
        Subject::Back => ("back", SENT),
    };
    let (took, verdict) = driver.run(&driver.program(run.hook, name)?, run)?;
    expect(run.hook, answers, verdict)?;
    Ok((took, None))
}

/// The same for a program with Weir's counters; fails unless these say that every packet was sent on that should be, and no other.
fn run_counted(
    driver: &mut Driver,
    stage: &Stage,
    program: &ProgramFd,
    case: &Case,
    run: Run<'_>,
) -> Result<(Duration, Option<f64>)> {
    let before = stage.packets()?;
    let (took, verdict) = driver.run(program, run)?;
    let sent = stage.packets()? - before;
    let served = sent as f64 / f64::from(run.turns);
    if case.kind == Kind::Foreign {
        expect(run.hook, PASSED, verdict)?;
        ensure!(sent == 0, "{}: {sent} packets were sent on", case.name);
        return Ok((took, None));
    }
    if case.kind != Kind::New {
        expect(run.hook, SENT, verdict)?;
    }
    if front(case.frontend).forwards {
        ensure!(sent == 0, "{}: {sent} packets were counted, which the backend's node does", case.name);
        return Ok((took, None));
    }
    let least = case.least_served();
    ensure!((least..=1.0).contains(&served), "{}: {sent} of {} packets were sent on", case.name, run.turns);
    Ok((took, Some(served)))
}

fn expect(hook: Hook, [xdp, tc]: [u32; 2], verdict: u32) -> Result<()> {
    let expected = if hook == Hook::Xdp { xdp } else { tc };
    ensure!(verdict == expected, "{}: the program answered {verdict} instead of {expected}", hook.name());
    Ok(())
}
