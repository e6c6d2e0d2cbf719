//! The agent of one node: reads manifests and the node, decides, and keeps the kernel's maps in line, until it is told to stop.
//!
//! What it does to the kernel is in [`core`]; this is the shell of clocks, sockets, signals and files around it. When it ends, by
//! itself or by force, programs and maps stay in force.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::{JoinHandle, block_in_place},
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{ConfigError, RunConfig},
    dataplane::{self, Dataplane, attach::Role},
    discovery::{
        Objects, Problem, build,
        files::{Folder, read_folder},
    },
    health::{self, Monitor},
    node::{self, Netlink, NodeView},
    scaling::{Clock, Policy, Scaler},
    telemetry::{
        InterfaceStatus, NodeStatus, Publisher, Snapshot, SourceStatus, Subscriber, channel,
        control::{Control, ControlError},
        http::{self, HttpError},
    },
};

pub mod attach;
pub mod core;
pub mod desired;
pub mod drift;
mod prepare;
pub mod removal;
pub mod report;
#[cfg(test)]
mod tests;

pub use self::prepare::Prepared;
use self::{attach::Attach, core::Core, prepare::forwarding};

/// So often the agent looks, decides and sweeps.
const TICK: Duration = Duration::from_secs(1);
/// So many ticks pass between two looks at the node's addresses, interfaces and routes.
const NODE_TICKS: u64 = 2;

/// Why the agent cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The configuration cannot work here.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    netlink: Netlink,
    folder: Folder,
    view: NodeView,
    core: Core<D>,
    monitor: Monitor,
    scaler: Scaler,
    policies: Vec<Policy>,
    /// Attached interfaces: their index and how.
    attached: BTreeMap<String, (u32, InterfaceStatus)>,
    /// What is wrong now, by who found it.
    problems: BTreeMap<&'static str, Vec<String>>,
    publisher: Publisher,
    started: SystemTime,
    last_sync: Option<SystemTime>,
    ticks: u64,
}

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run<D: Dataplane + Attach>(prepared: Prepared, control: Control, dataplane: D) -> Result<(), AgentError> {
    let Prepared { config, netlink, mut watch, folder, view, metrics } = prepared;
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (publisher, snapshots) = channel();
    let (monitor, mut health) = Monitor::new();
    let mut agent = Agent::new(config, netlink, folder, view, dataplane, monitor, publisher)?;
    agent.attach_uplinks()?;
    agent.rebuild();
    agent.publish();
    let _servers = Servers::start(control, metrics, &snapshots);
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = watch.changed() => agent.folder_changed().await,
            Some(event) = health.recv() => agent.health_changed(event, &mut health),
            _ = clock.tick() => agent.tick().await,
        }
    }
    tracing::info!("stopping: programs and maps stay in force; `weir detach` removes them");
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, AgentError> {
    signal(kind).map_err(AgentError::Signals)
}

/// The tasks that answer others; they end with this.
struct Servers(Vec<JoinHandle<()>>);

