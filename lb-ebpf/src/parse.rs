//! From bytes to a 5-tuple: Ethernet, VLAN tags in the packet, IPv4 with options, IPv6 with extension headers, TCP, UDP and ICMP
//! errors. Decides only what a packet is; a packet that it cannot read to the ports is nobody's, and passes.

use lb_common::{Addr, Port};

use crate::packet::Packet;

/// The packet is IPv4.
pub const V4: u8 = 1;
/// A first fragment: the ports are there, the rest of the datagram is not.
pub const FRAGMENT: u8 = 2;
/// The transport header is cut short or contradicts itself.
pub const MALFORMED: u8 = 4;

/// TCP flags.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;
}

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// What a packet is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where the transport header starts.
    pub l4: u16,
    /// Transport protocol.
    pub protocol: u8,
    /// [`V4`], [`FRAGMENT`], [`MALFORMED`].
    pub flags: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Bytes from the IP header on.
    pub ip_bytes: u32,
    /// Bytes of the transport header.
    pub l4_header: u32,
    /// Of a fragment: the identification; a number in IPv4, of IPv6 the word as it stands in the packet.
    pub fragment: u32,
    /// Of a fragment: where that stands.
    pub fragment_at: u32,
}

impl Parsed {
    /// Whether it is IPv4.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.flags & V4 != 0
    }
}

/// How far the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// TCP or UDP, to the ports.
    Ports,
    /// An ICMP error message; `l4` is where it starts.
    IcmpError,
    /// An ARP packet, of which only `l3` is known, or a neighbour solicitation of IPv6.
    Neighbor,
    /// A fragment without ports: not the first one of its packet.
    Fragment,
    /// Something that Weir does not balance.
    Other,
    /// A header ends outside of what can be read.
    Truncated,
}

const ETHERNET: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
/// The ICMPv6 type of a neighbour solicitation (RFC 4861 section 4.3).
const NEIGHBOR_SOLICITATION: u16 = 135;

/// Reads a frame that starts with an Ethernet header.
///
/// Not inlined, and its result is in memory: the verifier follows what comes next once, not once for every way through the headers.
#[inline(never)]
pub fn frame<P: Packet>(packet: &P, out: &mut Parsed) -> Outcome {
    let Some((l3, ethertype)) = link(packet) else { return Outcome::Truncated };
    match ethertype {
        ETHERTYPE_IPV4 => network(packet, l3, true, false, out),
        ETHERTYPE_IPV6 => network(packet, l3, false, false, out),
        ETHERTYPE_ARP => {
            (out.l3, out.flags) = (l3 as u16, V4);
            Outcome::Neighbor
        }
        _ => Outcome::Other,
    }
}

/// Where the IP header starts, and what it says it is.
#[inline(always)]
fn link<P: Packet>(packet: &P) -> Option<(u32, u16)> {
    if let Some(ethertype) = packet.bare() {
        return Some((0, ethertype));
    }
    let mut ethertype = packet.load::<u16>(12).map(u16::from_be)?;
    let mut l3 = ETHERNET;
    // 802.1ad and 802.1Q: at most two tags.
    for _ in 0..2 {
        if ethertype != 0x8100 && ethertype != 0x88a8 {
            break;
        }
        ethertype = packet.load::<u16>(l3 + 2).map(u16::from_be)?;
        l3 += 4;
    }
    Some((l3, ethertype))
}

/// Reads the packet inside an ICMP error.
#[inline(never)]
pub fn quoted<P: Packet>(packet: &P, l3: u32, v4: bool, out: &mut Parsed) -> Outcome {
    network(packet, l3, v4, true, out)
}

/// Reads from an IP header on. `quoted`: the packet inside an ICMP error, of which the end is usually missing.
#[inline(always)]
fn network<P: Packet>(packet: &P, l3: u32, v4: bool, quoted: bool, out: &mut Parsed) -> Outcome {
    out.l3 = l3 as u16;
    out.flags = 0;
    out.tcp_flags = 0;
    let result = if v4 { ipv4(packet, l3, quoted, out) } else { ipv6(packet, l3, quoted, out) };
    match result {
        Outcome::Ports => transport(packet, quoted, out),
        Outcome::IcmpError if !v4 && !quoted => control(packet, out),
        other => other,
    }
}

