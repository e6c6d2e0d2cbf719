//! Which backend a new connection gets: from the frontend's selection table, chance or a hash, and what the backends carry.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    AffinityKey, AffinityValue, Algorithm, BackendState, Frontend, Selection, hash, service::FRONTEND_AFFINITY,
};

use crate::{
    atomic,
    env::{Env, Scratch},
    parse::Parsed,
};

/// The backend of a new connection from one of a frontend's tables; `None` if it is empty.
#[inline(always)]
pub fn backend<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend, table: Selection) -> Option<u32> {
    scratch.affinity = AffinityKey { client: scratch.packet.src, service: frontend.service };
    choose(env, &scratch.packet, &scratch.affinity, frontend, table)
}

/// The same for who is not a packet: `packet` is what hashes are made of, `client` who keeps its backend under session affinity.
#[inline(always)]
pub fn choose<E: Env>(
    env: &E,
    packet: &Parsed,
    client: &AffinityKey,
    frontend: &Frontend,
    table: Selection,
) -> Option<u32> {
    match ask(env, packet, client, frontend, &table) {
        NONE => None,
        index => Some(index),
    }
}

/// No backend.
const NONE: u32 = u32::MAX;

/// Not inlined, so that the verifier follows it once; its result is one word for the same reason.
#[inline(never)]
fn ask<E: Env>(env: &E, packet: &Parsed, client: &AffinityKey, frontend: &Frontend, table: &Selection) -> u32 {
    if table.len == 0 {
        return NONE;
    }
    let found = if frontend.flags & FRONTEND_AFFINITY == 0 {
        pick(env, packet, frontend, *table)
    } else {
        stay(env, packet, client, frontend, *table)
    };
    found.unwrap_or(NONE)
}

/// Slots from one backend of a selection table to the next.
#[inline(always)]
pub fn stride(algorithm: u8) -> u32 {
    const RANDOM: u8 = Algorithm::Random as u8;
    const LEAST_CONNECTIONS: u8 = Algorithm::LeastConnections as u8;
    match algorithm {
        RANDOM | LEAST_CONNECTIONS => 2,
        _ => 1,
    }
}

/// Whom a client stays with, or begins to.
#[inline(always)]
fn stay<E: Env>(env: &E, packet: &Parsed, client: &AffinityKey, frontend: &Frontend, table: Selection) -> Option<u32> {
    let now = env.now();
    let kept = env.affinity(client).and_then(|value| still_valid(env, frontend, table, &value, now));
    let index = match kept {
        Some(index) => index,
        None => pick(env, packet, frontend, table)?,
    };
    keep(env, client, index, now);
    Some(index)
}

/// The client stays with this backend from now on.
#[inline(always)]
pub fn keep<E: Env>(env: &E, client: &AffinityKey, index: u32, now: u32) {
    if let Some(backend) = env.backend(index) {
        env.set_affinity(client, &AffinityValue { backend: index, incarnation: backend.incarnation, last: now });
    }
}

/// A remembered backend, if its time is not over and it still takes connections.
#[inline(always)]
fn still_valid<E: Env>(env: &E, frontend: &Frontend, table: Selection, value: &AffinityValue, now: u32) -> Option<u32> {
    let backend = env.backend(value.backend)?;
    let valid = backend.incarnation == value.incarnation
        && backend.service == frontend.service
        // Another table than that of clients inside has backends of this node only.
        && (backend.is_local() || table == frontend.inside)
        && backend.state == BackendState::Ready as u8
        && now.wrapping_sub(value.last) < frontend.affinity_seconds;
    valid.then_some(value.backend)
}

#[inline(always)]
fn pick<E: Env>(env: &E, packet: &Parsed, frontend: &Frontend, table: Selection) -> Option<u32> {
    const RANDOM: u8 = Algorithm::Random as u8;
    const ROUND_ROBIN: u8 = Algorithm::RoundRobin as u8;
    const WEIGHTED_ROUND_ROBIN: u8 = Algorithm::WeightedRoundRobin as u8;
    const LEAST_CONNECTIONS: u8 = Algorithm::LeastConnections as u8;
    const IP_HASH: u8 = Algorithm::IpHash as u8;
    let len = table.len;
    let at = match frontend.algorithm {
        RANDOM => return by_chance(env, table),
        LEAST_CONNECTIONS => return less_loaded(env, table),
        ROUND_ROBIN | WEIGHTED_ROUND_ROBIN => {
            let cursor = env.cursor(frontend.service)?;
            // SAFETY: `cursor` points into a map and is changed only atomically.
            (unsafe { atomic::fetch_add(cursor.ptr(), 1) } % len as u64) as u32
        }
        IP_HASH => hash::by_client(&packet.src, len),
        _ => hash::by_tuple(&packet.src, packet.src_port, &packet.dst, packet.dst_port, packet.protocol, len),
    };
    env.slot(table.offset.wrapping_add(at)).map(|slot| slot as u32)
}

/// Weighted random by the alias method: one column, then its owner or its alias.
#[inline(always)]
fn by_chance<E: Env>(env: &E, table: Selection) -> Option<u32> {
    let column = hash::scale((env.random() as u64) << 32, table.len);
    let at = table.offset.wrapping_add(column.wrapping_mul(2));
    let owner = env.slot(at)?;
    if (env.random() as u64) < owner >> 32 {
        return Some(owner as u32);
    }
    env.slot(at.wrapping_add(1)).map(|slot| slot as u32)
}

/// Two weighted random choices; the one with the smaller (load + 1) / weight (Mitzenmacher 2001).
#[inline(always)]
fn less_loaded<E: Env>(env: &E, table: Selection) -> Option<u32> {
    let a = by_chance(env, table)?;
    let mut b = by_chance(env, table)?;
    if a == b {
        // Two different ones tell more: of four equal backends one is drawn twice in 1 of 16 cases, this way in 1 of 64.
        b = by_chance(env, table)?;
    }
    let (load_a, weight_a) = load(env, a)?;
    let (load_b, weight_b) = load(env, b)?;
    Some(if load_a.wrapping_mul(weight_b) <= load_b.wrapping_mul(weight_a) { a } else { b })
}

#[inline(always)]
fn load<E: Env>(env: &E, index: u32) -> Option<(u64, u64)> {
    let load = env.load(index)?;
    // SAFETY: `load` points into a map; each word is read once.
    let sum = unsafe {
        read_volatile(addr_of!((*load.ptr()).active))
            .wrapping_add(read_volatile(addr_of!((*load.ptr()).pending)))
            .wrapping_add(read_volatile(addr_of!((*load.ptr()).sockets)))
            .wrapping_add(read_volatile(addr_of!((*load.ptr()).remote)))
    };
    // A count that is being corrected may be below 0 for a moment.
    let sum = (sum as i64).max(0) as u64;
    Some((sum + 1, env.backend(index)?.effective_weight.max(1) as u64))
}
