//! IP headers of packets that we make ourselves.

use lb_common::Addr;

use crate::{checksum, packet::Packet};

/// Hops that such a packet may take.
pub const HOPS: u8 = 64;

/// A word of a packet from its value.
#[inline(always)]
pub const fn be(value: u32) -> u32 {
    value.to_be()
}

/// Makes the sender of a frame its receiver.
#[inline(always)]
pub fn turn_link<P: Packet>(packet: &mut P) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = packet.load::<[u8; 12]>(0)?;
    packet.store(0, [g, h, i, j, k, l, a, b, c, d, e, f])
}

/// The one's complement sum of `bytes` bytes of the packet, a multiple of four; `None` if they are out of reach, or more than `MAX`
/// words.
#[inline(always)]
pub fn sum<const MAX: u32, P: Packet>(packet: &P, start: u32, bytes: u32) -> Option<u32> {
    if bytes > MAX * 4 {
        return None;
    }
    let mut sum = 0;
    for word in 0..MAX {
        if word * 4 >= bytes {
            break;
        }
        sum = checksum::add(sum, packet.load::<u32>(start + word * 4)?);
    }
    Some(sum)
}

/// Adds up words.
#[inline(always)]
pub fn sum_words<const N: usize>(words: &[u32; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum = checksum::add(sum, *word);
    }
    sum
}

/// The sum of what a transport checksum covers beside the transport's own bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
pub fn pseudo(src: &Addr, dst: &Addr, protocol: u8, length: u32) -> u32 {
    let addresses = if src.is_v4() {
        checksum::add(src.v4_word(), dst.v4_word())
    } else {
        checksum::add(sum_words(&src.0), sum_words(&dst.0))
    };
    checksum::add(addresses, checksum::add(be(length), be(protocol as u32)))
}

/// Says that an IPv4 packet is not to be fragmented.
pub const DONT_FRAGMENT: u32 = 0x4000;

/// A length as a header's 16 bits have it: 0 for a segmented packet that is longer.
#[inline(always)]
pub const fn length16(bytes: u32) -> u32 {
    if bytes > 0xffff { 0 } else { bytes }
}

/// The IPv4 header before `length` bytes; `flags` are 0 or [`DONT_FRAGMENT`].
#[inline(always)]
pub fn v4(protocol: u8, length: u32, flags: u32, src: &Addr, dst: &Addr) -> [u32; 5] {
    let mut words = [
        be(0x4500_0000 | length16(20 + length)),
        be(flags),
        be((HOPS as u32) << 24 | (protocol as u32) << 16),
        src.v4_word(),
        dst.v4_word(),
    ];
    words[2] |= be(u16::from_be(!checksum::fold(sum_words(&words))) as u32);
    words
}

/// The IPv6 header before `length` bytes, up to its addresses.
#[inline(always)]
pub fn v6(protocol: u8, length: u32, hops: u8) -> [u32; 2] {
    [be(0x6000_0000), be(length16(length) << 16 | (protocol as u32) << 8 | hops as u32)]
}
