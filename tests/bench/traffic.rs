//! The packets of the benchmark: their template, and the tuples that the driver writes into it.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{Addr, Port, Protocol};

/// A tuple in the form of the driver's map: source, destination, ports, time to live and protocol, as they stand in a packet.
pub(crate) type Tuple = [u32; 4];

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
/// TCP flags of a segment within a connection.
pub(crate) const ACK: u8 = 0x10;

/// The frontend of all cases; its port says the algorithm.
pub(crate) const FRONTEND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The node's own address, which a backend sees where two flows would look the same to it.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
/// Frontend with the default algorithm.
pub(crate) const MAGLEV_PORT: u16 = 80;
/// Frontend with least connections.
pub(crate) const LEAST_PORT: u16 = 81;
/// Where clients of known flows begin.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
/// Where clients that nobody knows begin.
pub(crate) const NEWCOMERS: Ipv4Addr = Ipv4Addr::new(12, 0, 0, 0);

/// Ethernet and IPv4, then 30 bytes of TCP or UDP with payload. The checksums are not looked at, only updated.
pub(crate) fn template(protocol: Protocol, tcp_flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 64];
    packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0x00]);
    packet[16..18].copy_from_slice(&50_u16.to_be_bytes());
    packet[22] = 64;
    packet[23] = protocol as u8;
    match protocol {
        Protocol::Tcp => (packet[46], packet[47], packet[50]) = (5 << 4, tcp_flags, 0x12),
        Protocol::Udp => (packet[39], packet[40]) = (30, 0x12),
    }
    packet
}

/// A tuple from one socket to another.
pub(crate) fn tuple(from: SocketAddrV4, to: SocketAddrV4, protocol: Protocol) -> Tuple {
    let word = |address: &Ipv4Addr| u32::from_ne_bytes(address.octets());
    let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let lifetime = u16::from_ne_bytes([64, protocol as u8]);
    [word(from.ip()), word(to.ip()), u32::from_ne_bytes([a, b, c, d]), lifetime.into()]
}

/// So many clients, 4096 ports of each address, in random order, all to one socket.
pub(crate) fn clients(count: u32, first: Ipv4Addr, to: SocketAddrV4, protocol: Protocol) -> Vec<Tuple> {
    let client =
        |i: u32| SocketAddrV4::new(Ipv4Addr::from_bits(first.to_bits() + i / 4096), 1024 + (i % 4096) as u16 * 15);
    let mut tuples: Vec<_> = (0..count).map(|i| tuple(client(i), to, protocol)).collect();
    shuffle(&mut tuples);
    tuples
}

/// A socket of a map.
pub(crate) fn socket(address: &Addr, port: Port) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(address.v4_word().to_ne_bytes()), port.number())
}

/// Fisher and Yates' shuffle, the same at every run.
pub(crate) fn shuffle(tuples: &mut [Tuple]) {
    let mut state = 1;
    for last in (1..tuples.len()).rev() {
        state = lb_common::hash::mix(state + last as u64);
        tuples.swap(last, (state % (last as u64 + 1)) as usize);
    }
}
