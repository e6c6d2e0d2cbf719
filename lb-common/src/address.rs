//! Addresses, ports and protocols as they stand in packets and map keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{assert_size, plain_data};

/// An IPv6 address, or an IPv4 address mapped into one (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), in network byte order.
///
/// One form for both families is what lets one pipeline, one flow table and one set of maps serve both.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr(pub [u32; 4]);

/// The IANA number of ICMP, which in a [`SocketKey`] stands for that of either family.
const ICMP: u8 = 1;
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr {
    /// The unspecified address.
    pub const NONE: Self = Self([0; 4]);

    /// An IPv4 address from its word in network byte order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The last word, which is the whole address for IPv4.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// The address as the standard library's type; a mapped IPv4 address comes back as IPv4.
    pub fn ip(&self) -> IpAddr {
        let mut octets = [0u8; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                Self([word(0), word(4), word(8), word(12)])
            }
        }
    }
}

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Port(pub u16);

impl Port {
    /// A port from its number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The port's number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A transport protocol that Weir balances.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp = 6,
    /// UDP, RFC 768.
    Udp = 17,
}

impl Protocol {
    /// The protocol with this IANA number, if Weir balances it.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The name Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// An address, a port and a protocol: the key of a frontend, and of an endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketKey {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: Port,
    /// The protocol's IANA number.
    pub protocol: u8,
    /// Always 0: keys are compared byte by byte.
    pub zero: u8,
}

impl SocketKey {
    /// A key from the standard library's types.
    pub fn new(socket: SocketAddr, protocol: Protocol) -> Self {
        Self { addr: socket.ip().into(), port: Port::new(socket.port()), protocol: protocol as u8, zero: 0 }
    }

    /// The key of all ports of an address that have no frontend of their own.
    #[inline(always)]
    pub const fn other_ports(addr: Addr) -> Self {
        Self { addr, port: Port(0), protocol: 0, zero: 0 }
    }

    /// The key of an address to which echo requests are answered.
    #[inline(always)]
    pub const fn echo(addr: Addr) -> Self {
        Self { addr, port: Port(0), protocol: ICMP, zero: 0 }
    }

    /// Whether this is the key of a whole address ([`Self::other_ports`], [`Self::echo`]), and of no frontend that clients could name.
    #[inline(always)]
    pub const fn is_of_address(&self) -> bool {
        self.port.0 == 0
    }

    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), self.port.number())
    }
}

/// `ADDR:PORT/PROTO`, IPv6 in brackets; all other ports of an address are port 0 of protocol `*`, its echo is one of protocol ICMP.
impl core::fmt::Display for SocketKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let other = if self.protocol == ICMP { "ICMP" } else { "*" };
        let protocol = Protocol::from_number(self.protocol).map_or(other, Protocol::name);
        write!(f, "{}/{protocol}", self.socket())
    }
}

plain_data!(Addr, Port, SocketKey);
assert_size!(Addr = 16, Port = 2, SocketKey = 20);
