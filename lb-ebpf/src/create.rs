//! A new flow: its backend, its forward entry, and a reply entry that is like no other: under full NAT a free source port.

use lb_common::{
    Addr, Algorithm, Backend, BackendState, DropReason, Flow, FlowState, Frontend, Port,
    flow::WAYS,
    service::{FRONTEND_AFFINITY, FRONTEND_DROP_INSIDE, FRONTEND_DROP_OUTSIDE, FRONTEND_FORWARDS, FRONTEND_RANGES},
};

use crate::{
    dsr,
    env::{Env, Event, Route, Scratch, Search, Table, Tuple, Victim},
    flow::{self, count_change, first_forwarded_state, first_state},
    limits::{self, Seat},
    select,
    table::{self, FORWARDED, Hit, Inserted, NO_LINK, Outcome, Place, bucket_of, key_of},
};

/// Source ports tried for one connection before it is dropped.
const SNAT_TRIES: u32 = 128;

/// Source ports that have to be taken in a row before one is taken away from a client who has not proved its address.
const FREE_TRIES: u32 = 4;

/// Seconds in which the other entry of a fresh reply entry may still be on its way.
pub const LINK_GRACE: u32 = 2;

/// Makes the flow of `scratch.packet`, of which `scratch.entry` has the key and nothing else; it is in `scratch.hit` then. Of two CPUs
/// that do this at once one wins, and both go on with its flow. Not inlined, because a BPF stack is small and most packets open no flow.
#[inline(never)]
pub fn create<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Result<(), DropReason> {
    if let Some(reason) = admit(env, scratch, frontend) {
        return Err(reason);
    }
    seat(env, scratch, frontend)?;
    let forwards = dsr::forwards(env, scratch, frontend, scratch.seat.backend);
    let made = match begin(env, scratch, forwards) {
        Ok(true) if forwards => {
            env.trace(Event::NewFlow(scratch.seat.backend), scratch);
            Ok(())
        }
        Ok(true) => finish(env, scratch),
        Ok(false) => Ok(()),
        Err(reason) => Err(reason),
    };
    limits::leave(env, &scratch.seat);
    made
}

/// Finds a new flow's backend, and counts on it, where that is to be. Another node that has chosen has counted on it already.
#[inline(never)]
fn seat<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Result<(), DropReason> {
    if scratch.target != 0 {
        scratch.seat = Seat { backend: scratch.target.wrapping_sub(1), reserved: 0 };
        let backend = env.backend(scratch.seat.backend).ok_or(DropReason::StaleTable)?;
        return match backend.service == frontend.service {
            true if backend.state == BackendState::Removed as u8 => Err(DropReason::NoBackend),
            true => Ok(()),
            false => Err(DropReason::StaleTable),
        };
    }
    let table = scratch.table;
    let index = select::backend(env, scratch, frontend, table).ok_or(DropReason::StaleTable)?;
    scratch.seat.backend = index;
    limits::enter(env, frontend, &scratch.packet.src, &scratch.table, &mut scratch.seat)?;
    if scratch.seat.backend != index && frontend.flags & FRONTEND_AFFINITY != 0 {
        select::keep(env, &scratch.affinity, scratch.seat.backend, scratch.now);
    }
    Ok(())
}

/// The way of a packet that opens no flow and is of none that is known here. By a hash every node gives a client the same backend, whose node
/// knows the flow if there is one: after a change of routes, or when the entry had to make way. Any other packet is nobody's. Nothing is
/// counted, and nothing kept.
#[inline(never)]
pub fn pick_up<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Result<(), DropReason> {
    const IP_HASH: u8 = Algorithm::IpHash as u8;
    const MAGLEV: u8 = Algorithm::Maglev as u8;
    let by_hash = matches!(frontend.algorithm, IP_HASH | MAGLEV) && frontend.flags & FRONTEND_AFFINITY == 0;
    if !by_hash || frontend.flags & FRONTEND_FORWARDS == 0 || scratch.target != 0 {
        return Err(DropReason::NoFlow);
    }
    if admit(env, scratch, frontend).is_some() {
        return Err(DropReason::NoFlow);
    }
    let table = scratch.table;
    let index = select::backend(env, scratch, frontend, table).ok_or(DropReason::NoFlow)?;
    if !dsr::forwards(env, scratch, frontend, index) {
        return Err(DropReason::NoFlow);
    }
    scratch.hit = dsr::passing(index);
    Ok(())
}

