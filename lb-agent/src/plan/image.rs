//! What the kernel holds, as the agent remembers it, and what follows from it: who is who, who is used by whom, what is free.
//!
//! An agent that takes over knows services and backends again by their names and addresses. Every write is followed in time that does
//! not grow with the number of services, so that no change needs a look at everything.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_common::{
    Backend, BackendState, Frontend, Protocol, SocketKey, Vip,
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
    service::VIP_REMOVED,
};

use super::{free::Gaps, ids::Ids, names::service_id};
use crate::{
    dataplane::{self, Inspect, Tables, Write},
    model::ServiceId,
    pack::pack,
};

/// A selection table in the `slots` map, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number of slots.
    pub len: u32,
    /// A hash of its slots.
    pub hash: u64,
}

impl Run {
    /// What is remembered of these slots.
    pub fn of(slots: impl IntoIterator<Item = u64>) -> Self {
        let start = Self { len: 0, hash: lb_common::hash::SELECTION_SEED };
        let add = |run: Self, slot: u64| Self { len: run.len + 1, hash: lb_common::hash::mix(run.hash ^ slot) };
        slots.into_iter().fold(start, add)
    }
}

/// What a service port has in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    protocol: u8,
    pub(super) frontends: BTreeSet<SocketKey>,
    /// Its backends, the removed ones too.
    pub(super) backends: BTreeSet<u32>,
}

impl Members {
    /// Whether anything among them has said the service port's protocol: keys of whole addresses have another or none.
    fn is_of_port(&self) -> bool {
        Protocol::from_number(self.protocol).is_some()
    }
}

/// The image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub(super) frontends: BTreeMap<SocketKey, Frontend>,
    pub(super) vips: BTreeMap<u32, Vip>,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) endpoints: BTreeMap<SocketKey, u32>,
    pub(super) runs: BTreeMap<u32, Run>,
    pub(super) names: BTreeMap<NameKey, String>,
    pub(super) ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Index of each service port that has a frontend or a backend.
    pub(super) services: BTreeMap<ServiceId, u32>,
    pub(super) members: BTreeMap<u32, Members>,
    pub(super) service_ids: Ids,
    pub(super) backend_ids: Ids,
    pub(super) endpoint_ids: Ids,
    pub(super) vip_ids: Ids,
    run_users: BTreeMap<u32, u32>,
    pub(super) gaps: Gaps,
    /// Runs that no frontend names.
    pub(super) idle_runs: BTreeSet<u32>,
    /// Vips that are not their frontend's.
    pub(super) idle_vips: BTreeSet<(SocketKey, u32)>,
    /// Endpoints without a backend.
    pub(super) idle_endpoints: BTreeSet<SocketKey>,
    /// Names of nobody.
    pub(super) idle_names: BTreeSet<NameKey>,
    removed_backends: BTreeSet<u32>,
    removed_vips: BTreeSet<u32>,
}

impl From<&Tables> for Image {
    fn from(tables: &Tables) -> Self {
        Self::new(tables.clone(), tables.slots.iter().map(|(at, slots)| (*at, Run::of(slots.iter().copied()))))
    }
}

impl Image {
    /// The image of these tables, whose slots are not looked at, and runs.
    pub fn new(tables: Tables, runs: impl IntoIterator<Item = (u32, Run)>) -> Self {
        let mut image = Self::default();
        runs.into_iter().for_each(|(offset, run)| image.put_run(offset, run));
        tables.names.into_iter().for_each(|(key, name)| image.put_name(key, name));
        tables.endpoints.into_iter().for_each(|(key, id)| image.put_endpoint(key, id));
        tables.backends.into_iter().for_each(|(index, backend)| image.put_backend(index, backend));
        tables.vips.into_iter().for_each(|(id, vip)| image.put_vip(id, vip));
        tables.frontends.into_iter().for_each(|(key, frontend)| image.put_frontend(key, frontend));
        image.ranges = tables.ranges;
        image
    }

