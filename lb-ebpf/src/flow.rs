//! The life of a flow: its states, what each change of state adds to the backend's counts, and how a flow ends.

use core::ptr::addr_of_mut;

use lb_common::{BackendLoad, Bucket, FlowState, abi::timeout};

use crate::{
    atomic,
    env::{Env, Limits, Shared, Table},
    parse::{Parsed, protocol, tcp},
    table::{self, Busy, Hit, bucket_of},
};

/// Which way a packet goes. "In" is towards the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client.
    In,
    /// From the backend.
    Out,
}

/// What of a packet can change a flow's state.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which way it goes.
    pub direction: Direction,
    /// Its transport protocol.
    pub protocol: u8,
    /// Its TCP flags.
    pub flags: u8,
}

impl Step {
    /// A flow's state after the packet.
    #[inline(always)]
    pub fn next(self, state: FlowState) -> FlowState {
        next_state(state, self.direction, self.protocol, self.flags)
    }

    /// Whether the packet is a TCP reset.
    #[inline(always)]
    fn is_reset(self) -> bool {
        self.protocol == protocol::TCP && self.flags & tcp::RST != 0
    }
}

#[inline(always)]
fn next_state(state: FlowState, direction: Direction, proto: u8, flags: u8) -> FlowState {
    use FlowState::{
        Closing, Established, FinBackend, FinClient, Forwarded, ForwardedFin, ForwardedSyn, SynReceived, SynSent,
        UdpAnswered, UdpOneWay,
    };
    if proto != protocol::TCP {
        return if state == UdpOneWay && direction == Direction::Out { UdpAnswered } else { state };
    }
    if flags & tcp::RST != 0 {
        return Closing;
    }
    let fin = flags & tcp::FIN != 0;
    match (state, direction) {
        (SynSent, Direction::Out) if flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK => SynReceived,
        (SynReceived, Direction::In) if fin && flags & tcp::SYN == 0 => FinClient,
        (SynReceived, Direction::In) if flags & (tcp::SYN | tcp::ACK) == tcp::ACK => Established,
        (SynReceived | Established, Direction::Out) if fin => FinBackend,
        (Established, Direction::In) if fin => FinClient,
        (FinClient, Direction::Out) | (FinBackend, Direction::In) if fin => Closing,
        (ForwardedSyn | Forwarded, Direction::In) if fin && flags & tcp::SYN == 0 => ForwardedFin,
        (ForwardedSyn, Direction::In) if flags & (tcp::SYN | tcp::ACK) == tcp::ACK => Forwarded,
        _ => state,
    }
}

/// The state a new flow starts in.
#[inline(always)]
pub fn first_state(proto: u8) -> FlowState {
    if proto == protocol::TCP { FlowState::SynSent } else { FlowState::UdpOneWay }
}

/// The same of a flow that is forwarded to its backend's node.
#[inline(always)]
pub fn first_forwarded_state(proto: u8) -> FlowState {
    if proto == protocol::TCP { FlowState::ForwardedSyn } else { FlowState::ForwardedUdp }
}

/// Seconds of silence after which a flow in this state (its discriminant) is over; without branches, see [`crate::table`].
#[inline(always)]
pub fn idle_limit(limits: &Limits, state: u32) -> u32 {
    /// By state, a byte each from [`FlowState::Free`] on; 0 stands for the limit that can be configured.
    const LOW: u64 = (timeout::TCP_CLOSING as u64) << (8 * FlowState::Closing as u64)
        | (timeout::TCP_SYN as u64) << (8 * FlowState::SynReceived as u64)
        | (timeout::TCP_SYN as u64) << (8 * FlowState::SynSent as u64)
        | (timeout::UDP_ONE_WAY as u64) << (8 * FlowState::UdpOneWay as u64);
    const HIGH: u64 = timeout::UDP as u64
        | (timeout::TCP_SYN as u64) << (8 * (FlowState::ForwardedSyn as u64 - 8))
        | (timeout::TCP_FORWARDED_FIN as u64) << (8 * (FlowState::ForwardedFin as u64 - 8))
        | (timeout::UDP as u64) << (8 * (FlowState::ForwardedUdp as u64 - 8));
    let high = (state as u64 >> 3).wrapping_neg();
    let fixed = ((LOW & !high | HIGH & high) >> ((state & 7) * 8) & 0xff) as u32;
    let configured = (fixed.wrapping_sub(1) as i32 >> 31) as u32;
    fixed | limits.tcp_idle & configured
}

