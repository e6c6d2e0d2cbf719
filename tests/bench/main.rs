//! What the packet path costs; `cargo xtask bench datapath` builds and runs this. Prints one JSON object: the machine, cases, the ratios
//! that have a target, and what the kernel says of the programs. All subjects of a case take turns, so that a change of the machine's mood
//! meets all of them.

mod cases;
mod driver;
mod frontends;
mod load;
mod lru;
mod packets;
mod peers;
mod programs;
mod report;
mod stage;
mod traffic;
mod veth;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use weir_tests::{
    machine::{self, Machine},
    namespace, requirements,
};

use report::Report;

/// Measures the packet path.
#[derive(Parser)]
struct Args {
    /// The object with the benchmark's own programs
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/weir-bench.o"))]
    object: PathBuf,
    /// The object with Weir's programs over a kernel LRU hash
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/weir-lru.o"))]
    lru: PathBuf,
    /// How often each case is measured
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// Only cases whose names begin with this, as in `veth` or `xdp: new TCP flow`
    #[arg(long, default_value = "")]
    only: String,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Output {
    machine: Machine,
    #[serde(flatten)]
    report: Report,
}

fn main() -> Result<()> {
    let args = Args::parse();
    requirements::check(&peers::tools())?;
    namespace::sweep();
    let mut report = Report::default();
    packets::measure([&args.object, &args.lru], args.rounds, &args.only, &mut report)?;
    veth::measure(args.rounds, &args.only, &mut report)?;
    println!("{}", serde_json::to_string_pretty(&Output { machine: machine::describe()?, report })?);
    Ok(())
}
