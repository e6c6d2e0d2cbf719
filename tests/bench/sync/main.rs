//! What the control plane costs with many Services; `cargo xtask bench sync` builds and runs this. Prints one JSON object.
//!
//! [`cluster`] makes all objects through a real API server and measures the agent and kube-proxy as programs; [`model`] leaves the API out and
//! measures what the agent does with the objects, in this process.

mod api;
mod cluster;
mod histogram;
mod load;
mod model;
mod report;
mod subject;
#[path = "../talk.rs"]
mod talk;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use load::Load;
use weir_tests::machine;

/// Measures the control plane.
#[derive(Parser)]
struct Args {
    /// Where the objects come from
    #[arg(long, value_enum, default_value = "cluster")]
    source: Source,
    /// Services of one port each
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of all of them
    #[arg(long, default_value_t = 100_000)]
    endpoints: u32,
    /// Changes of one endpoint each
    #[arg(long, default_value_t = 600)]
    changes: u32,
    /// Changes in a second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Cold starts
    #[arg(long, default_value_t = 3)]
    starts: u32,
    /// Seconds for which the idle program is watched
    #[arg(long, default_value_t = 20)]
    idle: u32,
    /// What is measured in the cluster
    #[arg(long, value_enum)]
    only: Option<subject::Kind>,
    /// Leave the cluster with its objects for the next run
    #[arg(long)]
    keep: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// A real API server
    Cluster,
    /// This process
    Model,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let load = Load { services: args.services, endpoints: args.endpoints };
    let measurements = match args.source {
        Source::Cluster => cluster::measure(&args, load)?,
        Source::Model => model::measure(&args, load)?,
    };
    let report = report::Report {
        services: args.services,
        endpoints: args.endpoints,
        machine: machine::describe()?,
        measurements,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
