//! What is known of backends beside the model: who starts, who is ill, who is drained, what feedback has found. Only what differs
//! from the ordinary is remembered, by service port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lb_common::SocketKey;

use crate::{
    balance::{
        feedback::{Observation, WeightFeedback},
        weights::{self, Condition},
    },
    health::Target,
    model::{ServiceId, ServicePort},
};

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Since when backends with a slow start are there.
    starting: BTreeMap<ServiceId, BTreeMap<SocketAddr, Duration>>,
    ill: BTreeMap<ServiceId, BTreeSet<SocketAddr>>,
    /// Drained by hand.
    drains: BTreeSet<SocketKey>,
    /// The service ports whose weights feedback moves.
    moved: BTreeMap<ServiceId, WeightFeedback>,
}

impl Conditions {
    /// Takes in what a service port was and is now. `born`: backends that were not there before are new since then.
    pub fn changed(
        &mut self,
        id: &ServiceId,
        old: Option<&ServicePort>,
        new: Option<&ServicePort>,
        born: Option<Duration>,
    ) {
        let is_there = |at: &SocketAddr| new.is_some_and(|port| port.backends.contains_key(at));
        if let (Some(born), Some(port)) = (born, new.filter(|port| port.slow_start.is_some())) {
            let known = |at: &SocketAddr| old.is_some_and(|old| old.backends.contains_key(at));
            let fresh = port.backends.keys().filter(|at| !known(at));
            self.starting.entry(id.clone()).or_default().extend(fresh.map(|at| (*at, born)));
        }
        let starts = new.is_some_and(|port| port.slow_start.is_some());
        keep(&mut self.starting, id, |starting| starting.retain(|at, _| starts && is_there(at)), BTreeMap::is_empty);
        // Without its check nobody would find out that a backend is well again.
        let checked = new.is_some_and(|port| port.health_check.is_some());
        keep(&mut self.ill, id, |ill| ill.retain(|at| checked && is_there(at)), BTreeSet::is_empty);
        if new.is_some_and(weights::is_moved) {
            self.moved.entry(id.clone()).or_default();
        } else {
            self.moved.remove(id);
        }
    }

    /// Takes in what a health check has found, and says whether it is new. Who is well again starts slowly.
    pub fn set_health(&mut self, (id, at): Target, port: Option<&ServicePort>, healthy: bool, now: Duration) -> bool {
        if !healthy {
            return self.ill.entry(id).or_default().insert(at);
        }
        let mut recovered = false;
        keep(&mut self.ill, &id, |ill| recovered = ill.remove(&at), BTreeSet::is_empty);
        if recovered && port.is_some_and(|port| port.slow_start.is_some() && port.backends.contains_key(&at)) {
            self.starting.entry(id).or_default().insert(at, now);
        }
        recovered
    }

    /// Takes in who is drained by hand; returns whose drain has changed.
    pub fn set_drains(&mut self, drains: BTreeSet<SocketKey>) -> BTreeSet<SocketKey> {
        let before = std::mem::replace(&mut self.drains, drains);
        before.symmetric_difference(&self.drains).copied().collect()
    }

    /// The service ports whose weights move with time.
    pub fn restless(&self) -> impl Iterator<Item = &ServiceId> {
        self.starting.keys().chain(self.moved.keys())
    }

    /// The service ports whose weights feedback moves.
    pub fn moved(&self) -> Vec<ServiceId> {
        self.moved.keys().cloned().collect()
    }

    /// Gives feedback what was seen of a service port's backends; none if nothing could be seen.
    pub fn feed_back(&mut self, id: &ServiceId, now: Duration, seen: Option<&BTreeMap<SocketAddr, Observation>>) {
        if let Some(feedback) = self.moved.get_mut(id) {
            feedback.step(now, seen);
        }
    }

    /// Whether a backend has all of its weight by now: who is still starting has less by intention.
    pub fn has_started(&self, id: &ServiceId, at: &SocketAddr) -> bool {
        !self.starting.get(id).is_some_and(|starting| starting.contains_key(at))
    }

    /// Forgets who has started.
    pub fn forget_started(&mut self, id: &ServiceId, port: &ServicePort, now: Duration) {
        let time = port.slow_start.unwrap_or_default();
        keep(
            &mut self.starting,
            id,
            |starting| starting.retain(|_, born| now.saturating_sub(*born) < time),
            BTreeMap::is_empty,
        );
    }

    /// The backends of a service port that are not as usual.
    pub fn of(&self, id: &ServiceId, port: &ServicePort, now: Duration) -> BTreeMap<SocketAddr, Condition> {
        let mut conditions: BTreeMap<SocketAddr, Condition> = BTreeMap::new();
        let drained = |at: &&SocketAddr| self.drains.contains(&SocketKey::new(**at, id.protocol));
        if !self.drains.is_empty() {
            port.backends.keys().filter(drained).for_each(|at| conditions.entry(*at).or_default().drained = true);
        }
        for at in self.ill.get(id).into_iter().flatten() {
            conditions.entry(*at).or_default().healthy = false;
        }
        for (at, born) in self.starting.get(id).into_iter().flatten() {
            conditions.entry(*at).or_default().age = Some(now.saturating_sub(*born));
        }
        for (at, factor) in self.moved.get(id).map(WeightFeedback::factors).unwrap_or_default() {
            conditions.entry(at).or_default().factor = factor;
        }
        conditions
    }
}

/// Changes what is known of a service port, and forgets the service port when nothing is left.
fn keep<T>(
    all: &mut BTreeMap<ServiceId, T>,
    id: &ServiceId,
    change: impl FnOnce(&mut T),
    is_empty: impl FnOnce(&T) -> bool,
) {
    if let Some(known) = all.get_mut(id) {
        change(known);
        if is_empty(known) {
            all.remove(id);
        }
    }
}
