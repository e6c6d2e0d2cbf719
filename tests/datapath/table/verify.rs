//! Whether all checksums of a frame are right, by full recomputation and by somebody else's parser (etherparse).

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, checksum::Sum16BitWords, ip_number};

/// Says which checksum of a frame is wrong. Of fragments only the IP header's is looked at.
pub(crate) fn checksums(frame: &[u8]) -> Result<(), String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|e| format!("unreadable: {e}"))?;
    let (src, dst, payload): (IpAddr, IpAddr, _) = match sliced.net.ok_or("no IP header")? {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            if header.to_header().calc_header_checksum() != header.header_checksum() {
                return Err("IPv4 header checksum".into());
            }
            (header.source_addr().into(), header.destination_addr().into(), v4.payload().clone())
        }
        NetSlice::Ipv6(v6) => {
            (v6.header().source_addr().into(), v6.header().destination_addr().into(), v6.payload().clone())
        }
        NetSlice::Arp(_) => return Err("ARP has no checksum".into()),
    };
    let number = payload.ip_number;
    let covered = matches!(number, ip_number::TCP | ip_number::UDP | ip_number::ICMP | ip_number::IPV6_ICMP);
    let absent = number == ip_number::UDP && payload.payload.get(6..8) == Some(&[0, 0]);
    if payload.fragmented || !covered || absent {
        return Ok(());
    }
    match sum(src, dst, number.0, payload.payload).ones_complement() {
        0 => Ok(()),
        left => Err(format!("checksum of protocol {} is off by {left:#06x}", number.0)),
    }
}

/// The sum of a transport header, its payload and, but for ICMP over IPv4, the pseudo header.
pub(crate) fn sum(src: IpAddr, dst: IpAddr, protocol: u8, transport: &[u8]) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new().add_slice(transport);
    let length = (transport.len() as u32).to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == 1 => sum,
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum
            .add_4bytes(src.octets())
            .add_4bytes(dst.octets())
            .add_2bytes([0, protocol])
            .add_2bytes([length[2], length[3]]),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            sum.add_16bytes(src.octets()).add_16bytes(dst.octets()).add_4bytes(length).add_2bytes([0, protocol])
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}
