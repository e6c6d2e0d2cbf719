//! The agent of one node: reads manifests and the node, decides, and keeps the kernel's maps in line, until it is told to stop.
//!
//! What it does to the kernel is in [`core`]; this is the shell of clocks, sockets, signals and files around it: what is done once is in
//! `start`, what is done about news in `heard`, what is done each second in `tick`. When it ends, by itself or by force, programs and
//! maps stay in force.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{ConfigError, RunConfig},
    dataplane::{self, Dataplane},
    discovery::kube::ConnectError,
    health::Monitor,
    node::{self, NodeView, nexthop::NextHops},
    scaling::{Policy, Scaler},
    signals::servers::LocalServers,
    telemetry::{
        Publisher, channel,
        control::{Control, ControlError},
        health_check_node_port::HealthCheckNodePorts,
        http::HttpError,
    },
};

pub mod announcing;
pub mod attach;
pub mod conditions;
pub mod core;
pub mod delivery;
pub mod desired;
pub mod drift;
pub mod endings;
pub mod exchange;
mod grace;
mod heard;
pub mod interfaces;
#[cfg(test)]
mod kube_tests;
pub mod marks;
pub mod meter;
pub mod pass;
pub mod pods;
mod prepare;
pub mod removal;
pub mod report;
mod servers;
pub mod sockets;
mod source;
mod start;
#[cfg(test)]
mod tests;
mod tick;
mod upkeep;

pub use self::prepare::Prepared;
use self::{
    announcing::Announcing,
    attach::Attach,
    core::Core,
    delivery::{Decision, Delivery},
    exchange::Exchange,
    grace::Grace,
    interfaces::Interfaces,
    servers::Servers,
    sockets::{SocketHooks, Sockets},
    source::Source,
};

/// So often the agent looks, decides and sweeps.
const TICK: Duration = Duration::from_secs(1);

/// Why the agent cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The configuration cannot work here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster cannot be found, or does not know this node.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// The node is not as it must be.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] HttpError),
    /// The control socket cannot be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The maps cannot be used.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// Signals cannot be heard.
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
}

/// The agent while it runs.
struct Agent<D> {
    config: RunConfig,
    source: Source,
    view: NodeView,
    core: Core<D>,
    grace: Grace,
    monitor: Monitor,
    scaler: Scaler,
    policies: Vec<Policy>,
    local_servers: LocalServers,
    interfaces: Interfaces,
    sockets: SocketHooks,
    next_hops: NextHops,
    delivery: Decision,
    /// What is wrong now, by who found it.
    problems: BTreeMap<&'static str, Vec<String>>,
    publisher: Publisher,
    started: SystemTime,
    last_sync: Option<SystemTime>,
    health_ports: HealthCheckNodePorts,
    /// The node is about to go.
    leaving: bool,
    /// The addresses that this node announces; none without a coordinator.
    announcing: Option<Announcing>,
    /// What nodes tell each other; none without a coordinator.
    exchange: Option<Exchange>,
}

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run<D: Dataplane + Attach + Sockets>(
    prepared: Prepared,
    control: Control,
    dataplane: D,
) -> Result<(), AgentError> {
    let Prepared { config, mut follower, mut netfilter, source, view, metrics, healthz } = prepared;
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (publisher, snapshots, mut asks) = channel();
    let (monitor, mut health) = Monitor::new();
    let health_ports = HealthCheckNodePorts::new(snapshots.clone());
    let mut agent = Agent::new(config, source, view, dataplane, monitor, publisher, health_ports)?;
    agent.load().await?;
    let mut wakes = agent.core.dataplane.wakes()?;
    agent.set_delivery(&netfilter)?;
    agent.attach_uplinks()?;
    agent.rebuild();
    agent.start_sockets()?;
    agent.follow_coordinator()?;
    agent.publish();
    let _servers = Servers::start((control, agent.source.client()), metrics, healthz, &snapshots);
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = agent.source.changed() => agent.source_changed(),
            update = follower.next() => agent.node_changed(update, &mut follower),
            Some(answer) = asks.recv() => drop(answer.send(report::services(&agent.core.tables, &agent.core.carried()))),
            () = netfilter.changed() => agent.rules_changed(&netfilter),
            asked = wakes.next() => agent.asked_in_vain(asked),
            result = agent.grace.over() => agent.grace_over(result),
            Some(event) = health.recv() => agent.health_changed(event, &mut health),
            news = announcing::next(&mut agent.announcing) => agent.announce(news),
            _ = clock.tick() => agent.tick(),
        }
    }
    tracing::info!("stopping: programs and maps stay in force; `weir detach` removes them");
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, AgentError> {
    signal(kind).map_err(AgentError::Signals)
}

/// The time since the node was started.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

impl<D: Dataplane + Attach + Sockets> Agent<D> {
    fn new(
        config: RunConfig,
        source: Source,
        view: NodeView,
        dataplane: D,
        monitor: Monitor,
        publisher: Publisher,
        health_ports: HealthCheckNodePorts,
    ) -> Result<Self, AgentError> {
        let scaler = Scaler::new(config.scale_command.clone(), config.scale_timeout);
        Ok(Self {
            sockets: SocketHooks::new(config.sockets.clone()),
            config,
            source,
            view,
            core: Core::new(dataplane)?,
            grace: Grace::default(),
            monitor,
            scaler,
            policies: Vec::new(),
            local_servers: LocalServers::default(),
            interfaces: Interfaces::default(),
            next_hops: NextHops::start()?,
            delivery: delivery::decide(Delivery::Redirect, None),
            problems: BTreeMap::new(),
            publisher,
            started: SystemTime::now(),
            last_sync: None,
            health_ports,
            leaving: false,
            announcing: None,
            exchange: None,
        })
    }

    /// Keeps what is wrong for `weir status`, and logs what is new of it, and what is over.
    fn note(&mut self, who: &'static str, now: Vec<String>) {
        let before = self.problems.insert(who, now.clone()).unwrap_or_default();
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            tracing::error!("{problem}");
        }
        for problem in before.iter().filter(|problem| !now.contains(problem)) {
            tracing::info!("no longer so: {problem}");
        }
    }
}
