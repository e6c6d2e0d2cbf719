//! One packet, from its first byte to its verdict: parse, find the frontend or endpoint, find or create the flow, ask for the way,
//! move the flow's state on, count, rewrite.
//!
//! The way is asked for before anything else changes: what a hook cannot finish passes as it came, and the next hook finds the
//! flow that may have been made for it.

use lb_common::{
    Backend, BackendState, DropReason, Flow, FlowState, Frontend, SocketKey, Traffic,
    flow::meta_generation,
    request::flow_key,
    service::{FRONTEND_MEASURED, FRONTEND_WAKES, VIP_FORWARDS, VIP_MEASURED},
};

use crate::{
    create::{self, create},
    dsr,
    env::{Env, Event, Hook, Route, Scratch, Table, Tuple},
    flow::{self, Direction},
    fragment, icmp, mss, neighbor,
    packet::Packet,
    parse::{self, FRAGMENT, MALFORMED, Outcome, Parsed, protocol, tcp},
    requests::{self, Connection},
    rewrite,
    table::{self, Busy, FORWARDED, Hit, Key, NO_LINK, Place, key_of},
    wake,
};

/// What becomes of a packet: an [`Action`], and above it the [`DropReason`], the interface's index, or the IP bytes that the way
/// takes. One word that BPF functions return in a register: what they return through memory, or leave out in some variants of an
/// enum, the verifier takes for read before it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(u64);

/// What is to be done with a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Not ours, or for the next hook: goes on untouched.
    Pass = 0,
    /// Ends here.
    Drop = 1,
    /// Rewritten: out of this interface.
    Interface = 2,
    /// Rewritten: up (or, at egress, out) with the stack.
    Stack = 3,
    /// Untouched: its sender has to be told that the way takes only so many IP bytes.
    TooBig = 4,
    /// Untouched: its sender has to be told that its time to live is over.
    TimeExceeded = 5,
    /// A header was out of reach: to be called again with more bytes in reach, else it passes.
    Truncated = 6,
    /// Untouched: its sender has to be told that nobody serves it.
    Refuse = 7,
    /// Has become the answer, link layer addresses and all: back by the interface it came by.
    Reply = 8,
    /// Has become the packet that was in it: to be called again.
    Again = 9,
}

impl Verdict {
    /// Goes on untouched.
    pub const PASS: Self = Self::new(Action::Pass, 0);
    /// Goes on with the stack, rewritten.
    pub const STACK: Self = Self::new(Action::Stack, 0);
    /// Has run out of time to live.
    pub const TIME_EXCEEDED: Self = Self::new(Action::TimeExceeded, 0);
    /// Ends too early to be read.
    pub const TRUNCATED: Self = Self::new(Action::Truncated, 0);
    /// Goes back as the answer.
    pub const REPLY: Self = Self::new(Action::Reply, 0);
    /// Is another packet now.
    pub const AGAIN: Self = Self::new(Action::Again, 0);

    #[inline(always)]
    const fn new(action: Action, value: u32) -> Self {
        Self((value as u64) << 32 | action as u64)
    }

    /// Ends here.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop, reason as u32)
    }

    /// Ends here, and its sender is told.
    #[inline(always)]
    pub const fn refuse(reason: DropReason) -> Self {
        Self::new(Action::Refuse, reason as u32)
    }

    /// Leaves by an interface.
    #[inline(always)]
    pub const fn interface(index: u32) -> Self {
        Self::new(Action::Interface, index)
    }

    /// Is larger than its way takes.
    #[inline(always)]
    pub const fn too_big(limit: u32) -> Self {
        Self::new(Action::TooBig, limit)
    }

    /// What is to be done.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.0 as u32 {
            1 => Action::Drop,
            2 => Action::Interface,
            3 => Action::Stack,
            4 => Action::TooBig,
            5 => Action::TimeExceeded,
            6 => Action::Truncated,
            7 => Action::Refuse,
            8 => Action::Reply,
            9 => Action::Again,
            _ => Action::Pass,
        }
    }

    /// The reason, interface or limit.
    #[inline(always)]
    pub const fn value(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// For tests and their messages.
impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}({})", self.action(), self.value())
    }
}

