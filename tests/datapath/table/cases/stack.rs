//! Delivery by the node's stack: between a backend and a client whose address it sees, packets keep both addresses while the packet
//! filter sees them. They are rewritten at ingress on the way in, and at egress on the way out.

use std::net::SocketAddr;

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, ip},
    packet::{ACK, FIN, SYN, Shape, Spec, tcp, udp},
    world::{Place, World},
};

const PODS: (Hook, Interface) = (Hook::Ingress, Interface::Pod0);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let world = |place| World::new(family, protocol, &[place]);
            for shape in [Shape::Plain, Shape::Options] {
                for place in [Place::Local, Place::Own] {
                    cases.push(of_a_client_outside(world(place), shape));
                }
                for place in [Place::Local, Place::Own, Place::Remote] {
                    cases.push(of_a_pod(world(place), shape));
                }
            }
            cases.push(full_nat(world(Place::Remote)));
            cases.push(itself(world(Place::Local)));
            cases.push(errors_to_the_client(world(Place::Local)));
            cases.push(errors_to_the_backend(world(Place::Local)));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("stack, {:?} {:?} {:?}: {what}", world.family, world.protocol, world.backends[0].0), world)
}

fn packet(protocol: Protocol, flags: u8, from: SocketAddr, to: SocketAddr) -> Spec {
    if protocol == Protocol::Tcp { tcp(flags, from, to).payload(11) } else { udp(from, to) }
}

/// Both directions of a whole conversation; answers come up by `from` and leave by `to`.
fn converse(case: &mut Case, (client, via): (SocketAddr, Interface), from: Option<Interface>, shape: Shape) {
    let world = case.world.clone();
    let (vip, endpoint, protocol) = (world.vip(0), world.endpoint(0), world.protocol);
    for (inwards, flags) in [(true, SYN), (false, SYN | ACK), (true, ACK), (false, FIN | ACK), (true, FIN | ACK)] {
        if inwards {
            let came = packet(protocol, flags, client, vip).shape(shape);
            if via == Interface::Up0 {
                case.defers((Hook::Xdp, via), &came);
            }
            case.inwards((Hook::Ingress, via), &came, Way::Stack, came.clone().dst(endpoint), 0);
        } else {
            let came = packet(protocol, flags, endpoint, client).shape(shape);
            for hook in [Hook::Xdp, Hook::Ingress] {
                from.into_iter().for_each(|from| case.passes((hook, from), came.frame()));
            }
            case.outwards((Hook::Egress, via), &came, Way::Stack, came.clone().src(vip), 0);
        }
    }
    case.load(0, if protocol == Protocol::Tcp { [0, 0, 1, 1, 0] } else { [1, 0, 1, 0, 0] });
    case.then(Step::Flows(1));
}

fn of_a_client_outside(world: World, shape: Shape) -> Case {
    let mut case = named(&format!("a client outside, {shape:?}"), world.clone());
    let from = (world.backends[0].0 == Place::Local).then_some(Interface::Pod0);
    converse(&mut case, (world.client(), Interface::Up0), from, shape);
    case
}

fn of_a_pod(world: World, shape: Shape) -> Case {
    let mut case = named(&format!("a client inside, {shape:?}"), world.clone());
    let from = match world.backends[0].0 {
        Place::Local => Some(Interface::Pod0),
        Place::Remote => Some(Interface::Up1),
        _ => None,
    };
    converse(&mut case, (world.client_inside(), Interface::Thin), from, shape);
    case
}

/// Under full NAT the stack would take the packets for its own: they are redirected.
fn full_nat(world: World) -> Case {
    let mut case = named("full NAT", world.clone());
    let (peer, endpoint) = (world.peer(0), world.endpoint(0));
    for hook in [Hook::Ingress, Hook::Xdp] {
        let came = packet(world.protocol, SYN, world.client(), world.vip(0));
        let out = came.clone().src(peer).dst(endpoint).ttl(63);
        case.inwards((hook, Interface::Up0), &came, Way::Out(Interface::Up1), out, 0);
        let came = packet(world.protocol, SYN | ACK, endpoint, peer);
        let out = came.clone().src(world.vip(0)).dst(world.client()).ttl(63);
        case.outwards((hook, Interface::Up1), &came, Way::Out(Interface::Up0), out, 0);
    }
    case
}

/// So is what a backend sends to itself.
fn itself(world: World) -> Case {
    let mut case = named("a backend reaches itself", world.clone());
    let (peer, endpoint) = (world.masked_peer(0), world.endpoint(0));
    let client = SocketAddr::new(endpoint.ip(), 40000);
    let came = packet(world.protocol, SYN, client, world.vip(0));
    let out = came.clone().src(peer).dst(endpoint).ttl(63);
    case.inwards(PODS, &came, Way::Out(Interface::Pod0), out, 0);
    let came = packet(world.protocol, SYN | ACK, endpoint, peer);
    let out = came.clone().src(world.vip(0)).dst(client).ttl(63);
    case.outwards(PODS, &came, Way::Out(Interface::Pod0), out, 0);
    case
}

fn unreachable(family: Family) -> (u8, u8, u32) {
    if family == Family::V4 { (3, 3, 0) } else { (1, 4, 0) }
}

fn open(case: &mut Case) {
    let world = &case.world;
    let came = packet(world.protocol, SYN, world.client(), world.vip(0));
    let out = came.clone().dst(world.endpoint(0));
    case.inwards(CLIENTS, &came, Way::Stack, out, 0);
}

/// An error about a request that the packet filter, the stack or the pod has made.
fn errors_to_the_client(world: World) -> Case {
    let mut case = named("errors to the client", world.clone());
    open(&mut case);
    let kind = unreachable(world.family);
    let sent = |to| packet(world.protocol, ACK, world.client(), to).ttl(3);
    let error = sent(world.endpoint(0)).error(world.endpoint(0).ip(), kind, 500);
    case.passes(PODS, error.frame());
    let out = sent(world.vip(0)).error(world.vip(0).ip(), kind, 500);
    case.translates((Hook::Egress, Interface::Up0), &error, Way::Stack, out);
    case
}

/// An error about an answer, on its way to the backend.
fn errors_to_the_backend(world: World) -> Case {
    let mut case = named("errors to the backend", world.clone());
    open(&mut case);
    let kind = unreachable(world.family);
    let router = ip(world.family, Interface::Up0.number(), 8);
    let sent = |from| packet(world.protocol, ACK, from, world.client()).ttl(3);
    let error = sent(world.vip(0)).error(router, kind, 500);
    let out = sent(world.endpoint(0)).error(router, kind, 500);
    case.passes((Hook::Xdp, Interface::Up0), error.frame());
    case.translates(CLIENTS, &error, Way::Stack, out);
    case
}
