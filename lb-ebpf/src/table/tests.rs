mod order;
mod threads;

use std::{collections::BTreeMap, vec::Vec};

use lb_common::{
    Addr, Flow, FlowState, Port,
    flow::{WAYS, meta_state},
};
use proptest::{collection::vec, prelude::*};

use super::{Hit, Inserted, NO_LINK, Outcome, Place, at, change, find, insert, key_of, lock, remove, set_link, unlock};
use crate::{
    env::{Env as _, Shared, Table},
    flow::{Direction, Step},
    memory::Memory,
    parse::{protocol, tcp},
};

fn entry(key: u32, last: u32) -> Flow {
    Flow {
        addr: Addr::from_v4_word(key),
        id: 7,
        port: Port::new(80),
        link: NO_LINK,
        backend: 3,
        last,
        ..Flow::default()
    }
}

fn place(memory: &Memory, flow: &Flow) -> Place {
    Place::of(&memory.limits, key_of(flow))
}

fn bucket(memory: &Memory, table: Table, flow: &Flow) -> Shared<lb_common::Bucket> {
    memory.bucket(table, place(memory, flow).bucket()).unwrap()
}

fn put(memory: &Memory, flow: &Flow, state: FlowState) -> (Outcome, Inserted) {
    let mut inserted = Inserted::default();
    (insert(memory, place(memory, flow), flow, state, &mut inserted), inserted)
}

fn get(memory: &Memory, flow: &Flow) -> Option<Hit> {
    let mut hit = Hit::default();
    find(bucket(memory, Table::Forward, flow), place(memory, flow), key_of(flow), &mut hit).then_some(hit)
}

const fn step(direction: Direction, flags: u8) -> Step {
    Step { direction, protocol: protocol::TCP, flags }
}

#[test]
fn replies_have_a_table_of_their_own() {
    let memory = Memory::new(1);
    let flow = entry(1, 0);
    let (outcome, inserted) = put(&memory, &flow, FlowState::Reply);
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(get(&memory, &flow).map(|hit| hit.slot), None, "not a forward entry");
    let mut hit = Hit::default();
    assert!(find(bucket(&memory, Table::Reply, &flow), place(&memory, &flow), key_of(&flow), &mut hit));
    assert_eq!((hit.slot, hit.state()), (inserted.hit.slot, FlowState::Reply));
}

#[test]
fn a_locked_bucket_is_busy_for_writers_and_open_for_readers() {
    let memory = Memory::new(1);
    let flow = entry(1, 0);
    let (_, mut inserted) = put(&memory, &flow, FlowState::SynSent);
    let bucket = bucket(&memory, Table::Forward, &flow);
    assert!(lock(bucket));
    assert!(!lock(bucket), "it is taken");
    assert_eq!(put(&memory, &entry(2, 0), FlowState::SynSent).0, Outcome::Busy);
    assert!(remove(bucket, &mut inserted.hit).is_err());
    assert!(change(bucket, &inserted.hit, step(Direction::In, tcp::RST)).is_err());
    assert!(!set_link(bucket, &inserted.hit));
    assert_eq!(get(&memory, &flow).map(|hit| hit.state()), Some(FlowState::SynSent));
    unlock(bucket);
    assert_eq!(put(&memory, &entry(2, 0), FlowState::SynSent).0, Outcome::Done);
    assert_eq!(remove(bucket, &mut inserted.hit), Ok(true));
}

#[test]
fn a_stale_hit_changes_nothing_of_who_came_after() {
    let memory = Memory::new(1);
    let (old, new) = (entry(1, 0), entry(2, 5));
    let (_, first) = put(&memory, &old, FlowState::SynSent);
    let bucket = bucket(&memory, Table::Forward, &old);
    assert_eq!(remove(bucket, &mut first.hit.clone()), Ok(true));
    // Free ways are taken from the last on, so the way is used again at once.
    let (_, second) = put(&memory, &new, FlowState::SynSent);
    assert_eq!(first.hit.slot, second.hit.slot);
    assert_ne!(first.hit.meta, second.hit.meta);
    assert_eq!(remove(bucket, &mut first.hit.clone()), Ok(false));
    assert_eq!(change(bucket, &first.hit, step(Direction::In, tcp::RST)), Ok(0));
    assert!(!set_link(bucket, &Hit { link: 9, ..first.hit }));
    let hit = get(&memory, &new).expect("it is untouched");
    assert_eq!((hit.state(), hit.link, hit.last), (FlowState::SynSent, NO_LINK, 5));
    assert_eq!(get(&memory, &old).map(|hit| hit.slot), None);
}

#[test]
fn links_and_ports_are_put_in_place() {
    let memory = Memory::new(1);
    let flow = entry(1, 0);
    let (_, inserted) = put(&memory, &flow, FlowState::SynSent);
    assert!(set_link(
        bucket(&memory, Table::Forward, &flow),
        &Hit { link: 77, snat_port: Port::new(61000), ..inserted.hit }
    ));
    let hit = get(&memory, &flow).unwrap();
    assert_eq!((hit.link, hit.snat_port), (77, Port::new(61000)));
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Insert(u32),
    Remove(u32),
    /// By the hit of the key's first insertion ever, which may be long gone.
    RemoveStale(u32),
    Change(u32, u8),
}

