//! Free places in the maps: the lowest index, the first run of slots that is long enough.

use std::collections::BTreeSet;

use super::PlanError;
use crate::dataplane::Tables;

/// Free indexes of a map.
#[derive(Debug)]
pub(super) struct Indexes {
    what: &'static str,
    capacity: u32,
    flag: &'static str,
    used: BTreeSet<u32>,
    next: u32,
}

impl Indexes {
    pub(super) fn new(
        what: &'static str,
        capacity: u32,
        flag: &'static str,
        used: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self { what, capacity, flag, used: used.into_iter().collect(), next: 0 }
    }

    /// The lowest free index, which is free no more.
    pub(super) fn take(&mut self) -> Result<u32, PlanError> {
        let free = (self.next..self.capacity).find(|index| !self.used.contains(index));
        let index = free.ok_or(PlanError::Full { what: self.what, capacity: self.capacity, flag: self.flag })?;
        self.next = index + 1;
        Ok(index)
    }
}

/// Free runs of slots.
#[derive(Debug)]
pub(super) struct Runs {
    capacity: u32,
    /// Start and length of each gap, by start.
    gaps: Vec<(u32, u32)>,
}

impl Runs {
    pub(super) fn new(capacity: u32, tables: &Tables) -> Self {
        let mut gaps = Vec::new();
        let mut start = 0;
        for (offset, slots) in &tables.slots {
            if *offset > start {
                gaps.push((start, offset - start));
            }
            start = start.max(offset.saturating_add(slots.len() as u32));
        }
        gaps.push((start, capacity.saturating_sub(start)));
        Self { capacity, gaps }
    }

    /// The start of the first gap that is long enough, which loses so much.
    pub(super) fn take(&mut self, len: u32) -> Result<u32, PlanError> {
        let gap = self.gaps.iter_mut().find(|(_, free)| *free >= len);
        let full = PlanError::Full { what: "slots", capacity: self.capacity, flag: "--max-slots" };
        let (start, free) = gap.ok_or(full)?;
        let offset = *start;
        *start += len;
        *free -= len;
        Ok(offset)
    }
}
