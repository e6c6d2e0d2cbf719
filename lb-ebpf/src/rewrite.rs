//! Puts new addresses, ports and a time to live into a packet, and keeps its checksums right.

use lb_common::{Addr, Port};

use crate::{
    checksum,
    env::Tuple,
    packet::{Packet, TransportChange},
    parse::{Parsed, protocol},
};

/// Writes the addresses of an IP header.
#[inline(always)]
pub fn addresses<P: Packet>(packet: &mut P, l3: u32, v4: bool, src: &Addr, dst: &Addr) -> Option<()> {
    if v4 {
        packet.store(l3 + 12, [src.0[3], dst.0[3]])
    } else {
        let (s, d) = (src.0, dst.0);
        packet.store(l3 + 8, [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]])
    }
}

/// The difference of both addresses.
#[inline(always)]
pub fn address_change(from: &Parsed, to: &Tuple) -> u32 {
    checksum::add(checksum::address(&from.src, &to.src), checksum::address(&from.dst, &to.dst))
}

/// The difference of both ports.
#[inline(always)]
pub fn port_change(from: &Parsed, src: Port, dst: Port) -> u32 {
    checksum::add(checksum::port(from.src_port, src), checksum::port(from.dst_port, dst))
}

/// Writes the IP header: addresses and time to live.
#[inline(always)]
pub fn network<P: Packet>(packet: &mut P, from: &Parsed, to: &Tuple, change: u32, ttl: u8) -> Option<()> {
    lifetime(packet, from, change, ttl)?;
    addresses(packet, from.l3 as u32, from.is_v4(), &to.src, &to.dst)
}

/// Writes the time to live; the header checksum of IPv4 follows that, and the `change` of what else is in the header.
#[inline(always)]
pub fn lifetime<P: Packet>(packet: &mut P, from: &Parsed, change: u32, ttl: u8) -> Option<()> {
    let l3 = from.l3 as u32;
    if from.is_v4() {
        let (old, new) = ([from.ttl, from.protocol], [ttl, from.protocol]);
        let half = checksum::half(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        packet.fix_ip_checksum(l3 + 10, checksum::add(change, half))?;
        packet.store(l3 + 8, new)
    } else {
        let [next_header, _] = packet.load::<[u8; 2]>(l3 + 6)?;
        packet.store(l3 + 6, [next_header, ttl])
    }
}

/// A packet's time to live on its way on: one less if it passes a `hop`.
#[inline(always)]
pub fn ttl(from: &Parsed, hop: bool) -> u8 {
    from.ttl.wrapping_sub(hop as u8)
}

/// Writes a TCP or UDP packet's new tuple.
#[inline(always)]
pub fn transport<P: Packet>(packet: &mut P, from: &Parsed, to: &Tuple, hop: bool) -> Option<()> {
    let l4 = from.l4 as u32;
    let tcp = from.protocol == protocol::TCP;
    let pseudo = address_change(from, to);
    let data = port_change(from, to.src_port, to.dst_port);
    let change = TransportChange { pseudo, data, zero_is_none: !tcp, v6: !from.is_v4() };
    packet.fix_transport_checksum(l4 + if tcp { 16 } else { 6 }, change)?;
    packet.store(l4, [to.src_port.0, to.dst_port.0])?;
    network(packet, from, to, pseudo, ttl(from, hop))
}
