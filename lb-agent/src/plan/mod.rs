//! The plan: from what the kernel holds and what should be, the writes that lead from one to the other.
//!
//! The writes are ordered so that no packet ever meets half of a change: first what is new (names, endpoints, backends, selection
//! tables, which nobody names yet), then frontends, each in one step, then what is gone. What a packet may still be using is freed
//! after a barrier, and what flows still use is freed by [`finish()`]. A live backend never changes its index.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{
    Addr, Algorithm, Backend, BackendState, Frontend, SocketKey, Vip,
    backend::BACKEND_LOCAL,
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
    service::{FRONTEND_AFFINITY, VIP_LIVE, VIP_REMOVED},
};

use crate::{
    balance::{self, Built, Entry, maglev},
    dataplane::{Capacity, Tables, Write},
    model::ServiceId,
};

mod finish;
mod free;
mod known;
#[cfg(test)]
mod tests;

pub use finish::{Swept, finish};
use free::{Indexes, Runs};
use known::Known;
pub use known::{service_id, service_name};

/// What should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The service ports.
    pub services: BTreeMap<ServiceId, DesiredService>,
    /// Services of the kernel that are not named here stay as they are: it is not known whether they should.
    pub keep_others: bool,
}

/// What should be in the kernel of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    /// The port's name, may be empty.
    pub port_name: String,
    /// Its frontends.
    pub frontends: BTreeSet<SocketKey>,
    /// How a backend is selected.
    pub algorithm: Algorithm,
    /// Session affinity's timeout.
    pub affinity: Option<Duration>,
    /// The Maglev table's size, if it does not follow the number of backends.
    pub maglev_size: Option<u32>,
    /// Its backends.
    pub backends: BTreeMap<SocketAddr, DesiredBackend>,
}

/// What should be in the kernel of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its node's name, may be empty.
    pub node: String,
    /// Whether it is on this node.
    pub local: bool,
    /// What a remote backend sees as its client.
    pub source: Addr,
    /// Static weight.
    pub weight: u16,
    /// The weight selection uses.
    pub effective_weight: u16,
    /// Its state.
    pub state: BackendState,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A map is too small.
    #[error(
        "there is room for {capacity} {what}, which is not enough: nothing was changed; run `weir detach` (which ends their \
         connections) and start with a larger {flag}: maps that exist keep their size"
    )]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        capacity: u32,
        /// What makes it larger.
        flag: &'static str,
    },
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What the kernel holds.
    pub tables: &'a Tables,
    /// What should be.
    pub desired: &'a Desired,
    /// What the last plan was for, if `tables` are its result: services that are equal in both are not looked at again.
    pub applied: Option<&'a Desired>,
    /// The maps' room.
    pub capacity: &'a Capacity,
    /// The incarnation of new backends: not 0, and another one than when an index was last given away. The node's uptime in seconds.
    pub stamp: u32,
}

/// The smallest sequence of writes.
pub fn plan(input: Input<'_>) -> Result<Vec<Write>, PlanError> {
    let mut planner = Planner::new(input);
    for (id, service) in &input.desired.services {
        if input.applied.is_some_and(|applied| applied.services.get(id) == Some(service)) {
            planner.unchanged(id);
        } else {
            planner.service(id, service)?;
        }
    }
    Ok(planner.finish())
}

struct Planner<'a> {
    tables: &'a Tables,
    keep_others: bool,
    stamp: u32,
    known: Known,
    services: Indexes,
    backends: Indexes,
    endpoints: Indexes,
    vips: Indexes,
    runs: Runs,
    new_endpoints: BTreeMap<SocketKey, u32>,
    /// The frontends as they will be.
    frontends: BTreeMap<SocketKey, Frontend>,
    wanted_services: BTreeSet<u32>,
    wanted_frontends: BTreeSet<SocketKey>,
    wanted_backends: BTreeSet<u32>,
    additions: Vec<Write>,
    switches: Vec<Write>,
}

impl<'a> Planner<'a> {
    fn new(input: Input<'a>) -> Self {
        let (tables, room) = (input.tables, input.capacity);
        let known = Known::new(tables);
        let endpoints_in_use = tables.endpoints.values().copied().chain(tables.backends.values().map(|b| b.endpoint));
        Self {
            tables,
            keep_others: input.desired.keep_others,
            stamp: input.stamp.max(1),
            services: Indexes::new("services", room.services, "--max-frontends", known.service_indexes(tables)),
            backends: Indexes::new("backends", room.backends, "--max-backends", tables.backends.keys().copied()),
            endpoints: Indexes::new("endpoints", room.backends, "--max-backends", endpoints_in_use),
            vips: Indexes::new("frontends", room.frontends, "--max-frontends", tables.vips.keys().copied()),
            runs: Runs::new(room.slots, tables),
            known,
            new_endpoints: BTreeMap::new(),
            frontends: tables.frontends.clone(),
            wanted_services: BTreeSet::new(),
            wanted_frontends: BTreeSet::new(),
            wanted_backends: BTreeSet::new(),
            additions: Vec::new(),
            switches: Vec::new(),
        }
    }

