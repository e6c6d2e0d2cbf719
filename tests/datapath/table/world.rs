//! A Service for a packet table: what it is, and the map writes that make it.

use std::net::SocketAddr;

use ipnet::IpNet;
use lb_agent::{
    balance::tables::{Entry, build, identity},
    dataplane::Write,
};
use lb_common::{
    Algorithm, Announced, Backend, BackendState, Frontend, Port, Protocol, Selection, SocketKey, Vip,
    backend::{BACKEND_LOCAL, BACKEND_TARGET},
    service::{
        FRONTEND_AFFINITY, FRONTEND_FORWARDS, FRONTEND_MEASURED, VIP_FORWARDS, VIP_LIVE, VIP_MEASURED, VIP_REMOVED,
    },
};

use super::net::{Family, HOLE, Interface, NODE, NOWHERE, ip, socket};

/// The only source port of full NAT: so that tables can name it.
pub(crate) const SNAT_PORT: u16 = 61000;
/// Seed of the flow hash.
pub(crate) const FLOW_SEED: u64 = 0x0123_4567_89ab_cdef;
/// Buckets of each flow table.
pub(crate) const BUCKETS: u32 = 64;
/// Slots kept for each frontend's selection table.
const TABLE_ROOM: u32 = 512;

/// Where a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this node, behind an interface.
    Local,
    /// On this node, in its own network namespace.
    Own,
    /// On another node.
    Remote,
    /// On another node, behind the interface that clients are behind.
    Beside,
    /// On this node, behind an interface for small packets.
    Narrow,
    /// Where a blackhole route leads.
    Hole,
    /// Where no route leads.
    Nowhere,
}

impl Place {
    /// Its network.
    pub(crate) fn network(self) -> u8 {
        match self {
            Self::Local => Interface::Pod0.number(),
            Self::Own | Self::Beside => Interface::Up0.number(),
            Self::Remote => Interface::Up1.number(),
            Self::Narrow => Interface::Thin.number(),
            Self::Hole => HOLE,
            Self::Nowhere => NOWHERE,
        }
    }

    /// Whether it sees the client's own address.
    pub(crate) fn is_local(self) -> bool {
        !matches!(self, Self::Remote | Self::Beside)
    }
}

/// One or two frontends with the same endpoints. Frontend `f` has port 80 + f, and of `n` backends those from index `f * n` on.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) algorithm: Algorithm,
    /// Seconds of session affinity; 0 for none.
    pub(crate) affinity: u32,
    pub(crate) backends: Vec<(Place, u16)>,
    pub(crate) frontends: u32,
    /// A selection table that names a backend which does not exist.
    pub(crate) stale: bool,
    /// The traffic policy for clients outside is `Local`.
    pub(crate) local_outside: bool,
    /// More flags of the frontends.
    pub(crate) flags: u8,
    /// Connections of a backend, new ones a second of a client, and of all; 0: any number.
    pub(crate) limits: [u32; 3],
    /// Who may use the frontends, with [`lb_common::service::FRONTEND_RANGES`].
    pub(crate) ranges: Vec<IpNet>,
    /// Whether the frontends' address is announced by [`Interface::Up0`].
    pub(crate) announced: bool,
    /// Whether the frontends' address is a cluster's: its other ports are refused.
    pub(crate) cluster: bool,
    /// Whether the frontends' address is nobody else's: echo requests to it are answered.
    pub(crate) echo: bool,
}

impl World {
    /// One frontend with these backends, all of weight 100.
    pub(crate) fn new(family: Family, protocol: Protocol, places: &[Place]) -> Self {
        Self {
            family,
            protocol,
            algorithm: Algorithm::RoundRobin,
            affinity: 0,
            backends: places.iter().map(|place| (*place, 100)).collect(),
            frontends: 1,
            stale: false,
            local_outside: false,
            flags: 0,
            limits: [0; 3],
            ranges: Vec::new(),
            announced: false,
            cluster: false,
            echo: false,
        }
    }

    /// A client's socket.
    pub(crate) fn client(&self) -> SocketAddr {
        socket(self.family, Interface::Up0.number(), 9, 40000)
    }

