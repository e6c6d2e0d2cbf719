//! The pipeline in memory: maps are collections, the routing table is [`net::route`], time stands still until a case moves it.

use std::{
    cell::{RefCell, UnsafeCell},
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use lb_agent::{
    dataplane::{Counters, SweepReport, Tables, Write},
    signals::requests::Noted,
};
use lb_common::{
    Addr, AffinityKey, AffinityValue, Backend, BackendLoad, Bucket, DropReason, Flow, FlowState, Frontend, Port,
    SocketKey, Traffic, Vip,
    abi::SweepResult,
    backend::BACKEND_TARGET,
    counters::Recount,
    dsr::{DEFAULT_PORT, Target},
    flow::{WAYS, meta_state},
    fragment::{FRAGMENT_COUNTERS, Fragment, FragmentKey},
    request::{Measure, Request},
};
use lb_ebpf::{
    env::{Env, Event, Hook, Limits, Route, Scratch, Shared, Table},
    parse::Parsed,
    requests::Begun,
    sweep,
    table::FORWARDED,
};

use crate::table::{
    net::{self, Interface, Way},
    world::{BUCKETS, FLOW_SEED, SNAT_PORT},
};

/// Room for backends, frontends and services.
const ROOM: usize = 4096;

/// The maps' memory, and what a packet cannot know.
pub(crate) struct Memory {
    pub(crate) tables: Tables,
    pub(crate) limits: Limits,
    pub(crate) clock: u32,
    /// Whether packets of clients that keep their address go through the stack.
    pub(crate) stack: bool,
    /// Whether packets that have no flow any more are answered with a reset.
    pub(crate) resets: bool,
    /// Where sockets of the node wait for answers.
    pub(crate) sockets: BTreeSet<SocketAddr>,
    /// Random numbers to come; then zeros.
    pub(crate) random: RefCell<VecDeque<u32>>,
    /// What was traced.
    pub(crate) events: RefCell<Vec<Event>>,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    flows: Vec<UnsafeCell<Bucket>>,
    replies: Vec<UnsafeCell<Bucket>>,
    loads: Vec<UnsafeCell<BackendLoad>>,
    traffic: Vec<UnsafeCell<Traffic>>,
    recounts: Vec<UnsafeCell<Recount>>,
    requests: RefCell<HashMap<u64, Box<UnsafeCell<Request>>>>,
    measures: Vec<UnsafeCell<Measure>>,
    knocks: Vec<UnsafeCell<u64>>,
    /// Services that were to be woken.
    pub(crate) woken: RefCell<BTreeSet<u32>>,
    cursors: Vec<UnsafeCell<u64>>,
    affinity: RefCell<HashMap<AffinityKey, AffinityValue>>,
    fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    fragment_ids: Vec<UnsafeCell<u64>>,
    rates: Vec<UnsafeCell<u64>>,
    client_rates: RefCell<HashMap<AffinityKey, Box<UnsafeCell<u64>>>>,
    error_rate: UnsafeCell<u64>,
    scratch: *mut Scratch,
}

const FREE_BACKEND: Backend = Backend {
    addr: lb_common::Addr::NONE,
    source: lb_common::Addr::NONE,
    port: lb_common::Port(0),
    protocol: 0,
    flags: 0,
    effective_weight: 0,
    weight: 0,
    endpoint: 0,
    service: 0,
    incarnation: 0,
    state: 0,
    zero: [0; 3],
    response_idle: 0,
    zero2: 0,
};

fn cells<T: Copy>(count: usize, value: T) -> Vec<UnsafeCell<T>> {
    (0..count).map(|_| UnsafeCell::new(value)).collect()
}

fn shared<T>(cell: &UnsafeCell<T>) -> Shared<T> {
    // SAFETY: the memory outlives the packet, and there is one thread.
    unsafe { Shared::new(cell.get()) }
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::with(Limits {
            flow_seed: FLOW_SEED,
            bucket_mask: BUCKETS - 1,
            snat_first: SNAT_PORT,
            snat_last: SNAT_PORT,
            tcp_idle: lb_common::abi::timeout::TCP_IDLE,
        })
    }

    /// With flow tables of this size.
    pub(crate) fn with(limits: Limits) -> Self {
        let bucket = Bucket { lock: 0, zero: 0, meta: [0; WAYS], zero2: [0; 6], ways: [Flow::default(); WAYS] };
        let buckets = limits.bucket_mask as usize + 1;
        Self {
            tables: Tables::default(),
            limits,
            clock: 0,
            stack: false,
            resets: true,
            sockets: BTreeSet::new(),
            random: RefCell::default(),
            events: RefCell::default(),
            drops: BTreeMap::new(),
            flows: cells(buckets, bucket),
            replies: cells(buckets, bucket),
            loads: cells(ROOM, BackendLoad::default()),
            traffic: cells(ROOM, Traffic::default()),
            recounts: cells(ROOM, Recount::default()),
            requests: RefCell::default(),
            measures: cells(ROOM, Measure::default()),
            knocks: cells(ROOM, 0),
            woken: RefCell::default(),
            cursors: cells(ROOM, 0),
            affinity: RefCell::default(),
            fragments: RefCell::default(),
            fragment_ids: cells(FRAGMENT_COUNTERS as usize, 0),
            rates: cells(ROOM, 0),
            client_rates: RefCell::default(),
            error_rate: UnsafeCell::new(0),
            scratch: Box::into_raw(Box::default()),
        }
    }

    pub(crate) fn write(&mut self, write: &Write) {
        let index = match write {
            Write::PutBackend(index, new) if self.backend_of(*index).incarnation != new.incarnation => Some(*index),
            Write::FreeBackend(index) => Some(*index),
            _ => None,
        };
        if let Some(index) = index {
            *self.loads[index as usize].get_mut() = BackendLoad::default();
            *self.traffic[index as usize].get_mut() = Traffic::default();
            *self.measures[index as usize].get_mut() = Measure::default();
        }
        write.apply(&mut self.tables);
    }

    fn backend_of(&self, index: u32) -> Backend {
        self.tables.backends.get(&index).copied().unwrap_or_default()
    }

    pub(crate) fn counters(&self, backend: u32) -> Counters {
        // SAFETY: nothing else uses the cells while this runs: there is one thread, and no packet is under way.
        unsafe {
            Counters { load: *self.loads[backend as usize].get(), traffic: *self.traffic[backend as usize].get() }
        }
    }

    /// What is noted of requests. Flows that are gone are not told from others.
    pub(crate) fn noted(&self) -> Noted {
        let backends = self.tables.backends.iter().filter(|(_, backend)| backend.response_idle != 0);
        // SAFETY: as in `counters`.
        unsafe {
            Noted {
                measures: backends.map(|(index, _)| (*index, *self.measures[*index as usize].get())).collect(),
                requests: self.requests.borrow().iter().map(|(key, request)| (*key, *request.get())).collect(),
                ended: Vec::new(),
            }
        }
    }

    /// Says what backends carry.
    pub(crate) fn set_loads(&mut self, loads: &[BackendLoad]) {
        for (cell, load) in self.loads.iter_mut().zip(loads) {
            *cell.get_mut() = *load;
        }
    }

    /// The slots that the entries of a table name as their others.
    fn links(buckets: &[UnsafeCell<Bucket>]) -> impl Iterator<Item = u32> {
        // SAFETY: as in `counters`.
        let ways = buckets.iter().map(|b| unsafe { *b.get() }).flat_map(|b| b.meta.into_iter().zip(b.ways));
        ways.filter(|(meta, _)| meta_state(*meta) != FlowState::Free).map(|(_, flow)| flow.link)
    }

    /// Forward and reply entries, and those of flows that are forwarded, which have no other.
    pub(crate) fn flows(&self) -> (usize, usize, usize) {
        let (forwarded, own): (Vec<u32>, Vec<u32>) = Self::links(&self.flows).partition(|link| *link == FORWARDED);
        (own.len(), Self::links(&self.replies).count(), forwarded.len())
    }

    /// Takes or gives back the locks of a whole table, as another CPU would.
    pub(crate) fn lock(&mut self, table: Table, locked: bool) {
        let buckets = if table == Table::Forward { &mut self.flows } else { &mut self.replies };
        buckets.iter_mut().for_each(|bucket| bucket.get_mut().lock = u32::from(locked));
    }

    /// What the last packet was.
    pub(crate) fn parsed(&self) -> Parsed {
        // SAFETY: no packet is under way.
        unsafe { (*self.scratch).packet }
    }

    /// Whether another node has forwarded the last packet.
    pub(crate) fn is_forwarded(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.scratch).target != 0 }
    }

    /// No other node has forwarded the next packet.
    pub(crate) fn forget_target(&mut self) {
        // SAFETY: as above.
        unsafe { (*self.scratch).target = 0 };
    }

    /// The environment of a packet at a hook.
    pub(crate) fn at(&self, hook: Hook, via: Interface) -> At<'_> {
        At { memory: self, hook, via }
    }

    pub(crate) fn sweep(&mut self) -> SweepReport {
        self.recounts.iter_mut().for_each(|r| *r.get_mut() = Recount::default());
        let mut result = SweepResult::default();
        let env = self.at(Hook::Ingress, Interface::Up0);
        for slot in 0..(self.limits.bucket_mask + 1) * WAYS as u32 {
            sweep::slot(&env, slot, self.clock, &mut result);
        }
        let SweepResult { entries, expired, forgotten, orphans, busy } = result;
        let recounts = self.recounts.iter_mut().enumerate().map(|(i, r)| (i as u32, *r.get_mut()));
        let recounts = recounts.filter(|(_, r)| *r != Recount::default()).collect();
        SweepReport { entries, expired, forgotten, orphans, busy, recounts }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and no packet is under way.
        drop(unsafe { Box::from_raw(self.scratch) });
    }
}