/// Tells a neighbour solicitation from the other messages of ICMPv6.
#[inline(always)]
fn control<P: Packet>(packet: &P, out: &Parsed) -> Outcome {
    // Out of reach is type 0: what is merged with a value that was not read, the verifier refuses.
    let kind = packet.load::<u16>(out.l4 as u32).map_or(0, u16::from_be) >> 8;
    if kind == NEIGHBOR_SOLICITATION { Outcome::Neighbor } else { Outcome::IcmpError }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, l3: u32, quoted: bool, out: &mut Parsed) -> Outcome {
    let Some(words) = packet.load::<[u32; 5]>(l3) else { return Outcome::Truncated };
    let first = u32::from_be(words[0]);
    let header = (first >> 24 & 0xf) * 4;
    if first >> 28 != 4 || header < 20 {
        return Outcome::Other;
    }
    out.flags = V4;
    out.src = Addr::from_v4_word(words[3]);
    out.dst = Addr::from_v4_word(words[4]);
    out.ttl = (u32::from_be(words[2]) >> 24) as u8;
    out.protocol = (u32::from_be(words[2]) >> 16) as u8;
    out.l4 = (l3 + header) as u16;
    let total = first & 0xffff;
    let room = packet.length().wrapping_sub(l3);
    // Total length 0: a segmented packet larger than 64 KiB.
    out.ip_bytes = if total == 0 { room } else { total };
    if !quoted && (out.ip_bytes < header || out.ip_bytes > room) {
        return Outcome::Other;
    }
    let fragment = u32::from_be(words[1]) & 0x3fff;
    if fragment != 0 {
        out.flags |= FRAGMENT;
        out.fragment = u32::from_be(words[1]) >> 16;
        out.fragment_at = l3 + 4;
    }
    if fragment & 0x1fff != 0 {
        return Outcome::Fragment;
    }
    upper(out)
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, l3: u32, quoted: bool, out: &mut Parsed) -> Outcome {
    let Some(first) = packet.load::<[u32; 2]>(l3) else { return Outcome::Truncated };
    let Some(addresses) = packet.load::<[u32; 8]>(l3 + 8) else { return Outcome::Truncated };
    if u32::from_be(first[0]) >> 28 != 6 {
        return Outcome::Other;
    }
    out.src = Addr([addresses[0], addresses[1], addresses[2], addresses[3]]);
    out.dst = Addr([addresses[4], addresses[5], addresses[6], addresses[7]]);
    let second = u32::from_be(first[1]);
    out.ttl = second as u8;
    let payload = second >> 16;
    let room = packet.length().wrapping_sub(l3);
    // Payload length 0 with something behind the header: a jumbogram, or a segmented packet larger than 64 KiB.
    out.ip_bytes = if payload == 0 { room } else { payload + 40 };
    if !quoted && out.ip_bytes > room {
        return Outcome::Other;
    }
    extensions(packet, l3 + 40, (second >> 8) as u8, out)
}

/// Walks IPv6 extension headers (RFC 8200 section 4), at most six.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, mut offset: u32, mut next: u8, out: &mut Parsed) -> Outcome {
    for _ in 0..6 {
        let length = match next {
            // Hop-by-hop options, routing, destination options; authentication counts in words of four bytes.
            0 | 43 | 60 | 51 => {
                let Some(head) = packet.load::<u16>(offset) else { return Outcome::Truncated };
                let [following, units] = head.to_ne_bytes();
                let bytes = if next == 51 { (units as u32 + 2) * 4 } else { (units as u32 + 1) * 8 };
                next = following;
                bytes
            }
            44 => {
                let Some([head, id]) = packet.load::<[u32; 2]>(offset) else { return Outcome::Truncated };
                let fragment = u32::from_be(head) & 0xfff9;
                if fragment != 0 {
                    out.flags |= FRAGMENT;
                    out.fragment = id;
                    out.fragment_at = offset + 4;
                }
                if fragment & 0xfff8 != 0 {
                    return Outcome::Fragment;
                }
                next = head.to_ne_bytes()[0];
                8
            }
            _ => break,
        };
        offset += length;
    }
    out.protocol = next;
    out.l4 = offset as u16;
    upper(out)
}

#[inline(always)]
fn upper(out: &Parsed) -> Outcome {
    let icmp = if out.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    match out.protocol {
        protocol::TCP | protocol::UDP => Outcome::Ports,
        p if p == icmp => Outcome::IcmpError,
        _ => Outcome::Other,
    }
}

/// Reads ports and flags, and checks lengths against the IP header's.
#[inline(always)]
fn transport<P: Packet>(packet: &P, quoted: bool, out: &mut Parsed) -> Outcome {
    let l4 = out.l4 as u32;
    let Some(ports) = packet.load::<[u16; 2]>(l4) else { return Outcome::Truncated };
    out.src_port = Port(ports[0]);
    out.dst_port = Port(ports[1]);
    out.l4_header = 8;
    if quoted {
        return Outcome::Ports;
    }
    // Nothing is left where extension headers end behind the IP packet.
    let payload = (out.ip_bytes + out.l3 as u32).saturating_sub(l4);
    if out.protocol == protocol::TCP {
        let Some(word) = packet.load::<u16>(l4 + 12) else { return short(packet, l4 + 20, out) };
        let [offset, flags] = word.to_ne_bytes();
        out.tcp_flags = flags;
        out.l4_header = (offset >> 4) as u32 * 4;
        // The checksum field has to be there too.
        if packet.load::<u32>(l4 + 16).is_none() {
            return short(packet, l4 + 20, out);
        }
        if out.l4_header < 20 || out.l4_header > payload {
            out.flags |= MALFORMED;
        }
    } else {
        let Some(rest) = packet.load::<[u16; 2]>(l4 + 4) else { return short(packet, l4 + 8, out) };
        let length = u16::from_be(rest[0]) as u32;
        // A segmented datagram keeps the length of the whole, a fragment that of all fragments.
        if length < 8 || payload < 8 || length > payload && out.flags & FRAGMENT == 0 {
            out.flags |= MALFORMED;
        }
    }
    Outcome::Ports
}

/// The transport header cannot be read: because it is not there, or because it is not in reach.
#[inline(always)]
fn short<P: Packet>(packet: &P, end: u32, out: &mut Parsed) -> Outcome {
    if packet.length() >= end && out.ip_bytes + out.l3 as u32 >= end {
        return Outcome::Truncated;
    }
    out.flags |= MALFORMED;
    Outcome::Ports
}