const DROP: u32 = Action::Drop as u32;
const REFUSE: u32 = Action::Refuse as u32;

/// The pipeline.
#[inline(always)]
pub fn run<P: Packet, E: Env>(packet: &mut P, env: &E) -> Verdict {
    let Some(scratch) = env.scratch() else { return Verdict::PASS };
    let verdict = match parse::frame(packet, &mut scratch.packet) {
        Outcome::Ports if dsr::is_carrier(env, scratch) => dsr::receive(packet, env, scratch),
        Outcome::Ports => balance(packet, env, scratch),
        // An error may have to be rewritten in ways that XDP leaves to tc.
        Outcome::IcmpError if env.hook() != Hook::Xdp => icmp::translate(packet, env, scratch),
        Outcome::Fragment if env.hook() != Hook::Xdp => fragment::follow(packet, env, scratch),
        Outcome::Neighbor if env.hook() == Hook::Ingress => neighbor::answer(packet, env, scratch),
        Outcome::IcmpError | Outcome::Fragment | Outcome::Neighbor | Outcome::Other => Verdict::PASS,
        Outcome::Truncated => Verdict::TRUNCATED,
    };
    if matches!(verdict.action() as u32, DROP | REFUSE) {
        env.trace(Event::Drop(verdict.value()), scratch);
    }
    verdict
}

#[inline(always)]
fn balance<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    if env.hook() != Hook::Egress {
        let parsed = &scratch.packet;
        scratch.key = SocketKey { addr: parsed.dst, port: parsed.dst_port, protocol: parsed.protocol, zero: 0 };
        if let Some(frontend) = env.frontend(&scratch.key).or_else(|| refusing(env, scratch)) {
            return forward(packet, env, scratch, frontend);
        }
    }
    let parsed = &scratch.packet;
    scratch.key = SocketKey { addr: parsed.src, port: parsed.src_port, protocol: parsed.protocol, zero: 0 };
    match env.endpoint(&scratch.key) {
        Some(endpoint) => reply(packet, env, scratch, endpoint),
        None => Verdict::PASS,
    }
}

/// What stands for the ports of a cluster's address that have no frontend. Only clients inside ask for such addresses.
#[inline(always)]
fn refusing<'a, E: Env>(env: &'a E, scratch: &mut Scratch) -> Option<&'a Frontend> {
    if env.hook() != Hook::Ingress || !opens(&scratch.packet) || !env.is_inside() {
        return None;
    }
    scratch.key = SocketKey::other_ports(scratch.packet.dst);
    env.frontend(&scratch.key)
}

/// Whether a packet may open a flow.
#[inline(always)]
fn opens(parsed: &Parsed) -> bool {
    parsed.protocol == protocol::UDP || parsed.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
}

/// What becomes of a packet of ours that cannot be balanced here, whatever its flow. XDP leaves first fragments to tc, as it does those
/// that follow.
#[inline(always)]
fn unfit<E: Env>(env: &E, parsed: &Parsed) -> Option<Verdict> {
    if parsed.flags & MALFORMED != 0 {
        return Some(Verdict::drop(DropReason::Malformed));
    }
    (parsed.flags & FRAGMENT != 0 && env.hook() == Hook::Xdp).then_some(Verdict::PASS)
}

