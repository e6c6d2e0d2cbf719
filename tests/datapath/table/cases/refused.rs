//! Who is turned away: with an answer where nobody serves the frontend, without one where its source ranges forbid.

use std::net::SocketAddr;

use lb_common::{
    DropReason, Protocol,
    service::{FRONTEND_DROP_OUTSIDE, FRONTEND_RANGES, FRONTEND_WAKES},
};
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, socket},
    packet::{ACK, SYN, Shape, Spec, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            cases.push(empty(World::new(family, protocol, &[Place::Local])));
            cases.push(waking(World::new(family, protocol, &[Place::Local])));
            cases.push(not_waking(World::new(family, protocol, &[Place::Local])));
            cases.push(other_port(World::new(family, protocol, &[Place::Local])));
            cases.push(ranges(World::new(family, protocol, &[Place::Local])));
            cases.push(no_range(World::new(family, protocol, &[Place::Local])));
            cases.push(ranges_come_first(World::new(family, protocol, &[Place::Local])));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?}: {what}", world.family, world.protocol), world)
}

fn opening(world: &World, client: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN, client, world.vip(0)) } else { udp(client, world.vip(0)) }
}

/// Every shape of an opening packet, of clients outside and inside.
fn empty(mut world: World) -> Case {
    world.backends[0].1 = 0;
    let mut case = named("nobody serves the frontend", world.clone());
    for (via, client) in [(Interface::Up0, world.client()), (Interface::Thin, world.client_inside())] {
        for shape in [Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded] {
            for payload in [0, 1, 100] {
                let packet = opening(&world, client).shape(shape).payload(payload);
                case.refuses(via, &packet);
            }
        }
    }
    case.then(Step::Flows(0));
    case.load(0, [0; 5]);
    case
}

/// A frontend that who asks for it wakes drops the question at every hook, and tells of it once in a while; the one that is sent again
/// finds a backend.
fn waking(mut world: World) -> Case {
    (world.flags, world.backends[0].1) = (FRONTEND_WAKES, 0);
    let mut case = named("a frontend that is woken", world.clone());
    let outside = opening(&world, world.client());
    case.drops((Hook::Xdp, Interface::Up0), outside.frame(), DropReason::NoBackend);
    case.then(Step::Woken(vec![0]));
    case.drops(CLIENTS, outside.frame(), DropReason::NoBackend);
    case.then(Step::Woken(vec![]));
    case.then(Step::Wait(1));
    let inside = opening(&world, world.client_inside());
    case.drops((Hook::Ingress, Interface::Thin), inside.frame(), DropReason::NoBackend);
    case.then(Step::Woken(vec![0]));
    case.then(Step::Flows(0));
    case.load(0, [0; 5]);
    case.then(Step::Weights(vec![100]));
    case.then(Step::Wait(1));
    let out = outside.clone().dst(world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, &outside, Way::Out(Interface::Pod0), out, 0);
    case.then(Step::Woken(vec![]));
    case
}

/// Who may not use a frontend, or has only to go to another node, and a TCP packet that opens nothing, wake nobody.
fn not_waking(mut world: World) -> Case {
    world.backends[0].1 = 0;
    world.flags = FRONTEND_WAKES | FRONTEND_RANGES | FRONTEND_DROP_OUTSIDE;
    world.ranges = vec![range(&world).parse().expect("a network")];
    let mut case = named("a frontend that these do not wake", world.clone());
    let client = |host| socket(world.family, Interface::Up0.number(), host, 40000);
    case.drops(CLIENTS, opening(&world, client(7)).frame(), DropReason::SourceRange);
    case.drops(CLIENTS, opening(&world, client(8)).frame(), DropReason::NoLocalBackend);
    if world.protocol == Protocol::Tcp {
        case.refuses_for(Interface::Up0, &tcp(ACK, client(8), world.vip(0)), DropReason::NoFlow);
    }
    case.then(Step::Woken(vec![]));
    case
}

/// A port that no Service has is refused to clients inside; clients outside do not ask a cluster's address.
fn other_port(mut world: World) -> Case {
    world.cluster = true;
    let mut case = named("another port of a cluster's address", world.clone());
    let outside = opening(&world, world.client()).dst(world.vip(1));
    case.passes((Hook::Xdp, Interface::Up0), outside.frame());
    case.passes(CLIENTS, outside.frame());
    let inside = opening(&world, world.client_inside());
    case.refuses(Interface::Thin, &inside.clone().dst(world.vip(1)));
    if world.protocol == Protocol::Tcp {
        let later = tcp(ACK, world.client_inside(), world.vip(1));
        case.passes((Hook::Ingress, Interface::Thin), later.frame());
    }
    case.inwards(
        (Hook::Ingress, Interface::Thin),
        &inside,
        Way::Out(Interface::Pod0),
        inside.clone().dst(world.endpoint(0)).ttl(63),
        0,
    );
    case
}

fn range(world: &World) -> String {
    if world.family == Family::V4 { "10.10.0.8/31".into() } else { "fd10::8/127".into() }
}

/// The first host after a range is out, its last is in; whoever has a flow goes on.
fn ranges(mut world: World) -> Case {
    world.flags = FRONTEND_RANGES;
    world.ranges = vec![range(&world).parse().expect("a network")];
    let mut case = named("source ranges", world.clone());
    let client = |host| socket(world.family, Interface::Up0.number(), host, 40000);
    for (host, admitted) in [(7, false), (8, true), (9, true), (10, false)] {
        let packet = opening(&world, client(host));
        if admitted {
            let out = packet.clone().dst(world.endpoint(0)).ttl(63);
            case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), out, 0);
        } else {
            for hook in [Hook::Xdp, Hook::Ingress] {
                case.drops((hook, Interface::Up0), packet.frame(), DropReason::SourceRange);
            }
        }
    }
    case.then(Step::Ranges(Vec::new()));
    let packet = opening(&world, client(9));
    case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), packet.clone().dst(world.endpoint(0)).ttl(63), 0);
    case.drops(CLIENTS, opening(&world, socket(world.family, 10, 9, 40001)).frame(), DropReason::SourceRange);
    case
}

/// A frontend with ranges of which none is there admits nobody, inside or outside.
fn no_range(mut world: World) -> Case {
    world.flags = FRONTEND_RANGES;
    let mut case = named("no source range", world.clone());
    case.drops(CLIENTS, opening(&world, world.client()).frame(), DropReason::SourceRange);
    let inside = opening(&world, world.client_inside());
    case.drops((Hook::Ingress, Interface::Thin), inside.frame(), DropReason::SourceRange);
    case
}

/// Who may not use a frontend does not hear whether anybody serves it.
fn ranges_come_first(mut world: World) -> Case {
    world.flags = FRONTEND_RANGES;
    world.backends[0].1 = 0;
    let mut case = named("source ranges of an empty frontend", world.clone());
    case.drops(CLIENTS, opening(&world, world.client()).frame(), DropReason::SourceRange);
    case
}
