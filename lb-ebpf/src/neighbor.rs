//! Who is asked by ARP (RFC 826) or neighbour discovery (RFC 4861) for an address that this node announces answers with the link layer
//! address that it is announced with. The address is nobody's on the node itself, so the stack would say nothing.
//!
//! What announces the address itself is left alone: the agent listens to it, to know a new owner. So are questions by the interface's
//! own link layer address, which are this node's own probes come back.

use lb_common::Addr;

use crate::{
    checksum,
    env::{Env, Scratch},
    header::{self, be, pseudo},
    packet::Packet,
    parse::{FRAGMENT, Parsed, protocol},
    pipeline::Verdict,
    rewrite,
};

const ETHERNET: u32 = 14;
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_HEADER: [u16; 3] = [1_u16.to_be(), 0x0800_u16.to_be(), 0x0604_u16.to_be()];
const ARP_REQUEST: u16 = 1_u16.to_be();
const ARP_REPLY: u16 = 2_u16.to_be();
/// Bytes of a neighbour solicitation without options.
const SOLICITATION: u32 = 24;
/// Words of one that are summed: three options more than are usual.
const MAX_WORDS: u32 = 16;
/// Bytes of a neighbour advertisement with one option, the target's link layer address.
const ADVERTISEMENT: u32 = 32;
/// Neighbour discovery never passes a router.
const HOPS: u8 = 255;
/// Flags of an advertisement: it answers a question; what was known before is no longer true.
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
/// All nodes of the link: address and link layer address.
const ALL_NODES: Addr = Addr([0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()]);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Answers a question for an announced address; everything else passes.
#[inline(never)]
pub fn answer<P: Packet, E: Env>(packet: &mut P, env: &E, scratch: &mut Scratch) -> Verdict {
    let parsed = &mut scratch.packet;
    if parsed.l3 as u32 != ETHERNET {
        return Verdict::PASS;
    }
    let answered = if parsed.is_v4() { arp(packet, env, parsed) } else { discovery(packet, env, parsed) };
    if answered.is_some() { Verdict::REPLY } else { Verdict::PASS }
}

/// Two link layer addresses as they stand in an Ethernet header.
#[inline(always)]
fn ethernet(to: [u8; 6], from: [u8; 6]) -> [u8; 12] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, from);
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// Whether it can be somebody else's own.
#[inline(always)]
fn is_other(mac: [u8; 6], own: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != own
}

#[inline(always)]
fn arp<P: Packet, E: Env>(packet: &mut P, env: &E, parsed: &mut Parsed) -> Option<()> {
    const SENDER: u32 = ETHERNET + 8;
    const TARGET: u32 = SENDER + 10;
    let [a, b, c, operation] = packet.load::<[u16; 4]>(ETHERNET)?;
    if [a, b, c] != ARP_HEADER || operation != ARP_REQUEST {
        return None;
    }
    let mac = packet.load::<[u8; 6]>(SENDER)?;
    let sender = packet.load::<u32>(SENDER + 6)?;
    let target = packet.load::<u32>(TARGET + 6)?;
    parsed.dst = Addr::from_v4_word(target);
    let own = env.announced(&parsed.dst)?;
    if sender == target || !is_other(mac, own) {
        return None;
    }
    packet.store(0, ethernet(mac, own))?;
    packet.store(ETHERNET + 6, ARP_REPLY)?;
    packet.store(SENDER, own)?;
    packet.store(SENDER + 6, target)?;
    packet.store(TARGET, mac)?;
    packet.store(TARGET + 6, sender)
}

#[inline(always)]
fn discovery<P: Packet, E: Env>(packet: &mut P, env: &E, parsed: &mut Parsed) -> Option<()> {
    const L4: u32 = ETHERNET + 40;
    let length = parsed.ip_bytes.wrapping_sub(40);
    if parsed.l4 as u32 != L4 || parsed.ttl != HOPS || parsed.flags & FRAGMENT != 0 || length < SOLICITATION {
        return None;
    }
    let [_, code] = packet.load::<[u8; 2]>(L4)?;
    let target = Addr(packet.load::<[u32; 4]>(L4 + 8)?);
    let [_, _, _, _, _, _, a, b, c, d, e, f] = packet.load::<[u8; 12]>(0)?;
    let (mac, asker) = ([a, b, c, d, e, f], parsed.src);
    let covered = checksum::add(header::sum::<MAX_WORDS, P>(packet, L4, length & !3)?, pseudo_of(parsed, length));
    if code != 0 || checksum::fold(covered) != 0xffff {
        return None;
    }
    parsed.dst = target;
    let own = env.announced(&parsed.dst)?;
    if asker == target || !is_other(mac, own) {
        return None;
    }
    // Who asks from no address probes whether this one is free: it is not, and all have to hear so.
    let probe = asker == Addr::NONE;
    let (to, to_mac, flags) =
        if probe { (ALL_NODES, ALL_NODES_MAC, OVERRIDE) } else { (asker, mac, OVERRIDE | SOLICITED) };
    packet.reshape(L4 + ADVERTISEMENT, 0)?;
    packet.store(0, ethernet(to_mac, own))?;
    packet.store(ETHERNET, header::v6(protocol::ICMPV6, ADVERTISEMENT, HOPS))?;
    rewrite::addresses(packet, ETHERNET, false, &target, &to)?;
    packet.store(L4, advertisement(&target, &to, own, flags))
}

#[inline(always)]
fn pseudo_of(parsed: &Parsed, length: u32) -> u32 {
    pseudo(&parsed.src, &parsed.dst, protocol::ICMPV6, length)
}

/// The message (RFC 4861 section 4.4).
#[inline(always)]
fn advertisement(target: &Addr, to: &Addr, mac: [u8; 6], flags: u32) -> [u32; 8] {
    const KIND: u32 = 136 << 24;
    let ([a, b, c, d, e, f], t) = (mac, target.0);
    // Option 2, of one unit of eight bytes.
    let option = [u32::from_ne_bytes([2, 1, a, b]), u32::from_ne_bytes([c, d, e, f])];
    let mut words = [be(KIND), be(flags), t[0], t[1], t[2], t[3], option[0], option[1]];
    let covered = checksum::add(header::sum_words(&words), pseudo(target, to, protocol::ICMPV6, ADVERTISEMENT));
    words[0] |= be(u16::from_be(!checksum::fold(covered)) as u32);
    words
}
