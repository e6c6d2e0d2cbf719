//! The node of the packet tables: its interfaces, addresses and routes. The host run answers route lookups from here, the kernel
//! run builds a network namespace like it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The node's interfaces. Each has the network of its number: 10.NUMBER.0.0/24 and fdNUMBER::/64, where the node is host 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interface {
    /// Towards clients.
    Up0 = 10,
    /// Towards local backends.
    Pod0 = 20,
    /// Towards remote backends.
    Up1 = 30,
    /// Towards local backends, by small packets only.
    Thin = 40,
    /// Forwards nothing that comes by it.
    Shut = 70,
}

impl Interface {
    pub(crate) const ALL: [Self; 5] = [Self::Up0, Self::Pod0, Self::Up1, Self::Thin, Self::Shut];

    /// Its number, which is in its addresses.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The largest IP packet that it takes.
    pub(crate) fn mtu(self) -> u32 {
        if self == Self::Thin { 1280 } else { 1500 }
    }

    /// Whether it has an XDP program of ours, so that XDP may send packets out of it.
    pub(crate) fn has_xdp(self) -> bool {
        matches!(self, Self::Up0 | Self::Up1)
    }

    /// Whether pods of the node are behind it.
    pub(crate) fn is_inside(self) -> bool {
        matches!(self, Self::Pod0 | Self::Thin)
    }

    /// Its link layer address.
    pub(crate) fn mac(self) -> [u8; 6] {
        [2, 0xaa, 0, 0, 0, self.number()]
    }
}

/// The host of the node itself in each network.
pub(crate) const NODE: u8 = 2;
/// Packets to this network end in a blackhole route.
pub(crate) const HOLE: u8 = 50;
/// To this network there is no route.
pub(crate) const NOWHERE: u8 = 60;

/// An address: of this network, of this host.
pub(crate) fn ip(family: Family, network: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.{network}.0.{host}"),
        Family::V6 => format!("fd{network}::{host}"),
    }
    .parse()
    .expect("an address")
}

/// An address and a port.
pub(crate) fn socket(family: Family, network: u8, host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(ip(family, network, host), port)
}

/// The link layer address of a host beside the node.
pub(crate) fn neighbour_mac(network: u8, host: u8) -> [u8; 6] {
    [2, 0xbb, 0, 0, network, host]
}

/// What the routing table says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Out of this interface.
    Out(Interface),
    /// To the node itself, or to nowhere that the node knows: its stack deals with it.
    Stack,
    /// Into a blackhole.
    Hole,
}

/// The routing table.
pub(crate) fn route(to: IpAddr) -> Way {
    let (family, length) = if to.is_ipv4() { (Family::V4, 24) } else { (Family::V6, 64) };
    let leads = |number| IpNet::new_assert(ip(family, number, 0), length).contains(&to);
    if leads(HOLE) {
        return Way::Hole;
    }
    match Interface::ALL.into_iter().find(|interface| leads(interface.number())) {
        Some(interface) if to != ip(family, interface.number(), NODE) => Way::Out(interface),
        _ => Way::Stack,
    }
}

/// The network and the host of one of [`ip`]'s addresses.
pub(crate) fn place(address: IpAddr) -> (u8, u8) {
    match address {
        IpAddr::V4(v4) => (v4.octets()[1], v4.octets()[3]),
        IpAddr::V6(v6) => (decimal(v6.octets()[1]), decimal(v6.octets()[15])),
    }
}

/// 0x42 to 42: how [`ip`] puts numbers into IPv6 addresses.
fn decimal(byte: u8) -> u8 {
    (byte >> 4) * 10 + (byte & 0xf)
}
