//! Echo requests (RFC 792, RFC 4443 section 4.1) to an address that is a Service's alone, as of a load balancer: no host has it, so nobody
//! else would answer. The answer is the request turned round, and goes back to whoever has brought it.

use lb_common::{Addr, DropReason, SocketKey};

use crate::{
    checksum,
    env::{Env, Hook, Scratch, Tuple},
    header::{self, HOPS},
    packet::{Packet, TransportChange},
    parse::{FRAGMENT, Parsed},
    pipeline::Verdict,
    rewrite,
};

const ETHERNET: u32 = 14;

/// The type of a request.
#[inline(always)]
pub const fn request(v4: bool) -> u8 {
    if v4 { 8 } else { 128 }
}

const fn reply(v4: bool) -> u8 {
    if v4 { 0 } else { 129 }
}

/// Answers a request to one of our addresses; everything else passes. Not inlined: most packets are none.
#[inline(never)]
pub fn answer<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    let parsed = &scratch.packet;
    let headers = if parsed.is_v4() { 20 } else { 40 };
    // Options and extension headers could send the answer anywhere, and nobody puts fragments together here.
    let is_plain = parsed.l4.wrapping_sub(parsed.l3) == headers && parsed.flags & FRAGMENT == 0;
    if env.hook() != Hook::Ingress || !is_plain || !is_of_one_host(&parsed.src) {
        return Verdict::PASS;
    }
    scratch.key = SocketKey::echo(parsed.dst);
    if env.frontend(&scratch.key).is_none() {
        return Verdict::PASS;
    }
    scratch.to = Tuple { src: scratch.packet.dst, dst: scratch.packet.src, ..Tuple::default() };
    match turn(packet, &scratch.packet, &scratch.to) {
        Some(()) => Verdict::REPLY,
        None => Verdict::drop(DropReason::RewriteFailed),
    }
}

/// Whether a source address can be a host's.
#[inline(always)]
fn is_of_one_host(addr: &Addr) -> bool {
    let first = u32::from_be(if addr.is_v4() { addr.v4_word() } else { addr.0[0] }) >> 24;
    // 0.0.0.0/8, multicast and broadcast; multicast, and none at all.
    if addr.is_v4() { first != 0 && first < 224 } else { first != 0xff && *addr != Addr::NONE }
}

#[inline(always)]
fn turn<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Option<()> {
    let (l4, v4) = (parsed.l4 as u32, parsed.is_v4());
    if parsed.l3 as u32 >= ETHERNET {
        header::turn_link(packet)?;
    }
    let (old, new) = ([request(v4), 0], [reply(v4), 0]);
    let data = checksum::half(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    // Source and destination have changed places: their sum is the same.
    packet.fix_transport_checksum(l4 + 2, TransportChange { pseudo: 0, data, zero_is_none: false, v6: !v4 })?;
    packet.store(l4, new)?;
    rewrite::network(packet, parsed, to, 0, HOPS)
}
