//! A plain model of flows and counters beside the datapath, on random operations: the loaded programs, which needs root, or the same
//! pipeline in memory. This program runs new operations for as long as it is told to (`cargo xtask fuzz`); its tests run fixed ones.

mod beside;
mod campaign;
mod cases;
mod errors;
#[path = "../datapath/frame.rs"]
#[allow(dead_code, reason = "shared with the packet tables, which ask more of it")]
mod frame;
mod frames;
#[path = "../datapath/host.rs"]
#[allow(dead_code, reason = "shared with the packet tables, which ask more of it")]
mod host;
mod kernel;
mod life;
mod memory;
mod operations;
#[cfg(all(test, feature = "privileged"))]
mod overflow;
#[cfg(all(test, feature = "privileged"))]
mod random;
mod reference;
#[cfg(test)]
mod rehearsal;
#[cfg(all(test, feature = "privileged"))]
mod sender;
mod shrink;
mod subject;
mod table;
mod tables;
mod testrun;
mod traffic;
#[cfg(all(test, feature = "privileged"))]
mod two_cpus;
mod world;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Parser, ValueEnum};

use self::{campaign::Campaign, subject::Stage};

/// From one line about how far it is to the next.
const LINE: Duration = Duration::from_secs(5);
/// Attempts at making a failure short.
const ATTEMPTS: usize = 300;

/// Random operations on the datapath and on a model of it, until they disagree or the time is over.
#[derive(Parser)]
#[command(name = "model")]
struct Args {
    /// For how many minutes
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Where to begin; the lists that follow have the seeds that follow. Default: anywhere
    #[arg(long)]
    seed: Option<u64>,
    /// Beside what
    #[arg(long, value_enum, default_value = "kernel")]
    subject: Datapath,
}

#[derive(Clone, Copy, ValueEnum)]
enum Datapath {
    /// The loaded programs; needs root
    Kernel,
    /// The same pipeline in memory
    Memory,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match fuzz(&args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(report)) => {
            println!("{report}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was wrong, if something was.
fn fuzz(args: &Args) -> Result<Option<String>> {
    let stage: Stage = match args.subject {
        Datapath::Kernel => kernel::stage,
        Datapath::Memory => memory::stage,
    };
    for (name, operations) in cases::all(&cases::folder())? {
        if let Some((_, error)) = campaign::replay(stage, &operations)? {
            return Ok(Some(format!("the case {name}: {error:#}")));
        }
    }
    let campaign = Campaign::new(stage, args.seed.unwrap_or_else(|| fastrand::u64(..)));
    let begin = Instant::now();
    let enough = Duration::try_from_secs_f64(args.minutes.max(0.0) * 60.0).unwrap_or(Duration::MAX);
    let failure = campaign.run_and_tell(&|_| begin.elapsed() < enough, LINE)?;
    let missing = campaign.missing();
    if !missing.is_empty() {
        println!("never met: {}", Vec::from_iter(missing).join(", "));
    }
    failure.map(|failure| failure.report(stage, ATTEMPTS, Some(&cases::folder()))).transpose()
}
