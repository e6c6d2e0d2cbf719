//! The agent of one node: reads manifests and the node, decides, and keeps the kernel's maps in line, until it is told to stop.
//!
//! What it does to the kernel is in [`core`]; this is the shell of clocks, sockets, signals and files around it. When it ends, by
//! itself or by force, programs and maps stay in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{ConfigError, RunConfig},
    dataplane::{self, Dataplane},
    discovery::{Objects, Problem, build, kube::ConnectError, node_ports::NodeInfo},
    health::{self, Monitor},
    node::{self, Change, Follower, NodeView, Update, netfilter::Netfilter, nexthop::NextHops},
    scaling::{Clock, Policy, Scaler},
    telemetry::{
        DeliveryStatus, NodeStatus, Publisher, Snapshot, channel,
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
#[cfg(test)]
mod tests;
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
    marks::Mark,
    prepare::forwarding,
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

    /// Loads the programs, which the kernel checks for seconds. Meanwhile the maps are brought up to date: what an earlier agent has attached
    /// serves on by them, and a large cluster takes as long to tell what there is.
    async fn load(&mut self) -> Result<(), dataplane::Error> {
        let Some(loading) = self.core.dataplane.loading() else { return Ok(()) };
        let mut loading = tokio::task::spawn_blocking(loading);
        if let Source::Kube(kube) = &mut self.source
            && self.core.tables.frontends().is_empty()
        {
            kube.store().begin_early();
        }
        self.rebuild();
        let loaded = loop {
            tokio::select! {
                loaded = &mut loading => break loaded,
                () = self.source.changed() => self.source_changed(),
            }
        };
        let programs = loaded.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        block_in_place(|| self.core.dataplane.set_programs(programs))
    }

    fn attach_uplinks(&mut self) -> Result<(), dataplane::Error> {
        let (interfaces, dataplane) = (&mut self.interfaces, &mut self.core.dataplane);
        block_in_place(|| interfaces.start(dataplane, &self.view, self.config.datapath))?;
        self.next_hops.keep(self.interfaces.gateways(&self.view));
        Ok(())
    }

    /// After the frontends are known: a socket that connects meanwhile would miss them for good.
    fn start_sockets(&mut self) -> Result<(), dataplane::Error> {
        let (sockets, dataplane) = (&mut self.sockets, &mut self.core.dataplane);
        block_in_place(|| sockets.start(dataplane, &self.view))?;
        let config = &self.config.sockets;
        tracing::info!(mode = config.mode.name(), cgroup = ?config.cgroup, why = config.why, "socket hooks");
        Ok(())
    }

    /// Chooses how packets reach local backends. Returns whether that is another way than before.
    fn set_delivery(&mut self, netfilter: &Netfilter) -> Result<bool, dataplane::Error> {
        let decision = delivery::decide(self.config.delivery, netfilter.found().as_deref());
        block_in_place(|| self.core.dataplane.set_delivery(decision.stack))?;
        if decision != self.delivery {
            tracing::info!(delivery = decision.name(), why = decision.why, "delivery to local backends");
        }
        let before = std::mem::replace(&mut self.delivery, decision);
        Ok(before.stack != self.delivery.stack)
    }

    /// Rules of others have come or gone: the programs that are attached are exchanged in place, if they have to be.
    fn rules_changed(&mut self, netfilter: &Netfilter) {
        let changed = self.set_delivery(netfilter);
        if matches!(changed, Ok(true)) {
            self.interfaces.forget();
            self.attach_interfaces();
        }
        self.note("delivery", changed.err().iter().map(ToString::to_string).collect());
    }

    /// From what the source and the node say to what the kernel does.
    fn rebuild(&mut self) {
        match &mut self.source {
            Source::Files(_) => self.rebuild_from_files(),
            Source::Kube(kube) => {
                kube.store().all_due();
                self.follow_cluster();
            }
        }
    }

    fn rebuild_from_files(&mut self) {
        let Source::Files(files) = &self.source else { return };
        let (objects, faults, complete) = (files.folder.objects(), files.folder.problems(), files.folder.is_complete());
        let holders = report::holders(&self.core.tables);
        let info = NodeInfo::without_cluster(&self.config.node_name, &self.view);
        let setting = prepare::setting(&self.config, &self.view, &info);
        let (model, mut problems) = build::build(&objects, &setting, &holders);
        let (policies, more) = build::policies(&objects);
        problems.extend(more);
        let service = |policy: &Policy| (policy.id.namespace.clone(), policy.service.clone());
        let measured = policies.iter().filter(|policy| policy.reads_requests()).map(service).collect();
        self.core.mark(Mark::Measured, measured);
        let waking = policies.iter().filter(|policy| self.scaler.wakes(policy)).map(service).collect();
        self.core.mark(Mark::Waking, waking);
        self.policies = policies;
        self.note("files", faults.iter().map(Problem::to_string).collect());
        self.note("model", problems.iter().map(Problem::to_string).collect());
        self.note("forwarding", forwarding(&model, &self.config).err().iter().map(ToString::to_string).collect());
        self.monitor.update(&model);
        self.health_ports.listen_at(self.config.nodeport_addresses.listen(self.view.addresses(), &info));
        self.health_ports.set_model(&model);
        self.note_health_ports();
        self.core.set_model(model, complete, uptime());
        self.sync();
        log_notes(&objects);
    }

    fn note_health_ports(&mut self) {
        self.note("healthCheckNodePort", self.health_ports.problems().iter().map(Problem::to_string).collect());
    }

    /// From the Services that have changed to what the kernel does about them.
    fn follow_cluster(&mut self) {
        let Source::Kube(kube) = &mut self.source else { return };
        let heard = kube.heard();
        let changes = kube.changes(&source::local(&self.config, &self.view));
        let complete = kube.is_complete();
        let is_settled = !complete || self.core.is_synced();
        if changes.is_empty() && is_settled {
            return;
        }
        for change in &changes {
            self.monitor.change(&change.id, change.port.as_ref());
            self.health_ports.update(&change.id, change.port.as_ref());
        }
        self.note_health_ports();
        self.core.apply(changes, uptime());
        self.core.set_complete(complete);
        self.core.read_at = heard;
        self.sync();
    }

    /// Begins to follow the coordinator, where there is one.
    fn follow_coordinator(&mut self) -> Result<(), dataplane::Error> {
        let (Source::Kube(kube), Some(config)) = (&mut self.source, self.config.coordinator.clone()) else {
            return Ok(());
        };
        let (speech, word) = kube.follow_coordinator(config);
        self.exchange = Some(Exchange::new(word.clone(), speech.clone()));
        self.announcing = Some(Announcing::new(self.core.dataplane.announced()?, word, speech));
        Ok(())
    }

    /// Brings the announced addresses in line with what the coordinator says.
    fn announce(&mut self, news: announcing::News) {
        let Some(announcing) = &mut self.announcing else { return };
        let writes = announcing.step(news, &self.view);
        let result = block_in_place(|| writes.iter().try_for_each(|write| self.core.dataplane.write(write)));
        if result.is_ok() {
            announcing.written();
        }
        let problems = result.err().map(|error| error.to_string()).into_iter().chain(announcing.problem()).collect();
        self.note("coordinator", problems);
    }

    /// What is wrong with the cluster, and with the node for what the cluster wants.
    fn look_at_cluster(&mut self) {
        let Source::Kube(kube) = &self.source else { return };
        let problems = kube.problems();
        self.sockets.set_excluded(kube.excluded());
        let unknown = NodeInfo::without_cluster(&self.config.node_name, &self.view);
        let info = kube.info().unwrap_or(&unknown);
        self.leaving = info.leaving;
        let addresses = self.config.nodeport_addresses.listen(self.view.addresses(), info);
        if self.health_ports.listen_at(addresses) {
            self.note_health_ports();
        }
        self.note("cluster", problems);
        let forwarding = forwarding(&self.core.model, &self.config);
        self.note("forwarding", forwarding.err().iter().map(ToString::to_string).collect());
    }

    /// Attaches to what is new, and lets go of what is gone.
    fn attach_interfaces(&mut self) {
        let (interfaces, dataplane) = (&mut self.interfaces, &mut self.core.dataplane);
        block_in_place(|| interfaces.update(dataplane, &self.view, self.config.datapath));
        self.next_hops.keep(self.interfaces.gateways(&self.view));
        self.note("interfaces", self.interfaces.problems(&self.view));
    }

    fn sync(&mut self) {
        let was_synced = self.core.is_synced();
        let result = block_in_place(|| self.core.sync(uptime()));
        if matches!(result, Ok(true)) {
            self.last_sync = Some(SystemTime::now());
        }
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
        self.begin_grace();
        // Somebody may be waiting for it.
        if was_synced != self.core.is_synced() {
            self.publish();
        }
    }

    /// What packets may still be using is freed when every program that runs now has ended.
    fn begin_grace(&mut self) {
        if !self.grace.is_running() && self.core.begin_grace() {
            let wait: fn() -> Result<(), dataplane::Error> = D::grace_period;
            self.grace.begin(wait);
        }
    }

    fn grace_over(&mut self, result: Result<(), dataplane::Error>) {
        let retired = match result {
            Ok(()) => block_in_place(|| self.core.retire()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if retired.is_ok() {
            // What has come out of use meanwhile.
            self.begin_grace();
        }
        self.note("grace", retired.err().into_iter().collect());
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

    fn source_changed(&mut self) {
        match &mut self.source {
            Source::Kube(_) => self.follow_cluster(),
            Source::Files(files) => {
                if files.look() {
                    self.rebuild_from_files();
                }
            }
        }
    }

    /// Takes in what is heard of the node, and what was heard meanwhile. Hooks come before all else: a pod may be about to speak.
    fn node_changed(&mut self, first: Update, more: &mut Follower) {
        let mut next = Some(first);
        while let Some(update) = next {
            let change = self.view.update(update);
            if change.links {
                self.attach_interfaces();
            }
            self.node_concerns(&change);
            next = more.ready();
        }
    }

    /// Looks again at what a change of the node concerns.
    fn node_concerns(&mut self, change: &Change) {
        if change.addresses {
            return self.rebuild();
        }
        if change.is_none() {
            return;
        }
        match &mut self.source {
            Source::Kube(kube) => {
                kube.store().due_where(|ip| change.may_concern(ip));
                self.follow_cluster();
            }
            Source::Files(_) => {
                let mut backends = self.core.model.services.values().flat_map(|port| port.backends.keys());
                if backends.any(|at| change.may_concern(at.ip())) {
                    self.rebuild_from_files();
                }
            }
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

    fn tick(&mut self) {
        if self.interfaces.has_failed() {
            self.attach_interfaces();
        }
        if self.health_ports.retry(false) {
            self.note_health_ports();
        }
        if let Some(exchange) = &self.exchange {
            self.core.ordered_drains = exchange.draining();
            exchange.measured().into_iter().for_each(|services| self.core.mark(Mark::Measured, services));
            exchange.waking().into_iter().for_each(|services| self.core.mark(Mark::Waking, services));
        }
        let result = block_in_place(|| self.core.tick(uptime()));
        self.exchange();
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
        self.note("requests", self.core.unseen_requests().into_iter().collect());
        self.tend_sockets();
        self.begin_grace();
        self.look_at_cluster();
        self.scale();
        self.publish();
    }

    /// Tells the coordinator what backends carry here, and the kernel what they carry through other nodes.
    fn exchange(&mut self) {
        let result = match &mut self.exchange {
            Some(exchange) => {
                exchange.tell(&self.core.tables, &self.core.carried());
                self.core.set_remote(&exchange.elsewhere(&self.core.tables))
            }
            None => self.core.set_remote(&BTreeMap::new()),
        };
        self.note("exchange", result.err().iter().map(ToString::to_string).collect());
    }

    fn tend_sockets(&mut self) {
        let (sockets, core) = (&mut self.sockets, &mut self.core);
        let result = block_in_place(|| {
            let followed = sockets.follow_requests(&mut core.dataplane, !core.requests.is_empty());
            followed.and(sockets.tick(&mut core.dataplane, &self.view, &core.tables))
        });
        if let Ok(ended @ 1..) = result {
            tracing::info!(ended, "ended sockets whose backend is gone");
        }
        self.note("sockets", result.err().iter().map(ToString::to_string).collect());
    }

    fn scale(&mut self) {
        let clock = Clock { now: uptime(), wall: SystemTime::now() };
        let wanted = self.policies.iter().map(|policy| (policy.id.namespace.clone(), policy.service.clone())).collect();
        let samples = report::samples(&self.core.tables, &self.core.carried(), &wanted, clock.now);
        self.scaler.tick(clock, &samples, &self.policies);
    }

    /// Clients ask for Services without a backend: whoever decides hears of it, at once where it is news.
    fn asked_in_vain(&mut self, asked: Result<BTreeSet<u32>, dataplane::Error>) {
        let services = match asked {
            Ok(indexes) => self.core.woken(&indexes),
            Err(error) => return self.note("wakes", vec![error.to_string()]),
        };
        match &self.exchange {
            Some(exchange) => exchange.knock(services, uptime()),
            None => {
                if self.scaler.knock(services, uptime()) {
                    self.scale();
                    self.publish();
                }
            }
        }
    }

    fn publish(&self) {
        let core = &self.core;
        let snapshot = Snapshot {
            taken: Some(std::time::Instant::now()),
            synced: core.is_synced(),
            services: Vec::new(),
            drops: core.drops.clone(),
            flow_entries: core.flow_entries,
            flow_capacity: core.dataplane.capacity().flows.into(),
            maps: report::fill(&core.tables, &core.dataplane.capacity()),
            repairs: core.repairs,
            syncs: core.syncs.clone(),
            programming: core.programming.clone(),
            policies: self.scaler.status(),
            node_leaving: self.leaving,
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
            sources: vec![self.source.status()],
            problems: self.problems.values().flatten().cloned().collect(),
            datapath: self.interfaces.status(),
            sockets: self.config.sockets.status(),
            delivery: DeliveryStatus { mode: self.delivery.name().into(), why: self.delivery.why.clone() },
        }
    }
}

fn log_notes(objects: &Objects) {
    for note in &objects.notes {
        tracing::debug!("{note}");
    }
}
