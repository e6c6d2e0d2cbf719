//! Flow tables and counts in memory, for the unit tests of what works on them.

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU64, Ordering},
};
use std::{boxed::Box, collections::HashMap, sync::Mutex, vec::Vec};

use lb_common::{
    Addr, AffinityKey, AffinityValue, Backend, BackendLoad, Bucket, Flow, Frontend, Port, SocketKey, Traffic, Vip,
    counters::Recount,
    dsr::Target,
    flow::WAYS,
    fragment::{Fragment, FragmentKey},
    request::{Measure, Request},
};

use crate::{
    env::{Env, Event, Hook, Limits, Route, Scratch, Shared, Table},
    requests::Begun,
};

/// Surroundings with nothing but two tables and the counts of a few backends.
pub(crate) struct Memory {
    /// What the tables are made with.
    pub(crate) limits: Limits,
    /// The backends.
    pub(crate) backends: Vec<Backend>,
    forward: Vec<UnsafeCell<Bucket>>,
    reply: Vec<UnsafeCell<Bucket>>,
    loads: Vec<UnsafeCell<BackendLoad>>,
    /// The time in nanoseconds.
    pub(crate) time: AtomicU64,
    /// Connections whose requests can be noted.
    pub(crate) room: usize,
    requests: Mutex<HashMap<u64, Box<UnsafeCell<Request>>>>,
    measures: Vec<UnsafeCell<Measure>>,
    knocks: Vec<UnsafeCell<u64>>,
    /// Services that were to be woken.
    pub(crate) woken: Mutex<Vec<u32>>,
    /// The selection tables' slots.
    pub(crate) slots: Vec<u64>,
    rates: Vec<UnsafeCell<u64>>,
    client_rates: Mutex<HashMap<AffinityKey, Box<UnsafeCell<u64>>>>,
    error_rate: UnsafeCell<u64>,
}

// SAFETY: the cells are only reached through raw pointers, in the ways that programs on several CPUs reach map memory.
unsafe impl Sync for Memory {}

fn shared<T>(cell: &UnsafeCell<T>) -> Shared<T> {
    // SAFETY: valid as long as the memory, which outlives what is done in it.
    unsafe { Shared::new(cell.get()) }
}

/// A free bucket.
pub(crate) const EMPTY: Bucket = Bucket {
    lock: 0,
    zero: 0,
    meta: [0; WAYS],
    zero2: [0; 6],
    ways: [Flow {
        addr: lb_common::Addr::NONE,
        id: 0,
        port: lb_common::Port(0),
        snat_port: lb_common::Port(0),
        link: 0,
        backend: 0,
        last: 0,
        frontend: 0,
    }; WAYS],
};

impl Memory {
    /// Tables of so many buckets (a power of two).
    pub(crate) fn new(buckets: u32) -> Self {
        let table = || (0..buckets).map(|_| UnsafeCell::new(EMPTY)).collect();
        Self {
            limits: Limits {
                flow_seed: 1,
                bucket_mask: buckets - 1,
                snat_first: 61000,
                snat_last: 65535,
                tcp_idle: 8000,
            },
            backends: Vec::new(),
            forward: table(),
            reply: table(),
            loads: (0..8).map(|_| UnsafeCell::new(BackendLoad::default())).collect(),
            time: AtomicU64::new(0),
            room: usize::MAX,
            requests: Mutex::default(),
            measures: (0..8).map(|_| UnsafeCell::new(Measure::default())).collect(),
            knocks: (0..8).map(|_| UnsafeCell::new(0)).collect(),
            woken: Mutex::default(),
            slots: Vec::new(),
            rates: (0..8).map(|_| UnsafeCell::new(0)).collect(),
            client_rates: Mutex::default(),
            error_rate: UnsafeCell::new(0),
        }
    }

    /// A copy of what a backend's requests were like, while nobody changes it.
    pub(crate) fn measured(&self, backend: u32) -> Measure {
        // SAFETY: as below.
        unsafe { *self.measure(backend).unwrap().ptr() }
    }

    /// A copy of a connection's last request, while nobody changes it.
    pub(crate) fn last_request(&self, key: u64) -> Option<Request> {
        // SAFETY: as below.
        self.request(key).map(|request| unsafe { *request.ptr() })
    }

    /// A copy of a bucket, while nobody changes it.
    pub(crate) fn copy(&self, table: Table, index: u32) -> Bucket {
        // SAFETY: in bounds, or the test fails on the unwrap; the caller's promise.
        unsafe { *self.bucket(table, index).unwrap().ptr() }
    }

    /// A backend's counts, while nobody changes them.
    pub(crate) fn counts(&self, backend: u32) -> BackendLoad {
        // SAFETY: as above.
        unsafe { *self.load(backend).unwrap().ptr() }
    }
}

