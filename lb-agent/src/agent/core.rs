//! The agent without its clocks and sockets: what it knows, and what it does to the maps when something changes and every second.
//!
//! A change costs what its service port costs, whatever the number of others: [`Core::apply`] notes which service ports have changed,
//! [`Core::sync`] plans and writes those, and [`Core::retire`] frees what they no longer use when a grace period is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use lb_common::{BackendState, DropReason, SocketKey};

use super::{
    conditions::Conditions, desired::desired, drift::Drift, marks::Marks, meter::Meter, pass::Passes, removal::Removal,
    report::Carried,
};
use crate::{
    dataplane::{self, Counters, Dataplane, Write},
    health::Target,
    model::{Change, Model, ServiceId, ServicePort},
    pack::pack,
    plan::{self, Image, Input, Plan, PlanError, Surplus},
    signals::requests::RequestLoad,
    telemetry::SyncDurations,
};

/// Why the kernel does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// There is no plan for a service port; the others are in force.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is no plan for some service ports; the others are in force.
    #[error("{first} (and {others} more service ports)")]
    Plans {
        /// The first of them.
        first: PlanError,
        /// How many more there are.
        others: usize,
    },
    /// The maps could not be read or written.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// Why a service port was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// What a sync has done.
#[derive(Debug, Default)]
struct Written {
    anything: bool,
    surplus: Vec<Surplus>,
    failed: Vec<PlanError>,
}

/// What is out of use, and free when every program that may have seen it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Retiring {
    runs: BTreeSet<u32>,
    /// By the index of their service port.
    backends: BTreeMap<u32, BTreeSet<u32>>,
}

/// What the agent knows, and the maps.
pub struct Core<D> {
    /// The maps.
    pub dataplane: D,
    /// What the maps hold.
    pub tables: Image,
    /// What should be.
    pub model: Model,
    /// Dropped packets when last looked at.
    pub drops: BTreeMap<DropReason, u64>,
    /// Flows in the table, as the last sweep counted them.
    pub flow_entries: u64,
    /// Counts that were repaired.
    pub repairs: u64,
    /// How long syncs took.
    pub syncs: SyncDurations,
    /// The time from changes, as their sources say, to the kernel.
    pub programming: SyncDurations,
    /// When the first of the changes was read that are in the kernel after the next sync; none: it begins with them.
    pub read_at: Option<Instant>,
    /// What policies want of their Services.
    pub(super) marks: Marks,
    /// What the requests of measured backends are like, by index.
    pub(super) requests: BTreeMap<u32, RequestLoad>,
    /// Until when it is told that there are more measured connections than room for them.
    pub(super) crowded: Option<Duration>,
    /// Backends that the coordinator drains.
    pub ordered_drains: BTreeSet<SocketKey>,
    /// What backends carry through other nodes, as the kernel knows it.
    pub(super) remote: BTreeMap<u32, u64>,
    pub(super) meter: Meter,
    pub(super) conditions: Conditions,
    /// Service ports to look at in the next sync.
    pub(super) pending: BTreeSet<ServiceId>,
    /// When the pending changes were made.
    triggers: Vec<SystemTime>,
    /// Backends that no table names any more, by the index of their service port.
    leaving: BTreeMap<u32, BTreeSet<u32>>,
    retiring: Retiring,
    complete: bool,
    /// A whole model, or all of the first one, has been taken in.
    heard: bool,
    began: bool,
    synced: bool,
    pub(super) removal: Removal,
    pub(super) drift: Drift,
    pub(super) passes: Passes,
}

impl<D: Dataplane> Core<D> {
    /// Takes over the maps as they are.
    pub fn new(dataplane: D) -> Result<Self, dataplane::Error> {
        let tables = Image::read(&dataplane)?;
        let mut conditions = Conditions::default();
        conditions.set_drains(dataplane.drains()?);
        Ok(Self {
            dataplane,
            tables,
            model: Model::default(),
            drops: BTreeMap::new(),
            flow_entries: 0,
            repairs: 0,
            syncs: SyncDurations::default(),
            programming: SyncDurations::default(),
            read_at: None,
            marks: Marks::default(),
            requests: BTreeMap::new(),
            crowded: None,
            ordered_drains: BTreeSet::new(),
            remote: BTreeMap::new(),
            meter: Meter::default(),
            conditions,
            pending: BTreeSet::new(),
            triggers: Vec::new(),
            leaving: BTreeMap::new(),
            retiring: Retiring::default(),
            complete: false,
            heard: false,
            began: false,
            synced: false,
            removal: Removal::default(),
            drift: Drift::default(),
            passes: Passes::default(),
        })
    }

