//! Long runs: lists of random operations, one after the other on every CPU, until something is wrong or enough was done.

use std::{
    collections::BTreeSet,
    num::NonZero,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Error, Result, ensure};
use lb_common::{DropReason, FlowState};

use crate::{
    beside::{Pace, Pair, run},
    cases,
    operations::{self, Operation},
    shrink::shrink,
    subject::{Stage, Subject},
    world::{ALL, FRONTENDS},
};

/// Operations of a list: enough that every flow lives its life, and few enough to be made short when something is wrong.
pub(crate) const LIST: usize = 50_000;
/// A subject is used for so many lists. To load the programs takes as long as some ten thousand operations.
const LISTS_OF_A_SUBJECT: usize = 20;
/// The agent is replaced in one of so many lists: to load the programs once more.
const RESTARTS: u64 = 20;
const PACE: Pace = Pace { counters: 64, tables: 2048 };
/// For lists that are known to fail, and so short soon.
const CLOSE: Pace = Pace { counters: 1, tables: 16 };

/// A long run, as it goes on.
pub(crate) struct Campaign {
    stage: Stage,
    first: u64,
    lists: AtomicU64,
    /// Operations so far.
    pub(crate) done: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// What no list has met so far, of what a list should; none: no list has ended.
    missing: Option<BTreeSet<&'static str>>,
    failure: Option<Failure>,
}

/// Something was wrong.
pub(crate) struct Failure {
    /// The seed of the list.
    pub(crate) seed: u64,
    /// The list, as far as the operation after which it was.
    pub(crate) operations: Vec<Operation>,
    /// What it was.
    pub(crate) error: Error,
}

impl Campaign {
    /// Nothing is done yet; the first list has this seed, and those that follow the next ones.
    pub(crate) fn new(stage: Stage, first: u64) -> Self {
        Self { stage, first, lists: AtomicU64::new(0), done: AtomicU64::new(0), found: Mutex::default() }
    }

