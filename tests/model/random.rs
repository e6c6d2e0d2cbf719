//! Random operations on the loaded programs, from fixed seeds and from a new one each time. What fails is made short before it is shown.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    campaign::{Campaign, Failure, LIST, replay},
    cases, kernel,
};

/// Operations from fixed seeds, and as many from new ones. A million takes some 20 s of CPU time; `cargo xtask fuzz` runs any number.
const OPERATIONS: u64 = 1_000_000;
/// With these it is ten million in all.
const MANY: u64 = 8_000_000;
/// From one line about how far these are to the next.
const LINE: Duration = Duration::from_secs(30);
/// Attempts at making a failure short: each loads the programs.
const ATTEMPTS: usize = 60;

#[test]
fn the_programs_do_as_the_model() {
    let campaign = run(1);
    assert!(campaign.missing().is_empty(), "never met: {:?}", campaign.missing());
}

/// `WEIR_MODEL_SEED` repeats them.
#[test]
fn the_programs_do_as_the_model_on_new_operations() {
    run(new_seed());
}

/// The same.
#[test]
#[ignore = "minutes of CPU time: `cargo xtask test model`, or `cargo xtask test`, where it runs beside others"]
fn the_programs_do_as_the_model_on_millions_of_new_operations() {
    let campaign = Campaign::new(kernel::stage, new_seed());
    let failure = campaign.run_and_tell(&|lists| lists * (LIST as u64) < MANY, LINE);
    judge(&campaign, failure.expect("a node to test on"), MANY);
}

fn new_seed() -> u64 {
    let given = std::env::var("WEIR_MODEL_SEED").ok().map(|text| text.parse().expect("a number in WEIR_MODEL_SEED"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    seed
}

#[test]
fn no_case_that_was_kept_fails_again() {
    for (name, operations) in cases::all(&cases::folder()).expect("cases") {
        let wrong = replay(kernel::stage, &operations).expect("a node to test on");
        assert!(wrong.is_none(), "{name}: {wrong:?}");
    }
}

fn run(seed: u64) -> Campaign {
    let campaign = Campaign::new(kernel::stage, seed);
    let failure = campaign.run(&|lists| lists * (LIST as u64) < OPERATIONS).expect("a node to test on");
    judge(&campaign, failure, OPERATIONS);
    campaign
}

fn judge(campaign: &Campaign, failure: Option<Failure>, wanted: u64) {
    if let Some(failure) = failure {
        panic!("{}", failure.report(kernel::stage, ATTEMPTS, None).expect("a node to test on"));
    }
    assert!(campaign.done.load(Ordering::Relaxed) >= wanted);
}