impl Servers {
    fn start(control: Control, metrics: Option<TcpListener>, snapshots: &Subscriber) -> Self {
        let subscriber = snapshots.clone();
        let mut tasks = vec![tokio::spawn(async move {
            if let Err(error) = control.serve(subscriber).await {
                tracing::error!(%error, "the control socket has ended");
            }
        })];
        if let Some(listener) = metrics {
            let subscriber = snapshots.clone();
            tasks.push(tokio::spawn(async move {
                if let Err(error) = http::serve(listener, subscriber).await {
                    tracing::error!("{error}");
                }
            }));
        }
        Self(tasks)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// The time since the node was started.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

impl<D: Dataplane + Attach> Agent<D> {
    fn new(
        config: RunConfig,
        netlink: Netlink,
        folder: Folder,
        view: NodeView,
        dataplane: D,
        monitor: Monitor,
        publisher: Publisher,
    ) -> Result<Self, AgentError> {
        let scaler = Scaler::new(config.scale_command.clone(), config.scale_timeout);
        Ok(Self {
            config,
            netlink,
            folder,
            view,
            core: Core::new(dataplane)?,
            monitor,
            scaler,
            policies: Vec::new(),
            attached: BTreeMap::new(),
            problems: BTreeMap::new(),
            publisher,
            started: SystemTime::now(),
            last_sync: None,
            ticks: 0,
        })
    }

    fn attach_uplinks(&mut self) -> Result<(), dataplane::Error> {
        for name in self.config.interfaces.clone() {
            let status = block_in_place(|| self.core.dataplane.attach(&name, Role::Uplink, self.config.datapath))?;
            self.note_attached(name, status);
        }
        Ok(())
    }

    fn note_attached(&mut self, name: String, status: InterfaceStatus) {
        tracing::info!(interface = name, mode = status.mode, why = status.why, "attached");
        let index = self.index_of(&name).unwrap_or_default();
        self.attached.insert(name, (index, status));
    }

    fn index_of(&self, name: &str) -> Option<u32> {
        self.view.interfaces.iter().find(|(_, known)| *known == name).map(|(index, _)| *index)
    }

    /// From what the folder and the node say to what the kernel does.
    fn rebuild(&mut self) {
        let objects = self.folder.objects();
        let holders = report::holders(&self.core.tables);
        let (model, mut problems) = build::build(&objects, &self.view, self.config.default_algorithm, &holders);
        let (policies, more) = build::policies(&objects);
        problems.extend(more);
        self.policies = policies;
        self.note("files", self.folder.problems().iter().map(Problem::to_string).collect());
        self.note("model", problems.iter().map(Problem::to_string).collect());
        self.note("forwarding", forwarding(&model, &self.config).err().iter().map(ToString::to_string).collect());
        self.monitor.update(&model);
        self.core.set_model(model, self.folder.is_complete(), uptime());
        self.attach_interfaces();
        self.sync();
        log_notes(&objects);
    }

    /// Attaches to what is new, or new under its old name.
    fn attach_interfaces(&mut self) {
        let backends = desired::backend_interfaces(&self.core.model, &self.view);
        let mut failed = Vec::new();
        for name in self.config.interfaces.clone().union(&backends) {
            let index = self.index_of(name);
            if index.is_none() || self.attached.get(name).map(|(known, _)| *known) == index {
                continue;
            }
            let role = if self.config.interfaces.contains(name) { Role::Uplink } else { Role::Backend };
            match block_in_place(|| self.core.dataplane.attach(name, role, self.config.datapath)) {
                Ok(status) => self.note_attached(name.clone(), status),
                Err(error) => failed.push(error.to_string()),
            }
        }
        let known = &self.view.interfaces;
        self.attached.retain(|name, (index, _)| known.get(index) == Some(name));
        let missing = self.config.interfaces.iter().filter(|name| !self.attached.contains_key(*name));
        failed.extend(missing.map(|name| format!("--interface {name} is gone; it is attached again when it is back")));
        self.note("interfaces", failed);
    }

    fn sync(&mut self) {
        let result = block_in_place(|| self.core.sync(uptime()));
        if matches!(result, Ok(true)) {
            self.last_sync = Some(SystemTime::now());
        }
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
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

    async fn folder_changed(&mut self) {
        let snapshot = read_folder(&self.config.manifests);
        if self.folder.update(&self.config.manifests, snapshot) {
            self.look_at_node().await;
            self.rebuild();
        }
    }

    /// Takes in an event and those that have come meanwhile.
    fn health_changed(&mut self, first: health::Event, more: &mut mpsc::UnboundedReceiver<health::Event>) {
        let mut next = Some(first);
        while let Some(event) = next {
            // One that was on its way when the check ended is of no use.
            let (id, backend) = event.target.clone();
            if self.monitor.checks(&event.target) && self.core.set_health(event.target, event.healthy, uptime()) {
                let state = if event.healthy { "healthy" } else { "unhealthy" };
                tracing::warn!(service = %id, %backend, reason = event.reason, "backend is {state}");
            }
            next = more.try_recv().ok();
        }
        self.sync();
    }

    /// Returns whether the node is other than before.
    async fn look_at_node(&mut self) -> bool {
        let backends = build::backend_addresses(&self.folder.objects());
        let view = self.netlink.view(&self.config.node_name, &self.config.interfaces, &backends).await;
        self.note("node", view.as_ref().err().iter().map(ToString::to_string).collect());
        match view {
            Ok(view) if view != self.view => {
                self.view = view;
                true
            }
            _ => false,
        }
    }

    async fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(NODE_TICKS) && self.look_at_node().await {
            self.rebuild();
        }
        let result = block_in_place(|| self.core.tick(uptime()));
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
        self.scale();
        self.publish();
    }

    fn scale(&mut self) {
        let clock = Clock { now: uptime(), wall: SystemTime::now() };
        let services = report::services(&self.core.tables, &self.core.counters);
        self.scaler.tick(clock, &report::samples(&services, clock.now), &self.policies);
    }

    fn publish(&self) {
        let core = &self.core;
        let snapshot = Snapshot {
            taken: Some(std::time::Instant::now()),
            synced: core.is_synced(),
            services: report::services(&core.tables, &core.counters),
            drops: core.drops.clone(),
            flow_entries: core.flow_entries,
            flow_capacity: core.dataplane.capacity().flows.into(),
            repairs: core.repairs,
            syncs: core.syncs.clone(),
            policies: self.scaler.status(),
            node: self.node_status(),
        };
        self.publisher.send_replace(std::sync::Arc::new(snapshot));
    }

    fn node_status(&self) -> NodeStatus {
        let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
        NodeStatus {
            name: self.config.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: Some(time(self.started)),
            last_sync: self.last_sync.map(time),
            sources: vec![SourceStatus {
                kind: "files".into(),
                location: self.config.manifests.display().to_string(),
                healthy: self.folder.problems().is_empty(),
            }],
            problems: self.problems.values().flatten().cloned().collect(),
            datapath: self.attached.values().map(|(_, status)| status.clone()).collect(),
        }
    }
}

fn log_notes(objects: &Objects) {
    for note in &objects.notes {
        tracing::debug!("{note}");
    }
}