/// From a client to a frontend.
#[inline(always)]
fn forward<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Verdict {
    if let Some(verdict) = unfit(env, &scratch.packet) {
        return verdict;
    }
    scratch.now = env.now();
    scratch.measured = (frontend.flags & FRONTEND_MEASURED) as u32;
    scratch.clamped = 0;
    if let Err(reason) = client_flow(env, scratch, frontend) {
        return turned_away(env, frontend, &scratch.packet, reason);
    }
    let hit = &scratch.hit;
    let Some(backend) = env.backend(hit.backend) else { return Verdict::drop(DropReason::StaleTable) };
    let parsed = &scratch.packet;
    if backend.is_gone() && is_answered(env, parsed) {
        return orphan(env, scratch);
    }
    if hit.link == FORWARDED {
        return dsr::forward(packet, env, scratch);
    }
    let masked = hit.snat_port.0 != 0;
    scratch.to = Tuple {
        src: if masked { backend.source } else { parsed.src },
        dst: backend.addr,
        src_port: if masked { hit.snat_port } else { parsed.src_port },
        dst_port: backend.port,
    };
    send(packet, env, scratch, Direction::In)
}

/// Whether a packet that has no flow any more is answered with a reset. A reset never is (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn is_answered<E: Env>(env: &E, parsed: &Parsed) -> bool {
    parsed.protocol == protocol::TCP && parsed.tcp_flags & tcp::RST == 0 && env.resets_orphans()
}

/// What becomes of a packet that has no flow for this reason.
#[inline(always)]
fn turned_away<E: Env>(env: &E, frontend: &Frontend, parsed: &Parsed, reason: DropReason) -> Verdict {
    match reason {
        // The client asks again by itself, and is served then: nothing is to be answered, at XDP as at tc.
        DropReason::NoBackend if frontend.flags & FRONTEND_WAKES != 0 => {
            wake::knock(env, frontend.service);
            Verdict::drop(reason)
        }
        DropReason::NoBackend | DropReason::BackendsFull => Verdict::refuse(reason),
        DropReason::NoFlow if is_answered(env, parsed) => Verdict::refuse(reason),
        _ => Verdict::drop(reason),
    }
}

/// A packet to a backend that is gone ends its flow, and its sender is told. Entries that wait out their time have resets of the client
/// sent on, and answers on their way back, in case the backend is still there.
#[inline(never)]
fn orphan<E: Env>(env: &E, scratch: &Scratch) -> Verdict {
    if env.hook() == Hook::Xdp {
        return Verdict::PASS;
    }
    match flow::reset(env, &scratch.hit, scratch.now) {
        Ok(()) => Verdict::refuse(DropReason::BackendGone),
        Err(Busy) => Verdict::drop(DropReason::TableBusy),
    }
}

/// Puts the flow of a client's packet into `scratch.hit`: found, or made if the packet may open one.
#[inline(always)]
fn client_flow<E: Env>(env: &E, scratch: &mut Scratch, frontend: &Frontend) -> Result<(), DropReason> {
    let parsed = &scratch.packet;
    scratch.entry = Flow { addr: parsed.src, id: frontend.id, port: parsed.src_port, ..Flow::default() };
    let key = key_of(&scratch.entry);
    let place = Place::of(&env.limits(), key);
    let bucket = env.bucket(Table::Forward, place.bucket()).ok_or(DropReason::StaleTable)?;
    let opens = opens(parsed);
    if table::find(bucket, place, key, &mut scratch.hit) {
        // What another node has forwarded is not forwarded again: two that took each other's backends would do so until the packet dies.
        let returns = scratch.target != 0 && scratch.hit.link == FORWARDED;
        if !(opens && (returns || is_over(env, &scratch.hit, scratch.now))) {
            return match scratch.hit.link {
                NO_LINK => Err(DropReason::TableBusy),
                _ if returns => Err(DropReason::NoFlow),
                _ => Ok(()),
            };
        }
        flow::end(env, &mut scratch.hit).map_err(|_| DropReason::TableBusy)?;
    }
    if opens { create(env, scratch, frontend) } else { create::pick_up(env, scratch, frontend) }
}

