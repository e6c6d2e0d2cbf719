//! The plan for one service port that should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ipnet::IpNet;
use lb_common::{
    Algorithm, Backend, Frontend, Protocol, Selection, SocketKey, Vip,
    backend::{BACKEND_LOCAL, BACKEND_TARGET},
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
    service::{
        FRONTEND_AFFINITY, FRONTEND_DROP_INSIDE, FRONTEND_DROP_OUTSIDE, FRONTEND_FORWARDS, FRONTEND_MEASURED,
        FRONTEND_RANGES, FRONTEND_WAKES, VIP_FORWARDS, VIP_LIVE, VIP_MEASURED,
    },
};

use super::{DesiredBackend, DesiredService, Input, Plan, PlanError, Run, names::service_name, retire};
use crate::{
    balance::{
        self, Entry, maglev,
        reach::{self, Candidate, Kind},
    },
    dataplane::Write,
    model::{Forwarding, FrontendSpec, Reach, ServiceId},
};

/// The smallest sequence of writes for a service port.
pub(super) fn plan(input: Input<'_>, id: &ServiceId, service: &DesiredService) -> Result<Plan, PlanError> {
    let mut planner = Planner::new(input, id, service)?;
    for family in Family::both(service) {
        planner.family(&family)?;
    }
    Ok(planner.finish())
}

/// The half of a service port that has one kind of address.
struct Family<'a> {
    frontends: Vec<(SocketKey, &'a FrontendSpec)>,
    backends: Vec<(SocketAddr, &'a DesiredBackend, Candidate)>,
    /// Who takes connections of each reach that a frontend has.
    kinds: BTreeMap<Reach, Option<Kind>>,
    /// Whether anybody would if the connection might go anywhere.
    somewhere: bool,
}

impl<'a> Family<'a> {
    fn both(service: &'a DesiredService) -> [Self; 2] {
        [true, false].map(|v4| Self::new(service, v4))
    }

    fn new(service: &'a DesiredService, v4: bool) -> Self {
        let frontends = service.frontends.iter().filter(|(key, _)| key.addr.is_v4() == v4);
        let frontends: Vec<_> = frontends.map(|(key, spec)| (*key, spec)).collect();
        let backends = service.backends.iter().filter(|(at, _)| at.is_ipv4() == v4);
        let backends: Vec<_> = backends.map(|(at, backend)| (*at, backend, candidate(backend))).collect();
        let candidates: Vec<Candidate> = backends.iter().map(|(_, _, candidate)| *candidate).collect();
        let kinds = reaches(&frontends).into_iter().map(|reach| (reach, reach::kind(reach, &candidates))).collect();
        let somewhere = reach::kind(Reach::Cluster, &candidates).is_some();
        Self { frontends, backends, kinds, somewhere }
    }

    fn takes(&self, reach: Reach, candidate: &Candidate) -> bool {
        self.kinds.get(&reach).copied().flatten().is_some_and(|kind| kind(candidate))
    }

    /// The weight that selection uses: 0 if no table has the backend.
    fn weight(&self, candidate: &Candidate) -> u16 {
        if self.kinds.keys().any(|reach| self.takes(*reach, candidate)) { candidate.weight } else { 0 }
    }
}

/// The reaches that frontends have; without any, backends are seen as open to all.
fn reaches(frontends: &[(SocketKey, &FrontendSpec)]) -> BTreeSet<Reach> {
    let reaches: BTreeSet<Reach> = frontends.iter().flat_map(|(_, spec)| [spec.inside, spec.outside]).collect();
    if reaches.is_empty() { [Reach::Cluster].into() } else { reaches }
}

fn candidate(backend: &DesiredBackend) -> Candidate {
    Candidate {
        state: backend.state,
        weight: backend.effective_weight,
        local: backend.local,
        far: backend.far,
        serving: backend.serving,
    }
}

/// Plain round robin knows only who takes connections and who does not.
fn selection_weight(algorithm: Algorithm, weight: u16) -> u16 {
    if algorithm == Algorithm::RoundRobin { weight.min(1) } else { weight }
}

struct Planner<'a> {
    input: Input<'a>,
    id: &'a ServiceId,
    service: &'a DesiredService,
    index: u32,
    /// The backends it has, the removed ones too.
    known: BTreeMap<SocketKey, u32>,
    free_backends: Box<dyn Iterator<Item = u32> + 'a>,
    free_endpoints: Box<dyn Iterator<Item = u32> + 'a>,
    free_vips: Box<dyn Iterator<Item = u32> + 'a>,
    /// Where its selection tables are, those it has and those it gets.
    runs: BTreeMap<u32, Run>,
    new_runs: Vec<(u32, u32)>,
    wanted_backends: BTreeSet<u32>,
    additions: Vec<Write>,
    switches: Vec<Write>,
}

