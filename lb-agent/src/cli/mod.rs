//! The command line: what can be said to `weir`, and who answers.

pub mod agent;
pub mod backtest;
pub mod completions;
pub mod coordinator;
pub mod crds;
pub mod detach;
pub mod drain;
pub mod error;
pub mod explain;
pub mod fit;
pub mod forecast;
pub mod get;
pub mod host;
pub mod labels;
pub mod map;
pub mod output;
pub mod parse;
pub mod run;
pub mod screen;
pub mod size;
pub mod status;
pub mod view;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

pub use error::Error;
pub use screen::Screen;

use self::{
    explain::{ExplainArgs, ExplainCommand},
    get::{GetArgs, Resource, agents},
    map::MapCommand,
    output::Format,
    view::View,
};
use crate::dataplane::{
    Inspect, attach, cgroup,
    pins::{self, Pinned},
};

/// Weir: an eBPF load balancer and autoscaler for one Linux node.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir", version)]
pub struct Cli {
    /// Where maps and links are pinned, on a bpf file system.
    #[arg(long, global = true, env = "WEIR_PIN_PATH", default_value = "/sys/fs/bpf/weir", value_name = "DIR")]
    pub pin_path: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the agent on this node.
    Run(run::RunArgs),
    /// List services, backends, flows, policies or nodes.
    Get(GetArgs),
    /// Look into the kernel's maps.
    Map(map::MapArgs),
    /// Say which backend a connection gets, and why; or why a policy decided as it did.
    Explain(ExplainArgs),
    /// Give a backend no new connections; it keeps those it has.
    Drain(drain::DrainArgs),
    /// Undo a drain.
    Undrain(drain::DrainArgs),
    /// Say what is loaded and attached, and what is wrong; exit code 1 if anything is.
    Status(status::StatusArgs),
    /// Remove every program, pin and map from the kernel.
    Detach(detach::DetachArgs),
    /// Run the cluster-wide part: gives addresses to Services, and says which node announces them.
    Coordinator(coordinator::CoordinatorArgs),
    /// Replay a load trace under a ScalePolicy and under models of other autoscalers.
    Backtest(Box<backtest::BacktestArgs>),
    /// Fit a linear regression to recorded load, for a policy's forecast.
    Fit(fit::FitArgs),
    /// Print the definitions of the custom resources.
    Crds,
    /// Print a script that completes commands in a shell.
    Completions(completions::CompletionsArgs),
}

/// Does what was said. An error is two lines on standard error: its cause and its remedy.
pub fn execute(cli: Cli) -> ExitCode {
    let mut stdout = io::stdout();
    match dispatch(cli, &mut Screen::stdout(&mut stdout)) {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            screen::note(&format!("error: {}", one_line(&error.to_string())));
            screen::note(&format!("remedy: {}", one_line(&error.remedy())));
            ExitCode::FAILURE
        }
    }
}

/// A text as one line; of a long one, as the verifier's, the beginning and the end, where it says what is wrong.
fn one_line(text: &str) -> String {
    const START: usize = 300;
    const END: usize = 200;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    if length <= START + END {
        return line;
    }
    line.chars().take(START).chain(" ... ".chars()).chain(line.chars().skip(length - END)).collect()
}

