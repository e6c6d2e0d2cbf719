//! Direct server return: a client's packet goes to the node of its backend as it came, carried in a UDP datagram ([`lb_common::dsr`]);
//! that node takes it out, balances it to the backend that was chosen, counts it, and answers the client itself.
//!
//! The node that forwards sees no answers. So its entries prove nothing about the client, and make way before those that do.

use lb_common::{
    Addr, DropReason, Frontend, Port, SocketKey,
    dsr::{HEADER, Header, MAGIC, OVERHEAD_V4, OVERHEAD_V6, Target, VERSION},
    fragment::FRAGMENT_FORWARDED,
    hash,
    service::FRONTEND_FORWARDS,
};

use crate::{
    env::{Env, Hook, Route, Scratch, Tuple},
    flow::{self, Direction},
    fragment,
    header::{self, be, length16},
    packet::{Packet, Plain},
    parse::{FRAGMENT, Parsed, protocol},
    pipeline::{Action, Verdict, largest},
    rewrite,
    table::{FORWARDED, Hit},
};

// SAFETY: numbers without padding between them.
unsafe impl Plain for Header {}

const UDP: u32 = 8;
/// Source ports: the dynamic ones (RFC 6335), by the flow, so that routers and queues spread flows and keep each in order.
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// Bytes that encapsulation adds.
#[inline(always)]
pub fn overhead(v4: bool) -> u32 {
    if v4 { OVERHEAD_V4 } else { OVERHEAD_V6 }
}

/// Whether a new flow of a frontend goes to this backend by way of that one's node.
#[inline(always)]
pub fn forwards<E: Env>(env: &E, scratch: &Scratch, frontend: &Frontend, backend: u32) -> bool {
    frontend.flags & FRONTEND_FORWARDS != 0
        && env.dsr_port().0 != 0
        && scratch.inside == 0
        && env.backend(backend).is_some_and(|backend| !backend.is_local())
}

/// Sends a client's packet of the flow in `scratch.hit` on, with what fragments follow it.
#[inline(always)]
pub fn forward<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    let (port, protocol) = (scratch.packet.dst_port, scratch.packet.protocol);
    if scratch.packet.flags & FRAGMENT != 0 {
        fragment::note(env, scratch, FRAGMENT_FORWARDED, 0, port);
    }
    send(packet, env, scratch, port, protocol)
}

/// The same of a packet about which its sender is told nothing: an error, or a fragment that is not the first.
#[inline(always)]
pub fn send_quietly<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    scratch: &mut Scratch,
    frontend: Port,
    protocol: u8,
) -> Verdict {
    let verdict = send(packet, env, scratch, frontend, protocol);
    match verdict.action() {
        Action::TooBig => Verdict::drop(DropReason::TooBig),
        Action::TimeExceeded => Verdict::drop(DropReason::TtlExceeded),
        _ => verdict,
    }
}

/// Sends a packet of the flow in `scratch.hit` to its backend's node. `frontend` and `protocol` are the flow's: those of a packet
/// without ports are not in it.
#[inline(never)]
pub fn send<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    scratch: &mut Scratch,
    frontend: Port,
    protocol: u8,
) -> Verdict {
    let Some(backend) = env.backend(scratch.hit.backend) else { return Verdict::drop(DropReason::StaleTable) };
    // Two nodes that took each other's backends would forward it until it dies.
    if scratch.target != 0 {
        return Verdict::drop(DropReason::StaleTable);
    }
    let added = overhead(scratch.packet.is_v4());
    let bytes = largest(packet, &scratch.packet).wrapping_add(added);
    let src_port = Port::new(FIRST_SOURCE_PORT | source(&scratch.packet) & !FIRST_SOURCE_PORT);
    scratch.to = Tuple { src: backend.source, dst: backend.addr, src_port, dst_port: env.dsr_port() };
    if scratch.to.src == Addr::NONE {
        return Verdict::drop(DropReason::NoRoute);
    }
    let index = match env.route(scratch, bytes) {
        Route::Interface(_) if scratch.packet.ttl <= 1 => return Verdict::TIME_EXCEEDED,
        Route::Interface(index) => index,
        Route::Defer => return Verdict::PASS,
        Route::TooBig(mtu) => return Verdict::too_big(mtu.saturating_sub(added)),
        Route::Stack => return Verdict::drop(DropReason::NoRoute),
        Route::Drop(reason) => return Verdict::drop(reason),
    };
    if flow::track(env, &scratch.hit, Direction::In, &scratch.packet, scratch.now).is_err() {
        return Verdict::drop(DropReason::TableBusy);
    }
    let header = Header { magic: MAGIC.to_be(), version: VERSION, protocol, frontend, backend: backend.port };
    match carry(packet, &mut scratch.packet, &scratch.to, &header) {
        Some(()) => Verdict::interface(index),
        None => Verdict::drop(DropReason::RewriteFailed),
    }
}

