//! What the agent shows of itself, and what it gives the scaler: plain values made from what it knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{BackendState, Protocol};

use crate::{
    dataplane::{Capacity, Counters},
    discovery::build::Holders,
    model::ServiceId,
    plan::Image,
    scaling::{BackendKey, BackendSample, Requests, ServiceSample, UsageSample},
    signals::{
        requests::RequestLoad,
        servers::{Server, Used},
    },
    telemetry::{BackendSnapshot, ServiceSnapshot},
};

/// What backends carry, by index.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// Connections, packets and bytes; who is not in it has carried nothing.
    pub counters: &'a BTreeMap<u32, Counters>,
    /// Requests, of those that are measured.
    pub requests: &'a BTreeMap<u32, RequestLoad>,
}

/// Every service port of the tables with its backends that are not removed.
pub fn services(tables: &Image, carried: &Carried<'_>) -> Vec<ServiceSnapshot> {
    let snapshot = |(id, index): (&ServiceId, &u32)| service(tables, carried, id, *index);
    tables.services().iter().filter_map(snapshot).collect()
}

/// A service port; none if all that is left of it is being removed.
fn service(tables: &Image, carried: &Carried<'_>, id: &ServiceId, index: u32) -> Option<ServiceSnapshot> {
    let backends = tables.backends_of(index).filter_map(|(index, backend)| {
        let state = BackendState::from_number(backend.state).filter(|state| *state != BackendState::Removed)?;
        Some(BackendSnapshot {
            address: backend.key().socket(),
            state,
            effective_weight: backend.effective_weight,
            counters: carried.counters.get(&index).copied().unwrap_or_default(),
            requests: carried.requests.get(&index).cloned(),
        })
    });
    let backends: Vec<BackendSnapshot> = backends.collect();
    let is_there = !backends.is_empty() || tables.frontends_of(index).next().is_some();
    is_there.then(|| ServiceSnapshot { id: id.clone(), backends })
}

/// How full the maps are whose entries services take: name, entries, and for how many there is room.
pub fn fill(tables: &Image, capacity: &Capacity) -> Vec<(&'static str, u64, u64)> {
    vec![
        ("frontends", tables.frontends().len() as u64, capacity.frontends.into()),
        ("backends", tables.backends().len() as u64, capacity.backends.into()),
        ("services", tables.services().len() as u64, capacity.services.into()),
        ("slots", tables.slots_used(), capacity.slots.into()),
    ]
}

/// Whose each frontend is, as the maps say.
pub fn holders(tables: &Image) -> Holders {
    let of = |(id, index): (&ServiceId, &u32)| {
        let holder = (id.namespace.clone(), id.name.clone());
        tables.frontends_of(*index).map(move |key| (key, holder.clone())).collect::<Vec<_>>()
    };
    tables.services().iter().flat_map(of).collect()
}

/// What the scaler reads: the backends of these Services, by namespace and name, over all their ports. `used` is what those of this node use.
pub fn samples(
    tables: &Image,
    carried: &Carried<'_>,
    wanted: &BTreeSet<(String, String)>,
    used: &Used,
    at: Duration,
) -> Vec<ServiceSample> {
    let sample = |(namespace, name): &(String, String)| {
        let backends = ports(tables, namespace, name).filter_map(|(id, index)| service(tables, carried, id, index));
        let of = |service: ServiceSnapshot| {
            service.backends.iter().map(|backend| sample(&service.id, backend, used, at)).collect::<Vec<_>>()
        };
        let backends: Vec<BackendSample> = backends.flat_map(of).collect();
        let requests = mean_limits(&backends, used);
        let is_there = ports(tables, namespace, name).next().is_some();
        let (namespace, name) = (namespace.clone(), name.clone());
        is_there.then_some(ServiceSample { namespace, name, at, backends, requests })
    };
    wanted.iter().filter_map(sample).collect()
}

/// Where the servers of a Service are that run on this node.
pub fn servers(tables: &Image, namespace: &str, name: &str) -> BTreeSet<Server> {
    let backends = ports(tables, namespace, name).flat_map(|(id, index)| {
        let local = tables.backends_of(index).filter(|(_, backend)| backend.is_local());
        local.map(move |(_, backend)| (id.protocol, backend.key().socket()))
    });
    backends.collect()
}

/// What a replica may use: the mean of those that are known.
fn mean_limits(backends: &[BackendSample], used: &Used) -> Requests {
    let limits: Vec<_> = backends.iter().filter_map(|backend| used.get(&server(&backend.key))).map(|of| of.1).collect();
    let mean = |values: Vec<u64>| values.iter().sum::<u64>().checked_div(values.len() as u64);
    Requests {
        cpu: mean(limits.iter().filter_map(|limits| limits.cpu).collect()),
        memory: mean(limits.iter().filter_map(|limits| limits.memory).collect()),
    }
}

fn server(key: &BackendKey) -> Server {
    (key.protocol, key.address)
}

/// The ports of a Service.
fn ports<'a>(tables: &'a Image, namespace: &'a str, name: &'a str) -> impl Iterator<Item = (&'a ServiceId, u32)> + 'a {
    let first = ServiceId { namespace: namespace.to_owned(), name: name.to_owned(), port: 0, protocol: Protocol::Tcp };
    let ours = move |id: &ServiceId| id.namespace == namespace && id.name == name;
    tables.services().range(first..).take_while(move |(id, _)| ours(id)).map(|(id, index)| (id, *index))
}

fn sample(id: &ServiceId, backend: &BackendSnapshot, used: &Used, at: Duration) -> BackendSample {
    let Counters { load, traffic } = backend.counters;
    let key = BackendKey { port: id.port, protocol: id.protocol, address: backend.address };
    let usage = used.get(&server(&key)).map(|(usage, _)| UsageSample { cpu: usage.cpu, memory: usage.memory, at });
    BackendSample {
        key,
        ready: backend.state == BackendState::Ready,
        active: load.open(),
        connections: load.connections,
        bytes: traffic.bytes_in + traffic.bytes_out,
        requests: backend.requests.clone(),
        usage,
    }
}
