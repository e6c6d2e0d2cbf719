//! Removals: frontends when everybody had the chance to take them over, and after a grace period what packets may have been using.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Backend, BackendState, SocketKey, Vip,
    backend::BACKEND_GONE,
    service::{VIP_LIVE, VIP_REMOVED},
};

use super::{Image, Surplus};
use crate::dataplane::Write;

/// What a service port has beside these frontends and backends.
pub(super) fn surplus(
    image: &Image,
    service: u32,
    frontends: &BTreeSet<SocketKey>,
    backends: &BTreeSet<u32>,
) -> Surplus {
    let live = |b: &Backend| b.state != BackendState::Removed as u8 || b.effective_weight != 0;
    let unwanted = image.backends_of(service).filter(|(index, b)| live(b) && !backends.contains(index));
    Surplus {
        service,
        frontends: image.frontends_of(service).filter(|key| !frontends.contains(key)).collect(),
        backends: unwanted.map(|(index, _)| index).collect(),
    }
}

/// What is of no service port whose name is known.
pub fn strays(image: &Image) -> Vec<Surplus> {
    let unnamed = image.members.keys().filter(|index| image.service(**index).is_none());
    unnamed.map(|index| surplus(image, *index, &BTreeSet::new(), &BTreeSet::new())).collect()
}

/// The writes that remove frontends which are still of the service port that does not want them, and mark removed whatever
/// address has lost its frontend.
pub fn remove(image: &Image, surplus: &[Surplus]) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut lost: BTreeSet<u32> = image.idle_vips.iter().map(|(_, id)| *id).collect();
    for surplus in surplus {
        for key in &surplus.frontends {
            if let Some(frontend) = image.frontends.get(key).filter(|f| f.service == surplus.service) {
                writes.push(Write::DeleteFrontend(*key));
                lost.insert(frontend.id);
            }
        }
    }
    for id in lost {
        let networks = image.ranges.get(&id).into_iter().flatten();
        writes.extend(networks.map(|network| Write::DeleteRange(id, *network)));
        let live = image.vips.get(&id).filter(|vip| vip.live == VIP_LIVE);
        writes.extend(live.map(|vip| Write::PutVip(id, Vip { live: VIP_REMOVED, ..*vip })));
    }
    writes
}

/// The writes that free what was out of use before a grace period began and is so still: runs of slots, and backends by service port.
pub fn retire(image: &Image, runs: &BTreeSet<u32>, backends: &BTreeMap<u32, BTreeSet<u32>>) -> Vec<Write> {
    let mut writes: Vec<Write> = runs.intersection(&image.idle_runs).map(|offset| Write::FreeSlots(*offset)).collect();
    for (service, backends) in backends {
        for index in backends {
            if let Some(backend) = image.backends.get(index).filter(|backend| backend.service == *service) {
                let removed = Backend { state: BackendState::Removed as u8, effective_weight: 0, ..*backend };
                writes.push(Write::PutBackend(*index, removed));
            }
        }
    }
    writes
}

/// The removed backends at whose address nothing else is served.
pub fn unserved(image: &Image) -> BTreeSet<u32> {
    let removed = || image.removed_backends().iter().filter_map(|index| Some((*index, image.backends.get(index)?)));
    let mut sharers: BTreeMap<u32, u32> = BTreeMap::new();
    removed().for_each(|(_, backend)| *sharers.entry(backend.endpoint).or_default() += 1);
    // An endpoint is a user of its id itself.
    let alone = |backend: &Backend| image.endpoint_ids.users(backend.endpoint) <= sharers[&backend.endpoint] + 1;
    removed().filter(|(_, backend)| alone(backend)).map(|(index, _)| index).collect()
}

/// The writes that mark removed backends gone: those of `nowhere` that are of `long` too, or were marked before.
pub fn mark_gone(image: &Image, nowhere: &BTreeSet<u32>, long: &BTreeSet<u32>) -> Vec<Write> {
    let removed = image.removed_backends().iter().filter_map(|index| Some((*index, image.backends.get(index)?)));
    let marked = removed.filter_map(|(index, backend)| {
        let gone = nowhere.contains(&index) && (backend.is_gone() || long.contains(&index));
        let flags = if gone { backend.flags | BACKEND_GONE } else { backend.flags & !BACKEND_GONE };
        (flags != backend.flags).then_some(Write::PutBackend(index, Backend { flags, ..*backend }))
    });
    marked.collect()
}
