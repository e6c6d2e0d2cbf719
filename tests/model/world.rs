//! What is balanced in these tests: a frontend for each algorithm, over both families and protocols, with backends on the node and
//! elsewhere, some of them behind two frontends; and the writes that make it. Clients and other nodes are in network 10, which is that
//! of the uplink, pods in network 20: 10.NETWORK.0.HOST and fdNETWORK::HOST, with HOST in decimal digits in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_agent::{
    balance::{self, Entry},
    dataplane::Write,
};
use lb_common::{
    Algorithm, Backend, BackendState, Frontend, Protocol, SocketKey, Vip,
    backend::{BACKEND_GONE, BACKEND_LOCAL, BACKEND_TARGET},
    service::{
        FRONTEND_AFFINITY, FRONTEND_DROP_OUTSIDE, FRONTEND_FORWARDS, FRONTEND_RANGES, VIP_FORWARDS, VIP_LIVE,
        VIP_REMOVED,
    },
};

/// Frontends, each of a service of its own.
pub(crate) const FRONTENDS: usize = 8;
/// The first so many reach other nodes by full NAT, the others forward.
pub(crate) const NATTED: usize = 6;
/// Backends of each; the first two are on the node.
pub(crate) const BACKENDS: usize = 4;
/// Backends of all.
pub(crate) const ALL: u32 = (FRONTENDS * BACKENDS) as u32;
/// Clients.
pub(crate) const CLIENTS: usize = 5;
/// Source ports of each client.
pub(crate) const PORTS: usize = 8;
/// How long a client stays with its backend, at the frontend that has affinity.
pub(crate) const AFFINITY: u32 = 25;

const WEIGHTS: [u16; BACKENDS] = [3, 1, 2, 1];
const TABLE_ROOM: u32 = 1024;
const MAGLEV_SIZE: u32 = 251;

/// A frontend's address.
pub(crate) fn vip(frontend: usize) -> SocketKey {
    let (v4, port, protocol) = [
        (true, 80, Protocol::Tcp),
        (true, 81, Protocol::Tcp),
        (true, 53, Protocol::Udp),
        (false, 80, Protocol::Tcp),
        (false, 53, Protocol::Udp),
        (true, 54, Protocol::Udp),
        (true, 82, Protocol::Tcp),
        (false, 55, Protocol::Udp),
    ][frontend];
    SocketKey::new(SocketAddr::new(address(v4, 99, 1), port), protocol)
}

/// A frontend's algorithm.
pub(crate) fn algorithm(frontend: usize) -> Algorithm {
    use Algorithm::{IpHash, LeastConnections, Maglev, Random, RoundRobin, WeightedRoundRobin};
    [Maglev, LeastConnections, Random, WeightedRoundRobin, IpHash, RoundRobin, Maglev, LeastConnections][frontend]
}

/// Whether clients stay with their backend.
pub(crate) fn has_affinity(frontend: usize) -> bool {
    frontend == 1
}

/// Whether packets are forwarded to backends of other nodes.
pub(crate) fn forwards(frontend: usize) -> bool {
    frontend >= NATTED
}

/// Whether a frontend without a backend drops what comes from outside, because there are some elsewhere.
pub(crate) fn waits_for_another_node(frontend: usize) -> bool {
    frontend % 2 == 1
}

/// Whether only admitted clients may use a frontend.
pub(crate) fn has_ranges(frontend: usize) -> bool {
    frontend < NATTED && frontend.is_multiple_of(4)
}

/// What a frontend's service limits: connections of a backend, new ones a second of a client, and of all; 0: any number.
pub(crate) fn limits(frontend: usize) -> [u32; 3] {
    [[0; 3], [0; 3], [0, 1, 0], [4, 0, 0], [0, 3, 0], [0, 0, 2], [0; 3], [0; 3]][frontend]
}

