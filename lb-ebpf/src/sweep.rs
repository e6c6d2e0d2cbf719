//! The sweep: ends flows whose time is over or whose frontend is gone, removes reply entries that nothing names, and recounts what
//! every backend has, so that the agent can compare. It runs as a program of its own, because only programs write flows.

use core::ptr::addr_of_mut;

use lb_common::{BackendState, FlowState, abi::SweepResult, flow::WAYS, service::VIP_REMOVED};

use crate::{
    create::is_orphan,
    env::{Env, Table},
    flow::{self, idle_limit},
    table::{self, Busy, Hit},
};

/// Sweeps one slot of each table: one, because the verifier follows the paths of all that a call looks at, one after the other.
#[inline(always)]
pub fn slot<E: Env>(env: &E, slot: u32, now: u32, result: &mut SweepResult) {
    let index = slot / WAYS as u32;
    forward(env, index, slot, now, result);
    reply(env, index, slot, now, result);
}

#[inline(always)]
fn forward<E: Env>(env: &E, index: u32, slot: u32, now: u32, result: &mut SweepResult) {
    let Some(bucket) = env.bucket(Table::Forward, index) else { return };
    let Some(scratch) = env.scratch() else { return };
    let hit = &mut scratch.hit;
    if !table::at(bucket, slot, hit) {
        return;
    }
    let idle = now.wrapping_sub(hit.last);
    // A flow seen after `now` was read is not idle.
    let expired = idle < u32::MAX / 2 && idle > idle_limit(&env.limits(), hit.state() as u32);
    let gone = !expired && is_gone(env, table::key_at(bucket, slot).id, hit);
    if !expired && !gone {
        result.entries += 1;
        recount(env, hit);
        return;
    }
    match flow::end(env, hit) {
        Ok(true) if expired => result.expired += 1,
        Ok(true) => result.forgotten += 1,
        Ok(false) => {}
        Err(Busy) => result.busy += 1,
    }
}

/// Whether a flow's frontend was removed, or its backend if it speaks UDP, which has no other end.
#[inline(always)]
fn is_gone<E: Env>(env: &E, frontend: u32, hit: &Hit) -> bool {
    if env.vip(frontend).is_some_and(|vip| vip.live == VIP_REMOVED) {
        return true;
    }
    matches!(hit.state(), FlowState::UdpOneWay | FlowState::UdpAnswered | FlowState::ForwardedUdp)
        && env.backend(hit.backend).is_some_and(|b| b.state == BackendState::Removed as u8)
}

#[inline(always)]
fn recount<E: Env>(env: &E, hit: &Hit) {
    let Some(found) = env.recount(hit.backend) else { return };
    let names = hit.state() as u8 == FlowState::Closing as u8 || hit.state().is_forwarded();
    // SAFETY: only the sweep writes this map, one run at a time.
    unsafe {
        *addr_of_mut!((*found.ptr()).active) += hit.state().is_active() as u64;
        *addr_of_mut!((*found.ptr()).pending) += hit.state().is_pending() as u64;
        *addr_of_mut!((*found.ptr()).closing) += names as u64;
    }
}

#[inline(always)]
fn reply<E: Env>(env: &E, index: u32, slot: u32, now: u32, result: &mut SweepResult) {
    let Some(bucket) = env.bucket(Table::Reply, index) else { return };
    let Some(scratch) = env.scratch() else { return };
    let hit = &mut scratch.hit;
    if !table::at(bucket, slot, hit) || !is_orphan(env, hit, now) {
        return;
    }
    match table::remove(bucket, hit) {
        Ok(true) => result.orphans += 1,
        Ok(false) => {}
        Err(Busy) => result.busy += 1,
    }
}
