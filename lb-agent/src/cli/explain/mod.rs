//! `weir explain`: which backend a connection would get now, by which rule, through which path, and why.

pub mod answer;
pub mod decide;
pub mod odds;
pub mod policy;

use std::net::IpAddr;

use lb_common::{
    AffinityKey, Frontend, SocketKey,
    names::{INTERFACE_INSIDE, map},
};

use self::{
    answer::Answer,
    decide::{Knowledge, Question},
};
use super::{
    Error, host,
    map::read::MapFolder,
    output::Format,
    parse::{self, Client},
    view::View,
};
use crate::dataplane::Inspect;

/// `weir explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ExplainArgs {
    /// What else can be explained.
    #[command(subcommand)]
    pub command: Option<ExplainCommand>,
    /// The frontend: ADDR:PORT[/PROTO], TCP if not said.
    #[arg(required = true, value_parser = parse::socket_key)]
    pub frontend: Option<SocketKey>,
    /// The client.
    #[arg(long, required = true, value_name = "ADDR[:PORT]", value_parser = parse::client)]
    pub from: Option<Client>,
    /// Where the connection meets Weir.
    #[arg(long, value_enum, default_value_t)]
    pub via: Via,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// What else can be explained.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ExplainCommand {
    /// The last decision of a scaling policy: inputs, answers, limits (asks the agent).
    Policy {
        /// The policy.
        name: String,
        /// Its namespace, where several have one of this name.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
}

/// Where a connection meets Weir.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// Packet by packet, at an interface.
    #[default]
    Packet,
    /// At the client's socket, on this node.
    Socket,
}

/// The answer for a connection; `hooks` are the places where programs of ours are attached.
pub fn connection(
    frontend: SocketKey,
    client: Client,
    via: Via,
    source: &impl Inspect,
    maps: &MapFolder,
    hooks: Vec<String>,
) -> Result<Answer, Error> {
    let inside = via == Via::Socket || is_inside(client.addr.ip(), maps)?;
    let question = Question { frontend, client, via, inside };
    let view = View::read(source)?;
    let frontend = decide::frontend(&question, &view)?;
    let known = knowledge(&question, &frontend, source, maps)?;
    let decision = decide::decide(&question, &view, &frontend, &known);
    Ok(Answer::new(&question, &view, &frontend, &decision, hooks))
}

/// Whether packets of this address come in by an interface behind which are pods of this node: those to it leave by one.
fn is_inside(client: IpAddr, maps: &MapFolder) -> Result<bool, Error> {
    let Some(interface) = host::interface_towards(client)? else { return Ok(false) };
    let known = maps.hash::<u32, u32>(map::INTERFACES)?;
    Ok(known.iter().any(|(index, flags)| *index == interface && flags & INTERFACE_INSIDE != 0))
}

fn knowledge(
    question: &Question,
    frontend: &Frontend,
    source: &impl Inspect,
    maps: &MapFolder,
) -> Result<Knowledge, Error> {
    let flows = if question.client.port.is_some() { source.flows()? } else { Vec::new() };
    Ok(Knowledge {
        flows,
        affinity: maps.affinity(&AffinityKey { client: question.client.addr, service: frontend.service })?,
        cursor: Some(maps.cursor(frontend.service)?),
        now: host::monotonic_seconds(),
    })
}
