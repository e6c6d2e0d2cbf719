//! Any bytes as a packet for the parser of the datapath: what it takes for TCP or UDP is within the packet, and where somebody else's
//! parser (etherparse) reads ports, they are the same.
#![no_main]

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_ebpf::{
    packet::{Packet, Plain, TransportChange},
    parse::{self, FRAGMENT, MALFORMED, Outcome, Parsed, protocol},
};
use libfuzzer_sys::fuzz_target;

/// Bytes, of which only so many are in reach, as in a socket buffer. The parser writes nothing.
struct Frame<'a> {
    bytes: &'a [u8],
    reach: usize,
    bare: Option<u16>,
}

impl Packet for Frame<'_> {
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let start = offset as usize;
        let bytes = self.bytes[..self.reach].get(start..start + size_of::<T>())?;
        // SAFETY: as many bytes as `T` has, and `Plain` has no invalid patterns.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Plain>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }

    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segments(&self) -> (u32, u32) {
        (1, 0)
    }

    fn fix_ip_checksum(&mut self, _: u32, _: u32) -> Option<()> {
        None
    }

    fn fix_transport_checksum(&mut self, _: u32, _: TransportChange) -> Option<()> {
        None
    }

    fn bare(&self) -> Option<u16> {
        self.bare
    }
}

// The first byte says how the packet is given, the second how much of it is out of reach.
fuzz_target!(|data: &[u8]| {
    let [kind, hidden, bytes @ ..] = data else { return };
    let bare = match kind % 4 {
        0 => Some(0x0800),
        1 => Some(0x86dd),
        _ => None,
    };
    let frame = Frame { bytes, reach: bytes.len().saturating_sub((*hidden).into()), bare };
    let mut parsed = Parsed::default();
    let outcome = parse::frame(&frame, &mut parsed);
    if outcome == Outcome::Ports && parsed.flags & MALFORMED == 0 {
        is_within(&frame, &parsed);
        if bare.is_none() && parsed.flags & FRAGMENT == 0 {
            agrees(bytes, &parsed);
        }
    }
    if outcome == Outcome::IcmpError {
        let quoted = parse::quoted(&frame, u32::from(parsed.l4) + 8, parsed.is_v4(), &mut Parsed::default());
        assert_ne!(quoted, Outcome::Neighbor, "an error that quotes is none");
    }
});

/// Headers follow each other, and the packet is not longer than its frame.
fn is_within(frame: &Frame<'_>, parsed: &Parsed) {
    let (l3, l4, length) = (u32::from(parsed.l3), u32::from(parsed.l4), frame.length());
    let smallest = if parsed.protocol == protocol::TCP { 20 } else { 8 };
    assert!(l3 + if parsed.is_v4() { 20 } else { 40 } <= l4, "{parsed:?}");
    assert!(l3 + parsed.ip_bytes <= length, "{parsed:?} of {length} bytes");
    // Where the IP packet ends before its transport header, and the frame goes on, that is not seen: docs/limits.md.
    let end = l3 + parsed.ip_bytes;
    assert!(parsed.l4_header >= smallest && (l4 + parsed.l4_header <= end || l4 + smallest > end), "{parsed:?}");
    assert!(l4 as usize + smallest as usize <= frame.reach, "{parsed:?} with {} bytes in reach", frame.reach);
    let at = l4 as usize;
    let ports = [parsed.src_port.number(), parsed.dst_port.number()].map(u16::to_be_bytes).concat();
    assert_eq!(ports, frame.bytes[at..at + 4], "{parsed:?}");
}

/// As somebody else reads it, if he does.
fn agrees(bytes: &[u8], parsed: &Parsed) {
    let Ok(sliced) = SlicedPacket::from_ethernet(bytes) else { return };
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (protocol::TCP, tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (protocol::UDP, udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert_eq!(ports, (parsed.protocol, parsed.src_port.number(), parsed.dst_port.number()), "{parsed:?}");
    let addresses: (IpAddr, IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(v4)) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        Some(NetSlice::Ipv6(v6)) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        _ => return,
    };
    assert_eq!(addresses, (parsed.src.ip(), parsed.dst.ip()), "{parsed:?}");
}
