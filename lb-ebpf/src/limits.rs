//! What a Service limits: how many connections a backend has, and how many begin in a second, of one client and all together.
//!
//! A backend is counted on before it is decided, so that of two who come at once for the last place one gets it. Of a rate a second's
//! worth may come at once.

use core::ptr::{addr_of, addr_of_mut, read_volatile};

use lb_common::{Addr, AffinityKey, BackendLoad, DropReason, Frontend, Selection, hash};

use crate::{
    atomic,
    env::{Env, Shared},
    flow::{self, Count},
    rate::{Rate, take},
    select,
};

/// Places of a selection table that are looked at when a backend is full.
const LOOKS: u32 = 256;

/// Where a new connection goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The backend.
    pub backend: u32,
    /// Not 0 if it is counted on until [`leave`].
    pub reserved: u32,
}

/// Takes a place at the backend that was selected or, if that is full, at another one of the table, for a new connection of this client.
/// To be followed by [`leave`] once the connection is counted itself, or is not made.
#[inline(never)]
pub fn enter<E: Env>(
    env: &E,
    frontend: &Frontend,
    client: &Addr,
    table: &Selection,
    seat: &mut Seat,
) -> Result<(), DropReason> {
    seat.reserved = 0;
    let max = frontend.max_connections;
    if max != 0 {
        if !reserve(env, seat.backend, max) && !reserve_another(env, frontend, *table, max, seat) {
            return Err(DropReason::BackendsFull);
        }
        seat.reserved = 1;
    }
    match rates(env, frontend, client) {
        None => Ok(()),
        Some(reason) => {
            leave(env, seat);
            Err(reason)
        }
    }
}

/// Counts on a backend no longer.
#[inline(always)]
pub fn leave<E: Env>(env: &E, seat: &Seat) {
    if seat.reserved != 0
        && let Some(load) = env.load(seat.backend)
    {
        flow::add(load, Count::Pending, u64::MAX);
    }
}

/// Looks for a backend that is not full, from some place of the table on.
#[inline(always)]
fn reserve_another<E: Env>(env: &E, frontend: &Frontend, table: Selection, max: u32, seat: &mut Seat) -> bool {
    let stride = select::stride(frontend.algorithm);
    let mut at = hash::scale((env.random() as u64) << 32, table.len);
    let mut found = false;
    env.repeat(LOOKS.min(table.len), || {
        let slot = env.slot(table.offset.wrapping_add(at.wrapping_mul(stride)));
        at = if at.wrapping_add(1) >= table.len { 0 } else { at.wrapping_add(1) };
        let index = slot.map_or(seat.backend, |slot| slot as u32);
        if index == seat.backend || !has_room(env, index, max) || !reserve(env, index, max) {
            return false;
        }
        seat.backend = index;
        found = true;
        true
    });
    found
}

/// The connections of a backend beside those that are on their way to it: other nodes' as they last said.
#[inline(always)]
fn others(load: Shared<BackendLoad>) -> u64 {
    // SAFETY: `load` points into a map; each word is read once.
    unsafe {
        read_volatile(addr_of!((*load.ptr()).active))
            .wrapping_add(read_volatile(addr_of!((*load.ptr()).sockets)))
            .wrapping_add(read_volatile(addr_of!((*load.ptr()).remote)))
    }
}

/// Whether a count, which may be below 0 for a moment while it is corrected, is below a limit.
#[inline(always)]
fn is_below(count: u64, max: u32) -> bool {
    (count as i64) < max as i64
}

/// Whether a backend has room, without taking it.
#[inline(always)]
fn has_room<E: Env>(env: &E, index: u32, max: u32) -> bool {
    let Some(load) = env.load(index) else { return false };
    // SAFETY: as in `others`.
    let pending = unsafe { read_volatile(addr_of!((*load.ptr()).pending)) };
    is_below(pending.wrapping_add(others(load)), max)
}

/// Counts on a backend if it has room. Who comes becomes pending first and looks at the others afterwards, and who becomes active does so
/// before it stops being pending (`flow::count_change`): so nobody is missed.
#[inline(always)]
fn reserve<E: Env>(env: &E, index: u32, max: u32) -> bool {
    let Some(load) = env.load(index) else { return false };
    // SAFETY: `load` points into a map that is changed by atomic additions only.
    let before = unsafe { atomic::fetch_add(addr_of_mut!((*load.ptr()).pending), 1) };
    let reserved = is_below(before.wrapping_add(others(load)), max);
    if !reserved {
        flow::add(load, Count::Pending, u64::MAX);
    }
    reserved
}

/// Why a connection that begins now comes too early. A client over its own limit takes nothing from the others.
#[inline(always)]
fn rates<E: Env>(env: &E, frontend: &Frontend, client: &Addr) -> Option<DropReason> {
    if frontend.client_rate != 0 {
        let key = AffinityKey { client: network(client), service: frontend.service };
        if env.client_rate(&key).is_some_and(|due| !take(env, due, Rate::of_second(frontend.client_rate))) {
            return Some(DropReason::ClientRate);
        }
    }
    if frontend.rate != 0 && env.rate(frontend.id).is_some_and(|due| !take(env, due, Rate::of_second(frontend.rate))) {
        return Some(DropReason::FrontendRate);
    }
    None
}

/// What counts as one client: an address, or the 64 bits of IPv6 that one network usually has.
#[inline(always)]
fn network(client: &Addr) -> Addr {
    if client.is_v4() { *client } else { Addr([client.0[0], client.0[1], 0, 0]) }
}

#[cfg(test)]
mod tests;
