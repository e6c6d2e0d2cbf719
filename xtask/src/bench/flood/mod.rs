//! `cargo xtask bench flood`: what a flood of SYNs does to who is served by Weir, and by nftables with conntrack, beside what it may do.

mod picture;
mod table;

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use xshell::cmd;

use super::as_root;
use crate::{
    build,
    machine::Machine,
    setup::{self, Purpose},
    shell, workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds for which a frontend is flooded; each variant takes about twice that time
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(20..=600))]
    seconds: u32,
    /// Only variants whose name contains this, as in `weir, local`
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the JSON and the picture go; without it target/flood
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// What the measuring program prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    machine: Machine,
    seconds: u64,
    runs: Vec<Run>,
}

/// One variant; what is exact is said of Weir only.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    name: String,
    rest: Phase,
    nobody: Phase,
    flood: Phase,
    after: Room,
    exact: Option<Exact>,
}

/// What was done, and what became of it, in a time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Phase {
    seconds: f64,
    sent: u64,
    refused: u64,
    delivered: u64,
    exchanges: u64,
    resets: u64,
    stalled: u64,
    came: u64,
    served: u64,
    at_once: u64,
    room: Room,
}

/// How full a balancer's memory is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Room {
    used: u64,
    unproven: Option<u64>,
    capacity: u64,
    source_ports: Option<u64>,
}

/// What was sent to the frontend beside what Weir has counted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exact {
    syns: u64,
    others: u64,
    sent_on: u64,
    drops: BTreeMap<String, u64>,
    answered: u64,
    accepted: u64,
    connections: u64,
    agree: bool,
    repairs: u64,
}

impl Run {
    /// Exchanges a second under a flood of the frontend, of those under the same flood of nobody.
    fn goodput(&self) -> f64 {
        self.flood.exchanges_a_second() / self.nobody.exchanges_a_second()
    }
}

impl Phase {
    fn syns_a_second(&self) -> f64 {
        self.delivered as f64 / self.seconds
    }

    fn exchanges_a_second(&self) -> f64 {
        self.exchanges as f64 / self.seconds
    }

    /// The part of new clients that was served.
    fn served(&self) -> f64 {
        self.served as f64 / self.came as f64
    }

    /// The part of new clients that was served by their first SYN.
    fn at_once(&self) -> f64 {
        self.at_once as f64 / self.came as f64
    }
}

impl Exact {
    /// Packets that Weir has not counted, or counted without there being such.
    fn difference(&self) -> i64 {
        let counted = self.sent_on + self.drops.values().sum::<u64>();
        (self.syns + self.others) as i64 - counted as i64
    }

    /// Connections that nobody has made, or that were not counted: each was answered to the attacker or accepted by a server.
    fn connection_difference(&self) -> i64 {
        (self.answered + self.accepted) as i64 - self.connections as i64
    }
}

/// Measures; prints the table, and where the JSON and the picture are.
pub(crate) fn run(args: &Args) -> Result<()> {
    let json = measure(args)?;
    let folder = args.folder.clone().unwrap_or_else(|| workspace::target_dir().join("flood"));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join("flood.json"), &json)?;
    let report: Report = serde_json::from_str(&json).with_context(|| format!("the benchmark printed {json}"))?;
    println!("{}", table::text(&report));
    println!("{}", picture::draw(&report, &folder)?.display());
    Ok(())
}

/// Builds and runs the measuring program; returns the JSON it prints.
fn measure(args: &Args) -> Result<String> {
    setup::ensure(Purpose::Bench)?;
    let shell = shell::in_root()?;
    let weir = build::weir(true)?;
    let bench =
        cmd!(shell, "cargo bench --quiet --locked --profile release --package weir-tests --features privileged");
    let bench = bench.args(["--bench", "flood", "--", "--seconds", &args.seconds.to_string()]);
    let bench = bench.args(args.only.iter().flat_map(|only| ["--only", only.as_str()]));
    as_root(&shell, build::with_object(bench).env("WEIR_BIN", weir))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A report of one variant that keeps what is wanted, and one that does not.
    pub(super) fn report() -> Report {
        let room = |used: u64| json!({"used": used, "unproven": used / 2, "capacity": 1 << 20, "sourcePorts": 0});
        let phase = |exchanges: u64, resets: u64, served: u64, used: u64| {
            json!({"seconds": 60.0, "sent": 6_000_000, "refused": 5, "delivered": 6_000_000, "exchanges": exchanges,
                   "resets": resets, "stalled": 0, "came": 1000, "served": served, "atOnce": served - 1, "room": room(used)})
        };
        let exact = json!({"syns": 6_000_000, "others": 500, "sentOn": 6_000_000, "drops": {"table-full": 499},
                           "answered": 10, "accepted": 5, "connections": 15, "agree": true, "repairs": 0});
        let run = |name: &str, flood, exact| {
            json!({"name": name, "rest": phase(1200, 0, 1000, 8), "nobody": phase(1000, 0, 1000, 8), "flood": flood,
                   "after": room(9), "exact": exact})
        };
        let runs = [
            run("weir, local, deaf", phase(910, 0, 901, 1 << 20), exact),
            run("nftables, local, deaf", phase(890, 3, 899, 1 << 18), json!(null)),
        ];
        let machine = json!({"cpu": "C", "cpus": 2, "memoryMib": 4, "kernel": "6.18", "load": 0.5});
        serde_json::from_value(json!({"machine": machine, "seconds": 60, "runs": runs})).unwrap()
    }
}
