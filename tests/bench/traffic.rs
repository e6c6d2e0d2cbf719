//! The packets of the benchmark: their template, and the tuples that the driver writes into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use lb_common::{Addr, Port, Protocol, SocketKey};

/// A tuple in the form of the driver's map: source, destination, ports, time to live and protocol, as they stand in a packet.
pub(crate) type Tuple = [u32; 4];

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
/// TCP flags of a segment within a connection.
pub(crate) const ACK: u8 = 0x10;
/// TCP flags of a client's last segment.
pub(crate) const FIN_ACK: u8 = 0x11;
/// TCP flags of a client that gives up.
pub(crate) const RST: u8 = 0x04;

/// The address of all frontends.
pub(crate) const FRONTEND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The node's own address, which a backend sees where two flows would look the same to it.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
/// Where clients of known flows begin.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
/// Where clients that nobody knows begin.
pub(crate) const NEWCOMERS: Ipv4Addr = Ipv4Addr::new(12, 0, 0, 0);
/// Ports of one client.
pub(crate) const PORTS: u32 = 4096;

/// What packets are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    /// Whether they are IPv6.
    pub(crate) v6: bool,
    pub(crate) protocol: Protocol,
}

pub(crate) const TCP: Wire = Wire { v6: false, protocol: Protocol::Tcp };
pub(crate) const UDP: Wire = Wire { v6: false, protocol: Protocol::Udp };
pub(crate) const TCP6: Wire = Wire { v6: true, protocol: Protocol::Tcp };
pub(crate) const UDP6: Wire = Wire { v6: true, protocol: Protocol::Udp };

impl Wire {
    /// An address; all of IPv6 differ from those of IPv4 by what stands before.
    pub(crate) fn address(self, address: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = address.octets();
        if self.v6 {
            Ipv6Addr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]).into()
        } else {
            address.into()
        }
    }

    /// The key of a frontend or an endpoint.
    pub(crate) fn key(self, socket: SocketAddrV4) -> SocketKey {
        SocketKey::new((self.address(*socket.ip()), socket.port()).into(), self.protocol)
    }

    /// Ethernet and IP, then 30 bytes of TCP or UDP with payload. The checksums are not looked at, only updated.
    pub(crate) fn template(self, tcp_flags: u8) -> Vec<u8> {
        let l4 = if self.v6 { 54 } else { 34 };
        let mut packet = vec![0; l4 + 30];
        if self.v6 {
            packet[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            (packet[19], packet[20], packet[21]) = (30, self.protocol as u8, 64);
            (packet[22], packet[38]) = (0xfd, 0xfd);
        } else {
            packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0x00]);
            (packet[17], packet[22], packet[23]) = (50, 64, self.protocol as u8);
        }
        match self.protocol {
            Protocol::Tcp => (packet[l4 + 12], packet[l4 + 13], packet[l4 + 16]) = (5 << 4, tcp_flags, 0x12),
            Protocol::Udp => (packet[l4 + 5], packet[l4 + 6]) = (30, 0x12),
        }
        packet
    }

    /// A tuple from one socket to another.
    pub(crate) fn tuple(self, from: SocketAddrV4, to: SocketAddrV4) -> Tuple {
        let word = |address: &Ipv4Addr| u32::from_ne_bytes(address.octets());
        let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
        let lifetime = if self.v6 { 64 + (1 << 16) } else { u16::from_ne_bytes([64, self.protocol as u8]).into() };
        [word(from.ip()), word(to.ip()), u32::from_ne_bytes([a, b, c, d]), lifetime]
    }

    /// So many clients, [`PORTS`] ports of each address, in random order, all to one socket.
    pub(crate) fn clients(self, count: u32, first: Ipv4Addr, to: SocketAddrV4) -> Vec<Tuple> {
        let client = |i: u32| SocketAddrV4::new(after(first, i / PORTS), 1024 + (i % PORTS) as u16 * 15);
        let mut tuples: Vec<_> = (0..count).map(|i| self.tuple(client(i), to)).collect();
        shuffle(&mut tuples);
        tuples
    }
}

/// The address so many after another.
pub(crate) fn after(address: Ipv4Addr, count: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() + count)
}

/// A socket of a map, or the last part of one of IPv6.
pub(crate) fn socket(address: &Addr, port: Port) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(address.v4_word().to_ne_bytes()), port.number())
}

/// The sender of a tuple.
pub(crate) fn sender(tuple: &Tuple) -> SocketAddrV4 {
    let [a, b, ..] = tuple[2].to_ne_bytes();
    SocketAddrV4::new(Ipv4Addr::from(tuple[0].to_ne_bytes()), u16::from_be_bytes([a, b]))
}

/// Fisher and Yates' shuffle, the same at every run.
pub(crate) fn shuffle(tuples: &mut [Tuple]) {
    let mut state = 1;
    for last in (1..tuples.len()).rev() {
        state = lb_common::hash::mix(state + last as u64);
        tuples.swap(last, (state % (last as u64 + 1)) as usize);
    }
}
