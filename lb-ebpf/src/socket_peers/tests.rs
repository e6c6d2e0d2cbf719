//! Which backend an unconnected socket has for each frontend, and whose name its answers bear.

use lb_common::{Addr, Backend, Port};

use super::*;
use crate::memory::Memory;

fn key(port: u16) -> SocketKey {
    SocketKey { addr: Addr::from_v4_word(7), port: Port::new(port), protocol: 17, zero: 0 }
}

/// Backends 0..8, each at its own port from 100 on, but 7 where 6 is.
fn env() -> Memory {
    let backend = |index: u16| Backend {
        addr: Addr::from_v4_word(9),
        port: Port::new(100 + index.min(6)),
        protocol: 17,
        incarnation: 1,
        state: BackendState::Ready as u8,
        ..Backend::default()
    };
    let mut env = Memory::new(1);
    env.backends = (0..8).map(backend).collect();
    env
}

/// Sends a datagram to a frontend, which has this backend if one has to be chosen. The address it goes to.
fn send(env: &Memory, peers: Shared<Peers>, frontend: u16, backend: u32, now: u32) -> SocketKey {
    let at = match find(env, peers, &key(frontend), now) {
        Found::Known(at) => at,
        Found::Place(at) => {
            put(env, peers, at, &key(frontend), backend).unwrap();
            at
        }
    };
    sent(peers, at, now)
}

fn sockets(env: &Memory) -> i64 {
    (0..8).map(|backend| env.counts(backend).sockets.cast_signed()).sum()
}

#[test]
fn each_frontend_keeps_its_backend() {
    let (mut env, mut peers) = (env(), Peers::default());
    // SAFETY: outlives its uses.
    let peers = unsafe { Shared::new(&raw mut peers) };
    assert_eq!(send(&env, peers, 1, 0, 10), key(100).with(9));
    assert_eq!(send(&env, peers, 2, 1, 11), key(101).with(9));
    assert_eq!(send(&env, peers, 1, 5, 12), key(100).with(9), "known");
    assert_eq!(send(&env, peers, 1, 5, 12 + timeout::UDP), key(105).with(9), "silent for too long");
    assert_eq!(sockets(&env), 2);
    env.backends[5].state = BackendState::Removed as u8;
    assert_eq!(send(&env, peers, 1, 3, 80), key(103).with(9), "a removed backend is left at once");
    env.backends[3].incarnation = 2;
    assert_eq!(send(&env, peers, 1, 4, 80), key(104).with(9), "so is one whose index has another user");
    release(&env, peers);
    assert_eq!(sockets(&env), 0);
    release(&env, peers);
    assert_eq!(sockets(&env), 0);
}

#[test]
fn one_frontend_too_many_takes_the_oldest_place() {
    let (env, mut peers) = (env(), Peers::default());
    // SAFETY: outlives its uses.
    let peers = unsafe { Shared::new(&raw mut peers) };
    for frontend in 1..=8_u16 {
        send(&env, peers, frontend, u32::from(frontend) - 1, 10 + u32::from(frontend));
    }
    send(&env, peers, 1, 0, 30);
    assert_eq!(send(&env, peers, 9, 2, 31), key(102).with(9));
    assert!(matches!(find(&env, peers, &key(1), 32), Found::Known(_)), "it was used just now");
    assert!(matches!(find(&env, peers, &key(2), 32), Found::Place(_)), "it had to leave");
    assert_eq!((sockets(&env), env.counts(1).closed), (8, 1));
}

#[test]
fn answers_bear_the_name_that_was_used_last() {
    let (env, mut peers) = (env(), Peers::default());
    // SAFETY: outlives its uses.
    let peers = unsafe { Shared::new(&raw mut peers) };
    // Two frontends lead to one address.
    let there = send(&env, peers, 1, 6, 10);
    assert_eq!(send(&env, peers, 2, 7, 10), there);
    assert_eq!(answered(peers, &there), Some(key(2)));
    send(&env, peers, 1, 6, 11);
    assert_eq!(answered(peers, &there), Some(key(1)));
    sent_directly(peers, &there);
    assert_eq!(answered(peers, &there), None, "asked by its own name");
    send(&env, peers, 2, 7, 12);
    assert_eq!(answered(peers, &there), Some(key(2)));
    assert_eq!(answered(peers, &key(100).with(9)), None, "nobody was asked there");
}

trait With {
    fn with(self, address: u32) -> Self;
}

impl With for SocketKey {
    fn with(self, address: u32) -> Self {
        Self { addr: Addr::from_v4_word(address), ..self }
    }
}
