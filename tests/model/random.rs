//! Long lists of random operations, from fixed seeds and from a new one each time. What fails is made short before it is shown.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use lb_common::{DropReason, FlowState};

use crate::{
    beside::{Pair, run},
    operations::{self, Operation},
    testrun::{on_a_node, options},
};

const OPERATIONS: usize = 45_000;
const SEEDS: [u64; 4] = [1, 2, 3, 0xdead_beef];
/// Runs that may be spent on making a failure short.
const SHRINKING: usize = 40;

#[test]
fn the_programs_do_as_the_model() {
    for seed in SEEDS {
        let missing = try_seed(seed, OPERATIONS);
        assert!(missing.is_empty(), "seed {seed} never met {missing:?}");
    }
}

/// `WEIR_MODEL_SEED` repeats one.
#[test]
fn the_programs_do_as_the_model_on_new_operations() {
    let given = std::env::var("WEIR_MODEL_SEED").ok().map(|text| text.parse().expect("a number in WEIR_MODEL_SEED"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    try_seed(seed, OPERATIONS);
}

/// What it did not meet, of what a long run should.
fn try_seed(seed: u64, count: usize) -> BTreeSet<String> {
    let all = operations::random(seed, count);
    match attempt(&all, 16) {
        Attempt::Right(missing) => missing,
        Attempt::Wrong(at, error) => {
            let (short, last) = shrink(all[..=at].to_vec());
            panic!("seed {seed}: {error:#}\n{} operations are enough: {short:#?}\n{last:#}", short.len());
        }
    }
}

enum Attempt {
    /// What was not met, of what should be.
    Right(BTreeSet<String>),
    /// After which operation what was wrong.
    Wrong(usize, anyhow::Error),
}

fn attempt(operations: &[Operation], every: usize) -> Attempt {
    let result = on_a_node(options(), |node| {
        let mut pair = Pair::new(node)?;
        if let Err((at, error)) = run(&mut pair, operations, every) {
            return Ok(Attempt::Wrong(at, error));
        }
        let missing = missing(&pair);
        match ends_empty(&mut pair) {
            Ok(()) => Ok(Attempt::Right(missing)),
            Err(error) => Ok(Attempt::Wrong(operations.len() - 1, error)),
        }
    });
    result.expect("a node to test on")
}

/// After everything's time nothing is left, and nothing is counted as open.
fn ends_empty(pair: &mut Pair<'_>) -> Result<()> {
    let long = Operation::Wait(100_000);
    run(pair, &[long, Operation::Sweep], 1).map_err(|(_, error)| error)?;
    ensure!(pair.model.flows.is_empty(), "the model still has {} flows", pair.model.flows.len());
    Ok(())
}

/// Interesting things that a long run should have met, and has not.
fn missing(pair: &Pair<'_>) -> BTreeSet<String> {
    let model = &pair.model;
    let drops = |reason| model.drops[&reason];
    let loads: Vec<_> = (0..model.conditions.len() as u32).map(|index| model.load(index)).collect();
    [
        ("no-flow", drops(DropReason::NoFlow) > 0),
        ("an empty frontend", drops(DropReason::NoBackend) + drops(DropReason::NoLocalBackend) > 0),
        ("a backend that is gone", drops(DropReason::BackendGone) > 0),
        ("a full backend", drops(DropReason::BackendsFull) > 0),
        ("a client that comes too often", drops(DropReason::ClientRate) > 0),
        ("clients that come too often", drops(DropReason::FrontendRate) > 0),
        ("expired flows", pair.swept.expired > 0),
        ("forgotten flows", pair.swept.forgotten > 0),
        ("resets", loads.iter().any(|load| load.resets > 0)),
        ("a renewed backend", model.conditions.iter().any(|condition| condition.incarnation > 1)),
        ("full NAT to a local backend", pair.model.masked_local > 0),
        ("an established flow", model.met.contains(&(FlowState::Established as u8))),
        ("a flow closed by both", model.met.contains(&(FlowState::FinBackend as u8))),
        ("an answered UDP flow", model.met.contains(&(FlowState::UdpAnswered as u8))),
    ]
    .into_iter()
    .filter(|(_, met)| !met)
    .map(|(what, _)| what.to_owned())
    .collect()
}

/// Leaves out of a failing list what can be left out, in pieces that get smaller.
fn shrink(mut operations: Vec<Operation>) -> (Vec<Operation>, anyhow::Error) {
    let mut reason = anyhow::anyhow!("it did not fail again");
    let mut piece = operations.len() / 2;
    let mut attempts = 0;
    while piece > 0 && attempts < SHRINKING {
        let mut start = 0;
        while start < operations.len() && attempts < SHRINKING {
            let end = (start + piece).min(operations.len());
            let without = [&operations[..start], &operations[end..]].concat();
            attempts += 1;
            match attempt(&without, 1) {
                Attempt::Wrong(at, error) if at < without.len() => {
                    operations = without[..=at].to_vec();
                    reason = error;
                }
                _ => start = end,
            }
        }
        piece /= 2;
    }
    (operations, reason)
}
