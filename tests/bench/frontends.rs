//! The frontends of the benchmark, one for each algorithm and kind of packet, and what the agent would write of them.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_agent::{
    balance::{maglev, tables},
    dataplane::Write,
};
use lb_common::{
    Algorithm, Backend, BackendState, Frontend, Selection, Vip,
    backend::BACKEND_LOCAL,
    service::{FRONTEND_FORWARDS, VIP_FORWARDS, VIP_LIVE},
};

use crate::traffic::{FRONTEND, NODE, TCP, TCP6, UDP, UDP6, Wire};

/// Backends of each frontend.
pub(crate) const BACKENDS: u32 = 16;

/// A frontend; its place in [`ALL`] is its id, and its service's.
pub(crate) struct Front {
    pub(crate) wire: Wire,
    port: u16,
    algorithm: Algorithm,
    /// Its packets are forwarded to their backends' nodes.
    pub(crate) forwards: bool,
}

/// Frontend of the default algorithm.
pub(crate) const MAGLEV: u32 = 0;
/// The same for UDP.
pub(crate) const MAGLEV_UDP: u32 = 1;
/// The same for IPv6.
pub(crate) const MAGLEV_TCP6: u32 = 2;
/// The same for IPv6 and UDP.
pub(crate) const MAGLEV_UDP6: u32 = 3;
pub(crate) const LEAST_CONNECTIONS: u32 = 4;
/// The first of those that have no flows to begin with.
pub(crate) const OTHERS: [u32; 4] = [5, 6, 7, 8];

/// Forwarded to the backends' nodes.
pub(crate) const FORWARDED: u32 = 9;
/// The same for IPv6.
pub(crate) const FORWARDED_TCP6: u32 = 10;

pub(crate) static ALL: [Front; 11] = [
    Front { wire: TCP, port: 80, algorithm: Algorithm::Maglev, forwards: false },
    Front { wire: UDP, port: 80, algorithm: Algorithm::Maglev, forwards: false },
    Front { wire: TCP6, port: 80, algorithm: Algorithm::Maglev, forwards: false },
    Front { wire: UDP6, port: 80, algorithm: Algorithm::Maglev, forwards: false },
    Front { wire: TCP, port: 81, algorithm: Algorithm::LeastConnections, forwards: false },
    Front { wire: TCP, port: 82, algorithm: Algorithm::IpHash, forwards: false },
    Front { wire: TCP, port: 83, algorithm: Algorithm::Random, forwards: false },
    Front { wire: TCP, port: 84, algorithm: Algorithm::RoundRobin, forwards: false },
    Front { wire: TCP, port: 85, algorithm: Algorithm::WeightedRoundRobin, forwards: false },
    Front { wire: TCP, port: 86, algorithm: Algorithm::Maglev, forwards: true },
    Front { wire: TCP6, port: 86, algorithm: Algorithm::Maglev, forwards: true },
];

/// The frontend of this id.
pub(crate) fn front(id: u32) -> &'static Front {
    &ALL[id as usize]
}

impl Front {
    /// Where its clients send to.
    pub(crate) fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(FRONTEND, self.port)
    }

    /// Its algorithm's name.
    pub(crate) fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }
}

/// The address of a backend.
pub(crate) fn backend_socket(index: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 30, 0, 1 + (index % BACKENDS) as u8), 8080)
}

/// The endpoint that a backend is: one for the backends of all frontends of this kind of packet, by the first that has it.
pub(crate) fn endpoint(backend: u32) -> u32 {
    let wire = front(backend / BACKENDS).wire;
    let first = (0..).zip(&ALL).find_map(|(id, front)| (front.wire == wire).then_some(id));
    first.unwrap_or(0) * BACKENDS + backend % BACKENDS
}

/// The writes of a frontend, its table and its backends. Those that nothing is forwarded to count as local: then destination NAT is all there is
/// to do.
pub(crate) fn writes(id: u32) -> Vec<Write> {
    let Front { wire, algorithm, forwards, .. } = *front(id);
    let first = id * BACKENDS;
    let backend = |index: u32| {
        let key = wire.key(backend_socket(index));
        let backend = Backend {
            addr: key.addr,
            source: wire.address(NODE).into(),
            port: key.port,
            protocol: key.protocol,
            flags: if forwards { 0 } else { BACKEND_LOCAL },
            effective_weight: 100,
            weight: 100,
            endpoint: endpoint(index),
            service: id,
            incarnation: 1,
            state: BackendState::Ready as u8,
            ..Backend::default()
        };
        [Write::PutBackend(index, backend), Write::PutEndpoint(key, backend.endpoint)]
    };
    let entry =
        |index| tables::Entry { backend: index, weight: 100, identity: tables::identity(backend_socket(index).into()) };
    let entries: Vec<_> = (first..first + BACKENDS).map(entry).collect();
    let table = tables::build(algorithm.table(), &entries, maglev::size_for(entries.len()));
    let key = wire.key(front(id).socket());
    let offset = id * maglev::MAX_SIZE;
    let place = Selection { offset, len: table.len };
    let (flags, vip_flags) = if forwards { (FRONTEND_FORWARDS, VIP_FORWARDS) } else { (0, 0) };
    let algorithm = algorithm as u8;
    let frontend = Frontend { id, service: id, inside: place, outside: place, algorithm, flags, ..Frontend::default() };
    let mut writes: Vec<_> = (first..first + BACKENDS).flat_map(backend).collect();
    writes.push(Write::PutVip(id, Vip { key, live: VIP_LIVE, flags: vip_flags }));
    writes.push(Write::PutSlots(offset, table.slots));
    writes.push(Write::PutFrontend(key, frontend));
    writes
}
