//! Frames: built whole from what they say, checksums and all, so that what a program has made of one can be compared byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::SocketKey;
use serde::{Deserialize, Serialize};

use crate::errors::packet;

/// TCP flags.
pub(crate) const FIN: u8 = 0x01;
/// Opens a connection.
pub(crate) const SYN: u8 = 0x02;
/// Ends one at once.
pub(crate) const RST: u8 = 0x04;
/// Acknowledges.
pub(crate) const ACK: u8 = 0x10;

/// Bytes of the transport header and what follows it that a first fragment carries.
const CUT: usize = 24;

/// Which part of a packet a frame is. Fragments have the packet's identification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment of two.
    First(u32),
    /// The second one.
    Later(u32),
}

/// What is unusual about a packet's IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Shape {
    /// IPv4 options, or a header of IPv6 destination options.
    pub(crate) options: bool,
    /// The part.
    pub(crate) part: Part,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Who sends it.
    pub(crate) src: SocketAddr,
    /// Whom to.
    pub(crate) dst: SocketAddr,
    /// TCP flags; `None`: UDP.
    pub(crate) flags: Option<u8>,
    /// Bytes of payload, of all parts together.
    pub(crate) payload: u8,
    /// Time to live.
    pub(crate) ttl: u8,
    /// Its IP header.
    pub(crate) shape: Shape,
}

impl Datagram {
    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let transport = self.transport();
        let cut = CUT.min(transport.len());
        let bytes = match self.shape.part {
            Part::Whole => &transport[..],
            Part::First(_) => &transport[..cut],
            Part::Later(_) => &transport[cut..],
        };
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => frame.extend(self.v4(src, dst, bytes.len())),
            (IpAddr::V6(src), IpAddr::V6(dst)) => frame.extend(self.v6(src, dst, bytes.len())),
            _ => unreachable!("both ends are of one family"),
        }
        frame.extend(bytes);
        frame
    }

    /// The Ethernet type and the IPv4 header.
    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr, bytes: usize) -> Vec<u8> {
        const OPTIONS: [u8; 4] = [1, 1, 1, 0];
        let options = if self.shape.options { &OPTIONS[..] } else { &[] };
        let length = (20 + options.len() + bytes) as u16;
        let (id, fragment) = match self.shape.part {
            Part::Whole => (7, 0x4000),
            Part::First(id) => (id as u16, 0x2000),
            Part::Later(id) => (id as u16, (CUT / 8) as u16),
        };
        let mut header = vec![0x45 + options.len() as u8 / 4, 0];
        header.extend([length, id, fragment].map(u16::to_be_bytes).concat());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&[0x08, 0x00][..], &header[..]].concat()
    }

    /// The Ethernet type and the IPv6 header, with those that extend it.
    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr, bytes: usize) -> Vec<u8> {
        const DESTINATION_OPTIONS: u8 = 60;
        const FRAGMENT: u8 = 44;
        let mut next = self.protocol();
        let mut extensions = Vec::new();
        let fragment = match self.shape.part {
            Part::Whole => None,
            Part::First(id) => Some((1, id)),
            Part::Later(id) => Some((CUT as u16, id)),
        };
        if let Some((offset, id)) = fragment {
            extensions.extend([next, 0]);
            extensions.extend(offset.to_be_bytes());
            extensions.extend(id.to_be_bytes());
            next = FRAGMENT;
        }
        if self.shape.options {
            extensions.splice(..0, [next, 0, 1, 4, 0, 0, 0, 0]);
            next = DESTINATION_OPTIONS;
        }
        let mut header = vec![0x86, 0xdd, 0x60, 0, 0, 0];
        header.extend(((extensions.len() + bytes) as u16).to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(extensions);
        header
    }

    /// The identification in a frame that is of this shape.
    pub(crate) fn id_in(&self, frame: &[u8]) -> Option<u32> {
        if self.src.is_ipv4() {
            let bytes = frame.get(18..20)?;
            return Some(u16::from_be_bytes([bytes[0], bytes[1]]).into());
        }
        let at = 14 + 40 + if self.shape.options { 8 } else { 0 } + 4;
        let bytes = frame.get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Bytes from the IP header on.
    pub(crate) fn ip_bytes(&self) -> u64 {
        self.frame().len() as u64 - 14
    }

    /// The IANA number.
    pub(crate) fn protocol(&self) -> u8 {
        if self.flags.is_some() { 6 } else { 17 }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src.port().to_be_bytes());
        bytes.extend(self.dst.port().to_be_bytes());
        let at = match self.flags {
            Some(flags) => {
                bytes.extend([0, 0, 0, 9, 0, 0, 0, 8, 0x50, flags, 2, 0, 0, 0, 0, 0]);
                16
            }
            None => {
                bytes.extend((8 + u16::from(self.payload)).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
        };
        bytes.extend((0..self.payload).map(|n| n.wrapping_mul(37)));
        let sum = match checksum(&[&self.pseudo(bytes.len()), &bytes]) {
            0 if self.flags.is_none() => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ip in [self.src.ip(), self.dst.ip()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol()]);
        bytes
    }
}

/// The datagram that carries a frame's packet to a backend's node, from one of this node's addresses and a port, for a frontend.
pub(crate) fn carrier(frame: &[u8], from: SocketAddr, backend: SocketKey, frontend: SocketKey) -> Vec<u8> {
    const UDP: u8 = 17;
    let ports = [from.port(), lb_common::dsr::DEFAULT_PORT].map(u16::to_be_bytes).concat();
    let carried = &frame[14..];
    let length = ((16 + carried.len()) as u16).to_be_bytes();
    let header = [b'W', b'e', 1, frontend.protocol];
    let rest = [frontend.port, backend.port].map(|port| port.number().to_be_bytes()).concat();
    let datagram = [&ports[..], &length, &[0, 0], &header, &rest, carried].concat();
    let ip = packet(from.ip(), backend.addr.ip(), 0, UDP, 64, &datagram);
    [&frame[..14], &ip].concat()
}

/// The Internet checksum of parts, all but the last of even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
