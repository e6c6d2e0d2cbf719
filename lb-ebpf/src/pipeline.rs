//! One packet, from its first byte to its verdict: parse, find the frontend or endpoint, find or create the flow, ask for the way,
//! move the flow's state on, count, rewrite.
//!
//! The way is asked for before anything else changes: what a hook cannot finish passes as it came, and the next hook finds the
//! flow that may have been made for it.

use lb_common::{BackendState, DropReason, FlowState, Frontend, SocketKey, Traffic};

use crate::{
    create::{self, forward_key},
    env::{Env, Event, Hook, Route, Scratch, Table, Tuple},
    flow::{self, Direction},
    icmp,
    packet::Packet,
    parse::{self, FRAGMENT, MALFORMED, Outcome, Parsed, protocol, tcp},
    rewrite,
    table::{self, Hit, Key, NO_LINK, Place},
};

/// What becomes of a packet. The value is always there: a word that only some variants of an enum have is, to the verifier, read
/// before it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What is to be done.
    pub action: Action,
    /// The [`DropReason`], the interface's index, or the IP bytes that the way takes; else 0.
    pub value: u32,
}

/// What is to be done with a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Not ours, or for the next hook: goes on untouched.
    Pass,
    /// Ends here.
    Drop,
    /// Rewritten: out of this interface.
    Interface,
    /// Rewritten: up (or, at egress, out) with the stack.
    Stack,
    /// Untouched: its sender has to be told that the way takes only so many IP bytes.
    TooBig,
    /// Untouched: its sender has to be told that its time to live is over.
    TimeExceeded,
    /// A header was out of reach: to be called again with more bytes in reach, else it passes.
    Truncated,
}

impl Verdict {
    /// Goes on untouched.
    pub const PASS: Self = Self { action: Action::Pass, value: 0 };
    /// Goes on with the stack, rewritten.
    pub const STACK: Self = Self { action: Action::Stack, value: 0 };
    /// Has run out of time to live.
    pub const TIME_EXCEEDED: Self = Self { action: Action::TimeExceeded, value: 0 };
    /// Ends too early to be read.
    pub const TRUNCATED: Self = Self { action: Action::Truncated, value: 0 };

    /// Ends here.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self { action: Action::Drop, value: reason as u32 }
    }

    /// Leaves by an interface.
    #[inline(always)]
    pub const fn interface(index: u32) -> Self {
        Self { action: Action::Interface, value: index }
    }

    /// Is larger than its way takes.
    #[inline(always)]
    pub const fn too_big(limit: u32) -> Self {
        Self { action: Action::TooBig, value: limit }
    }
}

/// The pipeline.
#[inline(always)]
pub fn run<P: Packet, E: Env>(packet: &mut P, env: &E, hook: Hook) -> Verdict {
    let Some(scratch) = env.scratch() else { return Verdict::PASS };
    let verdict = match parse::frame(packet, &mut scratch.packet) {
        Outcome::Ports => balance(packet, env, hook, scratch),
        // An error may have to be rewritten in ways that XDP leaves to tc.
        Outcome::IcmpError if hook != Hook::Xdp => icmp::translate(packet, env, hook, scratch),
        Outcome::IcmpError | Outcome::Other => Verdict::PASS,
        Outcome::Truncated => Verdict::TRUNCATED,
    };
    if verdict.action as u32 == Action::Drop as u32 {
        env.trace(Event::Drop(verdict.value), scratch);
    }
    verdict
}

#[inline(always)]
fn balance<P: Packet, E: Env>(packet: &mut P, env: &E, hook: Hook, scratch: &mut Scratch) -> Verdict {
    let parsed = &scratch.packet;
    if hook != Hook::Egress {
        scratch.key =
            SocketKey { addr: parsed.dst, port: parsed.dst_port, protocol: parsed.protocol, zero: 0 };
        if let Some(frontend) = env.frontend(&scratch.key) {
            return forward(packet, env, hook, scratch, frontend);
        }
    }
    scratch.key = SocketKey { addr: parsed.src, port: parsed.src_port, protocol: parsed.protocol, zero: 0 };
    match env.endpoint(&scratch.key) {
        Some(endpoint) => reply(packet, env, hook, scratch, endpoint),
        None => Verdict::PASS,
    }
}

/// Why a packet of ours cannot be balanced, whatever its flow.
#[inline(always)]
fn unfit(parsed: &Parsed) -> Option<DropReason> {
    if parsed.flags & FRAGMENT != 0 {
        return Some(DropReason::Fragment);
    }
    (parsed.flags & MALFORMED != 0).then_some(DropReason::Malformed)
}

/// From a client to a frontend.
#[inline(always)]
fn forward<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    hook: Hook,
    scratch: &mut Scratch,
    frontend: &Frontend,
) -> Verdict {
    if let Some(reason) = unfit(&scratch.packet) {
        return Verdict::drop(reason);
    }
    let now = env.now();
    let hit = match client_flow(env, scratch, frontend, now) {
        Ok(hit) => hit,
        Err(reason) => return Verdict::drop(reason),
    };
    let Some(backend) = env.backend(hit.backend) else { return Verdict::drop(DropReason::StaleTable) };
    let parsed = &scratch.packet;
    let masked = hit.snat_port.0 != 0;
    scratch.to = Tuple {
        src: if masked { backend.source } else { parsed.src },
        dst: backend.addr,
        src_port: if masked { hit.snat_port } else { parsed.src_port },
        dst_port: backend.port,
    };
    send(packet, env, hook, scratch, &hit, Direction::In, now)
}

