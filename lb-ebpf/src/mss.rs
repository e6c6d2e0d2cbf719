//! The largest segment that a backend says it takes (RFC 9293 section 3.7.1), made smaller where its client's segments come encapsulated.

use crate::{
    checksum,
    packet::{Packet, TransportChange},
    parse::Parsed,
};

/// Bytes of a TCP header without options.
const HEADER: u32 = 20;
/// Options that are looked at. Linux, like most, begins with this one.
const OPTIONS: u32 = 10;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the option of a SYN to `limit` bytes where it says more. A SYN without one means 536 bytes, or 1220.
#[inline(never)]
pub fn clamp<P: Packet>(packet: &mut P, parsed: &Parsed, limit: u32) -> Option<()> {
    let l4 = parsed.l4 as u32;
    let end = l4.wrapping_add(parsed.l4_header);
    let mut at = l4 + HEADER;
    for _ in 0..OPTIONS {
        if at + 4 > end {
            break;
        }
        let [kind, length] = packet.load::<[u8; 2]>(at)?;
        match kind {
            END => break,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if length == 4 => return lower(packet, l4, at + 2, limit),
            _ if length < 2 => break,
            _ => at += length as u32,
        }
    }
    Some(())
}

#[inline(always)]
fn lower<P: Packet>(packet: &mut P, l4: u32, at: u32, limit: u32) -> Option<()> {
    let old = packet.load::<u16>(at)?;
    if u16::from_be(old) as u32 <= limit {
        return Some(());
    }
    let new = (limit as u16).to_be();
    // At an odd offset the two bytes are halves of two words of the sum.
    let odd = at.wrapping_sub(l4) & 1 != 0;
    let data = if odd { checksum::half(old.swap_bytes(), new.swap_bytes()) } else { checksum::half(old, new) };
    packet.fix_transport_checksum(l4 + 16, TransportChange { pseudo: 0, data, zero_is_none: false, v6: false })?;
    packet.store(at, new)
}
