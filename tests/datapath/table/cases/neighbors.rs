//! Questions for an announced address: ARP requests and neighbour solicitations, who is answered how, and what is left alone.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::CLIENTS;
use crate::table::{
    case::Case,
    net::{Family, Interface, ip},
    verify,
    world::{Place, World},
};

type Mac = [u8; 6];

/// Who asks.
const ASKER: Mac = [2, 0xcc, 0, 0, 0, 9];
const BROADCAST: Mac = [0xff; 6];
const NOBODY: Mac = [0; 6];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        answered_arp(),
        other_arp(),
        cut(Family::V4, request(ASKER, asker(Family::V4), announced(Family::V4))),
        cut(Family::V6, solicitation(&Question::default())),
        answered_solicitations(),
        other_solicitations(),
        not_announced(Family::V4, request(ASKER, asker(Family::V4), announced(Family::V4))),
        not_announced(Family::V6, solicitation(&Question::default())),
    ]
}

fn case(what: &str, family: Family, announced: bool) -> Case {
    Case::new(format!("{family:?}: {what}"), World { announced, ..World::new(family, Protocol::Tcp, &[Place::Local]) })
}

fn own() -> Mac {
    Interface::Up0.mac()
}

fn asker(family: Family) -> IpAddr {
    ip(family, Interface::Up0.number(), 9)
}

fn announced(family: Family) -> IpAddr {
    World::new(family, Protocol::Tcp, &[Place::Local]).vip(0).ip()
}

fn v4(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("ARP is for IPv4"),
    }
}

/// An ARP packet.
fn arp(operation: u8, to: Mac, sender: (Mac, IpAddr), target: (Mac, IpAddr)) -> Vec<u8> {
    let head = [&to[..], &sender.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &sender.0, &v4(sender.1), &target.0, &v4(target.1)].concat()
}

fn request(mac: Mac, sender: IpAddr, target: IpAddr) -> Vec<u8> {
    arp(1, BROADCAST, (mac, sender), (NOBODY, target))
}

fn answered_arp() -> Case {
    let mut case = case("ARP requests are answered", Family::V4, true);
    let (asker, address) = (asker(Family::V4), announced(Family::V4));
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    for (sender, to) in [(asker, BROADCAST), (asker, own()), (nowhere, BROADCAST)] {
        let question = arp(1, to, (ASKER, sender), (NOBODY, address));
        let answer = arp(2, ASKER, (own(), address), (ASKER, sender));
        for padding in [0, 18] {
            let padded = |frame: &[u8]| [frame, &vec![0; padding][..]].concat();
            case.passes((Hook::Xdp, Interface::Up0), padded(&question));
            case.replies(CLIENTS, padded(&question), padded(&answer));
        }
    }
    case
}

fn other_arp() -> Case {
    let mut case = case("other ARP", Family::V4, true);
    let (asker, address, other) = (asker(Family::V4), announced(Family::V4), ip(Family::V4, 99, 2));
    let question = request(ASKER, asker, address);
    let patched = |at: usize, byte: u8| {
        let mut frame = question.clone();
        frame[at] = byte;
        frame
    };
    let tagged = [&question[..12], &[0x81, 0, 0, 5], &question[12..]].concat();
    let frames = [
        request(ASKER, asker, other),
        // An announcement, and an answer.
        request(ASKER, address, address),
        arp(2, own(), (ASKER, asker), (own(), address)),
        // Our own question come back, and senders that nobody can be.
        request(own(), asker, address),
        request(BROADCAST, asker, address),
        // Not Ethernet, not IPv4, other lengths, another operation.
        patched(15, 6),
        patched(17, 1),
        patched(18, 8),
        patched(19, 16),
        patched(20, 1),
        tagged,
    ];
    for frame in frames {
        for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
            case.passes((hook, Interface::Up0), frame.clone());
        }
    }
    for interface in [Interface::Up1, Interface::Pod0] {
        case.passes((Hook::Ingress, interface), question.clone());
    }
    case.passes((Hook::Egress, Interface::Up0), question);
    case
}

/// A neighbour solicitation.
#[derive(Clone)]
struct Question {
    mac: Mac,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
    options: Vec<u8>,
    hops: u8,
    code: u8,
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => panic!("neighbour discovery is for IPv6"),
    }
}

