//! What a flood of SYNs does to who is served: `cargo xtask bench flood` builds and runs this. Prints one JSON object.
//!
//! [`variant`] says what is compared, [`network`] is where, [`balancer`] who balances; [`play`] lets one variant go through its phases, in
//! which [`generator`] floods, and [`clients`] are who is to be served. All but the generator stays off the generator's CPU.

mod balancer;
mod clients;
mod cpus;
mod generator;
mod network;
mod play;
mod report;
mod variant;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use weir_tests::{machine, namespace, requirements};

use cpus::Cpus;
use report::Report;
use variant::Variant;

/// The programs that are called.
const TOOLS: &[&str] = &["ip", "nft"];

/// Floods balancers.
#[derive(Parser)]
struct Args {
    /// Seconds for which a frontend is flooded
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(20..=600))]
    seconds: u64,
    /// Only variants whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    requirements::check(TOOLS)?;
    namespace::sweep();
    let variants: Vec<_> = Variant::all().filter(|variant| variant.name().contains(&args.only)).collect();
    ensure!(!variants.is_empty(), "no variant's name contains {:?}", args.only);
    let cpus = Cpus::divide()?;
    let runs = variants.into_iter().map(|variant| {
        eprintln!("{}", variant.name());
        // Who is started by this thread stays where it is.
        let run = thread::scope(|scope| {
            let player = scope.spawn(|| {
                cpus.stay_with_others()?;
                play::play(variant, Duration::from_secs(args.seconds), &cpus)
            });
            player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        run.with_context(|| variant.name())
    });
    let runs = runs.collect::<Result<_>>()?;
    let report = Report { machine: machine::describe()?, seconds: args.seconds, runs };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