/// Makes the forward entry, with the backend of `scratch.seat`; `false` if somebody else has just made the flow.
#[inline(never)]
fn begin<E: Env>(env: &E, scratch: &mut Scratch, forwards: bool) -> Result<bool, DropReason> {
    let (entry, protocol) = (&mut scratch.entry, scratch.packet.protocol);
    let (link, state) =
        if forwards { (FORWARDED, first_forwarded_state(protocol)) } else { (NO_LINK, first_state(protocol)) };
    (entry.link, entry.backend, entry.last) = (link, scratch.seat.backend, scratch.now);
    match insert(env, scratch, state) {
        Outcome::Done => Ok(true),
        Outcome::Evicted => {
            env.trace(Event::Evicted(scratch.inserted.evicted.backend), scratch);
            flow::forget(env, &mut scratch.inserted.evicted);
            Ok(true)
        }
        Outcome::Exists if scratch.hit.link != NO_LINK => Ok(false),
        Outcome::Exists | Outcome::Busy => Err(DropReason::TableBusy),
        Outcome::Full => Err(DropReason::TableFull),
    }
}

/// Makes the reply entry and counts the flow, or takes the forward entry back.
#[inline(never)]
fn finish<E: Env>(env: &E, scratch: &mut Scratch) -> Result<(), DropReason> {
    let linked = link(env, scratch).and_then(|()| complete(env, &scratch.hit));
    let state = first_state(scratch.packet.protocol);
    match linked {
        Ok(()) => {
            count_change(env, scratch.seat.backend, FlowState::Free, state, false);
            env.trace(Event::NewFlow(scratch.seat.backend), scratch);
        }
        Err(_) => undo(env, &mut scratch.hit, state),
    }
    linked
}

/// Says in `scratch` where the client is and which backends it may have, or why it is turned away.
#[inline(never)]
fn admit<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Option<DropReason> {
    let inside = env.is_inside();
    scratch.inside = inside as u32;
    scratch.table = if inside { frontend.inside } else { frontend.outside };
    if frontend.flags & FRONTEND_RANGES != 0 && !env.is_admitted(frontend.id, &scratch.packet.src) {
        return Some(DropReason::SourceRange);
    }
    if scratch.table.len != 0 || scratch.target != 0 {
        return None;
    }
    let elsewhere = if inside { FRONTEND_DROP_INSIDE } else { FRONTEND_DROP_OUTSIDE };
    Some(if frontend.flags & elsewhere != 0 { DropReason::NoLocalBackend } else { DropReason::NoBackend })
}

#[inline(always)]
fn insert<E: Env>(env: &E, scratch: &mut Scratch, state: FlowState) -> Outcome {
    let place = Place::of(&env.limits(), key_of(&scratch.entry));
    let outcome = table::insert(env, place, &scratch.entry, state, &mut scratch.inserted);
    scratch.hit = scratch.inserted.hit;
    outcome
}

/// Names the reply entry in the forward entry. If that was evicted meanwhile, or its lock is not to be had, the reply entry is an
/// orphan, which the sweep removes.
#[inline(always)]
fn complete<E: Env>(env: &E, hit: &Hit) -> Result<(), DropReason> {
    let bucket = bucket_of(env, Table::Forward, hit.slot).ok_or(DropReason::StaleTable)?;
    if table::set_link(bucket, hit) { Ok(()) } else { Err(DropReason::TableBusy) }
}

/// Takes back a forward entry that was not counted yet. If somebody else has ended it, it was taken off the counts: then it is
/// put on them first, so that the sum is right.
#[inline(always)]
fn undo<E: Env>(env: &E, hit: &mut Hit, state: FlowState) {
    let removed = bucket_of(env, Table::Forward, hit.slot).map(|bucket| table::remove(bucket, hit));
    if removed != Some(Ok(true)) {
        count_change(env, hit.backend, FlowState::Free, state, false);
    }
}

