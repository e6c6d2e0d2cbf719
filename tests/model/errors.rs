//! ICMP errors about packets of flows: built whole like frames, and quoting as little as the standards ask for.

use std::net::{IpAddr, SocketAddr};

use crate::frames::checksum;

/// The identification of these packets.
const ID: u8 = 7;

/// An ICMP error that says that a packet did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpError {
    /// Who says so.
    pub(crate) src: IpAddr,
    /// To whom.
    pub(crate) dst: IpAddr,
    /// Where the quoted packet was sent from.
    pub(crate) from: SocketAddr,
    /// Where it was sent to.
    pub(crate) to: SocketAddr,
    /// Whether it was TCP, else UDP.
    pub(crate) tcp: bool,
    /// Time to live.
    pub(crate) ttl: u8,
}

impl IcmpError {
    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        const ICMP: u8 = 1;
        const ICMPV6: u8 = 58;
        let v4 = self.src.is_ipv4();
        // Host unreachable; no route to destination.
        let mut icmp = if v4 { vec![3, 1, 0, 0, 0, 0, 0, 0] } else { vec![1, 0, 0, 0, 0, 0, 0, 0] };
        icmp.extend(self.quoted());
        let protocol = if v4 { ICMP } else { ICMPV6 };
        let length = (icmp.len() as u32).to_be_bytes();
        let pseudo = [octets(self.src), octets(self.dst), length.to_vec(), vec![0, 0, 0, protocol]].concat();
        let covered: &[u8] = if v4 { &[] } else { &pseudo };
        let sum = checksum(&[covered, &icmp]);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(packet(self.src, self.dst, ID, protocol, self.ttl, &icmp));
        frame
    }

    /// The IP header of the packet that did not arrive, and eight bytes of what followed: without a checksum, which UDP may leave out, and
    /// which comes later in TCP.
    fn quoted(&self) -> Vec<u8> {
        let ports = [self.from.port(), self.to.port()].map(u16::to_be_bytes).concat();
        let rest = if self.tcp { [0, 0, 0, 9] } else { [0, 8, 0, 0] };
        let protocol = if self.tcp { 6 } else { 17 };
        packet(self.from.ip(), self.to.ip(), ID, protocol, 60, &[ports, rest.to_vec()].concat())
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An IP packet that is not to be fragmented; of IPv6 `id` is not in it.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, id: u8, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut header = match src {
        IpAddr::V4(_) => {
            let [high, low] = (20 + length).to_be_bytes();
            vec![0x45, 0, high, low, 0, id, 0x40, 0, ttl, protocol, 0, 0]
        }
        IpAddr::V6(_) => {
            let [high, low] = length.to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, protocol, ttl]
        }
    };
    header.extend(octets(src));
    header.extend(octets(dst));
    if src.is_ipv4() {
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header.extend(payload);
    header
}
