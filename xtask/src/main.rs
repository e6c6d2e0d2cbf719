//! Weir's tasks, run as `cargo xtask TASK`. Each task is one file; this one only reads the command line.

mod bench;
mod build;
mod build_ebpf;
mod compiler;
mod demo;
mod lint;
mod privilege;
mod setup;
mod shell;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Weir's tasks: build, test and try it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what is missing on this machine for building, tests and demo, and install it
    Setup(setup::Args),
    /// Build the BPF programs into target/bpf/weir-bpf.o
    BuildEbpf(build_ebpf::Args),
    /// Build `weir`, with the BPF programs inside
    Build(build::Args),
    /// See it work: clients, `weir` and nginx servers in network namespaces; needs root
    Demo(demo::Args),
    /// Measure; needs root
    Bench(bench::Args),
    /// Run the tests: of one layer, or all
    Test(test::Args),
    /// Check formatting, lints, documentation and the list of dependencies
    Lint,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::BuildEbpf(args) => build_ebpf::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Lint => lint::everything(),
    }
}