    /// A service of which nothing changes: all it has stays.
    fn unchanged(&mut self, id: &ServiceId) {
        let Some(index) = self.known.services.get(id).copied() else { return };
        self.wanted_services.insert(index);
        let frontends = self.tables.frontends.iter().filter(|(_, f)| f.service == index);
        self.wanted_frontends.extend(frontends.map(|(key, _)| *key));
        self.wanted_backends.extend(self.known.backends_of(index));
    }

    fn service(&mut self, id: &ServiceId, service: &DesiredService) -> Result<(), PlanError> {
        let index = self.service_index(id, service)?;
        let mut entries = Vec::new();
        for (socket, backend) in &service.backends {
            let key = SocketKey::new(*socket, id.protocol);
            let number = self.backend(index, key, backend)?;
            let weight = selection_weight(service.algorithm, backend.effective_weight);
            entries.push((*socket, Entry { backend: number, weight, identity: balance::identity(*socket) }));
        }
        for v4 in [true, false] {
            let keys: Vec<SocketKey> = service.frontends.iter().filter(|key| key.addr.is_v4() == v4).copied().collect();
            let family: Vec<Entry> =
                entries.iter().filter(|(s, _)| s.is_ipv4() == v4).map(|(_, entry)| *entry).collect();
            if !keys.is_empty() {
                self.frontends_of(index, service, &keys, &family)?;
            }
        }
        Ok(())
    }

    fn service_index(&mut self, id: &ServiceId, service: &DesiredService) -> Result<u32, PlanError> {
        let index = match self.known.services.get(id) {
            Some(index) => *index,
            None => self.services.take()?,
        };
        self.wanted_services.insert(index);
        self.name(NameKey { kind: NAME_SERVICE, index }, service_name(id, &service.port_name));
        Ok(index)
    }

    fn name(&mut self, key: NameKey, text: String) {
        if self.tables.names.get(&key) != Some(&text) {
            self.additions.push(Write::PutName(key, text));
        }
    }

    /// Adds a backend or brings it up to date, and says its index.
    fn backend(&mut self, service: u32, key: SocketKey, wanted: &DesiredBackend) -> Result<u32, PlanError> {
        let endpoint = self.endpoint(key)?;
        let known = self.known.backends.get(&(service, key)).copied();
        let index = match known {
            Some(index) => index,
            None => self.backends.take()?,
        };
        let current = known.and_then(|index| self.tables.backends.get(&index));
        let backend = Backend {
            addr: key.addr,
            source: wanted.source,
            port: key.port,
            protocol: key.protocol,
            flags: if wanted.local { BACKEND_LOCAL } else { 0 },
            effective_weight: wanted.effective_weight,
            weight: wanted.weight,
            endpoint,
            service,
            incarnation: current.map_or(self.stamp, |b| b.incarnation),
            state: wanted.state as u8,
            zero: [0; 3],
            zero2: [0; 2],
        };
        self.name(NameKey { kind: NAME_BACKEND, index }, wanted.node.clone());
        if current != Some(&backend) {
            self.additions.push(Write::PutBackend(index, backend));
        }
        self.wanted_backends.insert(index);
        Ok(index)
    }

    fn endpoint(&mut self, key: SocketKey) -> Result<u32, PlanError> {
        if let Some(id) = self.tables.endpoints.get(&key).or_else(|| self.new_endpoints.get(&key)) {
            return Ok(*id);
        }
        let id = self.endpoints.take()?;
        self.new_endpoints.insert(key, id);
        self.additions.push(Write::PutEndpoint(key, id));
        Ok(id)
    }

