//! The end of a removal: what no flow uses any more is freed, and may then be used again.

use std::collections::BTreeSet;

use lb_common::{
    Backend, BackendState,
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
    service::VIP_REMOVED,
};

use crate::dataplane::{Tables, Write};

/// What a whole pass of the sweep allows to free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Frontend ids that were marked removed before the pass began.
    pub vips: BTreeSet<u32>,
    /// Backends that have been removed and without active or pending flows for longer than a closing flow is remembered.
    pub backends: BTreeSet<u32>,
}

/// The writes that free what can be freed.
pub fn finish(tables: &Tables, swept: &Swept) -> Vec<Write> {
    let removed = |b: &Backend| b.state == BackendState::Removed as u8;
    let freed: BTreeSet<u32> =
        tables.backends.iter().filter(|(i, b)| swept.backends.contains(i) && removed(b)).map(|(i, _)| *i).collect();
    let left: Vec<&Backend> = tables.backends.iter().filter(|(i, _)| !freed.contains(i)).map(|(_, b)| b).collect();
    let endpoints: BTreeSet<u32> = left.iter().map(|b| b.endpoint).collect();
    let vips = tables.vips.iter().filter(|(id, vip)| vip.live == VIP_REMOVED && swept.vips.contains(id));
    let unused = tables.endpoints.iter().filter(|(_, id)| !endpoints.contains(id));
    let mut writes: Vec<Write> = vips.map(|(id, _)| Write::FreeVip(*id)).collect();
    // The endpoint first: a reply that comes now is not ours, and must not be taken for one of the next user of the index.
    writes.extend(unused.map(|(key, _)| Write::DeleteEndpoint(*key)));
    writes.extend(freed.iter().map(|index| Write::FreeBackend(*index)));
    writes.extend(unused_names(tables, &freed, &left));
    writes
}

fn unused_names(tables: &Tables, freed: &BTreeSet<u32>, left: &[&Backend]) -> Vec<Write> {
    let services: BTreeSet<u32> =
        left.iter().map(|b| b.service).chain(tables.frontends.values().map(|f| f.service)).collect();
    let used = |key: &NameKey| match key.kind {
        NAME_SERVICE => services.contains(&key.index),
        NAME_BACKEND => tables.backends.contains_key(&key.index) && !freed.contains(&key.index),
        _ => true,
    };
    tables.names.keys().filter(|key| !used(key)).map(|key| Write::DeleteName(*key)).collect()
}