/// Some bits of the flow. Fragments but the first have no ports, so all of a packet go without.
#[inline(always)]
fn source(parsed: &Parsed) -> u16 {
    let has_ports = matches!(parsed.protocol, protocol::TCP | protocol::UDP) && parsed.flags & FRAGMENT == 0;
    let ports = if has_ports { (parsed.src_port.0 as u64) << 16 | parsed.dst_port.0 as u64 } else { 0 };
    hash::address(parsed.dst.0[3] as u64, &parsed.src, ports) as u16
}

/// Puts the packet, which passes one hop less from here on, into a datagram.
#[inline(always)]
fn carry<P: Packet>(packet: &mut P, parsed: &mut Parsed, to: &Tuple, header: &Header) -> Option<()> {
    let (l3, v4) = (parsed.l3 as u32, parsed.is_v4());
    rewrite::lifetime(packet, parsed, 0, rewrite::ttl(parsed, true))?;
    let at = packet.encapsulate(l3, overhead(v4), v4)?;
    parsed.l3 = at as u16;
    let length = UDP + HEADER + parsed.ip_bytes;
    let ([a, b], [c, d]) = (to.src_port.0.to_ne_bytes(), to.dst_port.0.to_ne_bytes());
    let ([e, f], [g, h]) = (header.magic.to_ne_bytes(), header.frontend.0.to_ne_bytes());
    let [i, j] = header.backend.0.to_ne_bytes();
    let word = u32::from_ne_bytes;
    let rest = [
        word([a, b, c, d]),
        be(length16(length) << 16),
        word([e, f, header.version, header.protocol]),
        word([g, h, i, j]),
    ];
    let [w, x, y, z] = rest;
    if v4 {
        let [p, q, r, s, t] = header::v4(protocol::UDP, length, header::DONT_FRAGMENT, &to.src, &to.dst);
        return packet.store(at, [p, q, r, s, t, w, x, y, z]);
    }
    let [p, q] = header::v6(protocol::UDP, length, header::HOPS);
    let (s, t) = (to.src.0, to.dst.0);
    packet.store(at, [p, q, s[0], s[1], s[2], s[3], t[0], t[1], t[2], t[3], w, x, y, z])
}

/// Whether a packet may carry one that another node forwards. Pods are no nodes.
#[inline(always)]
pub fn is_carrier<E: Env>(env: &E, scratch: &Scratch) -> bool {
    let (parsed, port) = (&scratch.packet, env.dsr_port());
    port.0 != 0
        && parsed.dst_port == port
        && parsed.protocol == protocol::UDP
        && env.hook() == Hook::Ingress
        && scratch.target == 0
}

/// Takes out the packet that another node has forwarded to a backend of this one, which is in `scratch.target` then; every other datagram
/// passes.
#[inline(never)]
pub fn receive<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    if env.is_inside() || scratch.packet.flags & FRAGMENT != 0 {
        return Verdict::PASS;
    }
    let at = scratch.packet.l4 as u32 + UDP;
    let Some(header) = packet.load::<Header>(at) else { return Verdict::TRUNCATED };
    let Header { magic, version, protocol, frontend, backend } = header;
    if u16::from_be(magic) != MAGIC || version != VERSION {
        return Verdict::PASS;
    }
    let inner = at + HEADER;
    let Some(dst) = destination(packet, inner, scratch.packet.is_v4()) else { return Verdict::TRUNCATED };
    scratch.key = SocketKey { addr: dst, port: frontend, protocol, zero: 0 };
    let Some(frontend) = env.frontend(&scratch.key) else { return Verdict::PASS };
    let (service, forwards) = (frontend.service, frontend.flags & FRONTEND_FORWARDS != 0);
    scratch.key = SocketKey { addr: scratch.packet.dst, port: backend, protocol, zero: 0 };
    let Some(endpoint) = env.endpoint(&scratch.key).filter(|_| forwards) else { return Verdict::PASS };
    let Some(index) = env.target(&Target { endpoint, service }) else { return Verdict::PASS };
    let l3 = scratch.packet.l3 as u32;
    if packet.decapsulate(l3, inner.wrapping_sub(l3)).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    scratch.target = index.wrapping_add(1);
    Verdict::AGAIN
}

/// The destination of the packet that begins at `inner`.
#[inline(always)]
fn destination<P: Packet>(packet: &P, inner: u32, v4: bool) -> Option<Addr> {
    if v4 {
        packet.load::<u32>(inner + 16).map(Addr::from_v4_word)
    } else {
        packet.load::<[u32; 4]>(inner + 24).map(Addr)
    }
}

/// The flow of a packet that is of none that is known here, to a backend that the ring alone gives: on every node the same.
#[inline(always)]
pub fn passing(backend: u32) -> Hit {
    Hit { slot: u32::MAX, link: FORWARDED, backend, ..Hit::default() }
}
