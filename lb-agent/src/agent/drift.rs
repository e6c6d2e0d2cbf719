//! Drift: a backend's counts say something else than the flow table holds. It should never be; where it is, it is repaired and counted.
//!
//! Counts move while the table is counted, so a difference means something only if nothing of the backend moved during the pass,
//! and is believed only when the next quiet pass finds the same one.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{BackendLoad, counters::Recount};

/// What to add to a backend's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The backend's index.
    pub backend: u32,
    /// What to add to its active connections.
    pub active: i64,
    /// What to add to its pending connections.
    pub pending: i64,
}

/// The differences that the last quiet pass has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    suspects: BTreeMap<u32, Repair>,
}

impl Drift {
    /// Compares a whole pass of the sweep with the loads read before and after it; who is in none of them has 0.
    pub fn compare(
        &mut self,
        before: &BTreeMap<u32, BackendLoad>,
        after: &BTreeMap<u32, BackendLoad>,
        recounts: &BTreeMap<u32, Recount>,
    ) -> Vec<Repair> {
        let load = |loads: &BTreeMap<u32, BackendLoad>, index: &u32| loads.get(index).copied().unwrap_or_default();
        let seen: BTreeSet<u32> = after.keys().chain(recounts.keys()).copied().collect();
        let quiet = seen.into_iter().filter(|index| unmoved(&load(before, index), &load(after, index)));
        let found: BTreeMap<u32, Repair> = quiet
            .map(|index| {
                (index, difference(index, &load(after, &index), recounts.get(&index).copied().unwrap_or_default()))
            })
            .filter(|(_, repair)| repair.active != 0 || repair.pending != 0)
            .collect();
        let repairs: Vec<Repair> =
            found.values().filter(|repair| self.suspects.get(&repair.backend) == Some(repair)).copied().collect();
        self.suspects = found;
        self.suspects.retain(|_, suspect| !repairs.contains(suspect));
        repairs
    }

    /// Forgets all suspicion: the pass was not whole.
    pub fn forget(&mut self) {
        self.suspects.clear();
    }
}

fn unmoved(before: &BackendLoad, after: &BackendLoad) -> bool {
    let key = |load: &BackendLoad| (load.connections, load.closed, load.active, load.pending);
    key(before) == key(after)
}

fn difference(backend: u32, load: &BackendLoad, table: Recount) -> Repair {
    let add = |table: u64, load: u64| table.wrapping_sub(load) as i64;
    Repair { backend, active: add(table.active, load.active), pending: add(table.pending, load.pending) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(active: u64, connections: u64, closed: u64) -> BTreeMap<u32, BackendLoad> {
        [(7, BackendLoad { active, connections, closed, ..BackendLoad::default() })].into()
    }

    fn table(active: u64) -> BTreeMap<u32, Recount> {
        [(7, Recount { active, ..Recount::default() })].into()
    }

    #[test]
    fn what_two_quiet_passes_agree_on_is_repaired_once() {
        let mut drift = Drift::default();
        let still = load(5, 10, 5);
        assert_eq!(drift.compare(&still, &still, &table(3)), []);
        assert_eq!(drift.compare(&still, &still, &table(3)), [Repair { backend: 7, active: -2, pending: 0 }]);
        assert_eq!(drift.compare(&load(3, 10, 5), &load(3, 10, 5), &table(3)), []);
    }

    #[test]
    fn traffic_during_a_pass_and_differing_findings_prove_nothing() {
        let mut drift = Drift::default();
        for (before, after) in [((5, 10, 5), (5, 11, 6)), ((5, 10, 5), (4, 10, 6)), ((5, 10, 5), (6, 11, 5))] {
            let (before, after) = (load(before.0, before.1, before.2), load(after.0, after.1, after.2));
            for _ in 0..3 {
                assert_eq!(drift.compare(&before, &after, &table(9)), []);
            }
        }
        let still = load(5, 10, 5);
        assert_eq!(drift.compare(&still, &still, &table(3)), []);
        assert_eq!(drift.compare(&still, &still, &table(4)), [], "another difference than before");
        drift.forget();
        assert_eq!(drift.compare(&still, &still, &table(4)), [], "the pass before was not whole");
    }

    #[test]
    fn an_empty_table_counts_as_none_and_a_negative_count_comes_back() {
        let mut drift = Drift::default();
        let below = load(u64::MAX, 10, 11);
        drift.compare(&below, &below, &BTreeMap::new());
        assert_eq!(drift.compare(&below, &below, &BTreeMap::new())[0].active, 1);
    }
}