/// A client's socket, of the family of a frontend.
pub(crate) fn client(client: usize, port: usize, frontend: usize) -> SocketAddr {
    SocketAddr::new(address(is_v4(frontend), 10, 40 + client as u8), 40000 + port as u16)
}

/// A router on the way to clients, and to other nodes.
pub(crate) fn router(frontend: usize) -> IpAddr {
    address(is_v4(frontend), 10, 39)
}

/// Whether a frontend is IPv4.
pub(crate) fn is_v4(frontend: usize) -> bool {
    vip(frontend).addr.is_v4()
}

/// The index of a frontend's backend.
pub(crate) fn index(frontend: usize, backend: usize) -> u32 {
    (frontend * BACKENDS + backend) as u32
}

/// The frontend whose backend has this index.
pub(crate) fn frontend_of(index: u32) -> usize {
    index as usize / BACKENDS
}

/// Whether the backend of this index is on the node.
pub(crate) fn is_local(index: u32) -> bool {
    index as usize % BACKENDS < 2
}

/// Where a backend listens: the same sockets behind every frontend of a family and protocol.
pub(crate) fn endpoint(index: u32) -> SocketKey {
    let frontend = frontend_of(index);
    let (network, first) = if is_local(index) { (20, 20) } else { (10, 30) };
    let host = first + (index as usize % BACKENDS % 2) as u8;
    let protocol = if vip(frontend).protocol == 6 { Protocol::Tcp } else { Protocol::Udp };
    SocketKey::new(SocketAddr::new(address(is_v4(frontend), network, host), 8080), protocol)
}

/// The address that a backend takes for its client's under full NAT: the node's towards it.
pub(crate) fn source(index: u32) -> IpAddr {
    address(is_v4(frontend_of(index)), if is_local(index) { 20 } else { 10 }, 2)
}

/// A backend's weight.
pub(crate) fn weight(index: u32) -> u16 {
    WEIGHTS[index as usize % BACKENDS]
}

/// The address of a host in a network.
fn address(v4: bool, network: u8, host: u8) -> IpAddr {
    // 42 becomes 0x42.
    let digits = |number: u8| u16::from(number / 10 * 16 + number % 10);
    match v4 {
        true => Ipv4Addr::new(10, network, 0, host).into(),
        false => Ipv6Addr::new(0xfd00 | digits(network), 0, 0, 0, 0, 0, 0, digits(host)).into(),
    }
}

/// What changes of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Its state.
    pub(crate) state: BackendState,
    /// If it is removed: whether nothing lists it any more.
    pub(crate) unlisted: bool,
    /// Counts the users of its index.
    pub(crate) incarnation: u32,
}

impl Condition {
    /// Takes connections.
    pub(crate) const fn ready(incarnation: u32) -> Self {
        Self { state: BackendState::Ready, unlisted: false, incarnation }
    }

    /// Whether its connections are to end.
    pub(crate) fn is_gone(self) -> bool {
        self.state == BackendState::Removed && self.unlisted
    }
}

/// A frontend's selection table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Its slots.
    pub(crate) slots: Vec<u64>,
    /// Its length as the frontend says it.
    pub(crate) len: u32,
}

/// The selection table of a frontend with backends in these conditions: of the ready ones, or if there is none of the unhealthy.
pub(crate) fn selection(frontend: usize, conditions: &[Condition]) -> Selection {
    let among = |state| {
        let has = |index: &u32| conditions[*index as usize].state == state;
        (0..BACKENDS).map(|backend| index(frontend, backend)).filter(has).collect::<Vec<u32>>()
    };
    let ready = among(BackendState::Ready);
    let takers = if ready.is_empty() { among(BackendState::Unhealthy) } else { ready };
    let entry = |index: u32| Entry {
        backend: index,
        weight: if algorithm(frontend) == Algorithm::RoundRobin { 1 } else { weight(index) },
        identity: balance::identity(endpoint(index).socket()),
    };
    let entries: Vec<Entry> = takers.into_iter().map(entry).collect();
    let built = balance::build(algorithm(frontend).table(), &entries, MAGLEV_SIZE);
    Selection { slots: built.slots, len: built.len }
}

