//! The agent without its clocks and sockets: what it knows, and what it does to the maps when something changes and every second.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_common::{Backend, BackendLoad, BackendState, DropReason, SocketKey};

use super::{
    desired::desired,
    drift::Drift,
    removal::{Removal, removed_frontends},
};
use crate::{
    balance::{
        feedback::{ConnectionFeedback, Observation},
        weights::{self, Condition},
    },
    dataplane::{self, Counters, Dataplane, Tables, Write},
    health::Target,
    model::{Model, ServiceId, ServicePort},
    plan::{self, Desired, Input, PlanError},
    telemetry::SyncDurations,
};

/// Why the kernel does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The maps could not be read or written.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// What the agent knows, and the maps.
pub struct Core<D> {
    /// The maps.
    pub dataplane: D,
    /// What the maps hold.
    pub tables: Tables,
    /// What should be.
    pub model: Model,
    /// What the backends carried when last looked at, by index.
    pub counters: BTreeMap<u32, Counters>,
    /// Dropped packets when last looked at.
    pub drops: BTreeMap<DropReason, u64>,
    /// Flows in the table, as the last sweep counted them.
    pub flow_entries: u64,
    /// Counts that were repaired.
    pub repairs: u64,
    /// How long syncs took.
    pub syncs: SyncDurations,
    applied: Option<Desired>,
    complete: bool,
    began: bool,
    born: BTreeMap<Target, Option<Duration>>,
    ill: BTreeSet<Target>,
    drains: BTreeSet<SocketKey>,
    feedback: BTreeMap<ServiceId, ConnectionFeedback>,
    removal: Removal,
    drift: Drift,
}

impl<D: Dataplane> Core<D> {
    /// Takes over the maps as they are.
    pub fn new(dataplane: D) -> Result<Self, dataplane::Error> {
        let (tables, drains) = (dataplane.tables()?, dataplane.drains()?);
        Ok(Self {
            dataplane,
            tables,
            model: Model::default(),
            counters: BTreeMap::new(),
            drops: BTreeMap::new(),
            flow_entries: 0,
            repairs: 0,
            syncs: SyncDurations::default(),
            applied: None,
            complete: false,
            began: false,
            born: BTreeMap::new(),
            ill: BTreeSet::new(),
            drains,
            feedback: BTreeMap::new(),
            removal: Removal::default(),
            drift: Drift::default(),
        })
    }

    /// Takes in a new model; `complete` says whether it is all there should be. The backends of the first are not new.
    pub fn set_model(&mut self, model: Model, complete: bool, now: Duration) {
        let age = self.began.then_some(now);
        if !self.began {
            self.ill = self.known_ill(&model);
        }
        let all = model.services.iter().flat_map(|(id, port)| port.backends.keys().map(|at| (id.clone(), *at)));
        let known = std::mem::take(&mut self.born);
        self.born = all.map(|target| (target.clone(), known.get(&target).copied().unwrap_or(age))).collect();
        self.ill.retain(|target| self.born.contains_key(target));
        self.feedback.retain(|id, _| model.services.get(id).is_some_and(weights::is_moved));
        // Without its check nobody would find out that a backend is well again.
        let checked = |id: &ServiceId| model.services.get(id).is_some_and(|port| port.health_check.is_some());
        self.ill.retain(|(id, _)| checked(id));
        (self.model, self.complete, self.began) = (model, complete, true);
    }

    /// Takes in what a health check has found, and says whether it is new. Who is well again starts slowly.
    pub fn set_health(&mut self, target: Target, healthy: bool, now: Duration) -> bool {
        if !healthy {
            return self.ill.insert(target);
        }
        let recovered = self.ill.remove(&target);
        if recovered && let Some(born) = self.born.get_mut(&target) {
            *born = Some(now);
        }
        recovered
    }

    /// The backends that the last agent has found unhealthy: they stay so until they answer.
    fn known_ill(&self, model: &Model) -> BTreeSet<Target> {
        let unhealthy = self.tables.backends.values().filter(|b| b.state == BackendState::Unhealthy as u8);
        let sockets: BTreeSet<SocketKey> = unhealthy.map(Backend::key).collect();
        let ill = |id: &ServiceId, at: &SocketAddr| sockets.contains(&SocketKey::new(*at, id.protocol));
        let all = model.services.iter().flat_map(|(id, port)| port.backends.keys().map(move |at| (id, at)));
        all.filter(|(id, at)| ill(id, at)).map(|(id, at)| (id.clone(), *at)).collect()
    }

    /// Brings the maps in line. Returns whether anything was written.
    pub fn sync(&mut self, now: Duration) -> Result<bool, SyncError> {
        let desired = desired(&self.model, self.complete, |id, port| self.conditions(id, port, now));
        if self.applied.as_ref() == Some(&desired) {
            return Ok(false);
        }
        let started = Instant::now();
        let capacity = self.dataplane.capacity();
        let writes = plan::plan(Input {
            tables: &self.tables,
            desired: &desired,
            applied: self.applied.as_ref(),
            capacity: &capacity,
            stamp: now.as_secs() as u32,
        })?;
        self.write(&writes)?;
        self.applied = Some(desired);
        self.syncs.observe(started.elapsed());
        Ok(!writes.is_empty())
    }

