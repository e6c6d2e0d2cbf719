//! ICMP errors about flows: both directions, every kind, what they quote whole or cut, and errors about nothing of ours.

use lb_common::Protocol;
use lb_ebpf::{
    env::Hook,
    flow::Direction::{In, Out},
};

use super::{CLIENTS, FAMILIES, PROTOCOLS, lives::travel};
use crate::table::{
    case::Case,
    net::{Family, Interface, Way, ip},
    packet::{ACK, Shape, Spec, tcp, udp},
    world::{Place, World},
};

/// Type, code and second word.
type Kind = (u8, u8, u32);

const KINDS_V4: [(&str, Kind); 4] = [
    ("port unreachable", (3, 3, 0)),
    ("fragmentation needed", (3, 4, 1400)),
    ("time exceeded", (11, 0, 0)),
    ("parameter problem", (12, 0, 0x0900_0000)),
];
const KINDS_V6: [(&str, Kind); 4] = [
    ("port unreachable", (1, 4, 0)),
    ("packet too big", (2, 0, 1400)),
    ("time exceeded", (3, 0, 0)),
    ("parameter problem", (4, 0, 40)),
];

fn kinds(family: Family) -> [(&'static str, Kind); 4] {
    if family == Family::V4 { KINDS_V4 } else { KINDS_V6 }
}

/// Bytes of a quoted IP header and eight more; enough of TCP for its checksum; everything.
fn cuts(family: Family) -> [usize; 3] {
    let header = if family == Family::V4 { 20 } else { 40 };
    [header + 8, header + 20, 2000]
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for place in [Place::Local, Place::Remote] {
                for (name, kind) in kinds(family) {
                    let world = World::new(family, protocol, &[place]);
                    let name = format!("{family:?} {protocol:?} {place:?}: {name}");
                    cases.push(about_requests(Case::new(format!("{name} about a request"), world.clone()), kind));
                    cases.push(about_answers(Case::new(format!("{name} about an answer"), world), kind));
                }
            }
            let world = World::new(family, protocol, &[Place::Own]);
            cases.push(of_own_stack(Case::new(format!("{family:?} {protocol:?}: of the node's own stack"), world)));
        }
        cases.push(not_ours(family));
    }
    cases
}

/// A packet of the flow with some data.
fn data(protocol: Protocol, src: std::net::SocketAddr, dst: std::net::SocketAddr) -> Spec {
    if protocol == Protocol::Tcp { tcp(ACK, src, dst).payload(37) } else { udp(src, dst).payload(36) }
}

fn open(case: &mut Case) {
    let protocol = case.world.protocol;
    if protocol == Protocol::Tcp {
        travel(case, In, |a, b| tcp(crate::table::packet::SYN, a, b), 0);
        travel(case, Out, |a, b| tcp(crate::table::packet::SYN | ACK, a, b), 0);
    } else {
        travel(case, In, udp, 0);
    }
}

/// A packet that we sent to the backend came to a router's, or the backend's, dislike: the client is told.
fn about_requests(mut case: Case, kind: Kind) -> Case {
    open(&mut case);
    let world = case.world.clone();
    let inside = if world.backends[0].0.is_local() { Interface::Pod0 } else { Interface::Up1 };
    let (endpoint, peer) = (world.endpoint(0), world.peer(0));
    let router = ip(world.family, inside.number(), 8);
    let sent = data(world.protocol, peer, endpoint).ttl(3);
    let original = data(world.protocol, world.client(), world.vip(0)).ttl(3);
    let way = Way::Out(Interface::Up0);
    for bytes in cuts(world.family) {
        for (from, seen_from) in [(router, router), (endpoint.ip(), world.vip(0).ip())] {
            for shape in [Shape::Plain, Shape::Options, Shape::Padded] {
                let error = sent.error(from, kind, bytes).shape(shape);
                let out = original.error(seen_from, kind, bytes).shape(shape).ttl(63);
                case.passes((Hook::Xdp, inside), error.frame());
                case.translates((Hook::Ingress, inside), &error, way, out);
            }
        }
    }
    case
}

/// An answer that we sent to the client in the frontend's name came to somebody's dislike: the backend is told.
fn about_answers(mut case: Case, kind: Kind) -> Case {
    open(&mut case);
    let world = case.world.clone();
    let local = world.backends[0].0.is_local();
    let way = Way::Out(if local { Interface::Pod0 } else { Interface::Up1 });
    let (endpoint, peer, client) = (world.endpoint(0), world.peer(0), world.client());
    let router = ip(world.family, Interface::Up0.number(), 8);
    let sent = data(world.protocol, world.vip(0), client).ttl(3);
    let original = data(world.protocol, endpoint, peer).ttl(3);
    for bytes in cuts(world.family) {
        for from in [router, client.ip()] {
            // A remote backend must not see who is behind the node.
            let seen_from = if local { from } else { peer.ip() };
            let error = sent.error(from, kind, bytes);
            let out = original.error(seen_from, kind, bytes).ttl(63);
            case.passes((Hook::Xdp, Interface::Up0), error.frame());
            case.translates(CLIENTS, &error, way, out);
        }
    }
    case
}

/// The backend is a process of the node: its stack sends the error, which leaves by the uplink's egress.
fn of_own_stack(mut case: Case) -> Case {
    let world = case.world.clone();
    let (client, vip, endpoint) = (world.client(), world.vip(0), world.endpoint(0));
    let first = |a, b| match world.protocol {
        Protocol::Tcp => tcp(crate::table::packet::SYN, a, b),
        Protocol::Udp => udp(a, b),
    };
    case.inwards(CLIENTS, &first(client, vip), Way::Stack, first(client, endpoint), 0);
    let kind = kinds(world.family)[0].1;
    let error = data(world.protocol, client, endpoint).error(endpoint.ip(), kind, 500);
    let out = data(world.protocol, client, vip).error(vip.ip(), kind, 500);
    case.translates((Hook::Egress, Interface::Up0), &error, Way::Stack, out);
    case
}

/// Errors about other packets, echo, and errors that quote too little.
fn not_ours(family: Family) -> Case {
    let mut case = Case::new(
        format!("{family:?}: ICMP that is not about a flow"),
        World::new(family, Protocol::Udp, &[Place::Local]),
    );
    open(&mut case);
    let world = case.world.clone();
    let (client, vip) = (world.client(), world.vip(0));
    let kind = kinds(family)[0].1;
    let echo = if family == Family::V4 { (8, 0, 7) } else { (128, 0, 7) };
    let header = if family == Family::V4 { 20 } else { 40 };
    let stranger = std::net::SocketAddr::new(client.ip(), 40001);
    let answer = udp(vip, client);
    let frames = [
        udp(vip, stranger).error(client.ip(), kind, 100).frame(),
        udp(world.endpoint(0), stranger).error(client.ip(), kind, 100).frame(),
        udp(client, stranger).error(client.ip(), kind, 100).frame(),
        tcp(ACK, vip, client).error(client.ip(), kind, 100).frame(),
        answer.error(client.ip(), echo, 100).frame(),
        answer.error(client.ip(), kind, 0).frame(),
        answer.error(client.ip(), kind, header - 1).frame(),
        answer.error(client.ip(), kind, header + 3).frame(),
        answer.clone().part(crate::table::packet::Part::Later).error(client.ip(), kind, 100).frame(),
    ];
    for frame in frames {
        for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
            case.passes((hook, Interface::Up0), frame.clone());
        }
    }
    case
}