    /// Takes in a whole model; `complete` says whether it is all there should be.
    pub fn set_model(&mut self, model: Model, complete: bool, now: Duration) {
        let changes = self.model.changes_to(model);
        self.apply(changes, now);
        self.heard = true;
        self.set_complete(complete);
    }

    /// Says whether the model is all there should be: what the kernel has beside it is removed then.
    pub fn set_complete(&mut self, complete: bool) {
        if complete && !self.complete {
            let unknown = self.tables.services().keys().filter(|id| !self.model.services.contains_key(*id));
            self.pending.extend(unknown.cloned());
        }
        self.complete = complete;
        self.heard |= complete;
    }

    /// Takes in changes of the model. The backends that are there at the first sync of a whole model are not new.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now: Duration) {
        for Change { id, port, trigger } in changes {
            let old = self.model.services.remove(&id);
            let differs = old != port;
            if differs {
                self.conditions.changed(&id, old.as_ref(), port.as_ref(), self.began.then_some(now));
                self.triggers.extend(trigger);
                self.pending.insert(id.clone());
            }
            if let Some(port) = port {
                if differs && !self.began {
                    self.recall_health(&id, &port, now);
                }
                self.model.services.insert(id, port);
            }
        }
    }

    /// The backends that the last agent has found unhealthy stay so until they answer.
    fn recall_health(&mut self, id: &ServiceId, port: &ServicePort, now: Duration) {
        let Some(index) = self.tables.services().get(id).filter(|_| port.health_check.is_some()) else { return };
        let unhealthy = self.tables.backends_of(*index).filter(|(_, b)| b.state == BackendState::Unhealthy as u8);
        for at in unhealthy.map(|(_, b)| b.key().socket()).filter(|at| port.backends.contains_key(at)) {
            self.conditions.set_health((id.clone(), at), None, false, now);
        }
    }

    /// Takes in what a health check has found, and says whether it is new.
    pub fn set_health(&mut self, target: Target, healthy: bool, now: Duration) -> bool {
        let id = target.0.clone();
        let new = self.conditions.set_health(target, self.model.services.get(&id), healthy, now);
        if new {
            self.pending.insert(id);
        }
        new
    }

    /// What the backends that ever carried anything carry, by index.
    pub fn counters(&self) -> &BTreeMap<u32, Counters> {
        self.meter.counters()
    }

    /// What backends carry, by index.
    pub const fn carried(&self) -> Carried<'_> {
        Carried { counters: self.meter.counters(), requests: &self.requests }
    }

    /// Whether all of a model is in force.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Brings the maps in line with what has changed. Returns whether anything was written.
    pub fn sync(&mut self, now: Duration) -> Result<bool, SyncError> {
        let mut due = std::mem::take(&mut self.pending);
        due.extend(self.conditions.restless().cloned());
        let started = self.read_at.take().unwrap_or_else(Instant::now);
        let Written { anything, failed, .. } = match self.write_all(&due, now) {
            Ok(written) => written,
            Err(error) => {
                self.start_over()?;
                return Err(error.into());
            }
        };
        if anything {
            self.syncs.observe(started.elapsed());
        }
        self.observe_triggers();
        if self.heard && !self.began {
            self.tables.pack();
            pack(&mut self.model.services);
        }
        (self.began, self.synced) = (self.heard, self.heard && failed.is_empty());
        let mut failed = failed.into_iter();
        match (failed.next(), failed.len()) {
            (None, _) => Ok(anything),
            (Some(first), 0) => Err(first.into()),
            (Some(first), others) => Err(SyncError::Plans { first, others }),
        }
    }

    fn observe_triggers(&mut self) {
        let now = SystemTime::now();
        for trigger in self.triggers.drain(..) {
            self.programming.observe(now.duration_since(trigger).unwrap_or_default());
        }
    }

    /// Plans and writes service port by service port. Those that do not fit stay pending; the others go on.
    fn write_all(&mut self, due: &BTreeSet<ServiceId>, now: Duration) -> Result<Written, dataplane::Error> {
        let mut written = Written { surplus: self.strays(), ..Written::default() };
        for id in due {
            match self.write_one(id, now) {
                Ok(plan) => {
                    written.anything |= !plan.writes.is_empty();
                    written.surplus.extend(plan.surplus);
                }
                Err(WriteError::Plan(error)) => {
                    self.pending.insert(id.clone());
                    written.failed.push(error);
                }
                Err(WriteError::Dataplane(error)) => return Err(error),
            }
        }
        let removals = plan::remove(&self.tables, &written.surplus);
        self.write(&removals)?;
        written.anything |= !removals.is_empty();
        for Surplus { service, backends, .. } in written.surplus.drain(..) {
            written.anything |= !backends.is_empty();
            if backends.is_empty() {
                self.leaving.remove(&service)
            } else {
                self.leaving.insert(service, backends)
            };
        }
        Ok(written)
    }

    fn strays(&self) -> Vec<Surplus> {
        if self.complete && !self.synced { plan::strays(&self.tables) } else { Vec::new() }
    }

    fn write_one(&mut self, id: &ServiceId, now: Duration) -> Result<Plan, WriteError> {
        let port = self.model.services.get(id);
        if port.is_none() && !self.complete {
            return Ok(Plan::default());
        }
        let desired = port.map(|port| desired(port, &self.conditions.of(id, port, now), self.wanted(id)));
        let plan = |core: &Self| {
            let capacity = core.dataplane.capacity();
            let input = Input { image: &core.tables, capacity: &capacity, stamp: now.as_secs() as u32 };
            plan::plan(input, id, desired.as_ref())
        };
        let mut planned = plan(self);
        if planned.is_err() && self.has_leavings() {
            self.settle()?;
            planned = plan(self);
        }
        let planned = planned?;
        self.write(&planned.writes)?;
        if let Some(port) = self.model.services.get(id) {
            self.conditions.forget_started(id, port, now);
        }
        Ok(planned)
    }

    /// Does the writes in order.
    pub(super) fn write(&mut self, writes: &[Write]) -> Result<(), dataplane::Error> {
        for write in writes {
            self.dataplane.write(write)?;
            self.tables.apply(write);
        }
        Ok(())
    }

    /// A write has failed: what the kernel then holds is read anew, and everything is looked at again.
    fn start_over(&mut self) -> Result<(), dataplane::Error> {
        self.synced = false;
        self.pending.extend(self.model.services.keys().cloned());
        (self.leaving, self.retiring) = Default::default();
        self.tables = Image::read(&self.dataplane)?;
        if self.complete {
            self.pending.extend(self.tables.services().keys().cloned());
        }
        Ok(())
    }

    fn has_leavings(&self) -> bool {
        !self.leaving.is_empty() || !self.tables.idle_runs().is_empty()
    }

    /// Notes what is out of use now. If that is anything, [`Core::retire`] is to be called when a grace period that begins now is over.
    pub fn begin_grace(&mut self) -> bool {
        self.retiring = Retiring { runs: self.tables.idle_runs().clone(), backends: self.leaving.clone() };
        self.has_leavings()
    }

    /// Frees what was out of use when the grace period began, unless it is wanted again.
    pub fn retire(&mut self) -> Result<(), SyncError> {
        let Retiring { runs, mut backends } = std::mem::take(&mut self.retiring);
        for (service, indexes) in &mut backends {
            let leaving = self.leaving.get(service);
            indexes.retain(|index| leaving.is_some_and(|leaving| leaving.contains(index)));
        }
        let writes = plan::retire(&self.tables, &runs, &backends);
        for (service, indexes) in backends {
            let leaving = self.leaving.entry(service).or_default();
            leaving.retain(|index| !indexes.contains(index));
            if leaving.is_empty() {
                self.leaving.remove(&service);
            }
        }
        if let Err(error) = self.write(&writes) {
            self.start_over()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Waits for a grace period, and frees what is out of use.
    pub fn settle(&mut self) -> Result<(), dataplane::Error> {
        if self.begin_grace() {
            D::grace_period()?;
            let writes = plan::retire(&self.tables, &self.retiring.runs, &self.retiring.backends);
            (self.leaving, self.retiring) = Default::default();
            self.write(&writes)?;
        }
        Ok(())
    }
}