    /// Whether all of a model is in force.
    pub fn is_synced(&self) -> bool {
        self.applied.is_some()
    }

    /// Does the writes in order. When one fails, what the kernel then holds is read anew, and the next plan starts from that.
    fn write(&mut self, writes: &[Write]) -> Result<(), dataplane::Error> {
        for write in writes {
            if let Err(error) = self.dataplane.write(write) {
                self.applied = None;
                self.tables = self.dataplane.tables()?;
                return Err(error);
            }
            write.apply(&mut self.tables);
        }
        Ok(())
    }

    fn conditions(&self, id: &ServiceId, port: &ServicePort, now: Duration) -> BTreeMap<SocketAddr, Condition> {
        let factors = self.feedback.get(id).map(ConnectionFeedback::factors).unwrap_or_default();
        let condition = |at: &SocketAddr| {
            let target = (id.clone(), *at);
            let born = self.born.get(&target).copied().flatten();
            Condition {
                drained: self.drains.contains(&SocketKey::new(*at, id.protocol)),
                healthy: !self.ill.contains(&target),
                age: born.map(|born| now.saturating_sub(born)),
                factor: factors.get(at).copied().unwrap_or(1.0),
            }
        };
        port.backends.keys().map(|at| (*at, condition(at))).collect()
    }

    /// What is done every second: look, decide, write, sweep.
    pub fn tick(&mut self, now: Duration) -> Result<(), SyncError> {
        let looked = self.look();
        self.feed_back(now, looked.is_ok());
        let synced = self.sync(now).map(drop);
        let swept = self.sweep(now);
        looked?;
        synced?;
        Ok(swept?)
    }

    fn look(&mut self) -> Result<(), dataplane::Error> {
        self.drains = self.dataplane.drains()?;
        self.drops = self.dataplane.drops()?;
        self.counters = self.read_counters()?;
        Ok(())
    }

    fn read_counters(&self) -> Result<BTreeMap<u32, Counters>, dataplane::Error> {
        let indexes: Vec<u32> = self.tables.backends.keys().copied().collect();
        let counters = self.dataplane.counters(&indexes)?;
        Ok(indexes.into_iter().zip(counters).collect())
    }

    fn feed_back(&mut self, now: Duration, looked: bool) {
        let Some(applied) = &self.applied else { return };
        let moved = self.model.services.iter().filter(|(_, port)| weights::is_moved(port));
        for (id, port) in moved {
            // Who is still starting has less than its weight by intention.
            let started = |at: &SocketAddr| {
                let born = self.born.get(&(id.clone(), *at)).copied().flatten();
                born.is_none_or(|born| now.saturating_sub(born) >= port.slow_start.unwrap_or_default())
            };
            let backends = applied.services.get(id).into_iter().flat_map(|service| &service.backends);
            let taking: BTreeSet<SocketAddr> =
                backends.filter(|(at, b)| b.effective_weight > 0 && started(at)).map(|(at, _)| *at).collect();
            let seen = looked.then(|| observations(&self.tables, &self.counters, id, port, &taking));
            self.feedback.entry(id.clone()).or_default().step(now, seen.as_ref());
        }
    }

    fn sweep(&mut self, now: Duration) -> Result<(), dataplane::Error> {
        let removed = removed_frontends(&self.tables);
        let before = loads(self.read_counters()?);
        let report = self.dataplane.sweep()?;
        let after = loads(self.read_counters()?);
        self.flow_entries = report.entries;
        if report.busy > 0 {
            self.drift.forget();
            return Ok(());
        }
        for repair in self.drift.compare(&before, &after, &report.recounts) {
            tracing::warn!(?repair, "a backend's counts were not what the flow table holds: repaired");
            self.dataplane.repair(repair.backend, repair.active, repair.pending)?;
            self.repairs += 1;
        }
        let swept = self.removal.swept(&self.tables, removed, &after, now);
        let writes = plan::finish(&self.tables, &swept);
        self.write(&writes)
    }
}

fn loads(counters: BTreeMap<u32, Counters>) -> BTreeMap<u32, BackendLoad> {
    counters.into_iter().map(|(index, counters)| (index, counters.load)).collect()
}

/// What feedback sees of a service: its backends that take connections.
fn observations(
    tables: &Tables,
    counters: &BTreeMap<u32, Counters>,
    id: &ServiceId,
    port: &ServicePort,
    taking: &BTreeSet<SocketAddr>,
) -> BTreeMap<SocketAddr, Observation> {
    let service = port.frontends.iter().find_map(|key| tables.frontends.get(key)).map(|f| f.service);
    let ours = tables.backends.iter().filter(|(_, b)| Some(b.service) == service && b.protocol == id.protocol as u8);
    ours.filter_map(|(index, backend)| {
        let at = backend.key().socket();
        let load = counters.get(index)?.load;
        let seen = Observation { active: load.active, connections: load.connections, weight: backend.weight };
        taking.contains(&at).then_some((at, seen))
    })
    .filter(|(_, seen)| seen.weight > 0)
    .collect()
}
