//! Who makes way for a new flow.

use FlowState::{
    Closing, Established, FinBackend, FinClient, Forwarded, ForwardedFin, ForwardedSyn, ForwardedUdp, Free, Reply,
    SynReceived, SynSent, UdpAnswered, UdpOneWay,
};
use lb_common::{
    Flow, FlowState,
    flow::{WAYS, meta, meta_state},
};
use proptest::{array::uniform8, prelude::*};

use super::{bucket, entry, put};
use crate::{
    env::{Limits, Table},
    flow::idle_limit,
    memory::{EMPTY, Memory},
    table::{IDLE_ENOUGH, Inserted, Outcome, free_way, readiness, roomiest},
};

const STATES: [FlowState; 14] = [
    Free,
    SynSent,
    SynReceived,
    Established,
    FinClient,
    FinBackend,
    Closing,
    UdpOneWay,
    UdpAnswered,
    Reply,
    ForwardedSyn,
    Forwarded,
    ForwardedFin,
    ForwardedUdp,
];

/// The order of docs/decisions/0001-flow-table.md, said plainly: the larger goes first, 0 never goes.
fn rank(limits: &Limits, state: FlowState, age: u32) -> u64 {
    let expired = age > idle_limit(limits, state as u32);
    match state {
        Reply => 0,
        Free => 6,
        _ if expired => 5,
        SynSent | ForwardedSyn => 4,
        SynReceived | UdpOneWay | Forwarded | ForwardedFin | ForwardedUdp => 3,
        Closing => 2,
        Established | FinClient | FinBackend | UdpAnswered => u64::from(age >= IDLE_ENOUGH),
    }
}

fn limits(tcp_idle: u32) -> Limits {
    Limits { tcp_idle, ..Memory::new(1).limits }
}

#[test]
fn readiness_follows_the_order() {
    for tcp_idle in [10, 300, 8000] {
        let limits = limits(tcp_idle);
        for state in STATES {
            for age in (0..100).chain([299, 300, 301, 7999, 8000, 8001, 1 << 20, u32::MAX >> 1]) {
                let found = readiness(&limits, state as u32, u64::from(age));
                assert_eq!(found, rank(&limits, state, age), "{state:?}, {age} s, tcp-idle {tcp_idle}");
            }
        }
    }
}

/// States and ages of eight ways: all kinds, or only few that yield.
fn ways() -> impl Strategy<Value = [(usize, u32); WAYS]> {
    let any = uniform8((0..STATES.len(), prop_oneof![0..50u32, 0..200u32, 7990..8010u32]));
    let fresh = uniform8((1..STATES.len(), 0..10u32));
    let open = uniform8((3..6usize, 0..50u32));
    prop_oneof![any, fresh, open]
}

proptest! {
    #[test]
    fn the_first_to_go_is_the_one_not_seen_for_longest_of_the_readiest(ways in ways(), now in any::<u32>()) {
        let limits = limits(8000);
        let memory = Memory::new(1);
        let place = bucket(&memory, Table::Forward, &entry(1, 0));
        let mut content = EMPTY;
        for (way, (state, age)) in ways.into_iter().enumerate() {
            content.meta[way] = meta(9, 1, STATES[state]);
            content.ways[way] = Flow { last: now.wrapping_sub(age), ..entry(way as u32, 0) };
        }
        // SAFETY: nobody else uses the memory.
        unsafe { *place.ptr() = content };
        let order = |way: usize| (rank(&limits, STATES[ways[way].0], ways[way].1), ways[way].1);
        let best = (0..WAYS).map(order).max().unwrap();
        match roomiest(place, &limits, now) {
            None => prop_assert_eq!(best.0, 0),
            Some(way) => {
                prop_assert!(best.0 > 0);
                prop_assert_eq!(order(way), best);
            }
        }
        match free_way(place) {
            None => prop_assert!(ways.iter().all(|(state, _)| STATES[*state] != Free)),
            Some(way) => prop_assert_eq!(STATES[ways[way].0], Free),
        }
    }
}

#[test]
fn full_of_open_flows_is_full_until_they_are_idle() {
    let memory = Memory::new(1);
    for key in 0..WAYS as u32 {
        assert_eq!(put(&memory, &entry(key, 100 + key), Established).0, Outcome::Done);
    }
    assert_eq!(put(&memory, &entry(99, 100 + IDLE_ENOUGH - 1), SynSent).0, Outcome::Full);
    let (outcome, Inserted { evicted, .. }) = put(&memory, &entry(99, 100 + IDLE_ENOUGH), SynSent);
    assert_eq!((outcome, evicted.last, evicted.state()), (Outcome::Evicted, 100, Established));
    // The newcomer is the readiest now.
    let (outcome, Inserted { evicted, .. }) = put(&memory, &entry(98, 100 + IDLE_ENOUGH), SynSent);
    assert_eq!((outcome, evicted.state()), (Outcome::Evicted, SynSent));
}

#[test]
fn replies_never_make_way() {
    let memory = Memory::new(1);
    for key in 0..WAYS as u32 {
        assert_eq!(put(&memory, &entry(key, 0), Reply).0, Outcome::Done);
    }
    assert_eq!(put(&memory, &entry(99, 1 << 20), Reply).0, Outcome::Full);
    assert!(memory.copy(Table::Reply, 0).meta.iter().all(|meta| meta_state(*meta) == Reply));
}