/// Whether a packet that may open a flow finds one that should make way: a closed connection whose ports are used again, or one of a
/// backend that was removed before it answered, or is gone. Where every backend is unhealthy they are used all the same: then tc finds
/// the flow that XDP has just made for this packet.
#[inline(always)]
fn is_over<E: Env>(env: &E, hit: &Hit, now: u32) -> bool {
    let in_state = |state| env.backend(hit.backend).is_none_or(|b| b.state == state as u8);
    match hit.state() {
        FlowState::Closing | FlowState::ForwardedFin => true,
        FlowState::SynSent | FlowState::ForwardedSyn => {
            in_state(BackendState::Removed) || hit.last != now && in_state(BackendState::Unhealthy)
        }
        FlowState::UdpOneWay | FlowState::UdpAnswered | FlowState::ForwardedUdp => in_state(BackendState::Removed),
        _ => env.resets_orphans() && env.backend(hit.backend).is_some_and(Backend::is_gone),
    }
}

/// The client and frontend of the flow of which `scratch.entry` has the reply entry's key; its forward entry is in `scratch.hit`
/// then.
#[inline(always)]
pub fn reply_flow<E: Env>(env: &E, scratch: &mut Scratch) -> Option<Key> {
    let key = key_of(&scratch.entry);
    let place = Place::of(&env.limits(), key);
    let bucket = env.bucket(Table::Reply, place.bucket())?;
    if !table::find(bucket, place, key, &mut scratch.other) {
        return None;
    }
    let (reply, slot) = (scratch.other.slot, scratch.other.link);
    let bucket = table::bucket_of(env, Table::Forward, slot)?;
    let key = table::key_at(bucket, slot);
    (table::at(bucket, slot, &mut scratch.hit) && scratch.hit.link == reply).then_some(key)
}

/// From an endpoint to whoever it takes for its client. What is no flow of ours is none of our business.
#[inline(always)]
fn reply<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch, endpoint: u32) -> Verdict {
    let parsed = &scratch.packet;
    scratch.entry = Flow { addr: parsed.dst, id: endpoint, port: parsed.dst_port, ..Flow::default() };
    let Some(client) = reply_flow(env, scratch) else { return Verdict::PASS };
    if let Some(verdict) = unfit(env, &scratch.packet) {
        return verdict;
    }
    let Some(vip) = env.vip(client.id) else { return Verdict::drop(DropReason::StaleTable) };
    scratch.to = Tuple { src: vip.key.addr, dst: client.addr, src_port: vip.key.port, dst_port: client.port };
    scratch.now = env.now();
    scratch.measured = (vip.flags & VIP_MEASURED) as u32;
    scratch.clamped = (vip.flags & VIP_FORWARDS) as u32;
    send(packet, env, scratch, Direction::Out)
}

/// The way of a packet of the flow in `scratch.hit` that is of `bytes` IP bytes.
#[inline(always)]
pub fn way<E: Env>(env: &E, scratch: &mut Scratch, direction: Direction, bytes: u32) -> Route {
    if env.hook() == Hook::Egress {
        return Route::Stack;
    }
    let masked = scratch.hit.snat_port.0 != 0;
    if masked || !env.delivers_by_stack() {
        return env.route(scratch, bytes);
    }
    // The stack's packet filter sees both directions as they are between client and backend: a reply is reversed behind it, at egress.
    if direction == Direction::In && env.hook() == Hook::Ingress { Route::Stack } else { Route::Defer }
}

