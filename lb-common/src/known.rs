//! A filter before the maps of frontends and endpoints: most packets that a node sees are for neither, and a look-up in a hash map that
//! finds nothing costs more than to read the packet did.
//!
//! One bit for each hash of a [`SocketKey`]: 0 says that neither map has such a key, 1 that one may. The agent sets it before it puts an
//! entry and clears it after it has deleted the last one with that hash, so that a key which is in a map always has its bit.
//! Nobody gains by keys that meet in one bit, so the hash needs no seed: all that costs is the look-up that would be made anyway.

use crate::SocketKey;

/// Bits of the filter: ten and more for each entry that maps of the default size have room for.
pub const BITS: u32 = 1 << 21;
/// Elements of the map that holds them.
pub const WORDS: u32 = BITS / u64::BITS;

/// The bit of a key.
#[inline(always)]
pub const fn bit(key: &SocketKey) -> u32 {
    let [a, b, c, d] = key.addr.0;
    let network = (b as u64) << 32 | a as u64;
    let host = (d as u64) << 32 | c as u64;
    let port = (key.protocol as u64) << 16 | key.port.0 as u64;
    let sum = host
        .wrapping_add(network.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(port.wrapping_mul(0xc4ce_b9fe_1a85_ec53));
    let product = (sum ^ sum >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (product >> (u64::BITS - BITS.trailing_zeros())) as u32
}

/// The word of a bit, and the bit in it.
#[inline(always)]
pub const fn place(bit: u32) -> (u32, u64) {
    (bit / u64::BITS, 1 << (bit % u64::BITS))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::collections::HashSet;

    use super::*;
    use crate::Protocol;

    #[test]
    fn keys_as_they_come_in_clusters_meet_no_more_than_by_chance() {
        for v6 in [false, true] {
            let address = |i: u32| match v6 {
                true => IpAddr::from(Ipv6Addr::from(0xfd00_0010_0000_0000_0000_0000_0000_0000 | i as u128)),
                false => IpAddr::from(Ipv4Addr::from(0x0a60_0000 | i)),
            };
            let ports = [(53, Protocol::Udp), (53, Protocol::Tcp), (80, Protocol::Tcp), (8080, Protocol::Tcp)];
            let keys = (0..1 << 14).flat_map(|i| ports.map(|(port, protocol)| (address(i), port, protocol)));
            let bits: HashSet<_> =
                keys.map(|(ip, port, protocol)| bit(&SocketKey::new((ip, port).into(), protocol))).collect();
            // By chance 65536 keys have 64527 of the bits.
            assert!(bits.iter().all(|bit| *bit < BITS));
            assert!(bits.len() > 63_500, "IPv6 {v6}: {}", bits.len());
        }
    }
}