    /// Runs lists while `wanted` says so of the number of those that were begun before. What was wrong, if something was; an error if
    /// there is nothing to test on.
    pub(crate) fn run(&self, wanted: &(dyn Fn(u64) -> bool + Sync)) -> Result<Option<Failure>> {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..cpus()).map(|_| scope.spawn(|| self.work(wanted))).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(self.found().failure.take())
    }

    /// The same, and says how far it is from time to time.
    pub(crate) fn run_and_tell(
        &self,
        wanted: &(dyn Fn(u64) -> bool + Sync),
        each: Duration,
    ) -> Result<Option<Failure>> {
        let begin = Instant::now();
        let failure = thread::scope(|scope| {
            let run = scope.spawn(|| self.run(wanted));
            let mut next = each;
            while !run.is_finished() {
                thread::sleep(Duration::from_millis(50));
                if begin.elapsed() >= next {
                    self.tell(begin);
                    next += each;
                }
            }
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.tell(begin);
        failure
    }

    fn tell(&self, begin: Instant) {
        let (done, took) = (self.done.load(Ordering::Relaxed), begin.elapsed());
        let rate = done as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        println!("{:5.0} s  {done:>11} operations  {rate:>7.0}/s  seed {}", took.as_secs_f64(), self.seed());
    }

    /// The seed of the list that was begun last.
    pub(crate) fn seed(&self) -> u64 {
        self.first.wrapping_add(self.lists.load(Ordering::Relaxed).saturating_sub(1))
    }

    /// What no list has met, of what a long one should.
    pub(crate) fn missing(&self) -> BTreeSet<&'static str> {
        self.found().missing.clone().unwrap_or_default()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, wanted: &(dyn Fn(u64) -> bool + Sync)) -> Result<()> {
        let mut next = self.next(wanted);
        while next.is_some() {
            (self.stage)(&mut |subject| {
                for _ in 0..LISTS_OF_A_SUBJECT {
                    let Some(seed) = next else { break };
                    self.list(subject, seed)?;
                    next = self.next(wanted);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The seed of the next list, if there is to be one.
    fn next(&self, wanted: &(dyn Fn(u64) -> bool + Sync)) -> Option<u64> {
        if self.found().failure.is_some() {
            return None;
        }
        let begun = self.lists.fetch_add(1, Ordering::Relaxed);
        wanted(begun).then(|| self.first.wrapping_add(begun))
    }

    fn list(&self, subject: &mut dyn Subject, seed: u64) -> Result<()> {
        let mut operations = operations::random(seed, LIST, RESTARTS);
        match attempt(subject, &operations, PACE, &self.done)? {
            Ok(missing) => {
                let mut found = self.found();
                found.missing = Some(match found.missing.take() {
                    Some(known) => &known & &missing,
                    None => missing,
                });
            }
            Err((at, error)) => {
                operations.truncate(at + 1);
                self.found().failure.get_or_insert(Failure { seed, operations, error });
            }
        }
        Ok(())
    }
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What a list did not meet, of what a long one should; or after which operation what was wrong.
type Outcome = Result<BTreeSet<&'static str>, (usize, Error)>;

/// Runs a list on a subject.
fn attempt(subject: &mut dyn Subject, operations: &[Operation], pace: Pace, done: &AtomicU64) -> Result<Outcome> {
    let mut pair = Pair::new(subject)?;
    if let Err(wrong) = run(&mut pair, operations, pace, done) {
        return Ok(Err(wrong));
    }
    let missing = missing(&pair);
    let empty = ends_empty(&mut pair);
    Ok(empty.map(|()| missing).map_err(|error| (operations.len().saturating_sub(1), error)))
}

/// Runs a list on a subject of its own; what was wrong, and after which operation.
pub(crate) fn replay(stage: Stage, operations: &[Operation]) -> Result<Option<(usize, Error)>> {
    let mut outcome = None;
    let pace = if operations.len() < 1000 { CLOSE } else { PACE };
    stage(&mut |subject| {
        outcome = Some(attempt(subject, operations, pace, &AtomicU64::new(0))?);
        Ok(())
    })?;
    Ok(outcome.and_then(Outcome::err))
}

impl Failure {
    /// A short list that fails, with what is wrong then, in about so many attempts; nothing if it does not fail again.
    pub(crate) fn shortened(&self, stage: Stage, attempts: usize) -> Result<Option<(Vec<Operation>, Error)>> {
        let (mut last, mut broken) = (None, None);
        let mut fails = |list: &[Operation]| match replay(stage, list) {
            Ok(wrong) => wrong.map(|(at, error)| {
                last = Some(error);
                at
            }),
            Err(error) => {
                broken = Some(error);
                None
            }
        };
        // Mostly one frontend is enough, and then most is left out at once.
        let mut frontends = (0..FRONTENDS).map(|frontend| {
            self.operations.iter().filter(|operation| operation.is_about(frontend)).copied().collect::<Vec<_>>()
        });
        let of_one = frontends.find(|list| fails(list).is_some());
        let short = shrink(&of_one.unwrap_or_else(|| self.operations.clone()), attempts, &mut fails);
        match broken {
            Some(error) => Err(error),
            None => Ok(short.zip(last)),
        }
    }

    /// Everything that is known, as text; a file of the case if there is a folder for it.
    pub(crate) fn report(&self, stage: Stage, attempts: usize, folder: Option<&Path>) -> Result<String> {
        let Self { seed, operations, error } = self;
        let head = format!("seed {seed}, after {} operations: {error:#}", operations.len());
        let Some((short, wrong)) = self.shortened(stage, attempts)? else {
            return Ok(format!("{head}\nit did not come again when they were repeated"));
        };
        let wrong = format!("seed {seed}: {wrong:#}");
        let kept = folder.map(|folder| cases::keep(folder, &format!("seed-{seed}"), &wrong, &short)).transpose()?;
        let kept = kept.map_or_else(String::new, |path| format!("\nkept as {}", path.display()));
        Ok(format!("{head}\n{} operations are enough:\n{}{kept}", short.len(), cases::text(&wrong, &short)?))
    }
}

/// After everything's time nothing is left, and nothing is counted as open.
fn ends_empty(pair: &mut Pair<'_>) -> Result<()> {
    let end = [Operation::Wait(100_000), Operation::Sweep];
    run(pair, &end, CLOSE, &AtomicU64::new(0)).map_err(|(_, error)| error)?;
    ensure!(pair.model.flows.is_empty(), "the model still has {} flows", pair.model.flows.len());
    Ok(())
}

/// Interesting things that a long run should have met, and has not.
fn missing(pair: &Pair<'_>) -> BTreeSet<&'static str> {
    let model = &pair.model;
    let drops = |reason| model.drops[&reason];
    let loads: Vec<_> = (0..ALL).map(|index| model.load(index)).collect();
    [
        ("no-flow", drops(DropReason::NoFlow) > 0),
        ("an empty frontend", drops(DropReason::NoBackend) + drops(DropReason::NoLocalBackend) > 0),
        ("a backend that is gone", drops(DropReason::BackendGone) > 0),
        ("a full backend", drops(DropReason::BackendsFull) > 0),
        ("a client that comes too often", drops(DropReason::ClientRate) > 0),
        ("clients that come too often", drops(DropReason::FrontendRate) > 0),
        ("a client from elsewhere", drops(DropReason::SourceRange) > 0),
        ("expired flows", pair.swept.expired > 0),
        ("forgotten flows", pair.swept.forgotten > 0),
        ("resets", loads.iter().any(|load| load.resets > 0)),
        ("a renewed backend", model.conditions.iter().any(|condition| condition.incarnation > 1)),
        ("full NAT to a local backend", model.masked_local > 0),
        ("fragments that follow their first one", model.followed > 0),
        ("an established flow", model.met.contains(&(FlowState::Established as u8))),
        ("a flow closed by both", model.met.contains(&(FlowState::FinBackend as u8))),
        ("a flow that is forwarded", model.met.contains(&(FlowState::Forwarded as u8))),
        ("a forwarded flow that the client closed", model.met.contains(&(FlowState::ForwardedFin as u8))),
        ("a packet that the ring forwards", model.picked_up > 0),
        ("a packet that another node has forwarded", model.received > 0),
        ("an answered UDP flow", model.met.contains(&(FlowState::UdpAnswered as u8))),
    ]
    .into_iter()
    .filter(|(_, met)| !met)
    .map(|(what, _)| what)
    .collect()
}
