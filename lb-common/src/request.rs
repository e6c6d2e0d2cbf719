//! What is measured of requests, for Services that ask for it: which are in flight, how many began, and how long their answers took to
//! begin.
//!
//! A request runs from its first payload to its answer's last payload. That a payload was the last shows only afterwards: by the next
//! request, by the end of the connection, or by silence. So nobody counts requests up and down: the map `requests` has an element for
//! each connection that ever asked something, and whoever reads it tells from the times in it which requests are in flight.

use crate::{assert_size, plain_data};

/// A connection of the packet path, in a key of the map `requests`; without it the key is a socket's cookie.
const FLOW: u64 = 1 << 63;

/// The key of a tracked flow, by the slot of its forward entry and that slot's generation: no later flow has the same.
#[inline(always)]
pub const fn flow_key(slot: u32, generation: u8) -> u64 {
    FLOW | (generation as u64) << 32 | slot as u64
}

/// The slot and the generation of a flow's key; `None` for a socket's.
pub const fn flow_of_key(key: u64) -> Option<(u32, u8)> {
    if key & FLOW == 0 { None } else { Some((key as u32, (key >> 32) as u8)) }
}

/// The last request of a connection. Element of the hash `requests`; lives until the connection ends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// The backend's index.
    pub backend: u32,
    /// The backend's incarnation.
    pub incarnation: u32,
    /// When its first payload was sent on, in nanoseconds of the monotonic clock.
    pub begun: u64,
    /// When the last payload of its answer came; 0: none has come.
    pub answered: u64,
    /// The client's next sequence number: payload before it was sent again.
    pub sent: u32,
    /// The backend's next sequence number.
    pub received: u32,
}

impl Request {
    /// Whether it is in flight at `now`, where an answer is over after `idle` without payload; all in nanoseconds.
    pub const fn is_in_flight(&self, now: u64, idle: u64) -> bool {
        self.answered == 0 || now.saturating_sub(self.answered) < idle
    }
}

/// Buckets of the time to an answer's first payload.
pub const BUCKETS: usize = 96;
/// The narrowest bucket is 2^14 ns, some 16 us; the last one begins at 8 minutes.
const UNIT_BITS: u32 = 14;
/// Each doubling has four buckets.
const PARTS_BITS: u32 = 2;
const PARTS: u64 = 1 << PARTS_BITS;

/// What a backend's requests were like. Element of the hash `measures`, changed by atomic additions only; there is one for each backend
/// that is measured.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measure {
    /// Requests that began, ever.
    pub requests: u64,
    /// Those of them that are in no count of requests in flight, because the map `requests` was full.
    pub unseen: u64,
    /// Nanoseconds until answers began, all together.
    pub nanoseconds: u64,
    /// Always 0.
    pub zero: u64,
    /// Answers that began, by [`bucket`].
    pub buckets: [u64; BUCKETS],
}

impl Default for Measure {
    fn default() -> Self {
        Self { requests: 0, unseen: 0, nanoseconds: 0, zero: 0, buckets: [0; BUCKETS] }
    }
}

/// The bucket of a time in nanoseconds: four equal ones in each doubling.
#[inline(always)]
pub const fn bucket(nanoseconds: u64) -> usize {
    let units = nanoseconds >> UNIT_BITS;
    let index = if units < PARTS {
        units
    } else {
        let doubling = 63 - units.leading_zeros();
        (doubling - PARTS_BITS + 1) as u64 * PARTS + (units >> (doubling - PARTS_BITS) & (PARTS - 1))
    };
    if index < BUCKETS as u64 { index as usize } else { BUCKETS - 1 }
}

/// Where a bucket begins, in nanoseconds. The end of one is the beginning of the next; the last one has none.
pub const fn bucket_start(index: usize) -> u64 {
    let (row, part) = (index as u64 / PARTS, index as u64 % PARTS);
    let units = if row == 0 { part } else { (PARTS + part) << (row - 1) };
    units << UNIT_BITS
}

plain_data!(Request, Measure);
assert_size!(Request = 32, Measure = 800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        for index in 0..BUCKETS - 1 {
            let (start, end) = (bucket_start(index), bucket_start(index + 1));
            assert!(start < end, "{index}");
            assert_eq!((bucket(start), bucket(end - 1)), (index, index));
            assert!(index < 4 || (end - start) * 4 <= start, "{index}: a quarter at most");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_start(BUCKETS - 1), 7 << 36);
    }

    #[test]
    fn keys_tell_flows_from_sockets() {
        assert_eq!(flow_of_key(flow_key(77, 255)), Some((77, 255)));
        assert_eq!(flow_of_key(1 << 40), None);
    }

    #[test]
    fn an_answer_is_over_after_silence_and_a_question_never() {
        let asked = Request { begun: 5, ..Request::default() };
        assert!(asked.is_in_flight(u64::MAX, 10));
        let answered = Request { answered: 100, ..asked };
        assert!(answered.is_in_flight(90, 10) && answered.is_in_flight(109, 10) && !answered.is_in_flight(110, 10));
    }
}
