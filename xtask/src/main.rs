//! Weir's tasks, run as `cargo xtask TASK`. Each task is one file; this one only reads the command line.

mod build_ebpf;
mod compiler;
mod shell;
mod workspace;

use clap::{Parser, Subcommand};

/// Weir's tasks: build, test and try it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = false)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the BPF programs into target/bpf/weir-bpf.o
    BuildEbpf(build_ebpf::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::BuildEbpf(args) => build_ebpf::run(&args),
    }
}
