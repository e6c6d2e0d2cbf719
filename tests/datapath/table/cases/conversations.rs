//! Whole conversations: every protocol, family, hook, place of a backend and shape of headers, in both directions.

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::{FAMILIES, PROTOCOLS};
use crate::table::{
    case::Case,
    net::{Interface, Way},
    packet::{ACK, FIN, SYN, Shape, Spec, tcp, udp},
    world::{Place, World},
};

const PLACES: [Place; 4] = [Place::Local, Place::Own, Place::Remote, Place::Beside];
const SHAPES: [Shape; 4] = [Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for place in PLACES {
                for hook in [Hook::Ingress, Hook::Xdp] {
                    for shape in SHAPES {
                        let name = format!("{protocol:?} {family:?}, {place:?} backend, {hook:?}, {shape:?}");
                        cases.push(conversation(Case::new(name, World::new(family, protocol, &[place])), hook, shape));
                    }
                }
            }
        }
    }
    cases
}

fn conversation(mut case: Case, hook: Hook, shape: Shape) -> Case {
    let (client, vip) = (case.world.client(), case.world.vip(0));
    let (backend, peer) = (case.world.endpoint(0), case.world.peer(0));
    let request = |packet: fn(u8) -> Spec, i| packet(i).src(client).dst(vip).shape(shape);
    let answer = |packet: fn(u8) -> Spec, i| packet(i).src(backend).dst(peer).shape(shape);
    if case.world.protocol == Protocol::Udp {
        let datagram = |i: u8| udp(any(), any()).payload(i as usize);
        to_backend(&mut case, hook, request(datagram, 20));
        case.load(0, [1, 0, 1, 0, 0]);
        to_client(&mut case, hook, answer(datagram, 101));
        to_backend(&mut case, hook, request(datagram, 0));
        case.load(0, [1, 0, 1, 0, 0]);
        return case;
    }
    let segment = |flags: u8| tcp(flags, any(), any());
    let data = |bytes: u8| tcp(ACK, any(), any()).payload(bytes as usize);
    to_backend(&mut case, hook, request(segment, SYN));
    case.load(0, [0, 1, 0, 0, 0]);
    to_client(&mut case, hook, answer(segment, SYN | ACK));
    case.load(0, [1, 0, 1, 0, 0]);
    to_backend(&mut case, hook, request(segment, ACK));
    to_backend(&mut case, hook, request(data, 101));
    to_client(&mut case, hook, answer(data, 255));
    to_client(&mut case, hook, answer(segment, FIN | ACK));
    case.load(0, [1, 0, 1, 0, 0]);
    to_backend(&mut case, hook, request(segment, FIN | ACK));
    case.load(0, [0, 0, 1, 1, 0]);
    case
}

fn any() -> std::net::SocketAddr {
    std::net::SocketAddr::from(([0, 0, 0, 0], 0))
}

/// Local backends are beyond XDP's reach: it leaves the packet to tc.
fn to_backend(case: &mut Case, hook: Hook, packet: Spec) {
    let out = packet.clone().src(case.world.peer(0)).dst(case.world.endpoint(0));
    let (way, ttl) = match case.world.backends[0].0 {
        Place::Own => (Way::Stack, 64),
        Place::Local => (Way::Out(Interface::Pod0), 63),
        Place::Remote => (Way::Out(Interface::Up1), 63),
        _ => (Way::Out(Interface::Up0), 63),
    };
    let mut hook = hook;
    if hook == Hook::Xdp && case.world.backends[0].0.is_local() {
        case.defers((hook, Interface::Up0), &packet);
        hook = Hook::Ingress;
    }
    case.inwards((hook, Interface::Up0), &packet, way, out.ttl(ttl), 0);
}

/// The answers of the node's own processes leave with the stack.
fn to_client(case: &mut Case, hook: Hook, packet: Spec) {
    let out = packet.clone().src(case.world.vip(0)).dst(case.world.client());
    let leaves = Way::Out(Interface::Up0);
    match case.world.backends[0].0 {
        Place::Own => case.outwards((Hook::Egress, Interface::Up0), &packet, Way::Stack, out, 0),
        Place::Local => case.outwards((Hook::Ingress, Interface::Pod0), &packet, leaves, out.ttl(63), 0),
        Place::Remote => case.outwards((hook, Interface::Up1), &packet, leaves, out.ttl(63), 0),
        _ => case.outwards((hook, Interface::Up0), &packet, leaves, out.ttl(63), 0),
    }
}
