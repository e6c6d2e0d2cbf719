//! What all nodes carry, summed by backend from the agents' reports, and what each node is to know of the others.
//!
//! Counters of a node start again, come and go with its agent and its streams; the sums only grow: each report adds what its counters
//! have grown by. What an agent has counted before it was first heard of is not added.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use lb_common::SocketKey;

use super::{
    allocate::ServiceKey,
    counts::{self, BackendName, Counts},
    wire::{Elsewhere, Report},
};
use crate::signals::requests::{RequestLoad, grown};

/// Counts that are older than this are late.
pub const LATE: Duration = Duration::from_secs(2);

/// The sums.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By index; what has no name is free.
    totals: Vec<Total>,
    free: Vec<u32>,
    services: HashMap<ServiceKey, HashMap<SocketKey, u32>>,
    nodes: BTreeMap<String, Node>,
}

/// A backend through all nodes.
#[derive(Clone, Debug, Default)]
struct Total {
    name: Option<Arc<BackendName>>,
    /// Nodes that have named it.
    users: u32,
    /// Those of them that measure its requests.
    measuring: u32,
    /// The sums; the requests those of the nodes that measure them.
    counts: Counts,
}

/// What a node carries.
#[derive(Debug, Default)]
struct Node {
    parts: HashMap<u32, Part>,
    /// When its counts were read; none before the first report.
    counted: Option<Duration>,
    /// It has reported in this stream.
    heard: bool,
}

/// A backend through one node.
#[derive(Clone, Debug)]
struct Part {
    total: u32,
    counts: Counts,
    /// What was said that the others carry; none: nothing yet.
    told: Option<u64>,
    /// It was named in this stream.
    named: bool,
}

/// What the backends of a Service carry through all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// By where they listen; who is not in it has carried nothing.
    pub backends: HashMap<SocketKey, Counts>,
    /// When the oldest of the counts were read.
    pub at: Duration,
}

impl Fleet {
    /// Begins a stream of a node: what the last one has said counts until this one speaks.
    pub fn join(&mut self, node: &str) {
        let node = self.nodes.entry(node.to_owned()).or_default();
        node.heard = false;
        node.parts.values_mut().for_each(|part| (part.told, part.named) = (None, false));
    }

    /// Takes in a node's report, heard at `now`.
    pub fn take(&mut self, name: &str, report: &Report, now: Duration) {
        let Some(age) = report.counts_age else { return };
        let mut node = self.nodes.remove(name).unwrap_or_default();
        node.counted = Some(now.saturating_sub(Duration::from_millis(age.into())));
        let first = !node.heard;
        for id in &report.forgotten {
            node.parts.remove(id).into_iter().for_each(|part| self.release(part));
        }
        let is_new = node.parts.is_empty();
        for backend in &report.backends {
            if let Some(name) = counts::name(backend) {
                self.name(&mut node, backend.id, name);
            }
        }
        for sent in &report.counts {
            if let Some(part) = node.parts.get_mut(&sent.id) {
                // A node that was not known has counted before.
                self.count(part, sent.into(), first && is_new);
            }
        }
        if first {
            self.forget_unnamed(&mut node);
        }
        node.heard = true;
        self.nodes.insert(name.to_owned(), node);
    }

    fn name(&mut self, node: &mut Node, id: u32, name: BackendName) {
        let total = self.total(name);
        let same = node.parts.get(&id).filter(|part| part.total == total).cloned();
        if same.is_none() {
            self.totals[total as usize].users += 1;
        }
        let part = same.unwrap_or(Part { total, counts: Counts::default(), told: None, named: true });
        let old = node.parts.insert(id, Part { told: None, named: true, ..part });
        old.filter(|old| old.total != total).into_iter().for_each(|old| self.release(old));
    }

