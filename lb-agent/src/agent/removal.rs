//! Removals that wait: for a whole pass of the sweep (frontends), or until no flow has named them for a while (backends). And what is
//! given up: a removed backend that nothing lists any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{BackendLoad, abi::timeout, counters::Recount};

use crate::plan::Swept;

/// A flow that began to close after its bucket was swept gets its time, and two passes of the sweep.
const QUIET: Duration = Duration::from_secs(timeout::TCP_CLOSING as u64 + 2);

/// So long nothing has to list a removed backend before its connections are given up: an endpoint that moves from one slice to another
/// may be in neither for a moment.
const GIVE_UP: Duration = Duration::from_secs(3);

/// What waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Removed backends without a flow, and since when.
    idle: BTreeMap<u32, Duration>,
    /// Removed backends that nothing lists, and since when.
    nowhere: BTreeMap<u32, Duration>,
}

impl Removal {
    /// After a whole pass that began when these frontends and backends were removed already: what can be freed. A client that goes on after
    /// its connection was reset keeps the closing flow, and with it the index.
    pub fn swept(
        &mut self,
        vips: BTreeSet<u32>,
        removed: &BTreeSet<u32>,
        loads: &BTreeMap<u32, BackendLoad>,
        recounts: &BTreeMap<u32, Recount>,
        now: Duration,
    ) -> Swept {
        let unnamed = |index: &u32| recounts.get(index).is_none_or(|found| *found == Recount::default());
        let idle = removed.iter().filter(|index| unnamed(index) && loads.get(index).is_none_or(is_unused));
        let idle: BTreeSet<u32> = idle.copied().collect();
        self.idle.retain(|index, _| idle.contains(index));
        for index in idle {
            self.idle.entry(index).or_insert(now);
        }
        let backends = self.idle.iter().filter(|(_, since)| now.saturating_sub(**since) >= QUIET).map(|(i, _)| *i);
        Swept { vips, backends: backends.collect() }
    }

    /// Which of the removed backends that nothing lists have been so for long enough to be called gone.
    pub fn gone(&mut self, nowhere: &BTreeSet<u32>, now: Duration) -> BTreeSet<u32> {
        self.nowhere.retain(|index, _| nowhere.contains(index));
        for index in nowhere {
            self.nowhere.entry(*index).or_insert(now);
        }
        let long = self.nowhere.iter().filter(|(_, since)| now.saturating_sub(**since) >= GIVE_UP);
        long.map(|(index, _)| *index).collect()
    }
}

/// Whether no flow and no socket counts on this index any more.
const fn is_unused(load: &BackendLoad) -> bool {
    load.active | load.pending | load.established | load.sockets == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_backend_waits_until_it_was_quiet_for_long_enough() {
        let loads = |active| BTreeMap::from([1, 2].map(|i| (i, BackendLoad { active, ..BackendLoad::default() })));
        let mut removal = Removal::default();
        let none = BTreeMap::new();
        let mut at =
            |second, active| removal.swept([4].into(), &[1].into(), &loads(active), &none, Duration::from_secs(second));
        assert_eq!(at(0, 1), Swept { vips: [4].into(), backends: [].into() });
        assert_eq!(at(20, 1).backends, [].into());
        assert_eq!(at(21, 0).backends, [].into());
        assert_eq!(at(30, 0).backends, [].into());
        assert_eq!(at(31, 1).backends, [].into(), "a flow was there again");
        assert_eq!(at(32, 0).backends, [].into());
        assert_eq!(at(44, 0).backends, [1].into());
        let sockets = BTreeMap::from([(1, BackendLoad { sockets: 1, ..BackendLoad::default() })]);
        let swept = removal.swept([].into(), &[1].into(), &sockets, &none, Duration::from_secs(60));
        assert_eq!(swept.backends, [].into(), "a socket of a process goes on");
    }

    #[test]
    fn an_index_is_not_free_while_a_closing_flow_names_it() {
        let mut removal = Removal::default();
        let mut at = |second, closing| {
            let recounts = BTreeMap::from([(1, Recount { closing, ..Recount::default() })]);
            let swept = removal.swept([].into(), &[1].into(), &BTreeMap::new(), &recounts, Duration::from_secs(second));
            swept.backends
        };
        for second in 0..60 {
            assert_eq!(at(second, 1), [].into());
        }
        assert_eq!(at(60, 0), [].into());
        assert_eq!(at(72, 0), [1].into());
    }

    #[test]
    fn a_backend_that_is_listed_again_in_time_is_not_gone() {
        let mut removal = Removal::default();
        let mut at = |second, nowhere: &[u32]| {
            removal
                .gone(&nowhere.iter().copied().collect(), Duration::from_secs(second))
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert!(at(0, &[1, 2]).is_empty());
        assert!(at(2, &[1, 2]).is_empty());
        assert_eq!(at(3, &[1]), [1]);
        assert_eq!(at(4, &[1, 2]), [1]);
        assert_eq!(at(7, &[1, 2]), [1, 2]);
        assert!(at(8, &[]).is_empty());
    }
}
