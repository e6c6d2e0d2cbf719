//! `cargo xtask bench coordinator`: what a coordinator costs with many agents, beside what it may cost.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Deserialize;
use xshell::cmd;

use super::Output;
use crate::{
    setup::{self, Purpose},
    shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the numbers are printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
    /// Simulated agents
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    agents: u32,
    /// Backends that each of them carries, all of which change every second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    backends: u32,
}

/// What the measuring program prints; times in milliseconds, memory in MiB.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    agents: u32,
    backends: u32,
    reports_per_second: f64,
    cpu_percent: f64,
    join_cpu_ms: f64,
    rss_anon_mib: f64,
    read_max_ms: f64,
}

/// Builds and runs the measuring program; returns the JSON it prints. It needs no root.
pub(crate) fn measure(args: &Args) -> Result<String> {
    setup::ensure(Purpose::Bench)?;
    let shell = shell::in_root()?;
    // The agent's profile, so that both share what they are made of.
    let bench = cmd!(shell, "cargo bench --quiet --locked --profile release --package weir-tests");
    let bench = bench.args(["--bench", "coordinator", "--"]);
    let bench = bench.args(["--agents", &args.agents.to_string(), "--backends", &args.backends.to_string()]);
    Ok(bench.quiet().read()?)
}

impl Report {
    /// For people. The most that is wanted holds for 5,000 agents with 50 backends each.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["WHAT", "MEASURED", "AT MOST"]);
        let rows = [
            ("reports in a second", format!("{:.0}", self.reports_per_second), ""),
            ("CPU while all report", format!("{:.1} %", self.cpu_percent), "100 %"),
            ("CPU until all have joined", format!("{:.0} ms", self.join_cpu_ms), ""),
            ("anonymous memory", format!("{:.1} MiB", self.rss_anon_mib), "476.8 MiB"),
            ("reading 200 policies' Services, the slowest", format!("{:.1} ms", self.read_max_ms), ""),
        ];
        for (what, measured, most) in rows {
            table.add_row([what, &measured, most]);
        }
        format!(
            "{} agents with {} backends each, all of which change every second\n\n{table}",
            self.agents, self.backends
        )
    }
}
