//! Fragments: the first one of a packet has the ports and goes the way of its flow; it is remembered, and the others, which have none,
//! follow it.
//!
//! All of them get a new identification: behind full NAT, and behind the frontend's address, packets of several senders have the same
//! addresses, and who puts fragments together would mix those that share a number. Counted up for each pair of addresses, a number
//! comes again after 65,536 fragmented packets (IPv6: 2^32).

use lb_common::{
    DropReason, Port, SocketKey,
    fragment::{
        FRAGMENT_COUNTERS, FRAGMENT_FORWARDED, FRAGMENT_IN, FRAGMENT_OUT, FRAGMENT_TIME, Fragment, FragmentKey,
    },
    hash,
};

use crate::{
    atomic, checksum, dsr,
    env::{Env, Hook, Route, Scratch, Tuple},
    flow::Direction,
    packet::Packet,
    parse::Parsed,
    pipeline::{Verdict, count, way},
    rewrite,
    table::Hit,
};

#[inline(always)]
fn key(parsed: &Parsed) -> FragmentKey {
    let protocol = if parsed.is_v4() { parsed.protocol as u32 } else { 0 };
    FragmentKey { src: parsed.src, dst: parsed.dst, id: parsed.fragment, protocol }
}

/// Renumbers the first fragment of a packet, which is rewritten to `scratch.to` already, and notes what becomes of the others. Not
/// inlined: its stack is its own.
#[inline(never)]
pub fn first<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch, direction: Direction) -> Option<()> {
    let id = next_id(env, scratch)?;
    let way = if direction == Direction::Out { FRAGMENT_OUT } else { FRAGMENT_IN };
    note(env, scratch, way, id, scratch.hit.snat_port);
    renumber(packet, &scratch.packet, id)
}

/// Notes what becomes of the other fragments of the packet in `scratch`.
#[inline(always)]
pub fn note<E: Env>(env: &E, scratch: &mut Scratch, way: u8, id: u32, snat_port: Port) {
    scratch.fragment_key = key(&scratch.packet);
    let (Tuple { src, dst, .. }, backend, seen) = (scratch.to, scratch.hit.backend, scratch.now);
    let protocol = scratch.packet.protocol;
    scratch.fragment = Fragment { src, dst, id, backend, seen, snat_port, way, protocol };
    env.note_fragment(&scratch.fragment_key, &scratch.fragment);
}

/// An identification that no other packet between these addresses has had lately. Where it starts nobody else knows.
#[inline(always)]
fn next_id<E: Env>(env: &E, scratch: &Scratch) -> Option<u32> {
    let hash = hash::address(env.limits().flow_seed, &scratch.to.src, scratch.packet.protocol as u64);
    let hash = hash::address(hash, &scratch.to.dst, 0);
    let given = env.fragment_ids(hash as u32 & (FRAGMENT_COUNTERS - 1))?;
    // SAFETY: a word of a map that is changed only here, atomically.
    let count = unsafe { atomic::fetch_add(given.ptr(), 1) };
    let id = (hash >> 32).wrapping_add(count) as u32;
    Some(if scratch.packet.is_v4() { id & 0xffff } else { id })
}

#[inline(always)]
fn renumber<P: Packet>(packet: &mut P, parsed: &Parsed, id: u32) -> Option<()> {
    if !parsed.is_v4() {
        return packet.store(parsed.fragment_at, id);
    }
    let (old, new) = ((parsed.fragment as u16).to_be(), (id as u16).to_be());
    packet.fix_ip_checksum(parsed.l3 as u32 + 10, checksum::half(old, new))?;
    packet.store(parsed.fragment_at, new)
}

/// Sends a fragment without ports after its first one. One that has none is nobody's, unless its address is ours alone.
#[inline(never)]
pub fn follow<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    scratch.fragment_key = key(&scratch.packet);
    scratch.now = env.now();
    let known = env.fragment(&scratch.fragment_key, &mut scratch.fragment);
    if !known || scratch.now.wrapping_sub(scratch.fragment.seen) > FRAGMENT_TIME {
        return stray(env, scratch);
    }
    let Fragment { src, dst, id, backend, snat_port, way: noted, .. } = scratch.fragment;
    if noted == FRAGMENT_FORWARDED {
        scratch.hit = dsr::passing(backend);
        let protocol = scratch.fragment.protocol;
        return dsr::send_quietly(packet, env, scratch, snat_port, protocol);
    }
    scratch.to = Tuple { src, dst, ..Tuple::default() };
    scratch.hit = Hit { backend, snat_port, ..Hit::default() };
    let direction = if noted == FRAGMENT_OUT { Direction::Out } else { Direction::In };
    let bytes = scratch.packet.ip_bytes;
    let (hop, verdict) = match way(env, scratch, direction, bytes) {
        Route::Interface(index) if scratch.packet.ttl > 1 => (true, Verdict::interface(index)),
        Route::Stack => (false, Verdict::STACK),
        Route::Defer => return Verdict::PASS,
        // No error is sent about a fragment but the first (RFC 1812 section 4.3.2.7).
        Route::Interface(_) => return Verdict::drop(DropReason::TtlExceeded),
        Route::TooBig(_) => return Verdict::drop(DropReason::TooBig),
        Route::Drop(reason) => return Verdict::drop(reason),
    };
    let change = rewrite::address_change(&scratch.packet, &scratch.to);
    let ttl = rewrite::ttl(&scratch.packet, hop);
    let rewritten = rewrite::network(packet, &scratch.packet, &scratch.to, change, ttl)
        .and_then(|()| renumber(packet, &scratch.packet, id));
    if rewritten.is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    count(env, backend, direction, 1, bytes as u64);
    verdict
}

/// A fragment whose first one was not seen, or is long forgotten.
#[inline(always)]
fn stray<E: Env>(env: &E, scratch: &mut Scratch) -> Verdict {
    if env.hook() == Hook::Egress {
        return Verdict::PASS;
    }
    scratch.key = SocketKey::other_ports(scratch.packet.dst);
    let mut ours = env.frontend(&scratch.key).is_some();
    if !ours {
        scratch.key = SocketKey::echo(scratch.packet.dst);
        ours = env.frontend(&scratch.key).is_some();
    }
    if ours { Verdict::drop(DropReason::Fragment) } else { Verdict::PASS }
}
