//! Who counts a socket, alone and with everything at once.

use std::{thread, vec::Vec};

use lb_common::socket::owner;

use super::*;
use crate::memory::Memory;

/// A backend's sockets, established, connections, closed and resets.
fn counts(env: &Memory, backend: u32) -> [i64; 5] {
    let load = env.counts(backend);
    [load.sockets, load.established, load.connections, load.closed, load.resets].map(u64::cast_signed)
}

#[test]
fn a_connection_is_counted_from_connect_to_close() {
    let env = Memory::new(1);
    let mut word = NOBODY;
    let at = &raw mut word;
    // SAFETY: `word` is only touched here.
    unsafe {
        assert_eq!(hand_over(&env, at, owner(2)), NOBODY);
        assert_eq!(counts(&env, 2), [1, 0, 0, 0, 0]);
        establish(&env, at);
        establish(&env, at);
        assert_eq!(counts(&env, 2), [1, 1, 1, 0, 0], "established once");
        finish(&env, at);
        finish(&env, at);
        assert_eq!(counts(&env, 2), [1, 0, 1, 1, 0], "finished once");
        end(&env, at, true);
        assert_eq!(counts(&env, 2), [0, 0, 1, 1, 0], "what had finished is no reset");
        end(&env, at, true);
        hand_over(&env, at, NOBODY);
        assert_eq!(counts(&env, 2), [0, 0, 1, 1, 0], "the end is once");
    }
}

#[test]
fn a_socket_that_goes_elsewhere_leaves() {
    let env = Memory::new(1);
    let mut word = NOBODY;
    let at = &raw mut word;
    // SAFETY: as above.
    unsafe {
        hand_over(&env, at, owner(0) | OWNER_ESTABLISHED);
        hand_over(&env, at, owner(1));
        assert_eq!((counts(&env, 0), counts(&env, 1)), ([0, 0, 1, 1, 0], [1, 0, 0, 0, 0]));
        establish(&env, at);
        end(&env, at, true);
        assert_eq!(counts(&env, 1), [0, 0, 1, 1, 1], "cut off while established");
        establish(&env, at);
        assert_eq!(counts(&env, 1), [0, 0, 1, 1, 1], "nobody's socket is not established");
    }
}

#[test]
fn whatever_runs_at_the_same_time_the_sum_is_right() {
    let env = Memory::new(1);
    let mut words: Vec<u32> = std::vec![NOBODY; 64];
    let start = words.as_mut_ptr() as usize;
    thread::scope(|scope| {
        for seed in 0..4_u32 {
            let env = &env;
            scope.spawn(move || {
                for turn in 0..20_000_u32 {
                    let pick = turn.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 7;
                    // SAFETY: in bounds, and changed by these functions only until all threads have ended.
                    unsafe {
                        let at = (start as *mut u32).add(pick as usize % 64);
                        match pick >> 8 & 3 {
                            0 => drop(hand_over(env, at, owner(pick & 3))),
                            1 => establish(env, at),
                            2 => finish(env, at),
                            _ => end(env, at, pick & 1 == 0),
                        }
                    }
                }
            });
        }
    });
    for word in &mut words {
        // SAFETY: as above.
        unsafe { end(&env, word, false) };
    }
    for backend in 0..4 {
        let [sockets, established, connections, closed, _] = counts(&env, backend);
        assert_eq!((sockets, established), (0, 0), "backend {backend}");
        assert_eq!(connections, closed, "backend {backend}");
        assert!(connections > 100, "backend {backend}: {connections}");
    }
}

#[test]
fn a_total_is_claimed_once() {
    let mut counted = 5_u64;
    // SAFETY: only touched here.
    let claims = [9, 9, 7, 12].map(|total| unsafe { claim(&raw mut counted, total) });
    assert_eq!((claims, counted), ([4, 0, 0, 3], 12));
}

#[test]
fn answers_are_one_word() {
    assert_eq!(Choice(3).seat(), Some(Seat { backend: 3, reserved: 0 }));
    assert!(Choice(3 | Choice::RESERVED).seat().is_some_and(|seat| seat.backend == 3 && seat.reserved != 0));
    let limits = [Choice::FULL, Choice::CLIENT_RATE, Choice::FRONTEND_RATE];
    for other in [Choice::LEAVE, Choice::REFUSE, Choice::UNREACHABLE].into_iter().chain(limits) {
        assert_eq!(other.seat(), None);
    }
}
