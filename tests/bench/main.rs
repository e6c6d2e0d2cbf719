//! What the packet path costs; `cargo xtask bench datapath` builds and runs this. Prints one JSON object: cases, and the ratios that
//! have a target. All subjects of a case take turns, so that a change of the machine's mood meets all of them.

mod driver;
mod load;
mod packets;
mod report;
mod stage;
mod traffic;
mod veth;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use weir_tests::{namespace, requirements};

use report::Report;

/// The programs that are called.
const TOOLS: &[&str] = &["ip", "nft"];

/// Measures the packet path.
#[derive(Parser)]
struct Args {
    /// The object with the benchmark's own programs
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/weir-bench.o"))]
    object: PathBuf,
    /// How often each case is measured
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    requirements::check(TOOLS)?;
    namespace::sweep();
    let mut report = Report::default();
    packets::measure(&args.object, args.rounds, &mut report)?;
    veth::measure(args.rounds, &mut report)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
