//! Removals that wait: for a whole pass of the sweep (frontends), or until no flow has named them for a while (backends).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{BackendLoad, BackendState, abi::timeout, service::VIP_REMOVED};

use crate::{dataplane::Tables, plan::Swept};

/// Closing flows are not counted, so they get their time, and two passes of the sweep.
const QUIET: Duration = Duration::from_secs(timeout::TCP_CLOSING as u64 + 2);

/// What waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Removed backends without a flow, and since when.
    idle: BTreeMap<u32, Duration>,
}

/// The ids of frontends that a pass beginning now will have swept.
pub fn removed_frontends(tables: &Tables) -> BTreeSet<u32> {
    tables.vips.iter().filter(|(_, vip)| vip.live == VIP_REMOVED).map(|(id, _)| *id).collect()
}

impl Removal {
    /// After a whole pass that began when these frontends were removed already: what can be freed.
    pub fn swept(
        &mut self,
        tables: &Tables,
        vips: BTreeSet<u32>,
        loads: &BTreeMap<u32, BackendLoad>,
        now: Duration,
    ) -> Swept {
        let empty = |index: &u32| loads.get(index).is_some_and(|load| load.active == 0 && load.pending == 0);
        let removed = tables.backends.iter().filter(|(_, b)| b.state == BackendState::Removed as u8).map(|(i, _)| *i);
        let idle: BTreeSet<u32> = removed.filter(empty).collect();
        self.idle.retain(|index, _| idle.contains(index));
        for index in idle {
            self.idle.entry(index).or_insert(now);
        }
        let backends = self.idle.iter().filter(|(_, since)| now.saturating_sub(**since) >= QUIET).map(|(i, _)| *i);
        Swept { vips, backends: backends.collect() }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{Backend, Vip};

    use super::*;

    #[test]
    fn a_removed_backend_waits_until_it_was_quiet_for_long_enough() {
        let backend = |state: BackendState| Backend { state: state as u8, incarnation: 1, ..Backend::default() };
        let tables = Tables {
            backends: [(1, backend(BackendState::Removed)), (2, backend(BackendState::Ready))].into(),
            vips: [(4, Vip { live: VIP_REMOVED, ..Vip::default() }), (5, Vip { live: 1, ..Vip::default() })].into(),
            ..Tables::default()
        };
        assert_eq!(removed_frontends(&tables), [4].into());
        let loads = |active| BTreeMap::from([1, 2].map(|i| (i, BackendLoad { active, ..BackendLoad::default() })));
        let mut removal = Removal::default();
        let mut at = |second, active| removal.swept(&tables, [4].into(), &loads(active), Duration::from_secs(second));
        assert_eq!(at(0, 1), Swept { vips: [4].into(), backends: [].into() });
        assert_eq!(at(20, 1).backends, [].into());
        assert_eq!(at(21, 0).backends, [].into());
        assert_eq!(at(30, 0).backends, [].into());
        assert_eq!(at(31, 1).backends, [].into(), "a flow was there again");
        assert_eq!(at(32, 0).backends, [].into());
        assert_eq!(at(44, 0).backends, [1].into());
    }
}
