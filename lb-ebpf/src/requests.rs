//! Requests of measured connections: when one begins, when its answer begins, and when there was last something of it.
//!
//! A client's payload begins a request, unless one is waiting for its answer; a backend's payload is of the answer. What was sent
//! again tells nothing. Requests that share a connection at the same time are one. See [`lb_common::request`] for who counts them.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use lb_common::request::{Measure, Request, bucket};

use crate::{
    atomic,
    env::{Env, Shared},
    flow::Direction,
    packet::Packet,
    parse::{Parsed, tcp},
};

/// A measured connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its key in the map `requests`.
    pub key: u64,
    /// Its backend.
    pub backend: u32,
}

/// How the first request of a connection was noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It is in the map.
    Noted,
    /// Somebody else has noted it.
    Known,
    /// There is no room.
    Full,
}

/// What is read of a segment that has payload.
#[derive(Clone, Copy)]
struct Payload {
    /// The sequence number behind it.
    end: u32,
    /// The sender's acknowledgment number.
    acknowledged: u32,
}

/// Follows a segment of a measured connection. Not inlined: who is not measured does not have it on its way, nor on its stack.
#[inline(never)]
pub fn follow<P: Packet, E: Env>(packet: &P, env: &E, parsed: &Parsed, of: &Connection, direction: Direction) {
    let headers = (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32).wrapping_add(parsed.l4_header);
    if parsed.ip_bytes > headers
        && let Some([sequence, acknowledged]) = packet.load::<[u32; 2]>(parsed.l4 as u32 + 4)
    {
        let opens = (parsed.tcp_flags & tcp::SYN != 0) as u32;
        let bytes = parsed.ip_bytes.wrapping_sub(headers).wrapping_add(opens);
        let end = u32::from_be(sequence).wrapping_add(bytes);
        let payload = Payload { end, acknowledged: u32::from_be(acknowledged) };
        match direction {
            Direction::In => asked(env, of, payload),
            Direction::Out => answered(env, of, payload),
        }
    }
    let is_last = direction == Direction::Out && parsed.tcp_flags & tcp::FIN != 0;
    if is_last || parsed.tcp_flags & tcp::RST != 0 {
        env.end_request(of.key);
    }
}

/// Whether payload that ends here is new to who has seen all before `next`.
#[inline(always)]
const fn is_new(end: u32, next: u32) -> bool {
    end.wrapping_sub(next) as i32 > 0
}

#[inline(always)]
fn asked<E: Env>(env: &E, of: &Connection, payload: Payload) {
    let now = env.nanoseconds();
    let Some(request) = env.request(of.key) else { return begin(env, of, payload, now) };
    let request = request.ptr();
    // SAFETY: in map memory that is valid for the program's time; every field is read and written by itself.
    unsafe {
        if !is_new(payload.end, read_volatile(addr_of!((*request).sent))) {
            return;
        }
        write_volatile(addr_of_mut!((*request).sent), payload.end);
        let answered = read_volatile(addr_of!((*request).answered));
        if answered == 0 {
            return;
        }
        write_volatile(addr_of_mut!((*request).begun), now);
        if atomic::compare_exchange64(addr_of_mut!((*request).answered), answered, 0) {
            count_begun(env, of, false);
        }
    }
}

/// The connection's first request.
#[inline(always)]
fn begin<E: Env>(env: &E, of: &Connection, payload: Payload, now: u64) {
    let Some(backend) = env.backend(of.backend) else { return };
    let request = Request {
        backend: of.backend,
        incarnation: backend.incarnation,
        begun: now,
        answered: 0,
        sent: payload.end,
        received: payload.acknowledged,
    };
    match env.begin_request(of.key, &request) {
        Begun::Noted => count_begun(env, of, false),
        Begun::Known => {}
        Begun::Full => count_begun(env, of, true),
    }
}

#[inline(always)]
fn answered<E: Env>(env: &E, of: &Connection, payload: Payload) {
    let Some(request) = env.request(of.key) else { return };
    let request = request.ptr();
    let now = env.nanoseconds();
    // SAFETY: as in `asked`.
    unsafe {
        if !is_new(payload.end, read_volatile(addr_of!((*request).received))) {
            return;
        }
        write_volatile(addr_of_mut!((*request).received), payload.end);
        let before = read_volatile(addr_of!((*request).answered));
        if !atomic::compare_exchange64(addr_of_mut!((*request).answered), before, now.max(1)) || before != 0 {
            return;
        }
        let took = now.saturating_sub(read_volatile(addr_of!((*request).begun)));
        if let Some(measure) = env.measure(of.backend) {
            count_answer(measure, took);
        }
    }
}

#[inline(always)]
fn count_begun<E: Env>(env: &E, of: &Connection, is_unseen: bool) {
    let Some(measure) = env.measure(of.backend) else { return };
    // SAFETY: in a map that is changed by atomic additions only.
    unsafe {
        atomic::fetch_add(addr_of_mut!((*measure.ptr()).requests), 1);
        if is_unseen {
            atomic::fetch_add(addr_of_mut!((*measure.ptr()).unseen), 1);
        }
    }
}

#[inline(always)]
fn count_answer(measure: Shared<Measure>, took: u64) {
    // SAFETY: as in `count_begun`; `bucket` is in bounds.
    unsafe {
        atomic::fetch_add(addr_of_mut!((*measure.ptr()).nanoseconds), took);
        let buckets = addr_of_mut!((*measure.ptr()).buckets).cast::<u64>();
        atomic::fetch_add(buckets.add(bucket(took)), 1);
    }
}

#[cfg(test)]
mod tests;