/// The writes of a backend, and of its endpoint.
pub(crate) fn backend(index: u32, condition: Condition) -> [Write; 2] {
    let key = endpoint(index);
    // The first index with this socket stands for it.
    let id = (0..=index).find(|other| endpoint(*other) == key).unwrap_or(index);
    let backend = Backend {
        addr: key.addr,
        source: source(index).into(),
        port: key.port,
        protocol: key.protocol,
        flags: if is_local(index) { BACKEND_LOCAL } else { 0 }
            | if is_local(index) && forwards(frontend_of(index)) { BACKEND_TARGET } else { 0 }
            | if condition.is_gone() { BACKEND_GONE } else { 0 },
        effective_weight: weight(index),
        weight: weight(index),
        endpoint: id,
        service: frontend_of(index) as u32,
        incarnation: condition.incarnation,
        state: condition.state as u8,
        ..Backend::default()
    };
    [Write::PutEndpoint(key, id), Write::PutBackend(index, backend)]
}

/// The writes of a frontend with its table in one of two places that take turns, and with its limits.
pub(crate) fn frontend(frontend: usize, selection: &Selection, turn: u32) -> [Write; 3] {
    limited(frontend, selection, turn, limits(frontend))
}

/// The same with other limits.
pub(crate) fn limited(
    frontend: usize,
    selection: &Selection,
    turn: u32,
    [max_connections, client_rate, rate]: [u32; 3],
) -> [Write; 3] {
    let offset = (frontend as u32 * 2 + turn % 2) * TABLE_ROOM;
    assert!(selection.slots.len() <= TABLE_ROOM as usize, "the table has room");
    let place = lb_common::Selection { offset, len: selection.len };
    let record = Frontend {
        id: frontend as u32,
        service: frontend as u32,
        inside: place,
        outside: place,
        affinity_seconds: AFFINITY,
        algorithm: algorithm(frontend) as u8,
        flags: if has_affinity(frontend) { FRONTEND_AFFINITY } else { 0 }
            | if waits_for_another_node(frontend) { FRONTEND_DROP_OUTSIDE } else { 0 }
            | if has_ranges(frontend) { FRONTEND_RANGES } else { 0 }
            | if forwards(frontend) { FRONTEND_FORWARDS } else { 0 },
        zero: 0,
        max_connections,
        client_rate,
        rate,
    };
    [
        Write::PutSlots(offset, selection.slots.clone()),
        Write::PutVip(frontend as u32, vip_record(frontend, VIP_LIVE)),
        Write::PutFrontend(vip(frontend), record),
    ]
}

fn vip_record(frontend: usize, live: u16) -> Vip {
    Vip { key: vip(frontend), live, flags: if forwards(frontend) { VIP_FORWARDS } else { 0 } }
}

/// The write that admits a client to a frontend, or does so no longer.
pub(crate) fn range(frontend: usize, number: usize, admitted: bool) -> Write {
    let network = client(number, 0, frontend).ip().into();
    match admitted {
        true => Write::PutRange(frontend as u32, network),
        false => Write::DeleteRange(frontend as u32, network),
    }
}

/// The writes that admit every client to every frontend.
pub(crate) fn all_admitted() -> Vec<Write> {
    let frontends = (0..FRONTENDS).filter(|frontend| has_ranges(*frontend));
    frontends.flat_map(|frontend| (0..CLIENTS).map(move |client| range(frontend, client, true))).collect()
}

/// The writes that remove a frontend; a sweep forgets its flows.
pub(crate) fn no_frontend(frontend: usize) -> [Write; 2] {
    [Write::DeleteFrontend(vip(frontend)), Write::PutVip(frontend as u32, vip_record(frontend, VIP_REMOVED))]
}