    /// The index of a backend.
    fn total(&mut self, name: BackendName) -> u32 {
        let known = self.services.get(&name.service).and_then(|backends| backends.get(&name.socket));
        if let Some(known) = known {
            return *known;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.totals.push(Total::default());
            self.totals.len() as u32 - 1
        });
        self.services.entry(name.service.clone()).or_default().insert(name.socket, index);
        self.totals[index as usize] = Total { name: Some(Arc::new(name)), ..Total::default() };
        index
    }

    fn count(&mut self, part: &mut Part, new: Counts, is_baseline: bool) {
        let sum = &mut self.totals[part.total as usize];
        count_requests(sum, part.counts.requests.as_deref(), new.requests.as_deref(), is_baseline);
        let (total, old) = (&mut sum.counts, &part.counts);
        let growth = |old: u64, new: u64| if is_baseline { 0 } else { grown(old, new) };
        total.active = (total.active + new.active).saturating_sub(old.active);
        total.pending = (total.pending + new.pending).saturating_sub(old.pending);
        total.connections += growth(old.connections, new.connections);
        total.bytes += growth(old.bytes, new.bytes);
        part.counts = new;
    }

    /// What a new stream has not named in its first report is gone.
    fn forget_unnamed(&mut self, node: &mut Node) {
        let gone: Vec<u32> = node.parts.iter().filter(|(_, part)| !part.named).map(|(id, _)| *id).collect();
        for id in gone {
            node.parts.remove(&id).into_iter().for_each(|part| self.release(part));
        }
    }

    /// A node has nothing to do with a backend any more.
    fn release(&mut self, part: Part) {
        let total = &mut self.totals[part.total as usize];
        total.users -= 1;
        count_requests(total, part.counts.requests.as_deref(), None, false);
        total.counts.active = total.counts.active.saturating_sub(part.counts.active);
        total.counts.pending = total.counts.pending.saturating_sub(part.counts.pending);
        if total.users > 0 {
            return;
        }
        let Some(name) = std::mem::take(total).name else { return };
        self.free.push(part.total);
        if let Some(backends) = self.services.get_mut(&name.service) {
            backends.remove(&name.socket);
            if backends.is_empty() {
                self.services.remove(&name.service);
            }
        }
    }

    /// A node is gone, with all that it carried.
    pub fn forget(&mut self, node: &str) {
        let parts = self.nodes.remove(node).map(|node| node.parts).unwrap_or_default();
        parts.into_values().for_each(|part| self.release(part));
    }

    /// What the other nodes carry, as far as it is not what this node was told last.
    pub fn elsewhere(&mut self, node: &str) -> Vec<Elsewhere> {
        let Some(node) = self.nodes.get_mut(node).filter(|node| node.heard) else { return Vec::new() };
        let mut news = Vec::new();
        for (id, part) in &mut node.parts {
            let active = self.totals[part.total as usize].counts.active.saturating_sub(part.counts.active);
            if part.told != Some(active) {
                part.told = Some(active);
                news.push(Elsewhere { id: *id, active });
            }
        }
        news
    }

    /// The nodes whose counts are known, and when they were read.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.nodes.iter().filter_map(|(name, node)| Some((name.as_str(), node.counted?)))
    }

    /// When the oldest counts were read, of nodes that are not late, and by Service of those that are.
    pub fn ages(&self, now: Duration) -> Ages {
        let mut ages = Ages { usual: now, late: HashMap::new() };
        for node in self.nodes.values() {
            let Some(counted) = node.counted else { continue };
            if now.saturating_sub(counted) <= LATE {
                ages.usual = ages.usual.min(counted);
                continue;
            }
            for part in node.parts.values() {
                let Some(name) = &self.totals[part.total as usize].name else { continue };
                let at = ages.late.entry(name.service.clone()).or_insert(counted);
                *at = counted.min(*at);
            }
        }
        ages
    }

    /// What the backends of a Service carry.
    pub fn service(&self, service: &ServiceKey, ages: &Ages) -> ServiceCounts {
        let backends = self.services.get(service).into_iter().flatten();
        ServiceCounts {
            backends: backends.map(|(socket, index)| (*socket, self.totals[*index as usize].counts())).collect(),
            at: ages.late.get(service).copied().unwrap_or(ages.usual),
        }
    }
}

impl Total {
    /// The sums; of requests nothing is said while a node that carries some does not measure them.
    fn counts(&self) -> Counts {
        let requests = self.counts.requests.as_ref().filter(|_| self.measuring == self.users);
        Counts { requests: requests.cloned(), ..self.counts.clone() }
    }
}

/// Adds what the requests through one node have grown by.
fn count_requests(total: &mut Total, old: Option<&RequestLoad>, new: Option<&RequestLoad>, is_baseline: bool) {
    total.measuring = total.measuring + u32::from(new.is_some()) - u32::from(old.is_some());
    if old.is_none() && new.is_none() {
        return;
    }
    let nothing = RequestLoad::default();
    let sum = total.counts.requests.get_or_insert_default();
    sum.in_flight = sum.in_flight.saturating_sub(old.unwrap_or(&nothing).in_flight);
    if let Some(new) = new {
        // What was counted before anybody heard of it is not added.
        let before = if is_baseline { new } else { old.unwrap_or(&nothing) };
        sum.add(&new.since(before));
    }
}

/// How old what is known is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    usual: Duration,
    late: HashMap<ServiceKey, Duration>,
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