/// Sends a packet of a known flow on its way. Not inlined: one copy serves both directions, and its stack is not that of `create`.
#[inline(never)]
fn send<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch, direction: Direction) -> Verdict {
    let bytes = largest(packet, &scratch.packet);
    let route = way(env, scratch, direction, bytes);
    let parsed = &scratch.packet;
    let (hop, verdict) = match route {
        Route::Interface(_) if parsed.ttl <= 1 => return Verdict::TIME_EXCEEDED,
        Route::Interface(index) => (true, Verdict::interface(index)),
        Route::Stack => (false, Verdict::STACK),
        Route::Defer => return Verdict::PASS,
        Route::TooBig(mtu) => return Verdict::too_big(mtu),
        Route::Drop(reason) => return Verdict::drop(reason),
    };
    if flow::track(env, &scratch.hit, direction, parsed, scratch.now).is_err() {
        return Verdict::drop(DropReason::TableBusy);
    }
    if scratch.measured != 0 {
        measure(packet, env, &scratch.hit, parsed, direction);
    }
    if scratch.clamped != 0 && opens_back(parsed) && clamp(packet, env, scratch).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    let parsed = &scratch.packet;
    if rewrite::transport(packet, parsed, &scratch.to, hop).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    let is_fragment = parsed.flags & FRAGMENT != 0;
    let (segments, _) = segments(packet, parsed);
    let bytes = parsed.ip_bytes as u64 + (segments.max(1) as u64 - 1) * headers(parsed) as u64;
    count(env, scratch.hit.backend, direction, segments as u64, bytes);
    if is_fragment && fragment::first(packet, env, scratch, direction).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    verdict
}

/// Bytes of the headers as far as the payload.
#[inline(always)]
fn headers(parsed: &Parsed) -> u32 {
    (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32).wrapping_add(parsed.l4_header)
}

/// The IP bytes of the packet, or of the largest of those that it stands for.
#[inline(always)]
pub fn largest<P: Packet>(packet: &P, parsed: &Parsed) -> u32 {
    let (count, payload) = segments(packet, parsed);
    if count > 1 { headers(parsed).wrapping_add(payload) } else { parsed.ip_bytes }
}

/// The packets that this one stands for, and the payload bytes of each but the last; (1, 0) if it is one.
#[inline(always)]
fn segments<P: Packet>(packet: &P, parsed: &Parsed) -> (u32, u32) {
    match packet.segments() {
        (0, size) => {
            let payload = parsed.ip_bytes.saturating_sub(headers(parsed));
            (payload.wrapping_add(size).wrapping_sub(1).checked_div(size).unwrap_or(1), size)
        }
        known => known,
    }
}

/// Whether it is the answer to a SYN.
#[inline(always)]
fn opens_back(parsed: &Parsed) -> bool {
    parsed.protocol == protocol::TCP && parsed.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
}

/// Has the client send segments that fit on their way even when another node forwards them, if its way to this one is like this one's to
/// the client.
#[inline(always)]
fn clamp<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &Scratch) -> Option<()> {
    let v4 = scratch.packet.is_v4();
    // What everybody takes (RFC 9293 section 3.7.1, RFC 8200 section 5) is asked for at least.
    let (headers, least) = if v4 { (40, 536) } else { (60, 1220) };
    let limit = env.mtu(scratch).saturating_sub(dsr::overhead(v4) + headers).max(least);
    mss::clamp(packet, &scratch.packet, limit)
}

/// Follows the requests of a flow until its backend has said its last word.
#[inline(always)]
fn measure<P: Packet, E: Env>(packet: &P, env: &E, hit: &Hit, parsed: &Parsed, direction: Direction) {
    if !matches!(hit.state(), FlowState::FinBackend | FlowState::Closing) {
        let key = flow_key(hit.slot, meta_generation(hit.meta));
        requests::follow(packet, env, parsed, &Connection { key, backend: hit.backend }, direction);
    }
}

/// Counts packets of a backend, and their IP bytes.
#[inline(always)]
pub fn count<E: Env>(env: &E, backend: u32, direction: Direction, packets: u64, bytes: u64) {
    let Some(traffic) = env.traffic(backend) else { return };
    // SAFETY: this CPU's own element; nobody else writes it while a program runs here.
    unsafe {
        let Traffic { packets_in, packets_out, bytes_in, bytes_out } = &mut *traffic.ptr();
        let (p, b) = if direction == Direction::In { (packets_in, bytes_in) } else { (packets_out, bytes_out) };
        *p = p.wrapping_add(packets);
        *b = b.wrapping_add(bytes);
    }
}
