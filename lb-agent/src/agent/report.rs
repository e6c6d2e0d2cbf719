//! What the agent shows of itself, and what it gives the scaler: plain values made from what it knows.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{
    Backend, BackendState, Frontend, Protocol, SocketKey,
    names::{NAME_SERVICE, NameKey},
};

use crate::{
    dataplane::{Counters, Tables},
    discovery::build::Holders,
    model::ServiceId,
    plan::service_id,
    scaling::{BackendKey, BackendSample, ServiceSample},
    telemetry::{BackendSnapshot, ServiceSnapshot},
};

/// Every service port of the tables with its backends that are not removed.
pub fn services(tables: &Tables, counters: &BTreeMap<u32, Counters>) -> Vec<ServiceSnapshot> {
    let mut services: BTreeMap<ServiceId, Vec<BackendSnapshot>> = BTreeMap::new();
    for (key, frontend) in &tables.frontends {
        services.extend(identity(tables, frontend.service, key.protocol).map(|id| (id, Vec::new())));
    }
    for (index, backend) in &tables.backends {
        let state = BackendState::from_number(backend.state).unwrap_or_default();
        let Some(id) = identity(tables, backend.service, backend.protocol) else { continue };
        if state != BackendState::Removed {
            let counters = counters.get(index).copied().unwrap_or_default();
            services.entry(id).or_default().push(snapshot(backend, state, counters));
        }
    }
    services.into_iter().map(|(id, backends)| ServiceSnapshot { id, backends }).collect()
}

/// Whose each frontend is, as the maps say.
pub fn holders(tables: &Tables) -> Holders {
    let holder = |(key, frontend): (&SocketKey, &Frontend)| {
        let id = identity(tables, frontend.service, key.protocol)?;
        Some((*key, (id.namespace, id.name)))
    };
    tables.frontends.iter().filter_map(holder).collect()
}

fn identity(tables: &Tables, service: u32, protocol: u8) -> Option<ServiceId> {
    let name = tables.names.get(&NameKey { kind: NAME_SERVICE, index: service })?;
    service_id(name, Protocol::from_number(protocol)?).map(|(id, _)| id)
}

fn snapshot(backend: &Backend, state: BackendState, counters: Counters) -> BackendSnapshot {
    BackendSnapshot { address: backend.key().socket(), state, effective_weight: backend.effective_weight, counters }
}

/// What the scaler reads: the backends of each Service over all its ports.
pub fn samples(services: &[ServiceSnapshot], at: Duration) -> Vec<ServiceSample> {
    let mut samples: BTreeMap<(&str, &str), Vec<BackendSample>> = BTreeMap::new();
    for service in services {
        let id = &service.id;
        let backends = samples.entry((&id.namespace, &id.name)).or_default();
        backends.extend(service.backends.iter().map(|backend| sample(id, backend)));
    }
    let sample = |((namespace, name), backends): ((&str, &str), _)| ServiceSample {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        at,
        backends,
    };
    samples.into_iter().map(sample).collect()
}

fn sample(id: &ServiceId, backend: &BackendSnapshot) -> BackendSample {
    let Counters { load, traffic } = backend.counters;
    BackendSample {
        key: BackendKey { port: id.port, protocol: id.protocol, address: backend.address },
        ready: backend.state == BackendState::Ready,
        active: load.active,
        connections: load.connections,
        bytes: traffic.bytes_in + traffic.bytes_out,
    }
}
