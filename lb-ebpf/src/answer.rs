//! ICMP errors of our own: a packet that is too big for its new way, or has run out of time to live, becomes the error that its
//! sender is told so with (RFC 792, RFC 4443). It comes from the address the packet was sent to.

use crate::{
    checksum,
    packet::Packet,
    parse::{Parsed, protocol},
};

/// What the sender is told.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// The way takes smaller packets only: fragmentation needed, or packet too big.
    TooBig,
    /// The time to live, or hop limit, was over.
    TimeExceeded,
}

const ETHERNET: u32 = 14;
/// Bytes of the new headers: IP and ICMP.
const ROOM_V4: u32 = 20 + 8;
const ROOM_V6: u32 = 40 + 8;
/// Words of the quoted packet that can be summed: 40 bytes of IPv6, extension headers, and a TCP header without options.
const MAX_WORDS: u32 = 32;

/// Turns the packet into an ICMP error to its sender, but for the addresses of its Ethernet header. `false`: it could not be done, and
/// the packet may be half of one and half of the other.
#[inline(never)]
pub fn answer<P: Packet>(packet: &mut P, parsed: &Parsed, what: Complaint, limit: u32) -> bool {
    turn(packet, parsed, what, limit).is_some()
}

#[inline(always)]
fn turn<P: Packet>(packet: &mut P, parsed: &Parsed, what: Complaint, limit: u32) -> Option<()> {
    // As far as the checksum field: a checksum that the device was to finish must stay inside of the packet.
    let quoted_l4 = if parsed.protocol == protocol::TCP { 20 } else { 8 };
    let quoted = (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32).wrapping_add(quoted_l4);
    if parsed.l3 as u32 != ETHERNET || quoted > MAX_WORDS * 4 {
        return None;
    }
    let sum = sum_words(packet, quoted)?;
    let room = if parsed.is_v4() { ROOM_V4 } else { ROOM_V6 };
    packet.reshape(ETHERNET + quoted, room)?;
    if parsed.is_v4() {
        packet.store(ETHERNET, header_v4(parsed, what, limit, quoted, sum))
    } else {
        packet.store(ETHERNET, header_v6(parsed, what, limit, quoted, sum))
    }
}

/// The one's complement sum of the quoted packet.
#[inline(always)]
fn sum_words<P: Packet>(packet: &P, bytes: u32) -> Option<u32> {
    let mut sum = 0;
    for word in 0..MAX_WORDS {
        if word * 4 >= bytes {
            break;
        }
        sum = checksum::add(sum, packet.load::<u32>(ETHERNET + word * 4)?);
    }
    Some(sum)
}

/// A word of the packet from its value.
const fn be(value: u32) -> u32 {
    value.to_be()
}

/// Adds up words and folds them into the checksum field at the lower half of `at`.
#[inline(always)]
fn checksummed<const N: usize>(mut words: [u32; N], first: usize, last: usize, at: usize, extra: u32) -> [u32; N] {
    let mut sum = extra;
    for word in words.iter().take(last + 1).skip(first) {
        sum = checksum::add(sum, *word);
    }
    words[at] |= be(u16::from_be(!checksum::fold(sum)) as u32);
    words
}

/// The IPv4 and ICMP headers.
#[inline(always)]
fn header_v4(parsed: &Parsed, what: Complaint, limit: u32, quoted: u32, sum: u32) -> [u32; 7] {
    let (kind, rest) = match what {
        Complaint::TooBig => (3 << 24 | 4 << 16, limit & 0xffff),
        Complaint::TimeExceeded => (11 << 24, 0),
    };
    let words = [
        be(0x4500_0000 | (ROOM_V4 + quoted)),
        0,
        be(64 << 24 | (protocol::ICMP as u32) << 16),
        parsed.dst.v4_word(),
        parsed.src.v4_word(),
        be(kind),
        be(rest),
    ];
    checksummed(checksummed(words, 0, 4, 2, 0), 5, 6, 5, sum)
}

/// The IPv6 and ICMPv6 headers. The pseudo header has the addresses, the length and the protocol.
#[inline(always)]
fn header_v6(parsed: &Parsed, what: Complaint, limit: u32, quoted: u32, sum: u32) -> [u32; 12] {
    let (kind, rest) = match what {
        Complaint::TooBig => (2 << 24, limit),
        Complaint::TimeExceeded => (3 << 24, 0),
    };
    let (s, d) = (parsed.dst.0, parsed.src.0);
    let length = 8 + quoted;
    let words = [
        be(0x6000_0000),
        be(length << 16 | (protocol::ICMPV6 as u32) << 8 | 64),
        s[0],
        s[1],
        s[2],
        s[3],
        d[0],
        d[1],
        d[2],
        d[3],
        be(kind),
        be(rest),
    ];
    let pseudo = checksum::add(be(length), be(protocol::ICMPV6 as u32));
    checksummed(words, 2, 11, 10, checksum::add(sum, pseudo))
}
