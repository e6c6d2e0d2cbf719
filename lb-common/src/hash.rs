//! The hash functions of the packet path. User space uses them to say where a packet would go.

use crate::{Addr, Port};

/// Seed of the selection hashes: the same on every node, because `ip-hash` and `maglev` must agree between nodes.
pub const SELECTION_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// One round of multiply-xorshift (the finaliser of MurmurHash3, public domain).
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Hash of an address and one more word under a seed.
#[inline(always)]
pub const fn address(seed: u64, addr: &Addr, extra: u64) -> u64 {
    let high = (addr.0[0] as u64) << 32 | addr.0[1] as u64;
    let low = (addr.0[2] as u64) << 32 | addr.0[3] as u64;
    mix(mix(mix(seed ^ low) ^ high) ^ extra)
}

/// Hash of a flow table key.
#[inline(always)]
pub const fn flow(seed: u64, addr: &Addr, port: Port, id: u32) -> u64 {
    address(seed, addr, (id as u64) << 16 | port.0 as u64)
}

/// The `ip-hash` of a client for a table of `len` slots.
#[inline(always)]
pub const fn by_client(client: &Addr, len: u32) -> u32 {
    scale(address(SELECTION_SEED, client, 0), len)
}

/// The `maglev` hash of a 5-tuple for a table of `len` slots.
#[inline(always)]
pub const fn by_tuple(client: &Addr, client_port: Port, vip: &Addr, vip_port: Port, protocol: u8, len: u32) -> u32 {
    let ports = (client_port.0 as u64) << 32 | (vip_port.0 as u64) << 16 | protocol as u64;
    scale(address(address(SELECTION_SEED, vip, 0), client, ports), len)
}

/// Maps a hash to `0..len` by multiplication (Lemire 2019): no division on the packet path.
#[inline(always)]
pub const fn scale(hash: u64, len: u32) -> u32 {
    (((hash >> 32) * len as u64) >> 32) as u32
}
