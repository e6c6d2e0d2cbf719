//! `cargo xtask evaluate`: the effect, measured: real clients follow a real trace in a real cluster, and who balances and who scales differs.
//! The measuring program (tests/bench/evaluate) prints JSON; this makes the table and the picture of docs/evaluation.md of it.

mod picture;
mod pieces;
mod table;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Deserialize;
use weir_tests::cluster::programs;
use xshell::cmd;

use crate::{
    bench::as_root,
    build, cluster,
    machine::Machine,
    setup::{self, Purpose},
    shell, workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The trace that the clients follow; without it Azure's of conversations
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Where in the trace they begin, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    from: f64,
    /// For how long they follow it, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0)]
    minutes: f64,
    /// CPUs that all requests together need, on average; at most 5 pods of a fifth of a CPU answer them
    #[arg(long, value_name = "CPUS", default_value_t = 0.45)]
    cpus: f64,
    /// How often each way has its turn; the ways take turns
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Only this way; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Way>,
    /// Measures nothing and shows what earlier runs have written, put together; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "from", "minutes", "cpus", "rounds", "only"])]
    report: Vec<PathBuf>,
    /// Where the JSON and the picture go; without it target/evaluation
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    /// kube-proxy (nftables) and a HorizontalPodAutoscaler on CPU
    KubeProxyHpa,
    /// Weir and the same HorizontalPodAutoscaler
    WeirHpa,
    /// Weir and a ScalePolicy on CPU with the same target
    WeirCpu,
    /// Weir and a ScalePolicy on requests in flight
    WeirInFlight,
}

/// What the measuring program prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    machine: Machine,
    trace: String,
    seconds: f64,
    requests: usize,
    mean_work_seconds: f64,
    asked: Vec<f64>,
    pod_cpus: f64,
    outcomes: Vec<Outcome>,
}

/// One way's turn; times in seconds. What was of nothing is no number.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    name: String,
    failed: usize,
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    throughput: f64,
    mean_utilisation: f64,
    busiest_utilisation: f64,
    replica_seconds: f64,
    shortage: f64,
    longest_shortage: f64,
    actions: usize,
    ready: Vec<u32>,
    p95_by_window: Vec<Option<f64>>,
}

impl Report {
    /// The ways in the order of their first turn, each with its turns.
    fn by_way(&self) -> Vec<(&str, Vec<&Outcome>)> {
        let mut ways: Vec<(&str, Vec<&Outcome>)> = Vec::new();
        for outcome in &self.outcomes {
            match ways.iter_mut().find(|(name, _)| *name == outcome.name) {
                Some((_, turns)) => turns.push(outcome),
                None => ways.push((&outcome.name, vec![outcome])),
            }
        }
        ways
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let json = if args.report.is_empty() { measure(args)? } else { pieces::together(&args.report)? };
    let folder = args.folder.clone().unwrap_or_else(|| workspace::target_dir().join("evaluation"));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join("evaluation.json"), &json)?;
    let report: Report = serde_json::from_str(&json).with_context(|| format!("it printed {json}"))?;
    println!("{}", table::text(&report));
    for path in picture::draw(&report, &folder)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Builds and runs the measuring program; returns the JSON it prints.
fn measure(args: &Args) -> Result<String> {
    setup::ensure(Purpose::Kubernetes)?;
    let shell = shell::in_root()?;
    let weir = build::weir(true)?;
    let (folder, metrics_server) = (cluster::programs()?, cluster::installed("metrics-server")?);
    let own = "tests/traces/AzureLLMInferenceTrace_conv.csv.gz";
    let trace = match &args.trace {
        Some(trace) => trace.canonicalize().with_context(|| trace.display().to_string())?,
        None => workspace::root().join(own),
    };
    // The agent's profile, so that both share what they are made of.
    let bench =
        cmd!(shell, "cargo bench --quiet --locked --profile release --package weir-tests --features privileged");
    let bench = bench.args(["--bench", "evaluate", "--", "--trace"]).arg(trace);
    let bench = bench.args(["--from", &args.from.to_string(), "--seconds", &(args.minutes * 60.0).to_string()]);
    let bench = bench.args(["--cpus", &args.cpus.to_string(), "--rounds", &args.rounds.to_string()]);
    let only = args.only.iter().filter_map(|way| way.to_possible_value());
    let bench = bench.args(only.flat_map(|way| ["--only".to_owned(), way.get_name().to_owned()]));
    let bench = build::with_object(bench).env("WEIR_BIN", weir);
    as_root(&shell, bench.env(programs::VARIABLE, folder.folder()).env("METRICS_SERVER", metrics_server))
}