fn doing() -> impl Strategy<Value = Doing> {
    let key = 0..24u32;
    prop_oneof![
        4 => key.clone().prop_map(Doing::Insert),
        2 => key.clone().prop_map(Doing::Remove),
        1 => key.clone().prop_map(Doing::RemoveStale),
        3 => (key, 0..32u8).prop_map(|(key, flags)| Doing::Change(key, flags)),
    ]
}

proptest! {
    /// Beside a plain map. Two buckets, so that they overflow; time stands still, so only unanswered and closing flows make way.
    #[test]
    fn a_table_is_a_map(doings in vec(doing(), 1..200)) {
        let memory = Memory::new(2);
        let mut map: BTreeMap<u32, FlowState> = BTreeMap::new();
        let mut first: BTreeMap<u32, Hit> = BTreeMap::new();
        for doing in doings {
            match doing {
                Doing::Insert(key) => {
                    let flow = entry(key, 0);
                    let index = place(&memory, &flow).bucket();
                    let neighbours: Vec<u32> = map.keys().copied().filter(|k| place(&memory, &entry(*k, 0)).bucket() == index).collect();
                    let yields = |k: &u32| matches!(map[k], FlowState::SynSent | FlowState::Closing);
                    let (outcome, inserted) = put(&memory, &flow, FlowState::SynSent);
                    let expected = if map.contains_key(&key) {
                        Outcome::Exists
                    } else if neighbours.len() < WAYS {
                        Outcome::Done
                    } else if neighbours.iter().any(yields) {
                        Outcome::Evicted
                    } else {
                        Outcome::Full
                    };
                    prop_assert_eq!(outcome, expected, "{:?}", doing);
                    if outcome == Outcome::Evicted {
                        let gone: Vec<u32> = neighbours.into_iter().filter(|k| get(&memory, &entry(*k, 0)).is_none()).collect();
                        prop_assert_eq!(gone.len(), 1);
                        prop_assert_eq!(inserted.evicted.state(), map[&gone[0]]);
                        map.remove(&gone[0]);
                    }
                    if matches!(outcome, Outcome::Done | Outcome::Evicted) {
                        map.insert(key, FlowState::SynSent);
                        first.entry(key).or_insert(inserted.hit);
                    }
                }
                Doing::Remove(key) => if let Some(mut hit) = get(&memory, &entry(key, 0)) {
                    prop_assert_eq!(remove(bucket(&memory, Table::Forward, &entry(key, 0)), &mut hit), Ok(true));
                    prop_assert_eq!(map.remove(&key), Some(hit.state()));
                },
                Doing::RemoveStale(key) => if let Some(mut hit) = first.get(&key).copied() {
                    let current = get(&memory, &entry(key, 0)).is_some_and(|now| (now.slot, now.meta >> 8) == (hit.slot, hit.meta >> 8));
                    prop_assert_eq!(remove(bucket(&memory, Table::Forward, &entry(key, 0)), &mut hit), Ok(current));
                    if current {
                        map.remove(&key);
                    }
                },
                Doing::Change(key, flags) => if let Some(hit) = get(&memory, &entry(key, 0)) {
                    let step = step(if flags & 8 == 0 { Direction::In } else { Direction::Out }, flags & !8);
                    let (before, after) = (map[&key], step.next(map[&key]));
                    let changed = change(bucket(&memory, Table::Forward, &entry(key, 0)), &hit, step);
                    prop_assert_eq!(changed, Ok((before as u32) << 8 | after as u32));
                    map.insert(key, after);
                },
            }
            for key in 0..24 {
                let found = get(&memory, &entry(key, 0)).map(|hit| hit.state());
                prop_assert_eq!(found, map.get(&key).copied(), "{} after {:?}", key, doing);
            }
        }
        let entries: usize = (0..2).map(|i| count(&memory, i)).sum();
        prop_assert_eq!(entries, map.len());
    }
}

/// Entries of a forward bucket.
fn count(memory: &Memory, index: u32) -> usize {
    memory.copy(Table::Forward, index).meta.iter().filter(|meta| meta_state(**meta) != FlowState::Free).count()
}

#[test]
fn what_stands_in_a_slot_is_read() {
    let memory = Memory::new(1);
    let (_, inserted) = put(&memory, &entry(1, 4), FlowState::UdpOneWay);
    let bucket = bucket(&memory, Table::Forward, &entry(1, 4));
    let mut hit = Hit::default();
    assert!(at(bucket, inserted.hit.slot, &mut hit));
    assert_eq!((hit.backend, hit.last, hit.state()), (3, 4, FlowState::UdpOneWay));
    assert!(!at(bucket, inserted.hit.slot ^ 1, &mut hit));
}
