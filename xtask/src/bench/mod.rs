//! `cargo xtask bench WHAT`: builds what is measured, runs the measuring program as root, and shows its numbers. The program itself
//! (tests/bench) prints JSON and nothing else; this is where a person's table is made of it.

mod report;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use xshell::cmd;

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
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let What::Datapath { output, rounds } = args.what;
    let json = datapath(rounds)?;
    let report: Report = serde_json::from_str(&json).with_context(|| format!("the benchmark printed {json}"))?;
    match output {
        Output::Table => println!("{}", report.table()),
        Output::Json => println!("{}", json.trim_end()),
    }
    Ok(())
}

/// Builds and runs the measuring program; returns the JSON it prints.
fn datapath(rounds: u32) -> Result<String> {
    setup::ensure(Purpose::Bench)?;
    let weir = build::weir(false)?;
    let object = build_ebpf::bench_object()?;
    let shell = shell::in_root()?;
    // Everything measured runs in the kernel: an optimised agent would change nothing, and take minutes to build.
    let bench = cmd!(shell, "cargo bench --quiet --locked --profile dev --package weir-tests --features privileged");
    let bench = bench.args(["--bench", "datapath", "--", "--rounds", &rounds.to_string(), "--object"]).arg(object);
    let bench = build::with_object(bench).env("WEIR_BIN", weir);
    let runner = privilege::runner(&shell)?;
    privilege::announce("the benchmark loads BPF programs and makes network namespaces");
    let bench = runner.into_iter().fold(bench, |bench, (variable, sudo)| bench.env(variable, sudo));
    Ok(bench.quiet().read()?)
}
