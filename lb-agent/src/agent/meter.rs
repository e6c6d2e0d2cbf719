//! What backends carry, read so that silence costs nothing: only who has connections, or had some a moment ago, can have traffic.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{BackendLoad, abi::timeout};

use crate::dataplane::Counters;

/// Closing flows are in no count and still have packets.
const WARM: Duration = Duration::from_secs(timeout::TCP_CLOSING as u64 + 2);

/// What the backends that ever carried anything carry, by index.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    counters: BTreeMap<u32, Counters>,
    /// Until when each is read though nothing is open.
    warm: BTreeMap<u32, Duration>,
}

impl Meter {
    /// The counters as last read; who is not in it has carried nothing.
    pub const fn counters(&self) -> &BTreeMap<u32, Counters> {
        &self.counters
    }

    /// Takes in all loads that are not zero, by index, and says whose packets have to be read.
    pub fn hear(&mut self, loads: &BTreeMap<u32, BackendLoad>, now: Duration) -> Vec<u32> {
        self.counters.retain(|index, _| loads.contains_key(index));
        for (index, load) in loads {
            let known = self.counters.entry(*index).or_default();
            if is_open(load) || known.load != *load {
                self.warm.insert(*index, now + WARM);
            }
            known.load = *load;
        }
        self.warm.retain(|index, until| *until >= now && loads.contains_key(index));
        self.warm.keys().copied().collect()
    }

    /// Takes in what was read.
    pub fn read(&mut self, indexes: &[u32], counters: Vec<Counters>) {
        self.counters.extend(indexes.iter().copied().zip(counters));
    }
}

const fn is_open(load: &BackendLoad) -> bool {
    load.active | load.pending | load.established | load.sockets != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_not_read() {
        let loads = |active, connections| {
            BTreeMap::from([(
                3,
                BackendLoad { active, connections, closed: connections - active, ..BackendLoad::default() },
            )])
        };
        let mut meter = Meter::default();
        let mut due = |second, loads: &BTreeMap<u32, BackendLoad>| meter.hear(loads, Duration::from_secs(second));
        assert_eq!(due(0, &BTreeMap::new()), [0u32; 0], "nobody has carried anything");
        assert_eq!(due(1, &loads(0, 5)), [3], "it has moved since it was last seen");
        assert_eq!(due(20, &loads(0, 5)), [0u32; 0]);
        assert_eq!(due(21, &loads(1, 6)), [3]);
        assert_eq!(due(80, &loads(1, 6)), [3], "it is open");
        assert_eq!(due(81, &loads(0, 6)), [3]);
        assert_eq!(due(93, &loads(0, 6)), [3], "its last packets may have come meanwhile");
        assert_eq!(due(94, &loads(0, 6)), [0u32; 0]);
        assert_eq!(meter.counters()[&3].load.connections, 6);
        meter.hear(&BTreeMap::new(), Duration::from_secs(95));
        assert!(meter.counters().is_empty(), "its index was freed");
    }
}
