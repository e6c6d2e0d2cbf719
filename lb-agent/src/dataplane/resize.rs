//! Another size for the flow table while its flows go on: all entries move into a new pair of maps, of which the next programs are loaded.
//!
//! Meanwhile every bucket of both pairs is locked, with a number that no program writes. A packet of a flow that is there goes on: it takes
//! no lock. What would open, close or end a flow is dropped (`table-busy`) and comes again. So nothing is counted twice or lost, whichever
//! of the programs a packet meets while they are exchanged, one interface after the other.
//!
//! An agent that dies meanwhile leaves locked buckets: the next one finishes what was begun, or takes it back ([`recover`]).

use std::{
    fs, io,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map};
use lb_common::{BackendLoad, Bucket, Settings, names::map};

use super::{
    Dataplane as _, Error, Inspect as _,
    bpf::{Bpf, kernel},
    pins::{Folder, Pinned, failed, map_folder},
    sys::Mapped,
    transfer::{Moved, transfer},
};
use crate::agent::uptime;

/// The pins of the tables in use.
pub(super) const CURRENT: [&str; 2] = [map::FLOWS, map::REPLIES];
/// The pins of those that take their place.
pub(super) const NEXT: [&str; 2] = ["flows_next", "replies_next"];

/// The lock of a bucket that nobody may change; programs write 0 and 1.
pub(super) const FROZEN: u32 = 2;
/// A program holds a lock for some tens of nanoseconds, and much longer where its CPU is taken away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Both tables.
pub(super) struct FlowTables {
    pub(super) forward: Mapped<Bucket>,
    pub(super) replies: Mapped<Bucket>,
}