impl<'a> Planner<'a> {
    fn new(input: Input<'a>, id: &'a ServiceId, service: &'a DesiredService) -> Result<Self, PlanError> {
        let (image, room) = (input.image, input.capacity);
        let known = image.services.get(id).copied();
        let index = known.or_else(|| image.service_ids.free(room.services).next());
        let index = index.ok_or_else(|| full(id, "services", room.services, "--max-frontends"))?;
        let mut planner = Self {
            input,
            id,
            service,
            index,
            known: image.backends_of(index).map(|(number, backend)| (backend.key(), number)).collect(),
            free_backends: Box::new(image.backend_ids.free(room.backends)),
            free_endpoints: Box::new(image.endpoint_ids.free(room.backends)),
            free_vips: Box::new(image.vip_ids.free(room.frontends)),
            runs: own_runs(input, index),
            new_runs: Vec::new(),
            wanted_backends: BTreeSet::new(),
            additions: Vec::new(),
            switches: Vec::new(),
        };
        planner.name(NameKey { kind: NAME_SERVICE, index }, &service_name(id, &service.port_name));
        Ok(planner)
    }

    fn name(&mut self, key: NameKey, text: &str) {
        if self.input.image.names.get(&key).is_none_or(|known| known != text) {
            self.additions.push(Write::PutName(key, text.to_owned()));
        }
    }

    /// Brings the backends and frontends of one family up to date.
    fn family(&mut self, family: &Family<'_>) -> Result<(), PlanError> {
        let mut entries = Vec::new();
        for (socket, backend, candidate) in &family.backends {
            let number = self.backend(*socket, backend, family.weight(candidate))?;
            let weight = selection_weight(self.service.algorithm, candidate.weight);
            entries.push((Entry { backend: number, weight, identity: balance::identity(*socket) }, *candidate));
        }
        if family.frontends.is_empty() {
            return Ok(());
        }
        let mut tables = BTreeMap::new();
        for reach in family.kinds.keys() {
            let taking = entries.iter().filter(|(_, candidate)| family.takes(*reach, candidate));
            tables.insert(*reach, self.table(&taking.map(|(entry, _)| *entry).collect::<Vec<_>>())?);
        }
        for (key, spec) in &family.frontends {
            self.frontend(*key, spec, &tables, family.somewhere)?;
        }
        Ok(())
    }

    /// Adds a backend or brings it up to date, and says its index.
    fn backend(&mut self, socket: SocketAddr, wanted: &DesiredBackend, weight: u16) -> Result<u32, PlanError> {
        let key = SocketKey::new(socket, self.id.protocol);
        let endpoint = self.endpoint(key)?;
        let known = self.known.get(&key).copied();
        let index = known.or_else(|| self.free_backends.next());
        let index = index.ok_or_else(|| self.full("backends", self.input.capacity.backends, "--max-backends"))?;
        let current = known.and_then(|index| self.input.image.backends.get(&index));
        let backend = Backend {
            addr: key.addr,
            source: wanted.source,
            port: key.port,
            protocol: key.protocol,
            flags: self.backend_flags(wanted),
            effective_weight: weight,
            weight: wanted.weight,
            endpoint,
            service: self.index,
            incarnation: current.map_or(self.input.stamp.max(1), |b| b.incarnation),
            state: wanted.state as u8,
            zero: [0; 3],
            response_idle: self.response_idle(),
            zero2: 0,
        };
        self.name(NameKey { kind: NAME_BACKEND, index }, &wanted.node);
        if current != Some(&backend) {
            self.additions.push(Write::PutBackend(index, backend));
        }
        self.wanted_backends.insert(index);
        Ok(index)
    }

    /// Other nodes may forward to a local backend, whether or not this one has anybody to forward to.
    fn backend_flags(&self, wanted: &DesiredBackend) -> u8 {
        match (wanted.local, self.service.forwarding) {
            (false, _) => 0,
            (true, Forwarding::Nat) => BACKEND_LOCAL,
            (true, Forwarding::Dsr) => BACKEND_LOCAL | BACKEND_TARGET,
        }
    }

    /// Whether packets for a frontend may come from other nodes, and go to them.
    fn forwards(&self, spec: &FrontendSpec) -> bool {
        self.service.forwarding == Forwarding::Dsr && !spec.at_node && !spec.is_nowhere()
    }

