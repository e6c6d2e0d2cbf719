//! TCP segments that open a connection, from a random source each, as Ethernet frames with right checksums: what a flood is made of.

use std::net::SocketAddrV4;

/// The type of service of every frame (DSCP CS1): no address translation changes it, so who stands behind one can tell these frames.
pub const SERVICE_TYPE: u8 = 0x20;

/// Ethernet, IPv4, TCP; no options.
const LENGTH: usize = 54;
/// Where the IPv4 header begins.
const IP: usize = 14;
/// Where the TCP header begins.
const TCP: usize = 34;

/// A frame whose source changes from one to the next.
#[derive(Clone, Debug)]
pub struct Syns {
    frame: [u8; LENGTH],
    /// Of the IPv4 header without its source.
    ip_sum: u32,
    /// Of pseudo header and TCP header without what changes.
    tcp_sum: u32,
    random: u64,
}

impl Syns {
    /// Frames from one hardware address to another, to a socket.
    pub fn new(from: [u8; 6], via: [u8; 6], to: SocketAddrV4, seed: u64) -> Self {
        let mut frame = [0; LENGTH];
        frame[..6].copy_from_slice(&via);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[IP..24].copy_from_slice(&[0x45, SERVICE_TYPE, 0, 40, 0, 0, 0x40, 0, 64, 6]);
        frame[30..TCP].copy_from_slice(&to.ip().octets());
        frame[36..38].copy_from_slice(&to.port().to_be_bytes());
        frame[46..50].copy_from_slice(&[5 << 4, 0x02, 0xff, 0xff]);
        let ip_sum = sum(&frame[IP..TCP]);
        // The pseudo header: addresses, protocol, length.
        let tcp_sum = sum(&frame[30..TCP]) + 6 + 20 + sum(&frame[TCP..]);
        Self { frame, ip_sum, tcp_sum, random: seed }
    }

    /// The next frame: from a random port (1024 and above) of a random address in 128.0.0.0/2, with a random sequence number.
    pub fn frame(&mut self) -> &[u8] {
        let random = self.random();
        let address = (0x8000_0000 | random as u32 >> 2).to_be_bytes();
        let port = (1024 + (random >> 32) as u16 % (u16::MAX - 1023)).to_be_bytes();
        let sequence = (self.random() as u32).to_be_bytes();
        self.frame[26..30].copy_from_slice(&address);
        self.frame[34..36].copy_from_slice(&port);
        self.frame[38..42].copy_from_slice(&sequence);
        let ip = self.ip_sum + sum(&address);
        let tcp = self.tcp_sum + sum(&address) + sum(&port) + sum(&sequence);
        self.frame[24..26].copy_from_slice(&checksum(ip));
        self.frame[50..52].copy_from_slice(&checksum(tcp));
        &self.frame
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// The sum of the words of an even number of bytes.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
}

/// The checksum that makes a sum of less than 2^31 right.
fn checksum(sum: u32) -> [u8; 2] {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    (!(twice as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn frames_are_syns_from_anywhere_with_right_checksums() {
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);
        let mut syns = Syns::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], to, 7);
        let mut sources = BTreeSet::new();
        for _ in 0..1000 {
            let sliced = SlicedPacket::from_ethernet(syns.frame()).unwrap();
            let Some(NetSlice::Ipv4(v4)) = sliced.net else { panic!("not IPv4") };
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
            let (header, tcp) = (v4.header().to_header(), tcp.to_header());
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(tcp.calc_checksum_ipv4(&header, &[]).unwrap(), tcp.checksum);
            assert_eq!((header.destination, tcp.destination_port), (to.ip().octets(), to.port()));
            assert!(tcp.syn && !tcp.ack && tcp.source_port >= 1024, "{tcp:?}");
            assert_eq!((header.source[0] >> 6, header.dscp.value()), (2, 8));
            sources.insert((header.source, tcp.source_port));
        }
        assert!(sources.len() > 990, "{} sources", sources.len());
    }
}