/// The multicast group in which an address is asked for.
fn group(of: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = of.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a & 0xff, b)
}

impl Default for Question {
    fn default() -> Self {
        let target = v6(announced(Family::V6));
        Self {
            mac: ASKER,
            src: v6(asker(Family::V6)),
            dst: group(target),
            target,
            options: [&[1, 1][..], &ASKER].concat(),
            hops: 255,
            code: 0,
        }
    }
}

fn message(to: Mac, from: Mac, (src, dst): (Ipv6Addr, Ipv6Addr), hops: u8, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let sum = verify::sum(src.into(), dst.into(), 58, &body).ones_complement();
    body[2..4].copy_from_slice(&sum.to_ne_bytes());
    let length = (body.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], 58, hops];
    [&to[..], &from, &[0x86, 0xdd], &head, &src.octets(), &dst.octets(), &body].concat()
}

fn solicitation(question: &Question) -> Vec<u8> {
    let Question { mac, src, dst, target, options, hops, code } = question;
    let body = [&[135, *code, 0, 0, 0, 0, 0, 0], &target.octets()[..], options].concat();
    message([0x33, 0x33, 0xff, 0, 0, 1], *mac, (*src, *dst), *hops, &body)
}

/// The answer to whoever asked, or to all.
fn advertisement(question: &Question) -> Vec<u8> {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let probe = question.src.is_unspecified();
    let (to, mac, flags) = if probe { (all, ALL_NODES_MAC, 0x20) } else { (question.src, question.mac, 0x60) };
    let body = [&[136, 0, 0, 0, flags, 0, 0, 0], &question.target.octets()[..], &[2, 1], &own()].concat();
    message(mac, own(), (question.target, to), 255, &body)
}

fn answered_solicitations() -> Case {
    let mut case = case("neighbour solicitations are answered", Family::V6, true);
    let question = Question::default();
    let (link, nonce) = (question.options.clone(), vec![14, 1, 1, 2, 3, 4, 5, 6]);
    let nowhere = Ipv6Addr::UNSPECIFIED;
    let questions = [
        question.clone(),
        Question { options: Vec::new(), ..question.clone() },
        Question { dst: question.target, options: Vec::new(), ..question.clone() },
        Question { options: [link, nonce.clone()].concat(), ..question.clone() },
        Question { src: nowhere, options: Vec::new(), ..question.clone() },
        Question { src: nowhere, options: nonce, ..question },
    ];
    for question in questions {
        case.passes((Hook::Xdp, Interface::Up0), solicitation(&question));
        case.replies(CLIENTS, solicitation(&question), advertisement(&question));
    }
    case
}

fn other_solicitations() -> Case {
    let mut case = case("other neighbour discovery", Family::V6, true);
    let question = Question::default();
    let mut corrupt = solicitation(&question);
    corrupt[80] ^= 1;
    let mut other_kind = solicitation(&question);
    other_kind[54] = 136;
    let frames = [
        solicitation(&Question { target: v6(ip(Family::V6, 99, 2)), ..question.clone() }),
        solicitation(&Question { src: question.target, ..question.clone() }),
        solicitation(&Question { mac: own(), ..question.clone() }),
        solicitation(&Question { hops: 254, ..question.clone() }),
        solicitation(&Question { code: 1, ..question.clone() }),
        advertisement(&question),
        corrupt,
        other_kind,
    ];
    for frame in frames {
        for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
            case.passes((hook, Interface::Up0), frame.clone());
        }
    }
    case.passes((Hook::Ingress, Interface::Up1), solicitation(&question));
    case.passes((Hook::Egress, Interface::Up0), solicitation(&question));
    case
}

/// Every prefix.
fn cut(family: Family, frame: Vec<u8>) -> Case {
    let mut case = case("every prefix of a question", family, true);
    for length in 0..frame.len() {
        for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
            case.passes((hook, Interface::Up0), &frame[..length]);
        }
    }
    case
}

fn not_announced(family: Family, question: Vec<u8>) -> Case {
    let mut case = case("questions for what is not announced", family, false);
    case.passes(CLIENTS, question);
    case
}
