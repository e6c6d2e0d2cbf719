//! ICMP errors about flows: who gets one knows only its own side of the rewrite, so the error and the packet that it quotes are
//! rewritten too (RFC 5508 section 4.2). Path MTU discovery depends on it.

use lb_common::{DropReason, Flow, SocketKey};

use crate::{
    checksum, dsr, echo,
    env::{Env, Hook, Route, Scratch, Table, Tuple},
    flow::Direction,
    packet::{Packet, TransportChange},
    parse::{self, Outcome, protocol},
    pipeline::{Verdict, reply_flow, way},
    rewrite,
    table::{self, FORWARDED, Place, key_of},
};

/// Whether an ICMP message quotes the packet that caused it.
#[inline(always)]
fn is_error(v4: bool, kind: u8) -> bool {
    // IPv4: unreachable, time exceeded, parameter problem. IPv6: every type below 128 is an error.
    if v4 { matches!(kind, 3 | 11 | 12) } else { kind < 128 }
}

/// Translates an ICMP error that quotes a packet of one of our flows, and answers an echo request to one of our addresses; everything
/// else passes. Not inlined: its stack is its own.
#[inline(never)]
pub fn translate<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    let v4 = scratch.packet.is_v4();
    let l4 = scratch.packet.l4 as u32;
    match packet.load::<[u8; 2]>(l4) {
        None => return Verdict::TRUNCATED,
        Some([kind, 0]) if kind == echo::request(v4) => return echo::answer(packet, env, scratch),
        Some([kind, _]) if !is_error(v4, kind) => return Verdict::PASS,
        Some(_) => {}
    }
    match parse::quoted(packet, l4 + 8, v4, &mut scratch.quoted) {
        Outcome::Ports => {}
        Outcome::Truncated => return Verdict::TRUNCATED,
        _ => return Verdict::PASS,
    }
    let Some(direction) = translation(env, scratch) else { return Verdict::PASS };
    if direction == Direction::In && scratch.hit.link == FORWARDED {
        let (port, protocol) = (scratch.quoted.src_port, scratch.quoted.protocol);
        // The flow was not heard of by this packet.
        scratch.hit = dsr::passing(scratch.hit.backend);
        return dsr::send_quietly(packet, env, scratch, port, protocol);
    }
    go(packet, env, scratch, direction)
}

/// Sends an error on as `scratch` says. Not inlined: its stack is its own, and not that of who forwards one.
#[inline(never)]
fn go<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch, direction: Direction) -> Verdict {
    let bytes = scratch.packet.ip_bytes;
    let route = way(env, scratch, direction, bytes);
    let (hop, verdict) = match route {
        Route::Interface(index) if scratch.packet.ttl > 1 => (true, Verdict::interface(index)),
        Route::Stack => (false, Verdict::STACK),
        Route::Defer => return Verdict::PASS,
        // An error about an error is never sent (RFC 1122 section 3.2.2).
        Route::Interface(_) => return Verdict::drop(DropReason::TtlExceeded),
        Route::TooBig(_) => return Verdict::drop(DropReason::TooBig),
        Route::Drop(reason) => return Verdict::drop(reason),
    };
    if rewrite_error(packet, scratch, hop).is_none() {
        return Verdict::drop(DropReason::RewriteFailed);
    }
    verdict
}

/// Which way the error goes, and in `scratch` what the outer and the quoted tuple become, if the quoted packet is of one of our flows.
#[inline(always)]
fn translation<E: Env>(env: &E, scratch: &mut Scratch) -> Option<Direction> {
    let q = &scratch.quoted;
    if env.hook() != Hook::Egress {
        // About a reply that we sent to the client in the frontend's name: for the backend.
        scratch.key = SocketKey { addr: q.src, port: q.src_port, protocol: q.protocol, zero: 0 };
        if let Some(frontend) = env.frontend(&scratch.key) {
            scratch.entry = Flow { addr: q.dst, id: frontend.id, port: q.dst_port, ..Flow::default() };
            let key = key_of(&scratch.entry);
            let place = Place::of(&env.limits(), key);
            if !table::find(env.bucket(Table::Forward, place.bucket())?, place, key, &mut scratch.hit) {
                return None;
            }
            let (hit, q) = (&scratch.hit, &scratch.quoted);
            let backend = env.backend(hit.backend)?;
            let masked = hit.snat_port.0 != 0;
            let (peer, peer_port) = if masked { (backend.source, hit.snat_port) } else { (q.dst, q.dst_port) };
            let outer_src = if masked { backend.source } else { scratch.packet.src };
            scratch.to = Tuple { src: outer_src, dst: backend.addr, ..Tuple::default() };
            scratch.quoted_to = Tuple { src: backend.addr, dst: peer, src_port: backend.port, dst_port: peer_port };
            return Some(Direction::In);
        }
    }
    // About a packet that we sent to the backend: for the client.
    scratch.key = SocketKey { addr: q.dst, port: q.dst_port, protocol: q.protocol, zero: 0 };
    let endpoint = env.endpoint(&scratch.key)?;
    let q = &scratch.quoted;
    scratch.entry = Flow { addr: q.src, id: endpoint, port: q.src_port, ..Flow::default() };
    let client = reply_flow(env, scratch)?;
    let q = &scratch.quoted;
    let vip = env.vip(client.id)?.key;
    let outer_src = if scratch.packet.src == q.dst { vip.addr } else { scratch.packet.src };
    scratch.to = Tuple { src: outer_src, dst: client.addr, ..Tuple::default() };
    scratch.quoted_to = Tuple { src: client.addr, dst: vip.addr, src_port: client.port, dst_port: vip.port };
    Some(Direction::Out)
}

/// Writes both headers. What changes in the quoted packet changes the ICMP checksum, unless a checksum in it makes up for it.
#[inline(always)]
fn rewrite_error<P: Packet>(packet: &mut P, scratch: &mut Scratch, hop: bool) -> Option<()> {
    let (q, quoted) = (&scratch.quoted, &scratch.quoted_to);
    let (l3, l4) = (q.l3 as u32, q.l4 as u32);
    let moved = rewrite::address_change(q, quoted);
    let ports = rewrite::port_change(q, quoted.src_port, quoted.dst_port);
    let mut difference = ports;
    if q.is_v4() {
        let sum = packet.load::<u16>(l3 + 10)?;
        packet.store(l3 + 10, checksum::apply(sum, moved))?;
    } else {
        difference = checksum::add(difference, moved);
    }
    // The quoted transport checksum follows where it is quoted; it covers addresses and ports.
    let at = l4 + if q.protocol == protocol::UDP { 6 } else { 16 };
    if let Some(sum) = packet.load::<u16>(at)
        && sum != 0
        && at + 2 <= scratch.packet.l3 as u32 + scratch.packet.ip_bytes
    {
        packet.store(at, checksum::apply(sum, checksum::add(moved, ports)))?;
        difference = checksum::add(difference, !checksum::add(moved, ports));
    }
    packet.store(l4, [quoted.src_port.0, quoted.dst_port.0])?;
    rewrite::addresses(packet, l3, q.is_v4(), &quoted.src, &quoted.dst)?;
    let outer = &scratch.packet;
    let pseudo = rewrite::address_change(outer, &scratch.to);
    let change = TransportChange {
        pseudo: if outer.is_v4() { 0 } else { pseudo },
        data: difference,
        zero_is_none: false,
        v6: !outer.is_v4(),
    };
    packet.fix_transport_checksum(outer.l4 as u32 + 2, change)?;
    rewrite::network(packet, outer, &scratch.to, pseudo, rewrite::ttl(outer, hop))
}
