//! `cargo xtask fuzz`: random operations on the datapath and on its model, or random bytes for what reads bytes, for as long as is wanted.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use xshell::cmd;

use crate::{build, build_ebpf, lint::FUZZ, privilege, shell, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For how many minutes
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Where chance begins; a failure of the model names the seed that repeats it. Default: anywhere
    #[arg(long)]
    seed: Option<u64>,
    /// What is tried
    #[arg(long, value_enum, default_value = "model")]
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The loaded programs beside the model (tests/model); needs root
    Model,
    /// The same pipeline in memory beside the model
    Memory,
    /// The parser of packets, under libFuzzer
    Parser,
    /// The reader of manifests, under libFuzzer
    Manifests,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.target {
        Target::Model => model(args, "kernel"),
        Target::Memory => model(args, "memory"),
        Target::Parser => bytes(args, "parser", &[], &[]),
        Target::Manifests => bytes(args, "manifests", &["--features", "manifests"], &["deploy/examples"]),
    }
}

/// Failures are made short, and kept in tests/model/cases.
fn model(args: &Args, subject: &str) -> Result<()> {
    let shell = shell::in_root()?;
    let runner = if subject == "kernel" {
        build_ebpf::object()?;
        privilege::announce("the programs are loaded, in network namespaces");
        privilege::runner(&shell)?
    } else {
        None
    };
    let minutes = args.minutes.to_string();
    let model = cmd!(shell, "cargo run --locked --package weir-model -- --minutes {minutes} --subject {subject}");
    let model = args.seed.iter().fold(model, |model, seed| model.arg("--seed").arg(seed.to_string()));
    let model = runner.into_iter().fold(build::with_object(model), |model, (variable, sudo)| model.env(variable, sudo));
    model.run().context("the model and what it runs beside disagree")
}

/// What libFuzzer needs to know which way an input took: as cargo-fuzz asks for it, without a sanitizer.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// No input takes so many seconds.
const TIMEOUT: u32 = 10;

/// Inputs that found new ways are kept in target/fuzz/corpus, where the next run begins; those that fail beside them.
fn bytes(args: &Args, name: &str, features: &[&str], examples: &[&str]) -> Result<()> {
    let shell = shell::in_root()?;
    let host = shell::host(&shell)?;
    let target = workspace::target_dir().join("fuzz");
    let build = cmd!(shell, "cargo build --locked --release --manifest-path {FUZZ} --target {host} --bin {name}");
    let build = shell::without_cargo_settings(build::with_object(build.args(features)));
    build.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", COVERAGE.join(" ")).run()?;
    let (corpus, failures) = (target.join("corpus").join(name), target.join("failures").join(name));
    for folder in [&corpus, &failures] {
        shell.create_dir(folder)?;
    }
    let seconds = (args.minutes * 60.0).ceil().max(1.0) as u64;
    let failures = format!("-artifact_prefix={}/", failures.display());
    let limits = [format!("-max_total_time={seconds}"), format!("-timeout={TIMEOUT}"), failures];
    let program = target.join(host).join("release").join(name);
    let program = cmd!(shell, "{program} {corpus}").args(examples).args(limits).arg("-print_final_stats=1");
    // libFuzzer's seeds have 32 bits.
    let program = args.seed.iter().fold(program, |program, seed| program.arg(format!("-seed={}", *seed as u32)));
    program.run().with_context(|| format!("the target {name} failed on an input, which was kept"))
}