impl FlowTables {
    /// Opens the tables with these pins.
    pub(super) fn open(folder: &Path, [forward, replies]: [&'static str; 2]) -> Result<Self, Error> {
        let folder = Folder(folder);
        Ok(Self { forward: folder.mapped(forward)?, replies: folder.mapped(replies)? })
    }

    /// Whether they are locked. The first bucket is the first that is, and the last.
    pub(super) fn is_frozen(&self) -> bool {
        self.forward.atomic(0, LOCK).is_some_and(|lock| lock.load(Ordering::SeqCst) == FROZEN)
    }

    /// Locks every bucket.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        for table in [&self.forward, &self.replies] {
            for lock in (0..table.len()).filter_map(|bucket| table.atomic(bucket, LOCK)) {
                while lock
                    .compare_exchange(0, FROZEN, Ordering::SeqCst, Ordering::SeqCst)
                    .is_err_and(|now| now != FROZEN)
                {
                    if Instant::now() > end {
                        return Err(kernel("lock the flow table".into(), io::Error::from(io::ErrorKind::TimedOut)));
                    }
                    std::hint::spin_loop();
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Self::freeze`] has locked.
    pub(super) fn thaw(&self) {
        for table in [&self.replies, &self.forward] {
            for lock in (0..table.len()).rev().filter_map(|bucket| table.atomic(bucket, LOCK)) {
                let _ = lock.compare_exchange(FROZEN, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
    }
}

const LOCK: usize = std::mem::offset_of!(Bucket, lock);

/// Tables that are thawed when this goes, unless they are [`Self::left`].
pub(super) struct Frozen<'a>(&'a FlowTables);

impl<'a> Frozen<'a> {
    pub(super) fn new(tables: &'a FlowTables) -> Result<Self, Error> {
        let frozen = Self(tables);
        tables.freeze()?;
        Ok(frozen)
    }

    /// Leaves them as they are, for ever: others have taken their place.
    pub(super) fn left(self) {
        std::mem::forget(self);
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// Puts the next tables into the place of those in use.
pub(super) fn commit(folder: &Path) -> Result<(), Error> {
    NEXT.into_iter().zip(CURRENT).try_for_each(|(next, current)| put(folder, next, current))
}

fn put(folder: &Path, next: &str, current: &str) -> Result<(), Error> {
    let (from, to) = (folder.join(next), folder.join(current));
    fs::rename(&from, &to).map_err(|source| kernel(format!("rename {} to {}", from.display(), to.display()), source))
}

/// Finishes what an agent has begun that died meanwhile, or takes it back.
pub(super) fn recover(folder: &Path) -> Result<(), Error> {
    let left: Vec<_> = NEXT.into_iter().filter(|name| folder.join(name).exists()).collect();
    if left.is_empty() {
        return Ok(());
    }
    let buckets = |name| Folder(folder).mapped::<Bucket>(name).map(|table| table.len());
    // The first of two steps was done, if the tables agree then; else the agent was about to make or to remove them. They are thawed once all
    // programs use them.
    if left == [NEXT[1]] && buckets(NEXT[1])? == buckets(CURRENT[0])? {
        return put(folder, NEXT[1], CURRENT[1]);
    }
    // What is attached still uses the old ones.
    FlowTables::open(folder, CURRENT)?.thaw();
    left.into_iter().map(|name| folder.join(name)).try_for_each(|path| {
        fs::remove_file(&path).map_err(|source| kernel(format!("remove {}", path.display()), source))
    })
}

impl Bpf {
    /// Moves the flows into a table of the size that was asked for, if it is another one: see this module. From here on until [`Self::thaw`]
    /// no flow begins, changes or ends; meanwhile everything is to be attached, so that these programs are in force everywhere.
    pub fn move_flows(&mut self) -> Result<(), Error> {
        let Some(bucket_mask) = self.next_mask else { return Ok(()) };
        // Its check takes a second. Who needs it hears why it is refused when it is attached.
        let _ = self.xdp();
        let started = Instant::now();
        let folder = map_folder(&self.pin_path);
        let (old, new) = (FlowTables::open(&folder, CURRENT)?, FlowTables::open(&folder, NEXT)?);
        let frozen = Frozen::new(&old)?;
        // Who had not seen the locks has ended then.
        Self::grace_period()?;
        let settings = Settings { bucket_mask, ..self.settings };
        let moved = transfer(&old, &new, &settings.into(), self.now()?);
        commit(&folder)?;
        frozen.left();
        (self.next_mask, self.settings, self.buckets, self.swept) = (None, settings, bucket_mask + 1, 0);
        self.pinned = Pinned::open(&self.pin_path)?;
        self.made()?;
        self.pinned.move_requests(&moved.slots)?;
        for (backend, (active, pending)) in &moved.counted {
            self.pinned.count_lost(*backend, *active, *pending);
        }
        let Moved { flows, lost, .. } = moved;
        let (room, took) = (self.capacity().flows, started.elapsed());
        if lost == 0 {
            tracing::info!(flows, room, ?took, "flows moved into a table of another size");
        } else {
            tracing::warn!(
                flows,
                lost,
                room,
                ?took,
                "flows moved into a table that is too small for all of them: see --flow-table-size"
            );
        }
        Ok(())
    }

    /// Has flows begin and end again.
    pub fn thaw(&self) -> Result<(), Error> {
        let tables = FlowTables::open(&map_folder(&self.pin_path), CURRENT)?;
        if tables.is_frozen() {
            // Those that knew the old tables have ended then.
            Self::grace_period()?;
            tables.thaw();
        }
        Ok(())
    }

    /// What programs take for the time.
    fn now(&self) -> Result<u32, Error> {
        if !self.options.test_clock {
            return Ok(uptime().as_secs() as u32);
        }
        let clock: Array<_, u32> = Folder(&map_folder(&self.pin_path)).typed(map::CLOCK, Map::Array)?;
        clock.get(&0, 0).map_err(failed(map::CLOCK, "read"))
    }
}

impl Pinned {
    /// Counts flows as closed that were active or pending.
    fn count_lost(&self, backend: u32, active: u64, pending: u64) {
        let changes = [
            (std::mem::offset_of!(BackendLoad, active), active.wrapping_neg()),
            (std::mem::offset_of!(BackendLoad, pending), pending.wrapping_neg()),
            (std::mem::offset_of!(BackendLoad, closed), active + pending),
        ];
        for (count, change) in changes {
            self.loads.add(backend as usize, count, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::transfer::tests::tables;

    #[test]
    fn a_lock_that_is_held_is_waited_for_and_is_not_given_back_for_its_holder() {
        let tables = tables(64);
        let lock = tables.replies.atomic(40, LOCK).unwrap();
        lock.store(1, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let freezing = scope.spawn(|| tables.freeze());
            std::thread::sleep(Duration::from_millis(20));
            assert!(tables.is_frozen() && !freezing.is_finished(), "its first bucket is locked, one is waited for");
            lock.store(0, Ordering::SeqCst);
            freezing.join().unwrap().unwrap();
        });
        assert_eq!(lock.load(Ordering::SeqCst), FROZEN);
        tables.thaw();
        assert!(!tables.is_frozen());
        lock.store(1, Ordering::SeqCst);
        assert!(Frozen::new(&tables).is_err(), "nobody gives it back");
        assert!(!tables.is_frozen(), "what was locked until then is free");
        assert_eq!(lock.load(Ordering::SeqCst), 1);
    }
}
