//! `cargo xtask bench fronts`: the numbers of docs/scaling.md.

use std::path::PathBuf;

use anyhow::Result;
use xshell::cmd;

use crate::{build, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only cells whose name contains this, as in `code, 30 s`
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The end of the ServeGen trace, in hours; all two weeks of it if not given
    #[arg(long, value_name = "HOURS")]
    hours: Option<u32>,
    /// The seed of what is random: arrivals of rates, and which requests a scale leaves out
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Multiplies every trace's load
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    rate_scale: f64,
    /// The folder for the plots
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// Compares over recorded load; prints Markdown.
pub(crate) fn run(args: &Args) -> Result<()> {
    let shell = shell::in_root()?;
    let mut bench =
        build::with_object(cmd!(shell, "cargo bench --quiet --locked --package lb-agent --bench fronts --"));
    bench = bench.args(["--seed", &args.seed.to_string(), "--rate-scale", &args.rate_scale.to_string()]);
    if let Some(only) = &args.only {
        bench = bench.args(["--only", only]);
    }
    if let Some(hours) = &args.hours {
        bench = bench.args(["--hours", &hours.to_string()]);
    }
    if let Some(plots) = &args.plots {
        // The program runs in its package's folder.
        bench = bench.arg("--plots").arg(std::path::absolute(plots)?);
    }
    Ok(bench.run()?)
}
