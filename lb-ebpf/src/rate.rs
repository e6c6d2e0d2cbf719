//! Rates, kept by the generic cell rate algorithm (ITU-T I.371): one word says when the next event is due if they come evenly, and it may
//! be early by as much as makes a burst at once.

use core::ptr::read_volatile;

use crate::{
    atomic,
    env::{Env, Shared},
};

/// Attempts at a rate's word, which others change at the same time.
const TRIES: u32 = 16;
const SECOND: u32 = 1_000_000_000;

/// How many events may come, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one event to the next, if they come evenly.
    interval: u32,
    /// By how much one may be early.
    early: u32,
}

impl Rate {
    /// So many a second, and a second's worth at once.
    #[inline(always)]
    pub const fn of_second(events: u32) -> Self {
        let interval = SECOND / if events == 0 { 1 } else { events };
        Self { interval, early: SECOND - interval }
    }

    /// So many a second, and `burst` at once: not 0, and no more than come in four seconds.
    pub const fn with_burst(events: u32, burst: u32) -> Self {
        let interval = Self::of_second(events).interval;
        Self { interval, early: interval * (burst - 1) }
    }
}

/// What attempts have in common: one place on the stack, which is nearly full where this is done.
struct Attempt {
    due: Shared<u64>,
    now: u64,
    rate: Rate,
    taken: bool,
}

/// Whether an event may come now; if so, the next one is due later. Who does not get at the word has many others at the same time before
/// it, and comes too early.
#[inline(always)]
pub fn take<E: Env>(env: &E, due: Shared<u64>, rate: Rate) -> bool {
    let mut attempt = Attempt { due, now: env.nanoseconds(), rate, taken: false };
    env.repeat(TRIES, || attempt.is_last());
    attempt.taken
}

impl Attempt {
    #[inline(always)]
    fn is_last(&mut self) -> bool {
        // SAFETY: a word of a map that is changed only here, atomically.
        let before = unsafe { read_volatile(self.due.ptr()) };
        let start = before.max(self.now);
        if start.wrapping_sub(self.now) > self.rate.early as u64 {
            return true;
        }
        let next = start.wrapping_add(self.rate.interval as u64);
        // SAFETY: as above.
        self.taken = unsafe { atomic::compare_exchange64(self.due.ptr(), before, next) };
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::memory::Memory;

    const NANOSECONDS: u64 = SECOND as u64;

    #[test]
    fn a_burst_comes_at_once_and_then_as_many_as_time_allows() {
        for (events, burst) in [(1000, 50), (1000, 1), (3, 2), (1, 4)] {
            let env = Memory::new(1);
            env.time.store(1_000 * NANOSECONDS, Ordering::SeqCst);
            let rate = Rate::with_burst(events, burst);
            let come = |attempts| (0..attempts).filter(|_| take(&env, env.error_rate().unwrap(), rate)).count();
            assert_eq!(come(10 * burst), burst as usize, "{events} and {burst}");
            for _ in 0..3 {
                env.time.fetch_add(NANOSECONDS / u64::from(events), Ordering::SeqCst);
                assert_eq!(come(5), 1, "{events} and {burst}");
            }
            env.time.fetch_add(NANOSECONDS / u64::from(events) - 1, Ordering::SeqCst);
            assert_eq!(come(5), 0, "{events} and {burst}: a nanosecond early");
            env.time.fetch_add(1_000 * NANOSECONDS, Ordering::SeqCst);
            assert_eq!(come(10 * burst), burst as usize, "{events} and {burst}: no more is saved up");
        }
    }

    #[test]
    fn a_seconds_worth_is_a_burst_of_as_many() {
        for events in [1, 2, 10, 1000] {
            assert_eq!(Rate::of_second(events), Rate::with_burst(events, events));
        }
        assert_eq!(Rate::of_second(0), Rate::of_second(1), "no division by 0");
    }
}