    /// A client's socket, of a pod of this node behind [`Interface::Thin`].
    pub(crate) fn client_inside(&self) -> SocketAddr {
        socket(self.family, Interface::Thin.number(), 9, 40000)
    }

    /// A frontend's socket.
    pub(crate) fn vip(&self, frontend: u32) -> SocketAddr {
        socket(self.family, 99, 1, 80 + frontend as u16)
    }

    /// An endpoint's socket.
    pub(crate) fn endpoint(&self, number: usize) -> SocketAddr {
        let place = self.backends[number].0;
        let host = if place == Place::Own { NODE } else { 20 + number as u8 };
        socket(self.family, place.network(), host, 8080 + number as u16)
    }

    /// Whom a backend takes for its client.
    pub(crate) fn peer(&self, number: usize) -> SocketAddr {
        if self.backends[number].0.is_local() { self.client() } else { self.masked_peer(number) }
    }

    /// Whom it takes for its client under full NAT.
    pub(crate) fn masked_peer(&self, number: usize) -> SocketAddr {
        socket(self.family, self.backends[number].0.network(), NODE, SNAT_PORT)
    }

    fn key(&self, socket: SocketAddr) -> SocketKey {
        SocketKey::new(socket, self.protocol)
    }

    /// The record of a backend, by its index.
    pub(crate) fn backend(&self, index: usize, base: u32, state: BackendState) -> Backend {
        let number = index % self.backends.len();
        let (place, weight) = self.backends[number];
        let endpoint = self.endpoint(number);
        Backend {
            addr: endpoint.ip().into(),
            source: ip(self.family, place.network(), NODE).into(),
            port: Port::new(endpoint.port()),
            protocol: self.protocol as u8,
            flags: match place.is_local() {
                true if self.flags & FRONTEND_FORWARDS != 0 => BACKEND_LOCAL | BACKEND_TARGET,
                true => BACKEND_LOCAL,
                false => 0,
            },
            effective_weight: weight,
            weight,
            endpoint: number as u32,
            service: base + (index / self.backends.len()) as u32,
            incarnation: base + 1,
            state: state as u8,
            response_idle: if self.flags & FRONTEND_MEASURED != 0 { 1000 } else { 0 },
            ..Backend::default()
        }
    }

    fn vip_record(&self, frontend: u32, live: u16) -> Write {
        let flag = |frontend, vip| if self.flags & frontend != 0 { vip } else { 0 };
        let flags = flag(FRONTEND_MEASURED, VIP_MEASURED) | flag(FRONTEND_FORWARDS, VIP_FORWARDS);
        Write::PutVip(frontend, Vip { key: self.key(self.vip(frontend)), live, flags })
    }

    /// The writes that put the selection tables and the frontends in force.
    pub(crate) fn select(&self, base: u32) -> Vec<Write> {
        (0..self.frontends).flat_map(|f| self.frontend(f, base)).collect()
    }

    /// The entries of a frontend's selection table; round robin knows only whether there is a weight.
    pub(crate) fn entries(&self, frontend: u32) -> Vec<Entry> {
        let first = frontend as usize * self.backends.len();
        let entry = |(i, (_, weight)): (usize, &(Place, u16))| Entry {
            backend: if self.stale { 1 << 30 } else { (first + i) as u32 },
            weight: if self.algorithm == Algorithm::RoundRobin { (*weight).min(1) } else { *weight },
            identity: identity(self.endpoint(i)),
        };
        self.backends.iter().enumerate().map(entry).collect()
    }

