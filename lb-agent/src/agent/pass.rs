//! The sweep's rhythm: a pass takes a bounded part of each second, and none is made while there is nothing to find.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::BackendLoad;

use crate::dataplane::SweepReport;

/// The most that a second's part of a pass may take, about.
pub const BUDGET: Duration = Duration::from_millis(8);
/// So often there is a pass even where nothing is to be found.
const AT_LEAST: Duration = Duration::from_secs(60);

/// What was known when a pass began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The loads that were not zero.
    pub loads: BTreeMap<u32, BackendLoad>,
    /// The ids of frontends that had been removed.
    pub vips: BTreeSet<u32>,
}

/// The pass that runs, and the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    running: Option<Before>,
    /// The loads, if the last pass found an empty table, and when it ended.
    empty: Option<(BTreeMap<u32, BackendLoad>, Duration)>,
}

impl Passes {
    /// Says whether there is something to sweep: a pass that runs, or a reason for a new one. `waiting`: a removal waits for it.
    pub fn is_due(
        &mut self,
        loads: &BTreeMap<u32, BackendLoad>,
        vips: &BTreeSet<u32>,
        waiting: bool,
        now: Duration,
    ) -> bool {
        if self.running.is_some() {
            return true;
        }
        let same = |(known, at): &(_, Duration)| known == loads && now.saturating_sub(*at) < AT_LEAST;
        let due = waiting || !self.empty.as_ref().is_some_and(same);
        if due {
            self.running = Some(Before { loads: loads.clone(), vips: vips.clone() });
        }
        due
    }

    /// Ends the pass; returns what was known when it began.
    pub fn end(&mut self, report: &SweepReport, now: Duration) -> Before {
        let before = self.running.take().unwrap_or_default();
        let open = before.loads.values().any(|load| load.active != 0 || load.pending != 0);
        let found = report.entries | report.orphans | report.busy | report.expired | report.forgotten;
        self.empty = (found == 0 && !open).then(|| (before.loads.clone(), now));
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_left_alone_until_something_moves() {
        let second = Duration::from_secs;
        let loads = |active| BTreeMap::from([(1, BackendLoad { active, connections: 7, ..BackendLoad::default() })]);
        let (none, empty) = (BTreeSet::new(), SweepReport::default());
        let mut passes = Passes::default();
        assert!(passes.is_due(&loads(0), &none, false, second(0)), "the first");
        assert!(passes.is_due(&loads(0), &none, false, second(1)), "it is not over");
        assert_eq!(passes.end(&empty, second(1)).loads, loads(0));
        assert!(!passes.is_due(&loads(0), &none, false, second(2)));
        assert!(passes.is_due(&loads(1), &none, false, second(3)), "a connection");
        passes.end(&SweepReport { entries: 1, ..empty.clone() }, second(3));
        assert!(passes.is_due(&loads(1), &none, false, second(4)), "it is still there");
        passes.end(&empty, second(4));
        assert!(passes.is_due(&loads(1), &none, false, second(5)), "a count without a flow is drift");
        passes.end(&empty, second(5));
        assert!(passes.is_due(&loads(0), &[4].into(), true, second(6)), "somebody waits for it");
        assert_eq!(passes.end(&empty, second(6)).vips, [4].into());
        assert!(!passes.is_due(&loads(0), &none, false, second(7)));
        assert!(passes.is_due(&loads(0), &none, false, second(66)), "a minute is over");
    }
}