/// Inserts the reply entry of the flow in `scratch.hit`, and puts its slot and its source port (0 without full NAT) there.
///
/// A local backend sees the client's own address, and a client inside keeps its own towards every backend: the answers come by this
/// node. We stand in for the client if they would not, and if another flow of the same client and port leads to the same endpoint
/// already (through another frontend).
#[inline(always)]
fn link<E: Env>(env: &E, scratch: &mut Scratch) -> Result<(), DropReason> {
    let backend = env.backend(scratch.seat.backend).ok_or(DropReason::StaleTable)?;
    scratch.reply = Flow { id: backend.endpoint, link: scratch.hit.slot, frontend: scratch.entry.id, ..scratch.entry };
    let as_client = if scratch.inside != 0 { !is_beside(env, scratch, backend) } else { backend.is_local() };
    let result = search(env, scratch, backend, as_client, env.random());
    if result.is_ok() || scratch.victim.readiness == 0 {
        return result;
    }
    // If somebody else is faster, that is seen when the entry is claimed.
    let _ = flow::end(env, &mut scratch.other);
    let offset = scratch.victim.port.number().wrapping_sub(env.limits().snat_first);
    search(env, scratch, backend, scratch.victim.as_client != 0, offset as u32)
}

/// Claims a reply entry: under the client's own address if that is wanted and free, or else under the node's, with the first free source port
/// from an offset on. Where some in a row are taken, or there is no room, it ends if there is a [`Victim`].
#[inline(never)]
fn search<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    backend: &Backend,
    as_client: bool,
    offset: u32,
) -> Result<(), DropReason> {
    scratch.victim = Victim::default();
    scratch.search = Search { as_client: as_client as u32, offset, failure: Some(DropReason::SnatPortsExhausted) };
    env.repeat(SNAT_TRIES, || attempt(env, scratch, backend));
    scratch.search.failure.map_or(Ok(()), Err)
}

/// One step of a [`search`]; whether it was the last.
#[inline(always)]
fn attempt<E: Env>(env: &E, scratch: &mut Scratch, backend: &Backend) -> bool {
    let as_client = scratch.search.as_client != 0;
    scratch.search.as_client = 0;
    if !as_client {
        if backend.source == Addr::NONE {
            return true;
        }
        (scratch.reply.addr, scratch.reply.port) = (backend.source, snat_port(env, scratch.search.offset));
        scratch.search.offset = scratch.search.offset.wrapping_add(1);
        if is_answered_by_socket(env, scratch, backend) {
            return false;
        }
    }
    let failure = match claim(env, scratch) {
        Ok(Claim::Made) => {
            scratch.hit.snat_port = if as_client { Port(0) } else { scratch.reply.port };
            None
        }
        // The same client and endpoint, through another frontend.
        Ok(Claim::Taken) if as_client => return false,
        Ok(_) => {
            consider(env, scratch, as_client);
            // It found no room: each way of the bucket is looked at.
            scratch.search.as_client = (as_client && scratch.victim.tries < WAYS as u32) as u32;
            return scratch.victim.readiness != 0 && (as_client || scratch.victim.tries >= FREE_TRIES);
        }
        Err(reason) => Some(reason),
    };
    scratch.victim = Victim::default();
    scratch.search.failure = failure;
    true
}

/// Whether a client inside and its backend are the same pod, or beside each other behind a bridge: then the backend's answers to it
/// would not come by this node's programs.
#[inline(never)]
fn is_beside<E: Env>(env: &E, scratch: &mut Scratch, backend: &Backend) -> bool {
    if scratch.packet.src == backend.addr {
        return true;
    }
    if !backend.is_local() {
        return false;
    }
    let packet = &scratch.packet;
    scratch.to = Tuple { src: packet.src, dst: backend.addr, src_port: packet.src_port, dst_port: backend.port };
    // Whatever its size: it is the interface that counts.
    matches!(env.route(scratch, 0), Route::Interface(index) if index == env.interface())
}