/// Adds to a backend's counts what a flow's change of state means. Called once for every change, by whoever made it.
#[inline(never)]
pub fn count_change<E: Env>(env: &E, backend: u32, before: FlowState, after: FlowState, reset: bool) {
    if before as u8 == after as u8 {
        return;
    }
    let Some(load) = env.load(backend) else { return };
    let active = after.is_active() as u64;
    let was_active = before.is_active() as u64;
    let open = active | after.is_pending() as u64;
    let was_open = was_active | before.is_pending() as u64;
    // In this order: who counts both in between finds one too many, never one too few.
    add(load, Count::Active, active.wrapping_sub(was_active));
    add(load, Count::Pending, (after.is_pending() as u64).wrapping_sub(before.is_pending() as u64));
    add(load, Count::Connections, active & (was_active ^ 1));
    add(load, Count::Closed, was_open & (open ^ 1));
    add(load, Count::Resets, (reset && was_open & (open ^ 1) != 0) as u64);
}

/// Which of a backend's counts.
#[derive(Clone, Copy)]
pub enum Count {
    /// [`BackendLoad::active`].
    Active,
    /// [`BackendLoad::pending`].
    Pending,
    /// [`BackendLoad::connections`].
    Connections,
    /// [`BackendLoad::closed`].
    Closed,
    /// [`BackendLoad::resets`].
    Resets,
}

/// Adds to one of a backend's counts, wrapping.
#[inline(always)]
pub fn add(load: Shared<BackendLoad>, count: Count, value: u64) {
    if value == 0 {
        return;
    }
    // SAFETY: `load` points into a map that is changed by atomic additions only.
    unsafe {
        let cell = match count {
            Count::Active => addr_of_mut!((*load.ptr()).active),
            Count::Pending => addr_of_mut!((*load.ptr()).pending),
            Count::Connections => addr_of_mut!((*load.ptr()).connections),
            Count::Closed => addr_of_mut!((*load.ptr()).closed),
            Count::Resets => addr_of_mut!((*load.ptr()).resets),
        };
        atomic::fetch_add(cell, value);
    }
}

/// Moves a flow's state on by a packet, and says that it was seen.
#[inline(always)]
pub fn track<E: Env>(env: &E, hit: &Hit, direction: Direction, packet: &Parsed, now: u32) -> Result<(), Busy> {
    let Some(bucket) = bucket_of(env, Table::Forward, hit.slot) else { return Ok(()) };
    table::touch(bucket, hit, now);
    let step = Step { direction, protocol: packet.protocol, flags: packet.tcp_flags };
    if step.next(hit.state()) as u8 == hit.state() as u8 {
        return Ok(());
    }
    advance(env, bucket, hit, step)
}

/// Closes a TCP flow as a reset of its client does. One that is closed already is not kept any longer by what comes.
#[inline(always)]
pub fn reset<E: Env>(env: &E, hit: &Hit, now: u32) -> Result<(), Busy> {
    if hit.state() as u8 == FlowState::Closing as u8 {
        return Ok(());
    }
    let Some(bucket) = bucket_of(env, Table::Forward, hit.slot) else { return Ok(()) };
    table::touch(bucket, hit, now);
    advance(env, bucket, hit, Step { direction: Direction::In, protocol: protocol::TCP, flags: tcp::RST })
}

#[inline(always)]
fn advance<E: Env>(env: &E, bucket: Shared<Bucket>, hit: &Hit, step: Step) -> Result<(), Busy> {
    let changed = table::change(bucket, hit, step)?;
    let (before, after) = (FlowState::from_number((changed >> 8) as u8), FlowState::from_number(changed as u8));
    count_change(env, hit.backend, before, after, step.is_reset());
    Ok(())
}

/// Ends a flow: frees both entries and takes it off the counts. Whether it was this call that ended it.
#[inline(always)]
pub fn end<E: Env>(env: &E, hit: &mut Hit) -> Result<bool, Busy> {
    let Some(bucket) = bucket_of(env, Table::Forward, hit.slot) else { return Ok(false) };
    let ended = table::remove(bucket, hit)?;
    if ended {
        forget(env, hit);
    }
    Ok(ended)
}

/// What remains to be done for a forward entry that has just left the table.
#[inline(never)]
pub fn forget<E: Env>(env: &E, ended: &mut Hit) {
    count_change(env, ended.backend, ended.state(), FlowState::Free, false);
    if ended.link >= table::FORWARDED {
        return;
    }
    let (forward, reply) = (ended.slot, ended.link);
    let Some(bucket) = bucket_of(env, Table::Reply, reply) else { return };
    // A reply entry that stays behind because its bucket is locked is found by the sweep.
    if table::at(bucket, reply, ended) && ended.link == forward {
        let _ = table::remove(bucket, ended);
    }
}

#[cfg(test)]
mod tests;
