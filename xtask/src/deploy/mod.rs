//! `cargo xtask deploy render`: what of `deploy/` is made from other sources. The custom resources' definitions come from the agent's types,
//! the dashboards from [`boards`], and `deploy/weir.yaml` from the chart, by Helm.

mod boards;
mod chart;
mod dashboard;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;
use xshell::cmd;

use crate::{build, shell, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write deploy/weir.yaml and the made files of the chart
    Render {
        /// Only say what is stale, and fail if anything is
        #[arg(long)]
        check: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.task {
        Task::Render { check: true } => check(),
        Task::Render { check: false } => render(),
    }
}

/// Where the dashboards are: Helm reads nothing outside the chart.
const DASHBOARDS: &str = "deploy/helm/weir/files/dashboards";

/// A file of the clone and what it should be.
struct Made {
    path: PathBuf,
    content: String,
}

/// Fails if a made file is not what its sources make.
pub(crate) fn check() -> Result<()> {
    let stale: Vec<_> = sources()?.into_iter().chain([chart::manifest()?]).filter(Made::is_stale).collect();
    match stale.iter().map(Made::name).collect::<Vec<_>>() {
        names if names.is_empty() => Ok(()),
        names => bail!("stale: {}; `cargo xtask deploy render` writes them", names.join(", ")),
    }
}

/// Helm reads the other files, so they come first.
fn render() -> Result<()> {
    sources()?.iter().try_for_each(Made::write)?;
    chart::manifest()?.write()
}

/// What the chart is made of, beside what is written by hand.
fn sources() -> Result<Vec<Made>> {
    let boards = boards::all().into_iter();
    let boards = boards.map(|(name, board)| Ok(Made::new(&format!("{DASHBOARDS}/{name}"), board.to_json()?)));
    boards.chain([crds()]).collect()
}

fn crds() -> Result<Made> {
    let shell = shell::in_root()?;
    let weir = cmd!(shell, "cargo run --locked --quiet --package lb-agent --bin weir -- crds");
    Ok(Made::new("deploy/helm/weir/files/crds.yaml", build::with_object(weir).read()? + "\n"))
}

impl Made {
    fn new(path: &str, content: String) -> Self {
        Self { path: workspace::root().join(path), content }
    }

    fn name(&self) -> String {
        self.path.strip_prefix(workspace::root()).unwrap_or(&self.path).display().to_string()
    }

    fn is_stale(&self) -> bool {
        std::fs::read_to_string(&self.path).ok().as_deref() != Some(&self.content)
    }

    fn write(&self) -> Result<()> {
        if workspace::write_if_changed(&self.path, self.content.as_bytes())? {
            println!("{}", self.name());
        }
        Ok(())
    }
}