fn dispatch(cli: Cli, screen: &mut Screen<'_>) -> Result<ExitCode, Error> {
    let pins = cli.pin_path.as_path();
    match cli.command {
        Command::Run(args) => tokio::runtime::Runtime::new()?.block_on(run::run(args, cli.pin_path))?,
        Command::Coordinator(args) => tokio::runtime::Runtime::new()?.block_on(coordinator::run(args))?,
        Command::Get(args) => get(&args, pins, screen)?,
        Command::Map(args) => screen.print(&map(&args.command, pins, screen.colour)?)?,
        Command::Explain(args) => explain(&args, pins, screen)?,
        Command::Drain(args) => screen.print(&drain(args.backend, pins)?)?,
        Command::Undrain(args) => screen.print(&undrain(args.backend, pins)?)?,
        Command::Status(args) => return status(args.output, pins, screen),
        Command::Detach(args) => detach::run(&args, pins, screen)?,
        Command::Backtest(args) => backtest::run(&args, screen)?,
        Command::Fit(args) => fit::run(&args, screen)?,
        Command::Crds => screen.print(&crds::text()?)?,
        Command::Completions(args) => screen.print(&completions::script(args.shell))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(pin_path: &Path) -> Result<Pinned, Error> {
    host::check_bpffs(pin_path)?;
    Ok(Pinned::open(pin_path)?)
}

fn get(args: &GetArgs, pin_path: &Path, screen: &mut Screen<'_>) -> Result<(), Error> {
    get::show(args, screen, |colour| {
        let form = get::Form { output: args.output, colour };
        let namespace = args.namespace.as_deref();
        match args.resource {
            Resource::Policies => {
                let items = agents::sorted(agent::items(pin_path, "/v1/policies")?, namespace);
                form.render("PolicyList", &items, agents::policies)
            }
            Resource::Nodes => {
                form.render("NodeList", &agents::sorted(agent::items(pin_path, "/v1/nodes")?, None), agents::nodes)
            }
            // Opened for each list: an agent may have made new maps meanwhile.
            _ => get::from_maps(args.resource, namespace, form, &open(pin_path)?, host::monotonic_seconds()),
        }
    })
}

fn map(command: &MapCommand, pin_path: &Path, colour: bool) -> Result<String, Error> {
    match command {
        MapCommand::List { output } => {
            let source = open(pin_path)?;
            let items = map::list::items(&pins::maps(pin_path)?, &source)?;
            match output {
                Format::Json => output::json(&output::List::new("MapList", &items)),
                Format::Table => Ok(map::list::table(&items).render(colour)),
            }
        }
        MapCommand::Dump { name, output } => {
            let name = map::known(name)?;
            let elements = map::elements(name, &map::read::MapFolder::new(pin_path), &open(pin_path)?)?;
            if elements.is_empty() {
                screen::note(&format!("Map {name} is empty."));
            }
            map::show(&elements, *output, colour)
        }
    }
}

fn explain(args: &ExplainArgs, pin_path: &Path, screen: &mut Screen<'_>) -> Result<(), Error> {
    if let Some(ExplainCommand::Policy { name, namespace, output }) = &args.command {
        let items = agent::items(pin_path, "/v1/policies")?;
        let policy = explain::policy::choose(items, name, namespace.as_deref())?;
        return screen.print(&explain::policy::show(&policy, *output)?);
    }
    // clap has seen to it that both are there.
    if let (Some(frontend), Some(client)) = (args.frontend, args.from) {
        let source = open(pin_path)?;
        let hooks = match args.via {
            explain::Via::Packet => attach::hooks(pin_path)?.iter().map(status::place).collect(),
            explain::Via::Socket => cgroup::hooks(pin_path)?.iter().map(status::socket_place).collect(),
        };
        let maps = map::read::MapFolder::new(pin_path);
        let answer = explain::connection(frontend, client, args.via, &source, &maps, hooks)?;
        screen.print(&answer.show(args.output, screen.colour)?)?;
    }
    Ok(())
}

fn drain(backend: lb_common::SocketKey, pin_path: &Path) -> Result<String, Error> {
    let mut maps = open(pin_path)?;
    let view = View::read(&maps)?;
    drain::check_drain(&view, backend)?;
    maps.set_drain(backend, true)?;
    Ok(drain::drained(&view, backend, status::runs(pin_path)))
}

fn undrain(backend: lb_common::SocketKey, pin_path: &Path) -> Result<String, Error> {
    let mut maps = open(pin_path)?;
    drain::check_undrain(&maps.drains()?, backend)?;
    maps.set_drain(backend, false)?;
    Ok(drain::undrained(backend, status::runs(pin_path)))
}

fn status(format: Format, pin_path: &Path, screen: &mut Screen<'_>) -> Result<ExitCode, Error> {
    let report = status::report::Report::new(status::facts(pin_path));
    screen.print(&report.show(format, screen.colour)?)?;
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests;
