//! A new flow: its backend, its forward entry, and a reply entry that is like no other: under full NAT a free source port.

use core::ptr::{addr_of, read_volatile};

use lb_common::{Addr, Backend, DropReason, Flow, FlowState, Frontend, Port};

use crate::{
    env::{Env, Event, Scratch, Table},
    flow::{self, count_change, first_state},
    select,
    table::{self, Hit, Inserted, Key, NO_LINK, Outcome, Place, bucket_of},
};

/// Source ports tried for one connection before it is dropped.
const SNAT_TRIES: u32 = 12;

/// Seconds in which the other entry of a fresh reply entry may still be on its way.
pub const LINK_GRACE: u32 = 2;

/// Makes the flow of `scratch.packet`. Of two CPUs that do this at once one wins, and both go on with its flow.
#[inline(always)]
pub fn create<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    frontend: &Frontend,
    now: u32,
) -> Result<Hit, DropReason> {
    let index = select::backend(env, scratch, frontend, now).ok_or(DropReason::NoBackend)?;
    let backend = env.backend(index).ok_or(DropReason::StaleTable)?;
    let packet = &scratch.packet;
    let (client, port, proto) = (packet.src, packet.src_port, packet.protocol);
    let entry = Flow {
        addr: client,
        id: frontend.id,
        port,
        snat_port: Port(0),
        link: NO_LINK,
        backend: index,
        last: now,
        frontend: 0,
    };
    let place = Place::of(&env.limits(), &Key { addr: client, port, id: frontend.id });
    let state = first_state(proto);
    let mut inserted = Inserted::default();
    match table::insert(env, place, &entry, state, &mut inserted) {
        Outcome::Done => {}
        Outcome::Evicted => {
            env.trace(Event::Evicted(inserted.evicted.backend), scratch);
            flow::forget(env, &inserted.evicted);
        }
        Outcome::Exists if inserted.hit.link != NO_LINK => return Ok(inserted.hit),
        Outcome::Exists | Outcome::Busy => return Err(DropReason::TableBusy),
        Outcome::Full => return Err(DropReason::TableFull),
    }
    let mut hit = inserted.hit;
    let reason = match link(env, backend, &entry, hit.slot) {
        Ok((link, snat_port)) => {
            hit.link = link;
            hit.snat_port = snat_port;
            if bucket_of(env, Table::Forward, hit.slot).is_some_and(|b| table::set_link(b, &hit) == Ok(true)) {
                count_change(env, index, FlowState::Free, state, false);
                env.trace(Event::NewFlow(index), scratch);
                return Ok(hit);
            }
            // Evicted while it was being made, or not to be had: the reply entry is an orphan, which the sweep removes.
            DropReason::TableBusy
        }
        Err(reason) => reason,
    };
    undo(env, &hit, state);
    Err(reason)
}

/// Takes back a forward entry that was not counted yet. If somebody else has ended it, it was taken off the counts: then it is
/// put on them first, so that the sum is right.
#[inline(always)]
fn undo<E: Env>(env: &E, hit: &Hit, state: FlowState) {
    let removed = bucket_of(env, Table::Forward, hit.slot).map(|bucket| table::remove(bucket, hit));
    if !matches!(removed, Some(Ok(Some(_)))) {
        count_change(env, hit.backend, FlowState::Free, state, false);
    }
}

/// Inserts the reply entry of the forward entry in `slot`: its own slot, and the source port (0 without full NAT).
///
/// A local backend sees the client's own address; only if another flow of the same client and port leads to the same endpoint
/// already (through another frontend), it sees ours.
#[inline(always)]
fn link<E: Env>(env: &E, backend: &Backend, forward: &Flow, slot: u32) -> Result<(u32, Port), DropReason> {
    let limits = env.limits();
    let range = limits.snat_last.wrapping_sub(limits.snat_first) as u32 + 1;
    let mut offset = if backend.is_local() { 0 } else { env.random() };
    let mut as_client = backend.is_local();
    for _ in 0..SNAT_TRIES {
        let (addr, port) = if as_client {
            (forward.addr, forward.port)
        } else if backend.source == Addr::NONE {
            break;
        } else {
            (backend.source, Port::new(limits.snat_first.wrapping_add((offset % range) as u16)))
        };
        let entry = Flow {
            addr,
            id: backend.endpoint,
            port,
            snat_port: Port(0),
            link: slot,
            backend: forward.backend,
            last: forward.last,
            frontend: forward.id,
        };
        if let Some(at) = claim(env, &entry)? {
            return Ok((at, if as_client { Port(0) } else { port }));
        }
        offset = if as_client { env.random() } else { offset.wrapping_add(7) };
        as_client = false;
    }
    Err(DropReason::SnatPortsExhausted)
}

/// Inserts a reply entry; `None` if another flow has this key or there is no room for it.
#[inline(never)]
fn claim<E: Env>(env: &E, entry: &Flow) -> Result<Option<u32>, DropReason> {
    let place = Place::of(&env.limits(), &Key { addr: entry.addr, port: entry.port, id: entry.id });
    for _ in 0..2 {
        let mut inserted = Inserted::default();
        match table::insert(env, place, entry, FlowState::Reply, &mut inserted) {
            Outcome::Done | Outcome::Evicted => return Ok(Some(inserted.hit.slot)),
            Outcome::Busy => return Err(DropReason::TableBusy),
            Outcome::Exists if is_orphan(env, &inserted.hit, entry.last) => {
                let other = inserted.hit;
                let _ = bucket_of(env, Table::Reply, other.slot).map(|bucket| table::remove(bucket, &other));
            }
            Outcome::Exists | Outcome::Full => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether no forward entry names this reply entry.
#[inline(always)]
pub fn is_orphan<E: Env>(env: &E, reply: &Hit, now: u32) -> bool {
    if now.wrapping_sub(reply.last) < LINK_GRACE {
        return false;
    }
    let Some(bucket) = bucket_of(env, Table::Forward, reply.link) else { return true };
    table::at(bucket, reply.link).is_none_or(|forward| forward.link != reply.slot)
}

/// The client's address and port, and the frontend's id, of a forward entry.
#[inline(always)]
pub fn forward_key(bucket: *mut lb_common::Bucket, slot: u32) -> Key {
    let flow = table::way_ptr(bucket, slot);
    // SAFETY: in bounds of a bucket; the caller checks the entry's generation afterwards.
    unsafe {
        Key {
            addr: read_volatile(addr_of!((*flow).addr)),
            port: read_volatile(addr_of!((*flow).port)),
            id: read_volatile(addr_of!((*flow).id)),
        }
    }
}
