//! The flows of one table put into another of another size: every entry where its key belongs, and the two of a flow with each other's place.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Bucket, Flow, FlowState,
    flow::{WAYS, meta, meta_generation, meta_state},
};
use lb_ebpf::{
    env::Limits,
    table::{FORWARDED, NO_LINK, Place, key_of, readiness},
};

use super::{
    resize::{FROZEN, FlowTables},
    sys::Mapped,
};

/// What has become of the flows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Flows that were moved.
    pub(super) flows: u64,
    /// Flows for which there was no room, or of which one entry only was there.
    pub(super) lost: u64,
    /// How many of the lost ones each backend has counted as active and as pending.
    pub(super) counted: BTreeMap<u32, (u64, u64)>,
    /// The new slot of each slot of the forward table; [`NO_LINK`] if there is none.
    pub(super) slots: Vec<u32>,
}

/// Moves all entries from frozen tables into new ones, which are frozen as well. `limits` are those of the new ones, `now` is in seconds of
/// the monotonic clock. Where a bucket gets more than eight, those go that would have to make way first.
pub(super) fn transfer(old: &FlowTables, new: &FlowTables, limits: &Limits, now: u32) -> Moved {
    let rank = |entry: &Entry| {
        let age = now.wrapping_sub(entry.flow.last) & (u32::MAX >> 1);
        (readiness(limits, entry.state() as u32, age.into()), age)
    };
    let slots = spread(&old.forward, &new.forward, limits, |entry| (entry.flow.link != NO_LINK).then(|| rank(entry)));
    let is_moved = |slot: u32| slots.get(slot as usize).is_some_and(|new| *new != NO_LINK);
    let replies = spread(&old.replies, &new.replies, limits, |reply| {
        let flow = entry_at(&old.forward, reply.flow.link).filter(|flow| flow.flow.link == reply.slot)?;
        is_moved(flow.slot).then(|| rank(&flow))
    });
    let link = |links: &[u32], link: u32| links.get(link as usize).copied().unwrap_or(NO_LINK);
    relink(&new.replies, |flow| flow.link = link(&slots, flow.link));
    let mut broken = BTreeSet::new();
    relink(&new.forward, |flow| {
        if flow.link < FORWARDED {
            flow.link = link(&replies, flow.link);
        }
    });
    each(&new.forward, |entry| {
        if entry.flow.link == NO_LINK {
            broken.insert(entry.slot);
        }
    });
    broken.iter().for_each(|slot| free(&new.forward, *slot));
    count(&old.forward, slots, &broken)
}

fn count(old: &Mapped<Bucket>, slots: Vec<u32>, broken: &BTreeSet<u32>) -> Moved {
    let mut moved = Moved::default();
    each(old, |entry| {
        let new = slots[entry.slot as usize];
        if new != NO_LINK && !broken.contains(&new) {
            moved.flows += 1;
            return;
        }
        moved.lost += 1;
        let (active, pending) = moved.counted.entry(entry.flow.backend).or_default();
        *active += u64::from(entry.state().is_active());
        *pending += u64::from(entry.state().is_pending());
    });
    Moved { slots, ..moved }
}

/// An entry, and where it stands.
struct Entry {
    slot: u32,
    meta: u32,
    flow: Flow,
}

impl Entry {
    fn state(&self) -> FlowState {
        meta_state(self.meta)
    }
}

fn entry_of(bucket: &Bucket, slot: u32) -> Option<Entry> {
    let way = slot as usize % WAYS;
    let entry = Entry { slot, meta: bucket.meta[way], flow: bucket.ways[way] };
    (entry.state() != FlowState::Free).then_some(entry)
}

fn entry_at(table: &Mapped<Bucket>, slot: u32) -> Option<Entry> {
    entry_of(&table.get(slot as usize / WAYS)?, slot)
}

fn entries(table: &Mapped<Bucket>, index: usize) -> impl Iterator<Item = Entry> {
    let bucket = table.get(index);
    (0..WAYS).filter_map(move |way| entry_of(bucket.as_ref()?, (index * WAYS + way) as u32))
}

fn each(table: &Mapped<Bucket>, mut see: impl FnMut(Entry)) {
    (0..table.len()).for_each(|index| entries(table, index).for_each(&mut see));
}

/// Copies entries to where they belong in a new table, those of lowest rank first, and says where each slot's has gone.
fn spread<R: Ord>(
    old: &Mapped<Bucket>,
    new: &Mapped<Bucket>,
    limits: &Limits,
    rank: impl Fn(&Entry) -> Option<R>,
) -> Vec<u32> {
    let mut slots = vec![NO_LINK; old.len() * WAYS];
    for index in 0..new.len() {
        // Both sizes are powers of two: the lower bits of a key's hash are its bucket.
        let sources = (index % old.len()..old.len()).step_by(new.len().min(old.len()));
        let here = |entry: &Entry| Place::of(limits, key_of(&entry.flow)).bucket() as usize == index;
        let found = sources.flat_map(|source| entries(old, source)).filter(here);
        let mut found: Vec<(R, Entry)> = found.filter_map(|entry| Some((rank(&entry)?, entry))).collect();
        if found.len() > WAYS {
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let mut bucket =
            Bucket { lock: FROZEN, zero: 0, meta: [0; WAYS], zero2: [0; 6], ways: [Flow::default(); WAYS] };
        for (way, (_, entry)) in found.into_iter().take(WAYS).enumerate() {
            (bucket.meta[way], bucket.ways[way]) = (entry.meta, entry.flow);
            slots[entry.slot as usize] = (index * WAYS + way) as u32;
        }
        new.set(index, bucket);
    }
    slots
}

/// Changes every way that is in use.
fn relink(table: &Mapped<Bucket>, change: impl Fn(&mut Flow)) {
    for index in 0..table.len() {
        let Some(mut bucket) = table.get(index) else { return };
        let ways = bucket.meta.iter().zip(&mut bucket.ways);
        ways.filter(|(meta, _)| meta_state(**meta) != FlowState::Free).for_each(|(_, way)| change(way));
        table.set(index, bucket);
    }
}

fn free(table: &Mapped<Bucket>, slot: u32) {
    let (index, way) = (slot as usize / WAYS, slot as usize % WAYS);
    if let Some(mut bucket) = table.get(index) {
        bucket.meta[way] = meta(0, meta_generation(bucket.meta[way]), FlowState::Free);
        table.set(index, bucket);
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
pub(super) mod tests;
