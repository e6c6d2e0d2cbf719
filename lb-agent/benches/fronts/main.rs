//! How Weir's decision compares with other autoscalers over recorded load, front against front: the numbers of docs/scaling.md.
//! `cargo xtask bench fronts` builds and runs this. Prints Markdown.

mod cells;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_agent::{
    backtest::{
        fronts::{self, compare, sweep},
        plot,
        run::{Peer, Run, Trial},
        score::Score,
        workload::Workload,
    },
    cli::backtest::policy,
    scaling::Policy,
};

use cells::{Cell, PEER_TARGET, Part, SOURCES};
use tables::Outcome;

/// Compares Weir's decision with other autoscalers over recorded load.
#[derive(Parser)]
struct Args {
    /// The folder of the traces
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces"))]
    traces: PathBuf,
    /// The policy
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces/policy.yaml"))]
    policy: PathBuf,
    /// The same policy with a forecast
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces/forecast.yaml"))]
    forecast: PathBuf,
    /// The folder for the plots
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Only cells whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// The end of the ServeGen trace, in hours; all of it if not given
    #[arg(long)]
    hours: Option<f64>,
    /// The seed of what is random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Multiplies every trace's load
    #[arg(long, default_value_t = 1.0)]
    rate_scale: f64,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let policies = [policy(&args.policy)?, policy(&args.forecast)?];
    let part = Part { seed: args.seed, scale: args.rate_scale, hours: args.hours };
    let mut results = Vec::new();
    for source in &SOURCES {
        let cells: Vec<Cell> =
            source.cells().into_iter().filter(|cell| cell.to_string().contains(&args.only)).collect();
        if cells.is_empty() {
            continue;
        }
        let workload = source.workload(&args.traces, part)?;
        for cell in cells {
            let result = measure(cell, &workload, &policies, args.plots.as_deref())?;
            eprintln!("{}", tables::fronts_row(&result));
            results.push(result);
        }
    }
    print!("{}", tables::all(&results));
    Ok(())
}

/// Every scaler over its range, and the one default beside the others.
fn measure(cell: Cell, workload: &Workload, policies: &[Policy; 2], plots: Option<&Path>) -> Result<Outcome> {
    let trial = cell.trial(workload.clone());
    let [plain, forecast] = policies.each_ref().map(|policy| fronts::at(policy, f64::from(cell.slots)));
    let scores = sweep(&trial, &plain, &|_| ())?;
    let of = |name: &str| scores.iter().filter(|score| score.scaler == name).cloned().collect::<Vec<Score>>();
    let ours = of("weir");
    let quick: usize = ours.iter().map(|score| score.quick_reversals).sum();
    anyhow::ensure!(quick == 0, "{cell}: {quick} scale-ins within two minutes of a scale-out");
    let runs = trial.compare(&plain, PEER_TARGET, &|_| ())?;
    let forecast = trial.weir(&forecast, &|_| ())?.score;
    if let Some(folder) = plots.filter(|_| cell.is_drawn()) {
        draw(folder, cell, &trial, &scores, &runs)?;
    }
    Ok(Outcome {
        cell,
        fronts: Peer::ALL.map(|peer| compare(&ours, &of(peer.name()))),
        default: runs.into_iter().map(|run| run.score).collect(),
        forecast,
    })
}

fn draw(folder: &Path, cell: Cell, trial: &Trial, scores: &[Score], runs: &[Run]) -> Result<()> {
    let file = |what: &str| folder.join(format!("{what}-{}.svg", cell.trace.to_lowercase()));
    let title = format!("{}: start-up {} s, {} slots, a queue at each replica", cell.trace, cell.startup, cell.slots);
    let shown = |score: &Score| score.scaler != lb_agent::backtest::run::NO_FORECAST;
    let scores: Vec<_> = scores.iter().filter(|score| shown(score)).collect();
    plot::fronts(&file("fronts"), &title, trial, &scores).context("drawing fronts")?;
    let runs: Vec<_> = runs.iter().filter(|run| shown(&run.score)).collect();
    plot::replays(&file("replay"), &title, trial, &runs).context("drawing replays")
}
