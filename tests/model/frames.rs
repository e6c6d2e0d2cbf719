//! Frames: built whole from what they say, checksums and all, so that what a program has made of one can be compared byte by byte.

use std::net::{IpAddr, SocketAddr};

/// TCP flags.
pub(crate) const FIN: u8 = 0x01;
/// Opens a connection.
pub(crate) const SYN: u8 = 0x02;
/// Ends one at once.
pub(crate) const RST: u8 = 0x04;
/// Acknowledges.
pub(crate) const ACK: u8 = 0x10;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Who sends it.
    pub(crate) src: SocketAddr,
    /// Whom to.
    pub(crate) dst: SocketAddr,
    /// TCP flags; `None`: UDP.
    pub(crate) flags: Option<u8>,
    /// Bytes of payload.
    pub(crate) payload: u8,
    /// Time to live.
    pub(crate) ttl: u8,
}

impl Datagram {
    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let transport = self.transport();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00]);
                let length = (20 + transport.len()) as u16;
                let mut header = vec![0x45, 0];
                header.extend(length.to_be_bytes());
                header.extend([0, 7, 0x40, 0, self.ttl, self.protocol(), 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((transport.len() as u16).to_be_bytes());
                frame.extend([self.protocol(), self.ttl]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            _ => unreachable!("both ends are of one family"),
        }
        frame.extend(transport);
        frame
    }

    /// Bytes from the IP header on.
    pub(crate) fn ip_bytes(&self) -> u64 {
        self.frame().len() as u64 - 14
    }

    fn protocol(&self) -> u8 {
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

/// The Internet checksum of parts, all but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
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
