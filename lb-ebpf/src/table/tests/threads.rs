//! Several threads at the same few buckets.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
    vec::Vec,
};

use lb_common::{
    Flow, FlowState,
    flow::{WAYS, meta_state},
    hash,
};

use super::{bucket, entry, get, put, step};
use crate::{
    env::Table,
    flow::Direction,
    memory::Memory,
    parse::tcp,
    table::{Outcome, change, remove},
};

const THREADS: u64 = 4;
const TURNS: u64 = 60_000;
const BUCKETS: u32 = 2;
/// More than there is room for, so that some have to go all the time.
const KEYS: u64 = 40;
/// A way has the same generation again after 256 flows, which take longer than this. What runs in the kernel is not held up for so long in the
/// middle of a read, but a thread may be.
const UNDISTURBED: Duration = Duration::from_micros(10);

/// An entry that tells by itself whether it is read half: its words follow from one of them.
fn telling(key: u32, nonce: u32) -> Flow {
    Flow { link: nonce, backend: nonce ^ 0x5a5a_5a5a, snat_port: lb_common::Port(nonce as u16), ..entry(key, 0) }
}

/// What one thread has added to the table, and taken out of it.
#[derive(Clone, Copy, Default)]
struct Done {
    added: u64,
    taken: u64,
    changed: u64,
}

fn work(memory: &Memory, thread: u64) -> Done {
    let mut done = Done::default();
    for turn in 0..TURNS {
        let chance = hash::mix(thread << 32 | turn);
        let key = (chance % KEYS) as u32;
        let flow = telling(key, (chance >> 20) as u32);
        match chance >> 60 {
            0..6 => {
                let (outcome, inserted) = put(memory, &flow, FlowState::SynSent);
                done.added += u64::from(matches!(outcome, Outcome::Done | Outcome::Evicted));
                done.taken += u64::from(outcome == Outcome::Evicted);
                if matches!(outcome, Outcome::Evicted) {
                    assert_ne!(inserted.evicted.state(), FlowState::Free, "who had to go was there");
                }
            }
            6..9 => {
                if let Some(mut hit) = get(memory, &flow) {
                    done.taken += u64::from(remove(bucket(memory, Table::Forward, &flow), &mut hit) == Ok(true));
                }
            }
            9..12 => {
                if let Some(hit) = get(memory, &flow) {
                    let reset = step(Direction::In, tcp::RST);
                    let changed = change(bucket(memory, Table::Forward, &flow), &hit, reset);
                    let closed = (FlowState::SynSent as u32) << 8 | FlowState::Closing as u32;
                    done.changed += u64::from(changed == Ok(closed));
                }
            }
            _ => {
                if let Some(hit) = get(memory, &flow) {
                    assert_eq!(hit.backend, hit.link ^ 0x5a5a_5a5a, "a torn read: {hit:?}");
                    assert_eq!(hit.snat_port.0, hit.link as u16, "a torn read: {hit:?}");
                }
            }
        }
    }
    done
}

#[test]
fn no_key_twice_no_torn_read_and_every_entry_accounted_for() {
    let memory = Memory::new(BUCKETS);
    let done: Vec<Done> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move_ref(&memory, thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (added, taken): (u64, u64) = (done.iter().map(|d| d.added).sum(), done.iter().map(|d| d.taken).sum());
    let mut keys = BTreeSet::new();
    let mut entries = 0;
    for index in 0..BUCKETS {
        let content = memory.copy(Table::Forward, index);
        assert_eq!(content.lock, 0, "the lock was given back");
        for way in (0..WAYS).filter(|way| meta_state(content.meta[*way]) != FlowState::Free) {
            entries += 1;
            assert!(keys.insert(content.ways[way].addr.0[3]), "a key twice: {content:?}");
        }
    }
    assert_eq!(added - taken, entries, "{added} were added, {taken} taken");
    assert!(entries > 0 && taken > 1000, "too little has happened: {added}, {taken}");
    assert!(done.iter().all(|done| done.changed > 0), "too little was changed");
}

fn move_ref(memory: &Memory, thread: u64) -> impl FnOnce() -> Done + Send + '_ {
    move || work(memory, thread)
}

/// One way is given to two keys in turn, without a moment in which it is free; the others hold flows that stay.
#[test]
fn a_reader_sees_a_whole_entry_or_none() {
    let memory = Memory::new(1);
    for key in 100..100 + WAYS as u32 - 1 {
        assert_eq!(put(&memory, &entry(key, 0), FlowState::Established).0, Outcome::Done);
    }
    let writing = AtomicBool::new(true);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0u64; 2];
            while writing.load(Relaxed) {
                for key in 0..2 {
                    let started = Instant::now();
                    if let Some(hit) = get(&memory, &entry(key, 0)) {
                        if started.elapsed() > UNDISTURBED {
                            continue;
                        }
                        assert_eq!(hit.backend, hit.link ^ 0x5a5a_5a5a, "a torn read: {hit:?}");
                        assert_eq!(hit.link & 1, key, "another key's entry: {hit:?}");
                        seen[key as usize] += 1;
                    }
                }
            }
            seen
        });
        for turn in 0..600_000 {
            let nonce = (hash::mix(u64::from(turn)) as u32) & !1 | turn & 1;
            let (outcome, _) = put(&memory, &telling(turn & 1, nonce), FlowState::SynSent);
            assert!(outcome == if turn == 0 { Outcome::Done } else { Outcome::Evicted }, "{outcome:?}");
        }
        writing.store(false, Relaxed);
        reader.join().unwrap()
    });
    assert!(seen.iter().all(|count| *count > 100), "too little was read: {seen:?}");
}