/// The source port of full NAT at an offset, wrapped into their range.
#[inline(always)]
fn snat_port<E: Env>(env: &E, offset: u32) -> Port {
    let limits = env.limits();
    let range = limits.snat_last.wrapping_sub(limits.snat_first) as u32 + 1;
    Port::new(limits.snat_first.wrapping_add(offset.checked_rem(range).unwrap_or(0) as u16))
}

/// Looks at the flow that is in the way of `scratch.reply`: [`claim`] has found its reply entry. Who has not proved its address yet may
/// be a flood: who was not even answered makes way first, then who has waited longest.
#[inline(always)]
fn consider<E: Env>(env: &E, scratch: &mut Scratch, as_client: bool) {
    scratch.victim.tries = scratch.victim.tries.wrapping_add(1);
    let Inserted { hit: reply, evicted: found } = &mut scratch.inserted;
    let Some(bucket) = bucket_of(env, Table::Forward, reply.link) else { return };
    if !table::at(bucket, reply.link, found) || found.link != reply.slot {
        return;
    }
    let answered = match found.state() {
        FlowState::SynSent => 0,
        FlowState::SynReceived | FlowState::UdpOneWay => 1,
        _ => return,
    };
    let age = scratch.reply.last.wrapping_sub(found.last).min(u16::MAX as u32);
    let readiness = 1 + age + (1 - answered) * (1 << 16);
    if readiness > scratch.victim.readiness {
        (scratch.victim.readiness, scratch.victim.port) = (readiness, scratch.reply.port);
        scratch.victim.as_client = as_client as u32;
        scratch.other = *found;
    }
}

/// Whether what the backend answers to `scratch.reply` would be taken for an answer to a socket of this node.
#[inline(always)]
fn is_answered_by_socket<E: Env>(env: &E, scratch: &mut Scratch, backend: &Backend) -> bool {
    let to = &scratch.reply;
    scratch.to = Tuple { src: backend.addr, dst: to.addr, src_port: backend.port, dst_port: to.port };
    env.is_for_socket(scratch)
}

/// What became of a reply entry.
enum Claim {
    /// It is in the table.
    Made,
    /// Another flow has its key.
    Taken,
    /// Its bucket is full.
    NoRoom,
}

/// Inserts `scratch.reply`. What is in its way is in `scratch.inserted.hit` then: the reply entry with its key, or one of its bucket, another one
/// at each try.
#[inline(always)]
fn claim<E: Env>(env: &E, scratch: &mut Scratch) -> Result<Claim, DropReason> {
    let place = Place::of(&env.limits(), key_of(&scratch.reply));
    for _ in 0..2 {
        let outcome = table::insert(env, place, &scratch.reply, FlowState::Reply, &mut scratch.inserted);
        let other = &mut scratch.inserted.hit;
        match outcome {
            Outcome::Done | Outcome::Evicted => {
                scratch.hit.link = other.slot;
                return Ok(Claim::Made);
            }
            Outcome::Busy => return Err(DropReason::TableBusy),
            Outcome::Exists if is_orphan(env, other, scratch.reply.last) => {
                let _ = bucket_of(env, Table::Reply, other.slot).map(|bucket| table::remove(bucket, other));
            }
            Outcome::Exists => return Ok(Claim::Taken),
            Outcome::Full => {
                let slot = place.bucket() * WAYS as u32 + scratch.victim.tries % WAYS as u32;
                if !bucket_of(env, Table::Reply, slot).is_some_and(|bucket| table::at(bucket, slot, other)) {
                    other.link = NO_LINK;
                }
                return Ok(Claim::NoRoom);
            }
        }
    }
    Ok(Claim::Taken)
}

/// Whether no forward entry names this reply entry.
#[inline(always)]
pub fn is_orphan<E: Env>(env: &E, reply: &Hit, now: u32) -> bool {
    if now.wrapping_sub(reply.last) < LINK_GRACE {
        return false;
    }
    bucket_of(env, Table::Forward, reply.link)
        .and_then(|bucket| table::link_at(bucket, reply.link))
        .is_none_or(|link| link != reply.slot)
}
