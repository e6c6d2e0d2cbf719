//! Weir's tasks, run as `cargo xtask TASK`. Each task is one file; this one only reads the command line.

mod bench;
mod build;
mod build_ebpf;
mod cluster;
mod compiler;
mod demo;
mod deploy;
mod evaluate;
mod fuzz;
mod image;
mod lint;
mod machine;
mod plot;
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
    /// Put `weir` into a container image, without a registry or an engine
    Image(image::Args),
    /// See it work: clients, `weir` and nginx servers in network namespaces; needs root
    Demo(demo::Args),
    /// Measure; needs root
    Bench(bench::Args),
    /// Compare what users get from Weir and from kube-proxy and the HPA, under one real load in a real cluster; needs root
    Evaluate(evaluate::Args),
    /// Start and stop a real Kubernetes cluster on this machine; needs root
    Cluster(cluster::Args),
    /// Run the tests: of one layer, or all
    Test(test::Args),
    /// Look for what no test thinks of: random operations beside a model, random bytes for what reads bytes
    Fuzz(fuzz::Args),
    /// Make what of deploy/ comes from other sources: plain manifest, custom resources, dashboards
    Deploy(deploy::Args),
    /// Check formatting, lints, documentation, the list of dependencies and the made files of deploy/
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
        Task::Image(args) => image::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Evaluate(args) => evaluate::run(&args),
        Task::Cluster(args) => cluster::run(args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Deploy(args) => deploy::run(&args),
        Task::Lint => lint::everything(),
    }
}
