//! A fleet whose size is known beforehand: fixed, or by an oracle that has seen the future.

use crate::backtest::{
    fleet::Shape,
    replay::{Observation, Scaler},
    workload::SECOND,
};

/// The same number all the time.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub u32);

impl Scaler for Fixed {
    fn desired(&mut self, _: &Observation) -> u32 {
        self.0
    }
}

/// Knows the busy slots of every second to come, and has the replicas for them ready in time. Between two needs it keeps a
/// replica where starting another costs more.
#[derive(Clone, Debug)]
pub struct Oracle {
    schedule: Vec<u32>,
}

impl Oracle {
    /// From the slots that would be busy at each second if no request waited.
    pub fn new(busy: &[u32], shape: &Shape) -> Self {
        let startup = usize::try_from(shape.startup.div_ceil(SECOND)).unwrap_or(0);
        let need: Vec<u32> = busy.iter().map(|slots| slots.div_ceil(shape.concurrency).max(1)).collect();
        Self { schedule: highest_ahead(&need, startup + 2) }
    }
}

/// The highest of the next `span` values, from each place on.
fn highest_ahead(values: &[u32], span: usize) -> Vec<u32> {
    let mut best: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let mut ahead = vec![0; values.len()];
    for at in (0..values.len()).rev() {
        while best.back().is_some_and(|last| values[*last] <= values[at]) {
            best.pop_back();
        }
        best.push_back(at);
        while best.front().is_some_and(|first| *first >= at + span) {
            best.pop_front();
        }
        ahead[at] = best.front().map_or(0, |first| values[*first]);
    }
    ahead
}

impl Scaler for Oracle {
    fn desired(&mut self, seen: &Observation) -> u32 {
        let last = self.schedule.last().copied().unwrap_or(1);
        usize::try_from(seen.second).ok().and_then(|second| self.schedule.get(second).copied()).unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::fleet::Queue;

    #[test]
    fn the_oracle_starts_replicas_in_time() {
        let shape = Shape { concurrency: 2, startup: 2 * SECOND, queue: Queue::Replica };
        let mut oracle = Oracle::new(&[0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0], &shape);
        let mut at = |second| oracle.desired(&Observation { second, ..Observation::default() });
        assert_eq!([at(0), at(2), at(3), at(6), at(7), at(10), at(99)], [1, 1, 3, 3, 1, 1, 1]);
    }
}
