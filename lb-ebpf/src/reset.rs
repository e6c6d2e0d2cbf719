//! TCP resets of our own: the answer to a segment that nobody takes (RFC 9293 section 3.10.7.1), in the name of whom it was sent to.

use crate::{
    checksum,
    header::{self, be, pseudo, sum_words},
    packet::{Packet, TransportChange},
    parse::{Parsed, protocol, tcp},
    rewrite,
};

const ETHERNET: u32 = 14;
/// Bytes of a TCP header without options.
const HEADER: u32 = 20;

/// Turns a segment into its reset, but for the addresses of its Ethernet header. `false`: a reset is never answered, or it could not be
/// done, and the packet may be half of one and half of the other.
#[inline(never)]
pub fn reset<P: Packet>(packet: &mut P, parsed: &Parsed) -> bool {
    turn(packet, parsed).is_some()
}

#[inline(always)]
fn turn<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    if parsed.l3 as u32 != ETHERNET || parsed.tcp_flags & tcp::RST != 0 {
        return None;
    }
    let old = (parsed.l4 as u32).wrapping_sub(ETHERNET);
    let ip = if parsed.is_v4() { 20 } else { 40 };
    let words = segment(packet, parsed)?;
    let sum = packet.load::<u16>(parsed.l4 as u32 + 16)?;
    packet.reshape(ETHERNET + old + HEADER, (ip as i32).wrapping_sub(old as i32))?;
    let l4 = ETHERNET + ip;
    // A checksum that the device will finish has the sum of the pseudo header in it, in which only the length changes: of the rest it
    // takes no notice. Any other is `!(pseudo + data)`, so the change of the data makes up for all that was in it.
    let before = parsed.ip_bytes.wrapping_sub(old);
    let pseudo_before = pseudo(&parsed.src, &parsed.dst, protocol::TCP, before);
    let data_before = checksum::add(!sum as u32 & 0xffff, !pseudo_before);
    let change = TransportChange {
        pseudo: checksum::word(be(before), be(HEADER)),
        data: checksum::add(sum_words(&words), !data_before),
        zero_is_none: false,
        v6: !parsed.is_v4(),
    };
    packet.fix_transport_checksum(l4 + 16, change)?;
    packet.store(l4, words)?;
    // No urgent data.
    packet.store(l4 + 18, 0_u16)?;
    if parsed.is_v4() {
        return packet.store(ETHERNET, header::v4(protocol::TCP, HEADER, 0, &parsed.dst, &parsed.src));
    }
    packet.store(ETHERNET, header::v6(protocol::TCP, HEADER, header::HOPS))?;
    rewrite::addresses(packet, ETHERNET, false, &parsed.dst, &parsed.src)
}

/// The reset's ports, sequence and acknowledgment numbers, and flags.
#[inline(always)]
fn segment<P: Packet>(packet: &P, parsed: &Parsed) -> Option<[u32; 4]> {
    let [sequence, acknowledged] = packet.load::<[u32; 2]>(parsed.l4 as u32 + 4)?;
    let ports = u32::from_ne_bytes({
        let ([a, b], [c, d]) = (parsed.dst_port.0.to_ne_bytes(), parsed.src_port.0.to_ne_bytes());
        [a, b, c, d]
    });
    let word = |flags: u8| be(5 << 28 | (flags as u32) << 16);
    if parsed.tcp_flags & tcp::ACK != 0 {
        return Some([ports, acknowledged, 0, word(tcp::RST)]);
    }
    let headers = (parsed.l4 as u32).wrapping_sub(parsed.l3 as u32).wrapping_add(parsed.l4_header);
    let payload = parsed.ip_bytes.wrapping_sub(headers);
    let flags = (parsed.tcp_flags & tcp::SYN != 0) as u32 + (parsed.tcp_flags & tcp::FIN != 0) as u32;
    let next = u32::from_be(sequence).wrapping_add(payload).wrapping_add(flags);
    Some([ports, 0, be(next), word(tcp::RST | tcp::ACK)])
}
