//! Clients inside, which are pods of the node: their own table, and their own address towards every backend but themselves.

use std::net::SocketAddr;

use lb_common::{DropReason, Protocol, service};
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Interface, Way, socket},
    packet::{ACK, SYN, Spec, tcp, udp},
    world::{Place, World},
};

/// Where packets of clients inside come.
const PODS: (Hook, Interface) = (Hook::Ingress, Interface::Thin);
/// Where packets of local backends come.
const SERVERS: (Hook, Interface) = (Hook::Ingress, Interface::Pod0);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let world = |places: &[Place]| World::new(family, protocol, places);
            for place in [Place::Local, Place::Own, Place::Remote] {
                cases.push(keeps_its_address(world(&[place])));
            }
            let local = world(&[Place::Local]);
            let itself = SocketAddr::new(local.endpoint(0).ip(), 40000);
            let neighbour = socket(family, Interface::Pod0.number(), 9, 40000);
            cases.push(beside(local.clone(), "a backend reaches itself", itself));
            cases.push(beside(local, "a client beside the backend", neighbour));
            cases.push(two_tables(world(&[Place::Local, Place::Remote])));
            cases.push(kept_elsewhere(world(&[Place::Remote, Place::Local])));
            cases.push(only_elsewhere(world(&[Place::Remote])));
            cases.push(only_elsewhere_for_both(world(&[Place::Local])));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {:?}: {what}", world.family, world.protocol, world.backends[0].0), world)
}

fn opening(world: &World, client: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN, client, world.vip(0)) } else { udp(client, world.vip(0)) }
}

fn answer(world: &World, from: SocketAddr, to: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN | ACK, from, to) } else { udp(from, to) }
}

/// A conversation of a pod with a backend anywhere.
fn keeps_its_address(world: World) -> Case {
    let mut case = named("a client inside keeps its address", world.clone());
    let (client, endpoint) = (world.client_inside(), world.endpoint(0));
    let packet = opening(&world, client);
    let out = packet.clone().dst(endpoint);
    let back = answer(&world, endpoint, client);
    let seen = back.clone().src(world.vip(0));
    let leaves = Way::Out(Interface::Thin);
    match world.backends[0].0 {
        Place::Own => {
            case.inwards(PODS, &packet, Way::Stack, out, 0);
            case.outwards((Hook::Egress, Interface::Thin), &back, Way::Stack, seen, 0);
        }
        Place::Local => {
            case.inwards(PODS, &packet, Way::Out(Interface::Pod0), out.ttl(63), 0);
            case.outwards(SERVERS, &back, leaves, seen.ttl(63), 0);
        }
        _ => {
            case.inwards(PODS, &packet, Way::Out(Interface::Up1), out.ttl(63), 0);
            case.defers((Hook::Xdp, Interface::Up1), &back);
            case.outwards((Hook::Ingress, Interface::Up1), &back, leaves, seen.ttl(63), 0);
        }
    }
    case.load(0, [1, 0, 1, 0, 0]);
    case.then(Step::Flows(1));
    case
}

/// A pod that reaches itself, or one beside it on a bridge, sees the node as its client: the answers have to come back here.
fn beside(world: World, what: &str, client: SocketAddr) -> Case {
    let mut case = named(what, world.clone());
    let (endpoint, peer) = (world.endpoint(0), world.masked_peer(0));
    let packet = opening(&world, client);
    let leaves = Way::Out(Interface::Pod0);
    case.inwards(SERVERS, &packet, leaves, packet.clone().src(peer).dst(endpoint).ttl(63), 0);
    let back = answer(&world, endpoint, peer);
    case.outwards(SERVERS, &back, leaves, back.clone().src(world.vip(0)).dst(client).ttl(63), 0);
    case.load(0, [1, 0, 1, 0, 0]);
    if world.protocol == Protocol::Tcp {
        let ack = tcp(ACK, client, world.vip(0));
        case.inwards(SERVERS, &ack, leaves, ack.clone().src(peer).dst(endpoint).ttl(63), 0);
    }
    // The only source port is taken.
    let second = opening(&world, SocketAddr::new(client.ip(), 40001));
    case.drops(SERVERS, second.frame(), DropReason::SnatPortsExhausted);
    case
}

/// Session affinity does not outlive a policy that excludes the backend.
fn kept_elsewhere(mut world: World) -> Case {
    world.affinity = 100;
    let mut case = named("affinity and a new policy", world.clone());
    let comes = |case: &mut Case, port, backend: usize, way, peer: SocketAddr| {
        let packet = opening(&world, SocketAddr::new(world.client().ip(), port));
        let out = packet.clone().src(peer).dst(world.endpoint(backend)).ttl(63);
        case.inwards(CLIENTS, &packet, Way::Out(way), out, backend);
    };
    comes(&mut case, 40000, 0, Interface::Up1, world.masked_peer(0));
    case.then(Step::LocalOutside);
    comes(&mut case, 40001, 1, Interface::Pod0, SocketAddr::new(world.client().ip(), 40001));
    case
}

/// Policy `Local` for clients outside: they get the backends of the node, pods get all.
fn two_tables(mut world: World) -> Case {
    world.local_outside = true;
    let mut case = named("two tables", world.clone());
    for (port, backend, way) in [(1, 0, Interface::Pod0), (2, 1, Interface::Up1), (3, 0, Interface::Pod0)] {
        let client = SocketAddr::new(world.client_inside().ip(), 40000 + port);
        let packet = opening(&world, client);
        let out = packet.clone().dst(world.endpoint(backend)).ttl(63);
        case.inwards(PODS, &packet, Way::Out(way), out, backend);
    }
    for port in 1..5 {
        let packet = opening(&world, SocketAddr::new(world.client().ip(), 40000 + port));
        let out = packet.clone().dst(world.endpoint(0)).ttl(63);
        case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), out, 0);
    }
    case
}

/// Policy `Local` without a backend on the node: clients outside wait for another node, they are not refused.
fn only_elsewhere(mut world: World) -> Case {
    world.local_outside = true;
    world.flags = service::FRONTEND_DROP_OUTSIDE;
    let mut case = named("no backend is local", world.clone());
    for hook in [Hook::Xdp, Hook::Ingress] {
        case.drops((hook, Interface::Up0), opening(&world, world.client()).frame(), DropReason::NoLocalBackend);
    }
    let packet = opening(&world, world.client_inside());
    let out = packet.clone().dst(world.endpoint(0)).ttl(63);
    case.inwards(PODS, &packet, Way::Out(Interface::Up1), out, 0);
    case
}

/// The flag of one side says nothing of the other.
fn only_elsewhere_for_both(mut world: World) -> Case {
    world.backends[0].1 = 0;
    world.flags = service::FRONTEND_DROP_INSIDE;
    let mut case = named("no backend, by flag", world.clone());
    case.drops(PODS, opening(&world, world.client_inside()).frame(), DropReason::NoLocalBackend);
    case.refuses(Interface::Up0, &opening(&world, world.client()));
    case
}
