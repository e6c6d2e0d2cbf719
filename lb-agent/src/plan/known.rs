//! Who is who in the kernel's tables: an agent that takes over knows services and backends again by their names and addresses.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Protocol, SocketKey,
    names::{NAME_SERVICE, NameKey},
};

use crate::{dataplane::Tables, model::ServiceId};

/// The name under which a service port stands in the `names` map.
pub fn service_name(id: &ServiceId, port_name: &str) -> String {
    format!("{}/{}/{}/{port_name}", id.namespace, id.name, id.port)
}

/// The service port of a name, and its port's name.
pub fn service_id(name: &str, protocol: Protocol) -> Option<(ServiceId, String)> {
    let mut parts = name.splitn(4, '/').map(str::to_owned);
    let (namespace, name) = (parts.next()?, parts.next()?);
    let port = parts.next()?.parse().ok()?;
    Some((ServiceId { namespace, name, port, protocol }, parts.next().unwrap_or_default()))
}

/// The tables, by what things are instead of where they are.
#[derive(Debug)]
pub(super) struct Known {
    /// Index of each service port that has a frontend or a backend.
    pub(super) services: BTreeMap<ServiceId, u32>,
    /// Index of each backend of a service.
    pub(super) backends: BTreeMap<(u32, SocketKey), u32>,
    /// Id of each frontend, of the removed ones too.
    pub(super) vips: BTreeMap<SocketKey, u32>,
}

impl Known {
    pub(super) fn new(tables: &Tables) -> Self {
        let of_frontends = tables.frontends.iter().map(|(key, frontend)| (frontend.service, key.protocol));
        let of_backends = tables.backends.values().map(|backend| (backend.service, backend.protocol));
        let protocols: BTreeMap<u32, u8> = of_backends.chain(of_frontends).collect();
        let service = |(index, number): (&u32, &u8)| {
            let name = tables.names.get(&NameKey { kind: NAME_SERVICE, index: *index })?;
            let (id, _) = service_id(name, Protocol::from_number(*number)?)?;
            Some((id, *index))
        };
        Self {
            services: protocols.iter().filter_map(service).collect(),
            backends: tables.backends.iter().map(|(index, b)| ((b.service, b.key()), *index)).collect(),
            vips: tables.vips.iter().map(|(id, vip)| (vip.key, *id)).collect(),
        }
    }

    /// Every service index that something names; a name alone holds nothing.
    pub(super) fn service_indexes(&self, tables: &Tables) -> BTreeSet<u32> {
        let served = self.backends.keys().map(|(service, _)| *service);
        served.chain(tables.frontends.values().map(|f| f.service)).collect()
    }

    /// The backends of a service, the removed ones too.
    pub(super) fn backends_of(&self, service: u32) -> impl Iterator<Item = u32> + '_ {
        let all = (service, SocketKey::default())..;
        self.backends.range(all).take_while(move |((s, _), _)| *s == service).map(|(_, index)| *index)
    }
}