    fn frontend(&self, frontend: u32, base: u32) -> Vec<Write> {
        let table = build(self.algorithm.table(), &self.entries(frontend), 251);
        let offset = frontend * TABLE_ROOM;
        let inside = Selection { offset, len: table.len };
        let mut writes = vec![Write::PutSlots(offset, table.slots)];
        let mut outside = inside;
        if self.local_outside {
            let first = frontend * self.backends.len() as u32;
            let mut entries = self.entries(frontend);
            entries.retain(|entry| self.backends[(entry.backend - first) as usize].0.is_local());
            let table = build(self.algorithm.table(), &entries, 251);
            outside = Selection { offset: offset + TABLE_ROOM / 2, len: table.len };
            writes.push(Write::PutSlots(outside.offset, table.slots));
        }
        let record = Frontend {
            id: frontend,
            service: base + frontend,
            inside,
            outside,
            affinity_seconds: self.affinity,
            algorithm: self.algorithm as u8,
            flags: self.flags | if self.affinity > 0 { FRONTEND_AFFINITY } else { 0 },
            zero: 0,
            max_connections: self.limits[0],
            client_rate: self.limits[1],
            rate: self.limits[2],
        };
        writes.push(Write::PutFrontend(self.key(self.vip(frontend)), record));
        writes
    }

    /// The writes that let the source ranges in.
    pub(crate) fn admit(&self) -> Vec<Write> {
        self.by_range(Write::PutRange)
    }

    /// The writes that let them in no more.
    pub(crate) fn forbid(&self) -> Vec<Write> {
        self.by_range(Write::DeleteRange)
    }

    fn by_range(&self, write: fn(u32, IpNet) -> Write) -> Vec<Write> {
        let of_one = |id| self.ranges.iter().map(move |range| write(id, *range));
        (0..self.frontends).flat_map(of_one).collect()
    }

    /// The write that announces the frontends' address.
    fn announce(&self) -> Option<Write> {
        let announced =
            Announced { interface: Interface::Up0.number().into(), mac: Interface::Up0.mac(), ..Announced::default() };
        self.announced.then(|| Write::PutAnnounced(self.vip(0).ip().into(), announced))
    }

    /// The keys of the frontends' whole address.
    fn of_address(&self) -> Vec<SocketKey> {
        let address = self.vip(0).ip().into();
        let keys = [(self.cluster, SocketKey::other_ports(address)), (self.echo, SocketKey::echo(address))];
        keys.into_iter().filter(|(has, _)| *has).map(|(_, key)| key).collect()
    }

    /// The number of backend records.
    pub(crate) fn indexes(&self) -> usize {
        self.backends.len() * self.frontends as usize
    }

    /// The writes that make it. `base` is a number of its own for each case, from which no other case's is closer than 2.
    pub(crate) fn make(&self, base: u32) -> Vec<Write> {
        let vips = (0..self.frontends).map(|f| self.vip_record(f, VIP_LIVE));
        let backends =
            (0..self.indexes()).map(|i| Write::PutBackend(i as u32, self.backend(i, base, BackendState::Ready)));
        let endpoints = (0..self.backends.len()).map(|i| Write::PutEndpoint(self.key(self.endpoint(i)), i as u32));
        let rest = self.select(base).into_iter().chain(self.admit()).chain(self.announce());
        let refusing =
            Frontend { id: self.frontends, service: base, algorithm: self.algorithm as u8, ..Frontend::default() };
        let rest = rest.chain(self.of_address().into_iter().map(|key| Write::PutFrontend(key, refusing)));
        vips.chain(backends).chain(endpoints).chain(rest).collect()
    }

    /// The writes that take its frontends away.
    pub(crate) fn remove_frontends(&self) -> Vec<Write> {
        let remove = |f| [Write::DeleteFrontend(self.key(self.vip(f))), self.vip_record(f, VIP_REMOVED)];
        (0..self.frontends).flat_map(remove).chain(self.of_address().into_iter().map(Write::DeleteFrontend)).collect()
    }

    /// The writes that take away all the rest, once no flow is left.
    pub(crate) fn clear(&self) -> Vec<Write> {
        let vips = (0..self.frontends).map(Write::FreeVip);
        let backends = (0..self.indexes()).map(|i| Write::FreeBackend(i as u32));
        let endpoints = (0..self.backends.len()).map(|i| Write::DeleteEndpoint(self.key(self.endpoint(i))));
        let announced = self.announced.then(|| Write::DeleteAnnounced(self.vip(0).ip().into()));
        vips.chain(backends).chain(endpoints).chain(self.forbid()).chain(announced).collect()
    }
}