/// The flow of a client's packet: found, or made if the packet may open one.
#[inline(always)]
fn client_flow<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend, now: u32) -> Result<Hit, DropReason> {
    let parsed = &scratch.packet;
    let key = Key { addr: parsed.src, port: parsed.src_port, id: frontend.id };
    let place = Place::of(&env.limits(), &key);
    let bucket = env.bucket(Table::Forward, place.bucket()).ok_or(DropReason::StaleTable)?;
    let opens = parsed.protocol == protocol::UDP || parsed.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    if let Some(hit) = table::find(bucket, place, &key) {
        if !(opens && is_over(env, &hit)) {
            return if hit.link == NO_LINK { Err(DropReason::TableBusy) } else { Ok(hit) };
        }
        flow::end(env, &hit).map_err(|_| DropReason::TableBusy)?;
    }
    if !opens {
        return Err(DropReason::NoFlow);
    }
    create_flow(env, scratch, frontend, now)
}

/// Apart from the rest, because a BPF stack is small and most packets open no flow.
#[inline(never)]
fn create_flow<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    frontend: &Frontend,
    now: u32,
) -> Result<Hit, DropReason> {
    create::create(env, scratch, frontend, now)
}

/// Whether a packet that may open a flow finds one that should make way: a closed connection whose ports are used again, or one
/// that waits for a backend that is gone.
#[inline(always)]
fn is_over<E: Env>(env: &E, hit: &Hit) -> bool {
    let gone = || {
        env.backend(hit.backend).is_none_or(|b| {
            b.state == BackendState::Removed as u8 || b.state == BackendState::Unhealthy as u8
        })
    };
    match hit.state() {
        FlowState::Closing => true,
        FlowState::SynSent => gone(),
        FlowState::UdpOneWay | FlowState::UdpAnswered => {
            env.backend(hit.backend).is_none_or(|b| b.state == BackendState::Removed as u8)
        }
        _ => false,
    }
}

/// A reply entry's forward entry, with its key.
#[inline(always)]
pub fn reply_flow<E: Env>(env: &E, peer: Key) -> Option<(Hit, Key)> {
    let place = Place::of(&env.limits(), &peer);
    let reply = table::find(env.bucket(Table::Reply, place.bucket())?, place, &peer)?;
    let bucket = table::bucket_of(env, Table::Forward, reply.link)?;
    let key = forward_key(bucket, reply.link);
    let hit = table::at(bucket, reply.link)?;
    (hit.link == reply.slot).then_some((hit, key))
}

/// From an endpoint to whoever it takes for its client. What is no flow of ours is none of our business.
#[inline(always)]
fn reply<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    hook: Hook,
    scratch: &mut Scratch,
    endpoint: u32,
) -> Verdict {
    let parsed = &scratch.packet;
    let peer = Key { addr: parsed.dst, port: parsed.dst_port, id: endpoint };
    let Some((hit, client)) = reply_flow(env, peer) else { return Verdict::PASS };
    if let Some(reason) = unfit(parsed) {
        return Verdict::drop(reason);
    }
    let Some(vip) = env.vip(client.id) else { return Verdict::drop(DropReason::StaleTable) };
    scratch.to =
        Tuple { src: vip.key.addr, dst: client.addr, src_port: vip.key.port, dst_port: client.port };
    send(packet, env, hook, scratch, &hit, Direction::Out, env.now())
}

/// Sends a packet of a known flow on its way.
#[inline(always)]
fn send<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    hook: Hook,
    scratch: &mut Scratch,
    hit: &Hit,
    direction: Direction,
    now: u32,
) -> Verdict {
    let (segments, payload) = packet.segments();
    let parsed = &scratch.packet;
    let headers = (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32) + parsed.l4_header;
    let largest = if segments > 1 { headers + payload } else { parsed.ip_bytes };
    let route = if hook == Hook::Egress { Route::Stack } else { env.route(hook, scratch, largest) };
    let parsed = &scratch.packet;
    let (hop, verdict) = match route {
        Route::Interface(_) if parsed.ttl <= 1 => return Verdict::TIME_EXCEEDED,
        Route::Interface(index) => (true, Verdict::interface(index)),
        Route::Stack => (false, Verdict::STACK),
        Route::Defer => return Verdict::PASS,
        Route::TooBig(mtu) => return Verdict::too_big(mtu),
        Route::Drop(reason) => return Verdict::drop(reason),
    };
    if flow::track(env, hit, direction, parsed, now).is_err() {
        return Verdict::drop(DropReason::TableBusy);
    }
    if rewrite::transport(packet, parsed, &scratch.to, hop).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    let bytes = parsed.ip_bytes as u64 + (segments.max(1) as u64 - 1) * headers as u64;
    count(env, hit.backend, direction, segments as u64, bytes);
    verdict
}

#[inline(always)]
fn count<E: Env>(env: &E, backend: u32, direction: Direction, packets: u64, bytes: u64) {
    let Some(traffic) = env.traffic(backend) else { return };
    // SAFETY: this CPU's own element; nobody else writes it while a program runs here.
    unsafe {
        let Traffic { packets_in, packets_out, bytes_in, bytes_out } = &mut *traffic;
        let (p, b) =
            if direction == Direction::In { (packets_in, bytes_in) } else { (packets_out, bytes_out) };
        *p = p.wrapping_add(packets);
        *b = b.wrapping_add(bytes);
    }
}
