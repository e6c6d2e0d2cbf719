//! One look at the maps: the tables, and the counters of the backends in them.

use std::collections::BTreeMap;

use lb_common::{Backend, BackendState, SocketKey};

use super::Error;
use crate::{
    agent::uptime,
    dataplane::{Counters, Inspect, Tables},
    signals::requests::{self, RequestLoad},
};

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The maps that the agent writes.
    pub tables: Tables,
    /// What each backend carries, by index.
    pub counters: BTreeMap<u32, Counters>,
    /// What the requests of each backend that is measured are like, by index.
    pub requests: BTreeMap<u32, RequestLoad>,
}

impl View {
    /// Reads everything once.
    pub fn read(source: &impl Inspect) -> Result<Self, Error> {
        let tables = source.tables()?;
        let indexes: Vec<u32> = tables.backends.keys().copied().collect();
        let counters = indexes.iter().copied().zip(source.counters(&indexes)?).collect();
        let requests = requests::loads(&source.noted()?, &tables.backends, uptime());
        Ok(Self { tables, counters, requests })
    }

    /// The counters of a backend.
    pub fn counters(&self, backend: u32) -> Counters {
        self.counters.get(&backend).copied().unwrap_or_default()
    }

    /// The backends people should see: all, but removed ones only while they have flows.
    pub fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.tables.backends.iter().map(|(index, backend)| (*index, backend)).filter(|(index, backend)| {
            let load = self.counters(*index).load;
            backend.state != BackendState::Removed as u8 || load.open() + load.pending + load.sockets > 0
        })
    }

    /// The frontends of each service that lead somewhere, lowest address first.
    pub fn frontends(&self) -> BTreeMap<u32, Vec<SocketKey>> {
        let mut by_service: BTreeMap<u32, Vec<SocketKey>> = BTreeMap::new();
        for (key, frontend) in self.tables.frontends.iter().filter(|(key, _)| !key.is_of_address()) {
            by_service.entry(frontend.service).or_default().push(*key);
        }
        for keys in by_service.values_mut() {
            keys.sort_by_key(|key| (key.socket(), key.protocol));
        }
        by_service
    }
}

/// A backend's state in output: one that is gone from the manifests and still has flows is terminating.
pub fn state(backend: &Backend) -> BackendState {
    match BackendState::from_number(backend.state) {
        Some(BackendState::Removed) | None => BackendState::Terminating,
        Some(state) => state,
    }
}

#[cfg(test)]
pub(super) mod sample {
    //! A small set of maps: `default/web:80` (two frontends, three backends, one of them removed with a flow) and `kube/dns:53`.

    use lb_common::{
        Algorithm, BackendLoad, Frontend, Selection, Traffic, Vip,
        backend::BACKEND_LOCAL,
        names::{NAME_BACKEND, NAME_SERVICE, NameKey},
        service::{FRONTEND_AFFINITY, VIP_LIVE},
    };

    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        cli::parse::socket_key,
        dataplane::{Capacity, Error as MapError, FlowEntry},
    };

    /// Maps in memory: the view, no flows.
    pub(crate) struct Memory(pub(crate) View);

    impl Inspect for Memory {
        fn tables(&self) -> Result<Tables, MapError> {
            Ok(self.0.tables.clone())
        }
        fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, MapError> {
            Ok(backends.iter().map(|index| self.0.counters(*index)).collect())
        }
        fn drops(&self) -> Result<BTreeMap<lb_common::DropReason, u64>, MapError> {
            Ok(BTreeMap::from([(lb_common::DropReason::NoBackend, 3), (lb_common::DropReason::NoFlow, 0)]))
        }
        fn drains(&self) -> Result<BTreeSet<SocketKey>, MapError> {
            Ok(BTreeSet::new())
        }
        fn announced(&self) -> Result<BTreeMap<lb_common::Addr, lb_common::Announced>, MapError> {
            Ok(self.0.tables.announced.clone())
        }
        fn flows(&self) -> Result<Vec<FlowEntry>, MapError> {
            Ok(Vec::new())
        }
        fn settings(&self) -> Result<lb_common::Settings, MapError> {
            Ok(lb_common::Settings::default())
        }
        fn capacity(&self) -> Capacity {
            Capacity { frontends: 8, backends: 8, slots: 64, services: 8, flows: 8 }
        }
    }

    pub(crate) fn key(text: &str) -> SocketKey {
        socket_key(text).unwrap()
    }

    pub(crate) fn backend(text: &str, service: u32, weight: u16, state: BackendState) -> Backend {
        let key = key(text);
        Backend {
            addr: key.addr,
            port: key.port,
            protocol: key.protocol,
            service,
            weight,
            effective_weight: if state == BackendState::Ready { weight } else { 0 },
            incarnation: 1,
            state: state as u8,
            source: key_source(),
            ..Default::default()
        }
    }

    fn key_source() -> lb_common::Addr {
        key("10.9.0.1:1").addr
    }

    fn load(active: u64, pending: u64, connections: u64) -> Counters {
        Counters {
            load: BackendLoad { active, pending, connections, resets: 1, remote: 2, ..Default::default() },
            traffic: Traffic { packets_in: 10, packets_out: 20, bytes_in: 1000, bytes_out: 2000 },
        }
    }

    /// The sample; the slots of both services are those of a Maglev table of five.
    pub(crate) fn view() -> View {
        let mut view = View::default();
        let tables = &mut view.tables;
        let frontend = |id, service, offset, flags| Frontend {
            id,
            service,
            inside: Selection { offset, len: 5 },
            outside: Selection { offset, len: 5 },
            affinity_seconds: 600,
            algorithm: Algorithm::Maglev as u8,
            flags,
            ..Frontend::default()
        };
        for (id, text, service, offset, flags) in
            [(0, "10.0.0.1:80", 1, 0, 0), (1, "[fd00::1]:80", 1, 0, 0), (2, "10.0.0.2:53/UDP", 2, 8, FRONTEND_AFFINITY)]
        {
            tables.frontends.insert(key(text), frontend(id, service, offset, flags));
            tables.vips.insert(id, Vip { key: key(text), live: VIP_LIVE, flags: 0 });
        }
        tables.slots.insert(0, vec![0, 1, 0, 0, 1]);
        tables.slots.insert(8, vec![3; 5]);
        let mut local = backend("10.1.0.1:8080", 1, 100, BackendState::Ready);
        local.flags = BACKEND_LOCAL;
        tables.backends.insert(0, local);
        tables.backends.insert(1, backend("10.1.0.2:8080", 1, 50, BackendState::Ready));
        tables.backends.insert(2, backend("10.1.0.3:8080", 1, 100, BackendState::Removed));
        tables.backends.insert(3, backend("10.1.0.9:53/UDP", 2, 100, BackendState::Unhealthy));
        tables.backends.insert(4, backend("10.1.0.8:53/UDP", 2, 100, BackendState::Removed));
        for (kind, index, name) in
            [(NAME_SERVICE, 1, "default/web/80/http"), (NAME_SERVICE, 2, "kube/dns/53/"), (NAME_BACKEND, 0, "node-a")]
        {
            tables.names.insert(NameKey { kind, index }, name.to_owned());
        }
        view.counters =
            [(0, load(3, 1, 40)), (1, load(2, 0, 20)), (2, load(1, 0, 9)), (3, load(4, 0, 7)), (4, load(0, 0, 5))]
                .into();
        view
    }
}
