//! `cargo xtask bench sync`: what the control plane costs with many Services, beside kube-proxy and beside what it may cost.

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Deserialize;
use weir_tests::cluster::programs;
use xshell::cmd;

use super::{Output, as_root};
use crate::{
    build, build_ebpf, cluster,
    machine::Machine,
    setup::{self, Purpose},
    shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the numbers are printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
    /// Where the objects come from
    #[arg(long, value_enum, default_value = "cluster")]
    source: Source,
    /// Services of one port each
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: u32,
    /// Endpoints of all of them
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=131_000))]
    endpoints: u32,
    /// Changes of one endpoint each
    #[arg(long, value_name = "N", default_value_t = 600)]
    changes: u32,
    /// Cold starts of each program in the cluster
    #[arg(long, value_name = "N", default_value_t = 3)]
    starts: u32,
    /// Measure only this program in the cluster
    #[arg(long, value_enum)]
    only: Option<Subject>,
    /// Leave the cluster with its objects for the next run; `cargo xtask cluster --name bench down` removes it
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// A real API server; kube-proxy is measured beside the agent
    Cluster,
    /// The measuring program itself: what the agent does with objects, without what it costs to hear of them
    Model,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// The agent
    Weir,
    /// kube-proxy in its nftables mode
    KubeProxy,
}

/// What the measuring program prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    services: u32,
    endpoints: u32,
    machine: Machine,
    measurements: Vec<Measurement>,
}

/// A number of one subject, in `unit`, with the most that it should be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    what: String,
    subject: String,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
    at_most: Option<f64>,
}

/// Builds and runs the measuring program; returns the JSON it prints.
pub(crate) fn measure(args: &Args) -> Result<String> {
    setup::ensure(Purpose::Bench)?;
    let shell = shell::in_root()?;
    // The agent's profile, so that both share what they are made of.
    let bench =
        cmd!(shell, "cargo bench --quiet --locked --profile release --package weir-tests --features privileged");
    let bench = bench.args(["--bench", "sync", "--", "--services", &args.services.to_string()]);
    let bench = bench.args(["--endpoints", &args.endpoints.to_string(), "--changes", &args.changes.to_string()]);
    let bench = bench.args(["--source", value(args.source).as_str(), "--starts", &args.starts.to_string()]);
    let bench = bench.args(args.only.iter().flat_map(|only| ["--only".to_owned(), value(*only)]));
    let bench = build::with_object(if args.keep { bench.arg("--keep") } else { bench });
    match args.source {
        Source::Model => {
            build_ebpf::object()?;
            as_root(&shell, bench)
        }
        Source::Cluster => {
            setup::ensure(Purpose::Kubernetes)?;
            let (weir, folder) = (build::weir(true)?, cluster::programs()?);
            as_root(&shell, bench.env("WEIR_BIN", weir).env(programs::VARIABLE, folder.folder()))
        }
    }
}

/// The word for a value on the command line.
fn value<V: ValueEnum>(value: V) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Report {
    /// For people. The most that is wanted holds for 10,000 Services with 100,000 endpoints.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["WHAT", "OF", "MEDIAN", "MIN", "MAX", "ROUNDS", "AT MOST", ""]);
        let mut last = "";
        for number in &self.measurements {
            let name = if number.what == last { "" } else { &number.what };
            let [median, min, max] = [number.median, number.min, number.max].map(|n| figures(n, &number.unit));
            let most = number.at_most.map(|most| figures(most, &number.unit)).unwrap_or_default();
            let rounds = number.rounds.to_string();
            table.add_row([name, &number.subject, &median, &min, &max, &rounds, &most, number.verdict()]);
            last = &number.what;
        }
        let Self { services, endpoints, machine, .. } = self;
        format!("{services} Services, {endpoints} endpoints; {machine}, load {}\n\n{table}", machine.load)
    }
}

impl Measurement {
    fn verdict(&self) -> &'static str {
        match self.at_most {
            Some(most) if self.median <= most => "met",
            Some(_) => "missed",
            None => "",
        }
    }
}

/// Three figures are enough.
fn figures(number: f64, unit: &str) -> String {
    let digits = if number >= 100.0 { 0 } else { 2 };
    format!("{number:.digits$} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_missed_by_the_median() {
        let number = |what: &str, median: f64, most: Option<f64>| {
            serde_json::json!({"what": what, "subject": "weir", "unit": "ms", "median": median, "min": 0.5, "max": 7000.4,
                               "rounds": 3, "atMost": most})
        };
        let machine = serde_json::json!({"cpu": "C", "cpus": 2, "memoryMib": 4, "kernel": "6.18", "load": 0.5});
        let measurements = [number("a", 4999.6, Some(5000.0)), number("b", 5.01, Some(5.0)), number("c", 1.0, None)];
        let report =
            serde_json::json!({"services": 1, "endpoints": 2, "machine": machine, "measurements": measurements});
        let table = serde_json::from_value::<Report>(report).unwrap().table();
        let rows: Vec<Vec<&str>> = table.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        let wanted = |row: &str| row.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(rows[0], wanted("a weir 5000 ms 0.50 ms 7000 ms 3 5000 ms met"));
        assert_eq!(rows[1], wanted("b weir 5.01 ms 0.50 ms 7000 ms 3 5.00 ms missed"));
        assert_eq!(rows[2], wanted("c weir 1.00 ms 0.50 ms 7000 ms 3"));
    }
}
