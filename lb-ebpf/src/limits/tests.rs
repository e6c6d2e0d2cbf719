//! Places and rates, alone and with everything at once.

use core::sync::atomic::Ordering;
use std::{thread, vec::Vec};

use lb_common::Algorithm;

use super::*;
use crate::memory::Memory;

const SECOND: u64 = 1_000_000_000;

fn frontend(max_connections: u32, client_rate: u32, rate: u32) -> Frontend {
    let algorithm = Algorithm::RoundRobin as u8;
    Frontend { id: 1, service: 2, algorithm, max_connections, client_rate, rate, ..Frontend::default() }
}

fn table(env: &mut Memory, backends: &[u64]) -> Selection {
    env.slots = backends.to_vec();
    Selection { offset: 0, len: backends.len() as u32 }
}

fn client(last: u32) -> Addr {
    Addr::from_v4_word(last.to_be())
}

/// A connection that was made: the place that it holds, or why it was turned away.
fn come(env: &Memory, frontend: &Frontend, table: Selection, from: Addr, first: u32) -> Result<Seat, DropReason> {
    let mut seat = Seat { backend: first, reserved: 0 };
    enter(env, frontend, &from, &table, &mut seat).map(|()| seat)
}

#[test]
fn a_full_backend_is_skipped_and_when_all_are_nobody_comes_in() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3, 5]);
    let limited = frontend(2, 0, 0);
    let seats: Vec<_> = (0..4).map(|_| come(&env, &limited, table, client(1), 3).unwrap().backend).collect();
    assert_eq!(seats, [3, 3, 5, 5]);
    assert_eq!(come(&env, &limited, table, client(1), 3), Err(DropReason::BackendsFull));
    assert_eq!((env.counts(3).pending, env.counts(5).pending), (2, 2), "nothing is left of who was turned away");
    leave(&env, &Seat { backend: 5, reserved: 1 });
    assert_eq!(come(&env, &limited, table, client(1), 3).unwrap().backend, 5);
    leave(&env, &Seat { backend: 5, reserved: 0 });
    assert_eq!(env.counts(5).pending, 2, "who has no place leaves none");
}

#[test]
fn whoever_has_a_connection_counts() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3]);
    for field in 0..4 {
        let load = env.load(3).unwrap().ptr();
        // SAFETY: nobody else uses the counts.
        unsafe {
            *load = BackendLoad::default();
            *[&mut (*load).active, &mut (*load).pending, &mut (*load).sockets, &mut (*load).remote][field] = 2;
        }
        assert_eq!(come(&env, &frontend(2, 0, 0), table, client(1), 3), Err(DropReason::BackendsFull), "{field}");
        assert!(come(&env, &frontend(3, 0, 0), table, client(1), 3).is_ok(), "{field}");
        assert!(come(&env, &frontend(0, 0, 0), table, client(1), 3).is_ok_and(|seat| seat.reserved == 0), "{field}");
    }
}

#[test]
fn of_many_who_come_at_once_as_many_get_a_place_as_there_are() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3, 5, 6]);
    let env = &env;
    let got: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let limited = frontend(50, 0, 0);
                    (0..200).filter(|_| come(env, &limited, table, client(1), 3).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let held: Vec<_> = [3, 5, 6].map(|index| env.counts(index).pending).to_vec();
    assert!(held.iter().all(|pending| *pending <= 50), "{held:?}");
    // Who looks while another is being turned away finds one too many; alone, all places are given.
    assert_eq!(held.iter().sum::<u64>(), got as u64);
    let rest = (0..200).filter(|_| come(env, &frontend(50, 0, 0), table, client(1), 3).is_ok()).count();
    assert_eq!(got + rest, 150);
}

#[test]
fn a_seconds_worth_may_come_at_once_and_then_one_by_one() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3]);
    env.time = (1_000 * SECOND).into();
    for rate in [1, 3, 10, 1000] {
        let limited = Frontend { id: 0, ..frontend(0, 0, rate) };
        let come = || come(&env, &limited, table, client(1), 3).map(|_| ());
        let at_once = (0..2 * rate).filter(|_| come().is_ok()).count();
        assert_eq!(at_once, rate as usize, "{rate}");
        assert_eq!(come(), Err(DropReason::FrontendRate));
        env.time.fetch_add(SECOND / u64::from(rate), Ordering::SeqCst);
        assert_eq!((come(), come()), (Ok(()), Err(DropReason::FrontendRate)), "{rate}");
        env.time.fetch_add(100 * SECOND, Ordering::SeqCst);
        assert_eq!((0..2 * rate).filter(|_| come().is_ok()).count(), rate as usize, "{rate}: no more is saved up");
        env.time.fetch_add(100 * SECOND, Ordering::SeqCst);
    }
}

#[test]
fn a_client_over_its_limit_takes_nothing_from_others_and_a_network_of_ipv6_is_one_client() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3]);
    let limited = frontend(5, 2, 4);
    let of = |from: Addr| come(&env, &limited, table, from, 3).map(|_| ());
    let v6 = |third| Addr([1, 2, third, 4]);
    let came: Vec<_> = [client(1), client(1), client(1), client(1), v6(7), v6(8), v6(9)].into_iter().map(of).collect();
    let over = Err(DropReason::ClientRate);
    assert_eq!(came, [Ok(()), Ok(()), over, over, Ok(()), Ok(()), over]);
    assert_eq!(of(client(2)), Err(DropReason::FrontendRate));
    assert_eq!(env.counts(3).pending, 4, "who came too early holds no place");
}

#[test]
fn at_the_same_time_no_more_come_in() {
    let mut env = Memory::new(1);
    let table = table(&mut env, &[3]);
    let env = &env;
    let got: usize = thread::scope(|scope| {
        let come = || (0..500).filter(|_| come(env, &frontend(0, 0, 100), table, client(1), 3).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(come)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(got, 100);
    assert_eq!(env.counts(3).pending, 0);
}