    /// The image of maps as they are.
    pub fn read(maps: &impl Inspect) -> Result<Self, dataplane::Error> {
        let frame = maps.frame()?;
        let places: BTreeMap<u32, u32> = frame.frontends.values().flat_map(dataplane::runs).collect();
        let run = |(offset, len): (u32, u32)| Ok((offset, Run::of(maps.slots(offset, len)?)));
        let runs = places.into_iter().map(run).collect::<Result<Vec<_>, dataplane::Error>>()?;
        Ok(Self::new(frame, runs))
    }

    /// Follows a write.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::PutBackend(index, backend) => self.put_backend(*index, *backend),
            Write::FreeBackend(index) => self.free_backend(*index),
            Write::PutEndpoint(key, id) => self.put_endpoint(*key, *id),
            Write::DeleteEndpoint(key) => self.delete_endpoint(key),
            Write::PutSlots(offset, slots) => self.put_run(*offset, Run::of(slots.iter().copied())),
            Write::FreeSlots(offset) => self.free_run(*offset),
            Write::PutVip(id, vip) => self.put_vip(*id, *vip),
            Write::FreeVip(id) => self.free_vip(*id),
            Write::PutFrontend(key, frontend) => self.put_frontend(*key, *frontend),
            Write::DeleteFrontend(key) => self.delete_frontend(key),
            Write::PutName(key, name) => self.put_name(*key, name.clone()),
            Write::DeleteName(key) => self.delete_name(*key),
            Write::PutRange(id, network) => drop(self.ranges.entry(*id).or_default().insert(*network)),
            Write::DeleteRange(id, network) => self.delete_range(*id, network),
            // The coordinator says which node announces what; no plan depends on it.
            Write::PutAnnounced(..) | Write::DeleteAnnounced(_) => {}
        }
    }

    /// Takes no more memory than it needs, as after the first of many writes.
    pub fn pack(&mut self) {
        pack(&mut self.frontends);
        pack(&mut self.vips);
        pack(&mut self.backends);
        pack(&mut self.endpoints);
        pack(&mut self.runs);
        pack(&mut self.names);
        pack(&mut self.services);
        pack(&mut self.members);
        pack(&mut self.run_users);
    }

    /// The frontends.
    pub fn frontends(&self) -> &BTreeMap<SocketKey, Frontend> {
        &self.frontends
    }

    /// The backends by index, the removed ones too.
    pub fn backends(&self) -> &BTreeMap<u32, Backend> {
        &self.backends
    }

    /// One more than the highest index of a backend.
    pub fn backends_end(&self) -> u32 {
        self.backend_ids.end()
    }

    /// The service ports that have a frontend or a backend, with their indexes.
    pub fn services(&self) -> &BTreeMap<ServiceId, u32> {
        &self.services
    }

    /// The service port of an index.
    pub fn service(&self, index: u32) -> Option<ServiceId> {
        let members = self.members.get(&index)?;
        let name = self.names.get(&NameKey { kind: NAME_SERVICE, index })?;
        service_id(name, Protocol::from_number(members.protocol)?).map(|(id, _)| id)
    }

    /// The backends of a service port, the removed ones too.
    pub fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, &Backend)> {
        let members = self.members.get(&service).into_iter().flat_map(|members| &members.backends);
        members.filter_map(|index| Some((*index, self.backends.get(index)?)))
    }

    /// The frontends of a service port.
    pub fn frontends_of(&self, service: u32) -> impl Iterator<Item = SocketKey> + '_ {
        self.members.get(&service).into_iter().flat_map(|members| members.frontends.iter().copied())
    }

    /// Indexes of removed backends that are not freed yet.
    pub fn removed_backends(&self) -> &BTreeSet<u32> {
        &self.removed_backends
    }

    /// Ids of removed frontends that are not freed yet.
    pub fn removed_vips(&self) -> &BTreeSet<u32> {
        &self.removed_vips
    }

    /// How many slots the selection tables have.
    pub fn slots_used(&self) -> u64 {
        self.runs.values().map(|run| u64::from(run.len)).sum()
    }

    /// Runs of slots that no frontend names.
    pub fn idle_runs(&self) -> &BTreeSet<u32> {
        &self.idle_runs
    }

    /// The id that this address had in its last life, if flows may still name it.
    pub(super) fn idle_vip(&self, key: &SocketKey) -> Option<u32> {
        let lives = self.idle_vips.range((*key, 0)..=(*key, u32::MAX));
        lives.map(|(_, id)| *id).next()
    }

    fn put_frontend(&mut self, key: SocketKey, frontend: Frontend) {
        let old = self.frontends.insert(key, frontend);
        // What stays is held by the new one before the old one lets go of it.
        dataplane::runs(&frontend).for_each(|(offset, _)| self.hold_run(offset));
        self.hold_service(frontend.service, key.protocol);
        if let Some(old) = old {
            self.release_frontend(key, &old);
        }
        if let Some(members) = self.members.get_mut(&frontend.service) {
            members.frontends.insert(key);
        }
        self.idle_vips.remove(&(key, frontend.id));
    }

    fn delete_frontend(&mut self, key: &SocketKey) {
        if let Some(old) = self.frontends.remove(key) {
            self.release_frontend(*key, &old);
        }
    }

    fn release_frontend(&mut self, key: SocketKey, old: &Frontend) {
        dataplane::runs(old).for_each(|(offset, _)| self.release_run(offset));
        if let Some(members) = self.members.get_mut(&old.service) {
            members.frontends.remove(&key);
        }
        self.release_service(old.service);
        if self.vips.get(&old.id).is_some_and(|vip| vip.key == key) {
            self.idle_vips.insert((key, old.id));
        }
    }

    fn put_backend(&mut self, index: u32, backend: Backend) {
        let old = self.backends.insert(index, backend);
        self.hold_service(backend.service, backend.protocol);
        self.endpoint_ids.hold(backend.endpoint);
        match old {
            Some(old) => self.release_backend(index, &old),
            None => self.backend_ids.hold(index),
        }
        if let Some(members) = self.members.get_mut(&backend.service) {
            members.backends.insert(index);
        }
        if backend.state == BackendState::Removed as u8 {
            self.removed_backends.insert(index);
        }
        self.refresh_endpoint(&backend.key());
        self.refresh_name(NameKey { kind: NAME_BACKEND, index });
    }

    fn free_backend(&mut self, index: u32) {
        if let Some(old) = self.backends.remove(&index) {
            self.release_backend(index, &old);
            self.backend_ids.release(index);
            self.refresh_name(NameKey { kind: NAME_BACKEND, index });
        }
    }

    fn release_backend(&mut self, index: u32, old: &Backend) {
        if let Some(members) = self.members.get_mut(&old.service) {
            members.backends.remove(&index);
        }
        self.release_service(old.service);
        self.endpoint_ids.release(old.endpoint);
        self.removed_backends.remove(&index);
        self.refresh_endpoint(&old.key());
    }

    fn put_endpoint(&mut self, key: SocketKey, id: u32) {
        self.endpoint_ids.hold(id);
        if let Some(old) = self.endpoints.insert(key, id) {
            self.endpoint_ids.release(old);
        }
        self.refresh_endpoint(&key);
    }

    fn delete_endpoint(&mut self, key: &SocketKey) {
        if let Some(old) = self.endpoints.remove(key) {
            self.endpoint_ids.release(old);
        }
        self.refresh_endpoint(key);
    }

    /// An endpoint whose only user is itself is idle.
    fn refresh_endpoint(&mut self, key: &SocketKey) {
        match self.endpoints.get(key) {
            Some(id) if self.endpoint_ids.users(*id) == 1 => self.idle_endpoints.insert(*key),
            _ => self.idle_endpoints.remove(key),
        };
    }

    fn put_vip(&mut self, id: u32, vip: Vip) {
        match self.vips.insert(id, vip) {
            Some(old) => drop(self.idle_vips.remove(&(old.key, id))),
            None => self.vip_ids.hold(id),
        }
        if self.frontends.get(&vip.key).is_none_or(|frontend| frontend.id != id) {
            self.idle_vips.insert((vip.key, id));
        }
        if vip.live == VIP_REMOVED {
            self.removed_vips.insert(id)
        } else {
            self.removed_vips.remove(&id)
        };
    }

    fn free_vip(&mut self, id: u32) {
        if let Some(old) = self.vips.remove(&id) {
            self.idle_vips.remove(&(old.key, id));
            self.vip_ids.release(id);
            self.removed_vips.remove(&id);
        }
    }

    fn put_run(&mut self, offset: u32, run: Run) {
        self.free_run(offset);
        self.gaps.take(offset, run.len);
        self.runs.insert(offset, run);
        if !self.run_users.contains_key(&offset) {
            self.idle_runs.insert(offset);
        }
    }

    fn free_run(&mut self, offset: u32) {
        if let Some(run) = self.runs.remove(&offset) {
            self.gaps.free(offset, run.len);
            self.idle_runs.remove(&offset);
        }
    }

    fn hold_run(&mut self, offset: u32) {
        *self.run_users.entry(offset).or_default() += 1;
        self.idle_runs.remove(&offset);
    }

    fn release_run(&mut self, offset: u32) {
        let Some(users) = self.run_users.get_mut(&offset) else { return };
        *users -= 1;
        if *users == 0 {
            self.run_users.remove(&offset);
            if self.runs.contains_key(&offset) {
                self.idle_runs.insert(offset);
            }
        }
    }

    fn hold_service(&mut self, index: u32, protocol: u8) {
        self.service_ids.hold(index);
        if self.service_ids.users(index) == 1 {
            self.members.insert(index, Members { protocol, ..Members::default() });
            self.link(index);
        } else if let Some(members) = self.members.get_mut(&index).filter(|members| !members.is_of_port()) {
            members.protocol = protocol;
            self.link(index);
        }
    }

    fn release_service(&mut self, index: u32) {
        self.service_ids.release(index);
        if self.service_ids.users(index) == 0 {
            self.unlink(index);
            self.members.remove(&index);
            self.refresh_name(NameKey { kind: NAME_SERVICE, index });
        }
    }

    fn put_name(&mut self, key: NameKey, name: String) {
        if key.kind == NAME_SERVICE {
            self.unlink(key.index);
        }
        self.names.insert(key, name);
        if key.kind == NAME_SERVICE {
            self.link(key.index);
        }
        self.refresh_name(key);
    }

    fn delete_name(&mut self, key: NameKey) {
        if key.kind == NAME_SERVICE {
            self.unlink(key.index);
        }
        self.names.remove(&key);
        self.refresh_name(key);
    }

    fn refresh_name(&mut self, key: NameKey) {
        let used = match key.kind {
            NAME_SERVICE => self.members.contains_key(&key.index),
            NAME_BACKEND => self.backends.contains_key(&key.index),
            _ => true,
        };
        if self.names.contains_key(&key) && !used {
            self.idle_names.insert(key);
        } else {
            self.idle_names.remove(&key);
        }
    }

    fn link(&mut self, index: u32) {
        if let Some(id) = self.service(index) {
            self.services.insert(id, index);
        }
        self.refresh_name(NameKey { kind: NAME_SERVICE, index });
    }

    fn unlink(&mut self, index: u32) {
        if let Some(id) = self.service(index)
            && self.services.get(&id) == Some(&index)
        {
            self.services.remove(&id);
        }
    }

    fn delete_range(&mut self, id: u32, network: &IpNet) {
        if let Some(networks) = self.ranges.get_mut(&id) {
            networks.remove(network);
            if networks.is_empty() {
                self.ranges.remove(&id);
            }
        }
    }
}
