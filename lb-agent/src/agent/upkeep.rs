//! What is done every second: look at what the backends carry, decide, write, sweep. Its cost grows with what moves, not with what is
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{BackendLoad, SocketKey};

use super::{
    core::{Core, SyncError},
    pass::BUDGET,
};
use crate::{
    balance::feedback::{Has, Observation},
    dataplane::{self, Dataplane},
    model::{Feedback, ServiceId, ServicePort},
    plan,
    signals::requests::{self, RequestLoad},
};

/// So long it is told that there were more measured connections than room for them.
const CROWDED: Duration = Duration::from_secs(60);

/// What backends carry through other nodes is no load of this one.
fn take_remote(loads: &mut BTreeMap<u32, BackendLoad>) -> BTreeMap<u32, u64> {
    let remote = loads.iter_mut().map(|(index, load)| (*index, std::mem::take(&mut load.remote)));
    let remote = remote.filter(|(_, active)| *active != 0).collect();
    loads.retain(|_, load| *load != BackendLoad::default());
    remote
}

impl<D: Dataplane> Core<D> {
    /// What is done every second: look, decide, write, sweep.
    pub fn tick(&mut self, now: Duration) -> Result<(), SyncError> {
        let looked = self.look(now);
        self.feed_back(now, looked.is_ok());
        let synced = self.sync(now).map(drop);
        let given_up = self.give_up(now);
        let swept = looked.as_ref().map_or(Ok(()), |loads| self.sweep(loads, now));
        looked?;
        synced?;
        given_up?;
        Ok(swept?)
    }

    /// Says in the kernel which removed backends are gone: what they have is ended by resets.
    fn give_up(&mut self, now: Duration) -> Result<(), dataplane::Error> {
        if !self.is_synced() || self.tables.removed_backends().is_empty() {
            return Ok(());
        }
        let mut nowhere = plan::unserved(&self.tables);
        nowhere.retain(|index| !self.is_listed(*index));
        let long = self.removal.gone(&nowhere, now);
        self.write(&plan::mark_gone(&self.tables, &nowhere, &long))
    }

    /// Whether an endpoint is still there that takes no connections.
    fn is_listed(&self, index: u32) -> bool {
        let Some(backend) = self.tables.backends().get(&index) else { return false };
        let port = self.tables.service(backend.service).and_then(|id| self.model.services.get(&id));
        port.is_some_and(|port| port.resting.contains(&backend.key().socket()))
    }

    fn look(&mut self, now: Duration) -> Result<BTreeMap<u32, BackendLoad>, dataplane::Error> {
        let mut drains = self.dataplane.drains()?;
        drains.extend(&self.ordered_drains);
        let changed = self.conditions.set_drains(drains);
        if !changed.is_empty() {
            self.drains_changed(&changed);
        }
        self.drops = self.dataplane.drops()?;
        let mut loads = self.dataplane.loads(self.tables.backends_end())?;
        self.remote = take_remote(&mut loads);
        let due = self.meter.hear(&loads, now);
        let counters = self.dataplane.counters(&due)?;
        self.meter.read(&due, counters);
        self.look_at_requests(now)?;
        Ok(loads)
    }

    /// That there are too many measured connections, if there lately were.
    pub fn unseen_requests(&self) -> Option<String> {
        self.crowded.map(|_| {
            "more connections are measured than the map requests has room for: requests of the others are missing from inFlight; \
             measure fewer Services"
                .to_owned()
        })
    }

    fn look_at_requests(&mut self, now: Duration) -> Result<(), dataplane::Error> {
        let noted = self.dataplane.noted()?;
        let before = std::mem::replace(&mut self.requests, requests::loads(&noted, self.tables.backends(), now));
        let unseen = |(index, load): (&u32, &RequestLoad)| before.get(index).is_some_and(|b| b.unseen < load.unseen);
        let is_crowded = self.requests.iter().any(unseen);
        self.crowded = if is_crowded { Some(now + CROWDED) } else { self.crowded.filter(|until| *until > now) };
        self.dataplane.forget_requests(&requests::stale(&noted, self.tables.backends()))
    }

