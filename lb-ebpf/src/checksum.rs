//! Incremental Internet checksums (RFC 1624). A *difference* is the one's complement sum of the complement of what was and of what
//! is, as 32 bits that are not folded yet: the form in which the kernel's checksum helpers take it.

use lb_common::{Addr, Port};

/// Adds two partial sums with end-around carry.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The difference that a change of one 32-bit word makes (both in network byte order).
#[inline(always)]
pub const fn word(old: u32, new: u32) -> u32 {
    add(!old, new)
}

/// The difference that a change of one 16-bit word at an even offset makes (both in network byte order).
#[inline(always)]
pub const fn half(old: u16, new: u16) -> u32 {
    word(old as u32, new as u32)
}

/// The difference of an address; of IPv4 only its one word is in a packet.
#[inline(always)]
pub const fn address(old: &Addr, new: &Addr) -> u32 {
    let last = word(old.0[3], new.0[3]);
    if old.is_v4() {
        return last;
    }
    add(add(word(old.0[0], new.0[0]), word(old.0[1], new.0[1])), add(word(old.0[2], new.0[2]), last))
}

/// The difference of a port.
#[inline(always)]
pub const fn port(old: Port, new: Port) -> u32 {
    half(old.0, new.0)
}

/// Folds a partial sum to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum field after a difference.
#[inline(always)]
pub const fn apply(field: u16, difference: u32) -> u16 {
    !fold(add(!field as u32 & 0xffff, difference))
}

#[cfg(test)]
mod tests;
