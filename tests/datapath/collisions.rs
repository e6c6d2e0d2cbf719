//! Who aims at a bucket of the flow table must know its seed, which is random for each set of maps and shown nowhere.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{Port, abi::timeout::TCP_IDLE};
use lb_ebpf::{
    env::Limits,
    table::{Key, Place},
};

/// Buckets of the tables less one.
const MASK: u32 = (1 << 10) - 1;
/// Clients that an attacker tries against a seed that it knows.
const TRIED: u32 = 1 << 18;

/// The bucket of a client under a seed.
fn bucket(seed: u64, addr: IpAddr, port: u16) -> u32 {
    let limits = Limits { flow_seed: seed, bucket_mask: MASK, snat_first: 61000, snat_last: 65535, tcp_idle: TCP_IDLE };
    Place::of(&limits, &Key { addr: addr.into(), id: 3, port: Port::new(port) }).bucket()
}

/// The most of these clients in one bucket, under a seed.
fn fullest(seed: u64, clients: &[(IpAddr, u16)]) -> usize {
    let mut buckets: BTreeMap<u32, usize> = BTreeMap::new();
    for (addr, port) in clients {
        *buckets.entry(bucket(seed, *addr, *port)).or_default() += 1;
    }
    buckets.into_values().max().unwrap_or(0)
}

#[test]
fn clients_that_meet_in_one_bucket_under_one_seed_are_strangers_under_another() {
    let families: [fn(u32) -> (IpAddr, u16); 3] = [
        |n| (Ipv4Addr::from_bits(0x8000_0000 + n).into(), 40000),
        |n| (Ipv4Addr::new(198, 51, 100, (n >> 16) as u8).into(), n as u16),
        |n| (Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)).into(), 40000),
    ];
    for client in families {
        let known = 0x0123_4567_89ab_cdef;
        let aimed: Vec<_> = (0..TRIED).map(client).filter(|(addr, port)| bucket(known, *addr, *port) == 77).collect();
        assert!(aimed.len() > 150 && fullest(known, &aimed) == aimed.len(), "{} clients", aimed.len());
        // Also where the seeds differ in one bit only.
        for seed in (0..64).map(|bit| known ^ 1 << bit) {
            let fullest = fullest(seed, &aimed);
            assert!(fullest <= 8, "{fullest} of {} still meet under {seed:#x}", aimed.len());
        }
    }
}