    /// Brings the frontends of one family up to date; they share a selection table.
    fn frontends_of(
        &mut self,
        index: u32,
        service: &DesiredService,
        keys: &[SocketKey],
        entries: &[Entry],
    ) -> Result<(), PlanError> {
        let taking = entries.iter().filter(|e| e.weight > 0).count();
        let size = service.maglev_size.unwrap_or_else(|| maglev::size_for(taking));
        let built = balance::build(service.algorithm.table(), entries, size);
        let (table_offset, table_len) = (self.table(index, keys, &built)?, built.len);
        for key in keys {
            let frontend = Frontend {
                id: self.vip(*key)?,
                service: index,
                table_offset,
                table_len,
                affinity_seconds: service.affinity.map_or(0, |time| time.as_secs() as u32),
                algorithm: service.algorithm as u8,
                flags: if service.affinity.is_some() { FRONTEND_AFFINITY } else { 0 },
                zero: 0,
            };
            if self.frontends.insert(*key, frontend) != Some(frontend) {
                self.switches.push(Write::PutFrontend(*key, frontend));
            }
            self.wanted_frontends.insert(*key);
        }
        Ok(())
    }

    /// Where a selection table is: in the run the service has, if that is the same, else in a new one.
    fn table(&mut self, index: u32, keys: &[SocketKey], built: &Built) -> Result<u32, PlanError> {
        if built.slots.is_empty() {
            return Ok(0);
        }
        let current = keys.iter().filter_map(|key| self.tables.frontends.get(key)).filter(|f| f.service == index);
        for frontend in current {
            if self.tables.slots.get(&frontend.table_offset) == Some(&built.slots) {
                return Ok(frontend.table_offset);
            }
        }
        let offset = self.runs.take(built.slots.len() as u32)?;
        self.additions.push(Write::PutSlots(offset, built.slots.clone()));
        Ok(offset)
    }

    /// The frontend's id: its own, that of its last life if flows may still name it, or a new one.
    fn vip(&mut self, key: SocketKey) -> Result<u32, PlanError> {
        let id = match self.frontends.get(&key).map(|f| f.id).or_else(|| self.known.vips.get(&key).copied()) {
            Some(id) => id,
            None => self.vips.take()?,
        };
        let vip = Vip { key, live: VIP_LIVE };
        if self.tables.vips.get(&id) != Some(&vip) {
            self.switches.push(Write::PutVip(id, vip));
        }
        Ok(id)
    }

    /// All writes, with the removal of what is not wanted.
    fn finish(mut self) -> Vec<Write> {
        let removed = self.removed_frontends();
        let vips = self.removed_vips();
        let runs = self.unused_runs();
        let backends = self.removed_backends();
        let mut writes = self.additions;
        writes.append(&mut self.switches);
        writes.extend(removed.into_iter().map(Write::DeleteFrontend));
        writes.extend(vips);
        if !runs.is_empty() || !backends.is_empty() {
            writes.push(Write::Barrier);
        }
        writes.extend(runs.into_iter().map(Write::FreeSlots));
        writes.extend(backends);
        writes
    }

    fn stays(&self, service: u32) -> bool {
        self.keep_others && !self.wanted_services.contains(&service)
    }

    fn removed_frontends(&mut self) -> Vec<SocketKey> {
        let gone = |(key, f): &(&SocketKey, &Frontend)| !self.wanted_frontends.contains(*key) && !self.stays(f.service);
        let removed: Vec<SocketKey> = self.frontends.iter().filter(gone).map(|(key, _)| *key).collect();
        for key in &removed {
            self.frontends.remove(key);
        }
        removed
    }

    fn removed_vips(&self) -> Vec<Write> {
        let used: BTreeSet<u32> = self.frontends.values().map(|f| f.id).collect();
        let gone = self.tables.vips.iter().filter(|(id, vip)| vip.live == VIP_LIVE && !used.contains(id));
        gone.map(|(id, vip)| Write::PutVip(*id, Vip { live: VIP_REMOVED, ..*vip })).collect()
    }

    fn unused_runs(&self) -> Vec<u32> {
        let used: BTreeSet<u32> = self.frontends.values().filter(|f| f.table_len > 0).map(|f| f.table_offset).collect();
        self.tables.slots.keys().filter(|offset| !used.contains(offset)).copied().collect()
    }

    fn removed_backends(&self) -> Vec<Write> {
        let gone = |(index, backend): &(&u32, &Backend)| {
            let wanted = self.wanted_backends.contains(*index) || self.stays(backend.service);
            !wanted && (backend.state != BackendState::Removed as u8 || backend.effective_weight != 0)
        };
        let removed = |b: &Backend| Backend { state: BackendState::Removed as u8, effective_weight: 0, ..*b };
        self.tables.backends.iter().filter(gone).map(|(i, b)| Write::PutBackend(*i, removed(b))).collect()
    }
}

/// Plain round robin knows only who takes connections and who does not.
fn selection_weight(algorithm: Algorithm, weight: u16) -> u16 {
    if algorithm == Algorithm::RoundRobin { weight.min(1) } else { weight }
}
