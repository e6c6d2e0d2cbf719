//! The end of a removal: what no flow uses any more is freed, and may then be used again.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Backend, SocketKey,
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
};

use super::Image;
use crate::dataplane::Write;

/// What a whole pass of the sweep allows to free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Frontend ids that were marked removed before the pass began.
    pub vips: BTreeSet<u32>,
    /// Backends that have been removed and without active or pending flows for longer than a closing flow is remembered.
    pub backends: BTreeSet<u32>,
}

/// The writes that free what can be freed.
pub fn finish(image: &Image, swept: &Swept) -> Vec<Write> {
    let vips = swept.vips.intersection(image.removed_vips());
    let freed: BTreeSet<u32> = swept.backends.intersection(image.removed_backends()).copied().collect();
    let mut writes: Vec<Write> = vips.map(|id| Write::FreeVip(*id)).collect();
    // The endpoint first: a reply that comes now is not ours, and must not be taken for one of the next user of the index.
    writes.extend(unused_endpoints(image, &freed).into_iter().map(Write::DeleteEndpoint));
    writes.extend(freed.iter().map(|index| Write::FreeBackend(*index)));
    writes.extend(unused_names(image, &freed).into_iter().map(Write::DeleteName));
    writes
}

fn unused_endpoints(image: &Image, freed: &BTreeSet<u32>) -> BTreeSet<SocketKey> {
    let mut unused = image.idle_endpoints.clone();
    let mut losing: BTreeMap<SocketKey, u32> = BTreeMap::new();
    for backend in freed.iter().filter_map(|index| image.backends.get(index)) {
        if image.endpoints.get(&backend.key()) == Some(&backend.endpoint) {
            *losing.entry(backend.key()).or_default() += 1;
        }
    }
    // An endpoint is a user of its id itself.
    let last = |(key, count): &(&SocketKey, &u32)| {
        image.endpoints.get(*key).is_some_and(|id| image.endpoint_ids.users(*id) == **count + 1)
    };
    unused.extend(losing.iter().filter(last).map(|(key, _)| *key));
    unused
}

fn unused_names(image: &Image, freed: &BTreeSet<u32>) -> BTreeSet<NameKey> {
    let mut unused = image.idle_names.clone();
    unused.extend(freed.iter().map(|index| NameKey { kind: NAME_BACKEND, index: *index }));
    let services: BTreeSet<u32> =
        freed.iter().filter_map(|i| image.backends.get(i)).map(|b: &Backend| b.service).collect();
    let empty = |service: &u32| {
        let members = image.members.get(service);
        members.is_none_or(|m| m.frontends.is_empty() && m.backends.is_subset(freed))
    };
    unused.extend(services.into_iter().filter(empty).map(|index| NameKey { kind: NAME_SERVICE, index }));
    unused.retain(|key| image.names.contains_key(key));
    unused
}