/// The memory as one packet sees it.
pub(crate) struct At<'a> {
    memory: &'a Memory,
    hook: Hook,
    via: Interface,
}

impl At<'_> {
    fn way(&self, from: IpAddr, to: IpAddr, bytes: u32) -> Route {
        let xdp = self.hook == Hook::Xdp;
        // As in the kernel, which finds IPv6 routes for possible sources only.
        let way = if from.is_ipv6() && from.is_multicast() { Way::Stack } else { net::route(to) };
        match way {
            _ if self.via == Interface::Shut && !xdp => Route::Drop(DropReason::ForwardingDisabled),
            Way::Out(interface) if self.via != Interface::Shut && bytes <= interface.mtu() => {
                if !xdp || interface == self.via || interface.has_xdp() {
                    return Route::Interface(interface.number().into());
                }
                Route::Defer
            }
            _ if xdp => Route::Defer,
            Way::Out(interface) => Route::TooBig(interface.mtu()),
            Way::Stack => Route::Stack,
            Way::Hole => Route::Drop(DropReason::NoRoute),
        }
    }
}

impl Env for At<'_> {
    fn hook(&self) -> Hook {
        self.hook
    }

    fn interface(&self) -> u32 {
        self.via.number().into()
    }

    fn is_inside(&self) -> bool {
        self.via.is_inside()
    }

    fn delivers_by_stack(&self) -> bool {
        self.memory.stack
    }

    fn resets_orphans(&self) -> bool {
        self.memory.resets
    }

    fn dsr_port(&self) -> Port {
        Port::new(DEFAULT_PORT)
    }

    fn target(&self, target: &Target) -> Option<u32> {
        let is_it = |backend: &Backend| {
            let Backend { endpoint, service, flags, .. } = *backend;
            flags & BACKEND_TARGET != 0 && Target { endpoint, service } == *target
        };
        self.memory.tables.backends.iter().find(|(_, backend)| is_it(backend)).map(|(index, _)| *index)
    }

    fn mtu(&self, scratch: &Scratch) -> u32 {
        let out = if self.hook == Hook::Egress { Way::Out(self.via) } else { net::route(scratch.to.dst.ip()) };
        let Way::Out(interface) = out else { return 0 };
        interface.mtu()
    }

    fn now(&self) -> u32 {
        self.memory.clock
    }

    fn random(&self) -> u32 {
        self.memory.random.borrow_mut().pop_front().unwrap_or(0)
    }

    fn limits(&self) -> Limits {
        self.memory.limits
    }

    fn scratch(&self) -> Option<&'static mut Scratch> {
        // SAFETY: the pipeline takes it once for a packet (the sweep: for a slot), and the memory outlives the packet.
        Some(unsafe { &mut *self.memory.scratch })
    }

    fn frontend(&self, key: &SocketKey) -> Option<&Frontend> {
        self.memory.tables.frontends.get(key)
    }

    fn is_admitted(&self, frontend: u32, client: &Addr) -> bool {
        let ranges = self.memory.tables.ranges.get(&frontend);
        ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&client.ip())))
    }

    fn announced(&self, address: &Addr) -> Option<[u8; 6]> {
        let announced = self.memory.tables.announced.get(address)?;
        (announced.interface == u32::from(self.via.number())).then_some(announced.mac)
    }

    fn vip(&self, id: u32) -> Option<&Vip> {
        self.memory.tables.vips.get(&id)
    }

    fn endpoint(&self, key: &SocketKey) -> Option<u32> {
        self.memory.tables.endpoints.get(key).copied()
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        // An array has every element from the start.
        ((index as usize) < ROOM).then(|| self.memory.tables.backends.get(&index).unwrap_or(&FREE_BACKEND))
    }

    fn load(&self, index: u32) -> Option<Shared<BackendLoad>> {
        self.memory.loads.get(index as usize).map(shared)
    }

    fn traffic(&self, index: u32) -> Option<Shared<Traffic>> {
        self.memory.traffic.get(index as usize).map(shared)
    }

    fn nanoseconds(&self) -> u64 {
        u64::from(self.memory.clock) * 1_000_000_000
    }

    fn request(&self, key: u64) -> Option<Shared<Request>> {
        self.memory.requests.borrow().get(&key).map(|request| shared(request))
    }

    fn begin_request(&self, key: u64, request: &Request) -> Begun {
        match self.memory.requests.borrow_mut().entry(key) {
            Entry::Occupied(_) => Begun::Known,
            Entry::Vacant(place) => {
                place.insert(Box::new(UnsafeCell::new(*request)));
                Begun::Noted
            }
        }
    }

    fn end_request(&self, key: u64) {
        self.memory.requests.borrow_mut().remove(&key);
    }

    fn measure(&self, backend: u32) -> Option<Shared<Measure>> {
        let is_measured = self.backend(backend)?.response_idle != 0;
        self.memory.measures.get(backend as usize).filter(|_| is_measured).map(shared)
    }

    fn recount(&self, index: u32) -> Option<Shared<Recount>> {
        self.memory.recounts.get(index as usize).map(shared)
    }

    fn slot(&self, index: u32) -> Option<u64> {
        let (first, run) = self.memory.tables.slots.range(..=index).next_back()?;
        run.get((index - first) as usize).copied()
    }

    fn cursor(&self, service: u32) -> Option<Shared<u64>> {
        self.memory.cursors.get(service as usize).map(shared)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.memory.affinity.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        self.memory.affinity.borrow_mut().insert(*key, *value);
    }

    fn rate(&self, frontend: u32) -> Option<Shared<u64>> {
        self.memory.rates.get(frontend as usize).map(shared)
    }

    fn client_rate(&self, client: &AffinityKey) -> Option<Shared<u64>> {
        Some(shared(self.memory.client_rates.borrow_mut().entry(*client).or_default()))
    }

    fn error_rate(&self) -> Option<Shared<u64>> {
        Some(shared(&self.memory.error_rate))
    }

    fn fragment(&self, key: &FragmentKey, out: &mut Fragment) -> bool {
        let known = self.memory.fragments.borrow().get(key).copied();
        known.inspect(|fragment| *out = *fragment).is_some()
    }

    fn note_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.memory.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn fragment_ids(&self, counter: u32) -> Option<Shared<u64>> {
        self.memory.fragment_ids.get(counter as usize).map(shared)
    }

    fn bucket(&self, table: Table, index: u32) -> Option<Shared<Bucket>> {
        let buckets = if table == Table::Forward { &self.memory.flows } else { &self.memory.replies };
        buckets.get(index as usize).map(shared)
    }

    fn is_for_socket(&self, scratch: &mut Scratch) -> bool {
        self.memory.sockets.contains(&SocketAddr::new(scratch.to.dst.ip(), scratch.to.dst_port.number()))
    }

    fn route(&self, scratch: &mut Scratch, bytes: u32) -> Route {
        // As in the kernel: a tag that is still in the packet would travel on with it.
        let most = if self.hook == Hook::Xdp { 14 } else { 18 };
        if scratch.packet.l3 > most { Route::Defer } else { self.way(scratch.to.src.ip(), scratch.to.dst.ip(), bytes) }
    }

    fn repeat<F: FnMut() -> bool>(&self, times: u32, mut attempt: F) {
        (0..times).any(|_| attempt());
    }

    fn knocked(&self, service: u32) -> Option<Shared<u64>> {
        self.memory.knocks.get(service as usize).map(shared)
    }

    fn wake(&self, service: u32) {
        self.memory.woken.borrow_mut().insert(service);
    }

    fn trace(&self, event: Event, _scratch: &Scratch) {
        self.memory.events.borrow_mut().push(event);
    }
}