    /// Says what backends carry through other nodes; of who is not named that is nothing.
    pub fn set_remote(&mut self, wanted: &BTreeMap<u32, u64>) -> Result<(), dataplane::Error> {
        let gone = self.remote.keys().filter(|index| !wanted.contains_key(index)).map(|index| (*index, 0));
        let differs = |(index, active): &(&u32, &u64)| self.remote.get(index).copied().unwrap_or_default() != **active;
        let new = wanted.iter().filter(differs).map(|(index, active)| (*index, *active));
        gone.chain(new).try_for_each(|(index, active)| self.dataplane.set_remote(index, active))
    }

    /// Somebody drains, by hand or by scaling in: rare enough to look for the backend everywhere.
    fn drains_changed(&mut self, changed: &BTreeSet<SocketKey>) {
        let has = |(id, port): &(&ServiceId, &ServicePort)| {
            port.backends.keys().any(|at| changed.contains(&SocketKey::new(*at, id.protocol)))
        };
        self.pending.extend(self.model.services.iter().filter(has).map(|(id, _)| id.clone()));
    }

    fn feed_back(&mut self, now: Duration, looked: bool) {
        for id in self.conditions.moved() {
            let seen = looked.then(|| self.observations(&id));
            self.conditions.feed_back(&id, now, seen.as_ref());
        }
    }

    /// What feedback sees of a service port: its backends that take connections and have their whole weight.
    fn observations(&self, id: &ServiceId) -> BTreeMap<SocketAddr, Observation> {
        let (Some(service), Some(port)) = (self.tables.services().get(id), self.model.services.get(id)) else {
            return BTreeMap::new();
        };
        let taking = self.tables.backends_of(*service).filter(|(_, b)| b.effective_weight > 0 && b.weight > 0);
        let seen = taking.filter_map(|(index, backend)| {
            let has = self.has(port.feedback, index)?;
            Some((backend.key().socket(), Observation { has, weight: backend.weight }))
        });
        seen.filter(|(at, _)| self.conditions.has_started(id, at)).collect()
    }

    /// What a backend has of what feedback shares out; none where it is not measured yet.
    fn has(&self, feedback: Feedback, index: u32) -> Option<Has> {
        let requests = self.requests.get(&index);
        match feedback {
            Feedback::None | Feedback::Connections => {
                let load = self.counters().get(&index).copied().unwrap_or_default().load;
                Some(Has::Open { now: load.open(), ever: load.connections })
            }
            Feedback::InFlight => requests.map(|load| Has::Open { now: load.in_flight, ever: load.begun }),
            Feedback::Latency => requests.map(|load| {
                let answers = &load.answers;
                Has::Answered { ever: answers.total(), nanoseconds: answers.nanoseconds() }
            }),
        }
    }

    fn sweep(&mut self, loads: &BTreeMap<u32, BackendLoad>, now: Duration) -> Result<(), dataplane::Error> {
        let (vips, removed) = (self.tables.removed_vips(), self.tables.removed_backends());
        let waiting = !vips.is_empty() || !removed.is_empty();
        if !self.passes.is_due(loads, vips, waiting, now) {
            return Ok(());
        }
        let Some(report) = self.dataplane.sweep_part(BUDGET)? else { return Ok(()) };
        let before = self.passes.end(&report, now);
        let after = self.dataplane.loads(self.tables.backends_end())?;
        self.flow_entries = report.entries;
        if report.busy > 0 {
            self.drift.forget();
            return Ok(());
        }
        let known = |index: &u32| self.tables.backends().contains_key(index);
        let recounts: BTreeMap<_, _> = report.recounts.into_iter().filter(|(index, _)| known(index)).collect();
        for repair in self.drift.compare(&before.loads, &after, &recounts) {
            tracing::warn!(?repair, "a backend's counts were not what the flow table holds: repaired");
            self.dataplane.repair(repair.backend, repair.active, repair.pending)?;
            self.repairs += 1;
        }
        let swept = self.removal.swept(before.vips, self.tables.removed_backends(), &after, &recounts, now);
        let writes = plan::finish(&self.tables, &swept);
        self.write(&writes)
    }
}
