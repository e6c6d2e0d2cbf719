//! What users get: real clients follow a real trace, real pods answer, and who balances and who scales differs. `cargo xtask evaluate` builds
//! and runs this. Prints one JSON object.
//!
//! [`ways`] says what is compared, [`stage`] sets it up in a cluster of its own, [`load`] is what the clients do, [`watch`] what is seen of the
//! pods meanwhile; what is reckoned from both is in [`weir_tests::evaluation`].

mod load;
mod metrics_server;
mod outcome;
mod stage;
#[path = "../talk.rs"]
mod talk;
mod watch;
mod ways;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use serde::Serialize;
use weir_tests::{
    evaluation,
    machine::{self, Machine},
};

use load::Load;
use outcome::Outcome;
use ways::Way;

/// Compares ways to balance and to scale under one load.
#[derive(Parser)]
struct Args {
    /// The trace that the clients follow
    #[arg(long)]
    trace: PathBuf,
    /// Where in the trace they begin, in seconds
    #[arg(long, default_value_t = 0.0)]
    from: f64,
    /// For how many seconds of it
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// CPUs that all requests together need, on average
    #[arg(long, default_value_t = 0.45)]
    cpus: f64,
    /// How often each way has its turn
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Only this way; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Way>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    machine: Machine,
    trace: String,
    seconds: f64,
    requests: usize,
    mean_work_seconds: f64,
    /// CPUs that requests asked for, in each second, over the ten seconds before.
    asked: Vec<f64>,
    pod_cpus: f64,
    outcomes: Vec<Outcome>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let load = Load::read(&args.trace, args.from, args.seconds, args.cpus)?;
    let ways = if args.only.is_empty() { Way::value_variants().to_vec() } else { args.only.clone() };
    let mut outcomes = Vec::new();
    for round in 1..=args.rounds {
        // What drifts meanwhile meets first and last alike.
        let turn: Vec<Way> = if round % 2 == 1 { ways.clone() } else { ways.iter().rev().copied().collect() };
        for way in turn {
            eprintln!("round {round} of {}: {}", args.rounds, way.name());
            let outcome = stage::play(way, round, &load).with_context(|| way.name())?;
            eprintln!("  {}", outcome.numbers);
            outcomes.push(outcome);
        }
    }
    let report = Report {
        machine: machine::describe()?,
        trace: load.name.clone(),
        seconds: load.seconds,
        requests: load.arrivals.len(),
        mean_work_seconds: load.mean_work(),
        asked: evaluation::asked(&load.arrivals, load.seconds),
        pod_cpus: ways::FLEET.pod_cpus,
        outcomes,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
