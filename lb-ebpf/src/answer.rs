//! Errors of our own: a packet that is too big for its new way, has run out of time to live, or is for nobody, becomes the answer that
//! its sender is told so with: an ICMP error (RFC 792, RFC 4443), or to TCP that is for nobody a reset. It comes from the address the
//! packet was sent to.
//!
//! Errors are limited in rate as Linux limits its own (icmp_global_allow, net/ipv4/icmp.c), and as there one kind is not: who does not
//! hear that its packets are too big sends them in vain for as long as somebody else uses the rate up, and such an error is shorter than
//! the packet it is about. Nor are resets, which are never larger than what they answer: when a backend goes, each of its clients is to hear.

use crate::{
    checksum,
    env::Env,
    header::{self, be, sum_words},
    packet::Packet,
    parse::{Parsed, protocol},
    rate::{self, Rate},
    reset,
};

/// Errors a second, and at once: Linux' icmp_msgs_per_sec and icmp_msgs_burst.
const ERRORS: Rate = Rate::with_burst(1000, 50);

/// What the sender is told.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// The way takes smaller packets only: fragmentation needed, or packet too big.
    TooBig,
    /// The time to live, or hop limit, was over.
    TimeExceeded,
    /// Nobody serves the port: port unreachable, or a reset.
    Refused,
}

const ETHERNET: u32 = 14;
/// Bytes of the new headers: IP and ICMP.
const ROOM_V4: u32 = 20 + 8;
const ROOM_V6: u32 = 40 + 8;
/// Words of the quoted packet that can be summed: 40 bytes of IPv6, extension headers, and a TCP header without options.
const MAX_WORDS: u32 = 32;

/// Turns the packet into the answer to its sender, but for the addresses of its Ethernet header. `false`: there were too many, or it could
/// not be done, and the packet may be half of one and half of the other.
#[inline(never)]
pub fn answer<P: Packet, E: Env>(packet: &mut P, env: &E, parsed: &Parsed, what: Complaint, limit: u32) -> bool {
    if what as u32 == Complaint::Refused as u32 && parsed.protocol == protocol::TCP {
        return reset::reset(packet, parsed);
    }
    let is_limited = what as u32 != Complaint::TooBig as u32;
    if is_limited && env.error_rate().is_some_and(|due| !rate::take(env, due, ERRORS)) {
        return false;
    }
    error(packet, parsed, what, limit).is_some()
}

#[inline(always)]
fn error<P: Packet>(packet: &mut P, parsed: &Parsed, what: Complaint, limit: u32) -> Option<()> {
    // As far as the checksum field: a checksum that the device was to finish must stay inside of the packet.
    let quoted_l4 = if parsed.protocol == protocol::TCP { 20 } else { 8 };
    let quoted = (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32).wrapping_add(quoted_l4);
    if parsed.l3 as u32 != ETHERNET {
        return None;
    }
    let sum = header::sum::<MAX_WORDS, P>(packet, ETHERNET, quoted)?;
    let room = if parsed.is_v4() { ROOM_V4 } else { ROOM_V6 };
    packet.reshape(ETHERNET + quoted, room as i32)?;
    if parsed.is_v4() {
        packet.store(ETHERNET, header_v4(parsed, what, limit, quoted, sum))
    } else {
        packet.store(ETHERNET, header_v6(parsed, what, limit, quoted, sum))
    }
}

/// The IPv4 and ICMP headers.
#[inline(always)]
fn header_v4(parsed: &Parsed, what: Complaint, limit: u32, quoted: u32, sum: u32) -> [u32; 7] {
    let (kind, rest) = match what {
        Complaint::TooBig => (3 << 24 | 4 << 16, limit & 0xffff),
        Complaint::TimeExceeded => (11 << 24, 0),
        Complaint::Refused => (3 << 24 | 3 << 16, 0),
    };
    let [a, b, c, d, e] = header::v4(protocol::ICMP, 8 + quoted, 0, &parsed.dst, &parsed.src);
    let [kind, rest] = checksummed([be(kind), be(rest)], sum);
    [a, b, c, d, e, kind, rest]
}

/// The IPv6 and ICMPv6 headers.
#[inline(always)]
fn header_v6(parsed: &Parsed, what: Complaint, limit: u32, quoted: u32, sum: u32) -> [u32; 12] {
    let (kind, rest) = match what {
        Complaint::TooBig => (2 << 24, limit),
        Complaint::TimeExceeded => (3 << 24, 0),
        Complaint::Refused => (1 << 24 | 4 << 16, 0),
    };
    let (s, d) = (parsed.dst.0, parsed.src.0);
    let length = 8 + quoted;
    let pseudo = header::pseudo(&parsed.dst, &parsed.src, protocol::ICMPV6, length);
    let [a, b] = header::v6(protocol::ICMPV6, length, header::HOPS);
    let [kind, rest] = checksummed([be(kind), be(rest)], checksum::add(sum, pseudo));
    [a, b, s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], kind, rest]
}

/// The ICMP header with its checksum; `covered` is the sum of what else it covers.
#[inline(always)]
fn checksummed([first, second]: [u32; 2], covered: u32) -> [u32; 2] {
    let sum = checksum::add(covered, sum_words(&[first, second]));
    [first | be(u16::from_be(!checksum::fold(sum)) as u32), second]
}