    /// [`Backend::response_idle`]: of UDP nothing is measured.
    fn response_idle(&self) -> u32 {
        let idle = self.service.response_idle.filter(|_| self.id.protocol == Protocol::Tcp);
        idle.map_or(0, |idle| u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).max(1))
    }

    fn endpoint(&mut self, key: SocketKey) -> Result<u32, PlanError> {
        if let Some(id) = self.input.image.endpoints.get(&key) {
            return Ok(*id);
        }
        let id = self.free_endpoints.next();
        let id = id.ok_or_else(|| self.full("endpoints", self.input.capacity.backends, "--max-backends"))?;
        self.additions.push(Write::PutEndpoint(key, id));
        Ok(id)
    }

    /// Where a selection table is: in a run that the service port has, if that is the same, else in a new one.
    fn table(&mut self, entries: &[Entry]) -> Result<Selection, PlanError> {
        let size = self.service.maglev_size.unwrap_or_else(|| maglev::size_for(entries.len()));
        let built = balance::build(self.service.algorithm.table(), entries, size);
        if built.slots.is_empty() {
            return Ok(Selection::default());
        }
        let run = Run::of(built.slots.iter().copied());
        if let Some((offset, _)) = self.runs.iter().find(|(_, known)| **known == run) {
            return Ok(Selection { offset: *offset, len: built.len });
        }
        let room = self.input.capacity.slots;
        let offset = self.input.image.gaps.find(run.len, room, &self.new_runs);
        let offset = offset.ok_or_else(|| self.full("slots", room, "--max-slots"))?;
        self.new_runs.push((offset, run.len));
        self.runs.insert(offset, run);
        self.additions.push(Write::PutSlots(offset, built.slots));
        Ok(Selection { offset, len: built.len })
    }

    fn frontend(
        &mut self,
        key: SocketKey,
        spec: &FrontendSpec,
        tables: &BTreeMap<Reach, Selection>,
        somewhere: bool,
    ) -> Result<(), PlanError> {
        let table = |reach| tables.get(&reach).copied().unwrap_or_default();
        let (inside, outside) = (table(spec.inside), table(spec.outside));
        let dropped = |reach, table: Selection| reach == Reach::Local && table.len == 0 && somewhere;
        let flags = [
            (self.service.affinity.is_some(), FRONTEND_AFFINITY),
            (spec.ranges.is_some(), FRONTEND_RANGES),
            (self.response_idle() != 0, FRONTEND_MEASURED),
            (dropped(spec.inside, inside), FRONTEND_DROP_INSIDE),
            (dropped(spec.outside, outside), FRONTEND_DROP_OUTSIDE),
            (self.service.wakes && !spec.is_nowhere(), FRONTEND_WAKES),
            (self.forwards(spec), FRONTEND_FORWARDS),
        ];
        let frontend = Frontend {
            id: self.vip(key, spec)?,
            service: self.index,
            inside,
            outside,
            affinity_seconds: self.service.affinity.map_or(0, |time| time.as_secs() as u32),
            algorithm: self.service.algorithm as u8,
            flags: flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag),
            zero: 0,
            max_connections: self.service.limits.connections.unwrap_or(0),
            client_rate: self.service.limits.client_rate.unwrap_or(0),
            rate: self.service.limits.rate.unwrap_or(0),
        };
        let networks = spec.ranges.iter().flatten().map(IpNet::trunc).collect();
        self.ranges(frontend.id, &networks, key, frontend);
        Ok(())
    }

    /// Switches a frontend over, between the networks that are new and those that are gone.
    fn ranges(&mut self, id: u32, networks: &BTreeSet<IpNet>, key: SocketKey, frontend: Frontend) {
        let none = BTreeSet::new();
        let known = self.input.image.ranges.get(&id).unwrap_or(&none);
        self.additions.extend(networks.difference(known).map(|network| Write::PutRange(id, *network)));
        if self.input.image.frontends.get(&key) != Some(&frontend) {
            self.switches.push(Write::PutFrontend(key, frontend));
        }
        self.switches.extend(known.difference(networks).map(|network| Write::DeleteRange(id, *network)));
    }

    /// The frontend's id: its own, that of its last life if flows may still name it, or a new one.
    fn vip(&mut self, key: SocketKey, spec: &FrontendSpec) -> Result<u32, PlanError> {
        let image = self.input.image;
        let own = image.frontends.get(&key).map(|frontend| frontend.id);
        let id = own.or_else(|| image.idle_vip(&key)).or_else(|| self.free_vips.next());
        let id = id.ok_or_else(|| self.full("frontends", self.input.capacity.frontends, "--max-frontends"))?;
        let measured = if self.response_idle() != 0 { VIP_MEASURED } else { 0 };
        let forwards = if self.forwards(spec) { VIP_FORWARDS } else { 0 };
        let vip = Vip { key, live: VIP_LIVE, flags: measured | forwards };
        if image.vips.get(&id) != Some(&vip) {
            self.switches.push(Write::PutVip(id, vip));
        }
        Ok(id)
    }

    fn full(&self, what: &'static str, capacity: u32, flag: &'static str) -> PlanError {
        full(self.id, what, capacity, flag)
    }

    fn finish(self) -> Plan {
        let mut writes = self.additions;
        writes.extend(self.switches);
        let frontends = self.service.frontends.keys().copied().collect();
        let surplus = retire::surplus(self.input.image, self.index, &frontends, &self.wanted_backends);
        Plan { writes, surplus: Some(surplus) }
    }
}

/// The selection tables that the frontends of a service port name.
fn own_runs(input: Input<'_>, index: u32) -> BTreeMap<u32, Run> {
    let image = input.image;
    let frontends = image.frontends_of(index).filter_map(|key| image.frontends.get(&key));
    let offsets = frontends.flat_map(crate::dataplane::runs).map(|(offset, _)| offset);
    offsets.filter_map(|offset| Some((offset, *image.runs.get(&offset)?))).collect()
}

fn full(service: &ServiceId, what: &'static str, capacity: u32, flag: &'static str) -> PlanError {
    PlanError::Full { service: service.clone(), what, capacity, flag }
}