impl Env for Memory {
    fn hook(&self) -> Hook {
        Hook::Ingress
    }
    fn interface(&self) -> u32 {
        0
    }
    fn is_inside(&self) -> bool {
        false
    }
    fn delivers_by_stack(&self) -> bool {
        false
    }
    fn resets_orphans(&self) -> bool {
        true
    }
    fn dsr_port(&self) -> Port {
        Port(0)
    }
    fn target(&self, _: &Target) -> Option<u32> {
        None
    }
    fn mtu(&self, _: &Scratch) -> u32 {
        1500
    }
    fn now(&self) -> u32 {
        0
    }
    fn random(&self) -> u32 {
        0
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn scratch(&self) -> Option<&'static mut Scratch> {
        None
    }
    fn is_for_socket(&self, _: &mut Scratch) -> bool {
        false
    }
    fn frontend(&self, _: &SocketKey) -> Option<&Frontend> {
        None
    }
    fn is_admitted(&self, _: u32, _: &Addr) -> bool {
        true
    }
    fn announced(&self, _: &Addr) -> Option<[u8; 6]> {
        None
    }
    fn vip(&self, _: u32) -> Option<&Vip> {
        None
    }
    fn endpoint(&self, _: &SocketKey) -> Option<u32> {
        None
    }
    fn backend(&self, index: u32) -> Option<&Backend> {
        self.backends.get(index as usize)
    }
    fn load(&self, index: u32) -> Option<Shared<BackendLoad>> {
        self.loads.get(index as usize).map(shared)
    }
    fn traffic(&self, _: u32) -> Option<Shared<Traffic>> {
        None
    }
    fn nanoseconds(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }
    fn request(&self, key: u64) -> Option<Shared<Request>> {
        // An element stays where it is while the table grows; one that is deleted leaks, as others may still see it.
        self.requests.lock().unwrap().get(&key).map(|request| shared(request))
    }
    fn begin_request(&self, key: u64, request: &Request) -> Begun {
        let mut requests = self.requests.lock().unwrap();
        if requests.contains_key(&key) {
            return Begun::Known;
        }
        if requests.len() >= self.room {
            return Begun::Full;
        }
        requests.insert(key, Box::new(UnsafeCell::new(*request)));
        Begun::Noted
    }
    fn end_request(&self, key: u64) {
        if let Some(request) = self.requests.lock().unwrap().remove(&key) {
            Box::leak(request);
        }
    }
    fn measure(&self, backend: u32) -> Option<Shared<Measure>> {
        self.measures.get(backend as usize).map(shared)
    }
    fn recount(&self, _: u32) -> Option<Shared<Recount>> {
        None
    }
    fn slot(&self, index: u32) -> Option<u64> {
        self.slots.get(index as usize).copied()
    }
    fn cursor(&self, _: u32) -> Option<Shared<u64>> {
        None
    }
    fn affinity(&self, _: &AffinityKey) -> Option<AffinityValue> {
        None
    }
    fn set_affinity(&self, _: &AffinityKey, _: &AffinityValue) {}
    fn rate(&self, frontend: u32) -> Option<Shared<u64>> {
        self.rates.get(frontend as usize).map(shared)
    }
    fn client_rate(&self, client: &AffinityKey) -> Option<Shared<u64>> {
        let mut clients = self.client_rates.lock().unwrap();
        Some(shared(clients.entry(*client).or_default()))
    }
    fn error_rate(&self) -> Option<Shared<u64>> {
        Some(shared(&self.error_rate))
    }
    fn fragment(&self, _: &FragmentKey, _: &mut Fragment) -> bool {
        false
    }
    fn note_fragment(&self, _: &FragmentKey, _: &Fragment) {}
    fn fragment_ids(&self, _: u32) -> Option<Shared<u64>> {
        None
    }
    fn bucket(&self, table: Table, index: u32) -> Option<Shared<Bucket>> {
        let buckets = if table == Table::Forward { &self.forward } else { &self.reply };
        buckets.get(index as usize).map(shared)
    }
    fn route(&self, _: &mut Scratch, _: u32) -> Route {
        Route::Stack
    }
    fn repeat<F: FnMut() -> bool>(&self, times: u32, mut attempt: F) {
        for _ in 0..times {
            if attempt() {
                break;
            }
        }
    }
    fn knocked(&self, service: u32) -> Option<Shared<u64>> {
        self.knocks.get(service as usize).map(shared)
    }
    fn wake(&self, service: u32) {
        self.woken.lock().unwrap().push(service);
    }
    fn trace(&self, _: Event, _: &Scratch) {}
}
