//! Free runs of slots: the first gap that is long enough is taken.

use std::collections::BTreeMap;

/// The gaps between the runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// Start and length of each gap that has a run behind it; no two touch.
    gaps: BTreeMap<u32, u32>,
    /// The end of the last run: everything from here on is free.
    end: u32,
}

impl Gaps {
    /// Takes a run that is free.
    pub(super) fn take(&mut self, start: u32, len: u32) {
        let stop = start.saturating_add(len);
        if start >= self.end {
            if start > self.end {
                self.gaps.insert(self.end, start - self.end);
            }
            self.end = stop;
            return;
        }
        let Some((gap, size)) = self.gaps.range(..=start).next_back().map(|(gap, size)| (*gap, *size)) else { return };
        self.gaps.remove(&gap);
        if gap < start {
            self.gaps.insert(gap, start - gap);
        }
        if gap + size > stop {
            self.gaps.insert(stop, gap + size - stop);
        }
    }

    /// Gives a run back.
    pub(super) fn free(&mut self, start: u32, len: u32) {
        let (mut start, mut stop) = (start, start.saturating_add(len));
        let before = self.gaps.range(..start).next_back().map(|(gap, size)| (*gap, *size));
        if let Some((gap, _)) = before.filter(|(gap, size)| gap + size == start) {
            self.gaps.remove(&gap);
            start = gap;
        }
        if let Some(size) = self.gaps.remove(&stop) {
            stop += size;
        }
        if stop >= self.end {
            self.end = start;
        } else {
            self.gaps.insert(start, stop - start);
        }
    }

    /// Where a run of this length fits, when these runs (start and length) are taken already too.
    pub(super) fn find(&self, len: u32, capacity: u32, taken: &[(u32, u32)]) -> Option<u32> {
        // The first gap that fits is taken from its start, so what is taken is at the start of its gap.
        let used = |start: u32, size: u32| -> u32 {
            taken.iter().filter(|(at, _)| (start..start.saturating_add(size)).contains(at)).map(|(_, len)| len).sum()
        };
        let fits = |(start, size): (&u32, &u32)| {
            let used = used(*start, *size);
            (size - used >= len).then_some(start + used)
        };
        self.gaps.iter().find_map(fits).or_else(|| {
            let start = self.end + used(self.end, u32::MAX - self.end);
            (capacity.saturating_sub(start) >= len).then_some(start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_split_and_joined() {
        let mut gaps = Gaps::default();
        for (start, len) in [(0, 10), (10, 5), (20, 10), (30, 10)] {
            gaps.take(start, len);
        }
        assert_eq!(
            (gaps.find(5, 100, &[]), gaps.find(6, 100, &[]), gaps.find(61, 100, &[])),
            (Some(15), Some(40), None)
        );
        assert_eq!(gaps.find(2, 100, &[(15, 3)]), Some(18));
        assert_eq!(gaps.find(3, 100, &[(15, 3), (40, 7)]), Some(47));
        gaps.take(16, 2);
        assert_eq!(gaps.gaps, [(15, 1), (18, 2)].into());
        gaps.free(16, 2);
        gaps.free(10, 5);
        assert_eq!(gaps.gaps, [(10, 10)].into());
        gaps.free(30, 10);
        gaps.free(20, 10);
        assert_eq!(gaps, Gaps { gaps: BTreeMap::new(), end: 10 });
        gaps.free(0, 10);
        assert_eq!(gaps, Gaps::default());
    }
}
