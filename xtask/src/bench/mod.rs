//! `cargo xtask bench WHAT`: builds what is measured, runs the measuring program as root, and shows its numbers. The program itself
//! (tests/bench) prints JSON and nothing else; this is where a person's table is made of it.

mod coordinator;
mod flood;
mod fronts;
mod picture;
mod report;
mod sync;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use xshell::{Cmd, Shell, cmd};

use self::report::Report;
use crate::{
    build, build_ebpf, privilege,
    setup::{self, Purpose},
    shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The packet path: ns per packet of the BPF programs, and CPU per request over veth beside nftables and plain routing
    Datapath {
        /// How the numbers are printed
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
        /// How often each case is measured; all cases take turns
        #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Only cases whose names begin with this, as in `veth` or `xdp: new TCP flow`
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Where the cases are drawn as well, as SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// The control plane: start, memory, one change, and doing nothing, with many Services in a real cluster, beside kube-proxy
    Sync(sync::Args),
    /// Weir's scaling decision beside other autoscalers over recorded load, front against front; needs no root
    Fronts(fronts::Args),
    /// The coordinator: CPU and memory with many agents
    Coordinator(coordinator::Args),
    /// A flood of SYNs: what open connections and new clients notice of it, beside nftables with conntrack, and whether every count is right
    Flood(flood::Args),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (json, output) = match &args.what {
        What::Datapath { output, rounds, only, .. } => (datapath(*rounds, only)?, *output),
        What::Sync(args) => (sync::measure(args)?, args.output),
        What::Fronts(args) => return fronts::run(args),
        What::Flood(args) => return flood::run(args),
        What::Coordinator(args) => (coordinator::measure(args)?, args.output),
    };
    let wrong = || format!("the benchmark printed {json}");
    if let What::Datapath { plot: Some(path), .. } = &args.what {
        picture::draw(&serde_json::from_str(&json).with_context(wrong)?, path)?;
    }
    match (output, &args.what) {
        (Output::Json, _) => println!("{}", json.trim_end()),
        (Output::Table, What::Datapath { .. }) => {
            println!("{}", serde_json::from_str::<Report>(&json).with_context(wrong)?.table());
        }
        (Output::Table, What::Sync(_)) => {
            println!("{}", serde_json::from_str::<sync::Report>(&json).with_context(wrong)?.table());
        }
        (Output::Table, What::Fronts(_) | What::Flood(_)) => {}
        (Output::Table, What::Coordinator(_)) => {
            println!("{}", serde_json::from_str::<coordinator::Report>(&json).with_context(wrong)?.table());
        }
    }
    Ok(())
}

/// Builds and runs the measuring program; returns the JSON it prints.
fn datapath(rounds: u32, only: &str) -> Result<String> {
    setup::ensure(Purpose::Bench)?;
    let weir = build::weir(false)?;
    let [object, lru] = build_ebpf::bench_objects()?;
    let shell = shell::in_root()?;
    // Everything measured runs in the kernel: an optimised agent would change nothing, and take minutes to build.
    let bench = cmd!(shell, "cargo bench --quiet --locked --profile dev --package weir-tests --features privileged");
    let bench = bench.args(["--bench", "datapath", "--", "--rounds", &rounds.to_string(), "--only", only]);
    let bench = bench.arg("--object").arg(object).arg("--lru").arg(lru);
    let bench = build::with_object(bench).env("WEIR_BIN", weir);
    as_root(&shell, bench)
}

/// Runs a measuring program; returns what it prints.
pub(crate) fn as_root(shell: &Shell, bench: Cmd<'_>) -> Result<String> {
    let runner = privilege::runner(shell)?;
    privilege::announce("the benchmark loads BPF programs and makes network namespaces");
    let bench = runner.into_iter().fold(bench, |bench, (variable, sudo)| bench.env(variable, sudo));
    Ok(bench.quiet().read()?)
}
