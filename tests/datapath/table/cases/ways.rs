//! What the routing table makes of a packet: every answer, at every hook; and what XDP leaves to tc.

use std::net::SocketAddr;

use lb_common::{DropReason, Protocol};
use lb_ebpf::{env::Hook, flow::Direction::In};

use super::{CLIENTS, FAMILIES, PROTOCOLS, lives::travel};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, ip},
    packet::{ACK, SYN, Shape, Spec, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let world = |place| World::new(family, protocol, &[place]);
            cases.push(refused("blackhole", world(Place::Hole), Interface::Up0, DropReason::NoRoute));
            cases.push(refused(
                "forwarding is off",
                world(Place::Local),
                Interface::Shut,
                DropReason::ForwardingDisabled,
            ));
            cases.push(no_route(world(Place::Nowhere)));
            cases.push(too_big(world(Place::Narrow)));
            cases.push(too_many(world(Place::Narrow)));
            cases.push(last_hop(world(Place::Local)));
            cases.push(last_hop(world(Place::Remote)));
            cases.push(last_hop_of_answers(world(Place::Remote)));
            cases.push(own_stack_spends_no_hop(world(Place::Own)));
            cases.push(no_backend(world(Place::Local)));
            cases.push(stale(world(Place::Local)));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {:?}: {what}", world.family, world.protocol, world.backends[0].0), world)
}

fn opening(world: &World) -> Spec {
    let (client, vip) = (world.client(), world.vip(0));
    if world.protocol == Protocol::Tcp { tcp(SYN, client, vip) } else { udp(client, vip) }
}

/// The way is found out after the flow was made: the next packet has the same flow, the counts have it once.
fn refused(what: &str, world: World, via: Interface, reason: DropReason) -> Case {
    let packet = opening(&world);
    let mut case = named(what, world.clone());
    case.defers((Hook::Xdp, via), &packet);
    case.drops_late((Hook::Ingress, via), &packet, reason);
    case.drops_late((Hook::Ingress, via), &packet, reason);
    made_once(&mut case);
    case
}

/// A flow that has got no packet through.
fn made_once(case: &mut Case) {
    case.then(Step::Flows(1));
    case.load(0, if case.world.protocol == Protocol::Tcp { [0, 1, 0, 0, 0] } else { [1, 0, 1, 0, 0] });
}

/// The stack says "unreachable" to the client: it sees the packet rewritten, as it would see one that is only routed.
fn no_route(world: World) -> Case {
    let packet = opening(&world);
    let mut case = named("no route", world.clone());
    case.defers((Hook::Xdp, Interface::Up0), &packet);
    case.inwards(CLIENTS, &packet, Way::Stack, packet.clone().dst(world.endpoint(0)), 0);
    case
}

/// The kinds of Weir's own errors.
fn too_big_kind(case: &Case) -> (u8, u8, u32) {
    if case.world.family == Family::V4 { (3, 4, 1280) } else { (2, 0, 1280) }
}

fn over(case: &Case) -> (u8, u8, u32) {
    if case.world.family == Family::V4 { (11, 0, 0) } else { (3, 0, 0) }
}

/// An error for the backend, about an answer of it, that is itself too big for the way there.
fn large_error(case: &Case) -> Spec {
    let (vip, client) = (case.world.vip(0), case.world.client());
    let answer = if case.world.protocol == Protocol::Tcp { tcp(ACK, vip, client) } else { udp(vip, client) };
    answer.payload(1400).error(client.ip(), too_big_kind(case), 1300)
}

/// One byte more than the way takes.
fn too_big(world: World) -> Case {
    let mut case = named("too big", world.clone());
    let headers = opening(&world).payload(0).ip().len();
    let fits = opening(&world).payload(1280 - headers);
    let large = opening(&world).payload(1281 - headers);
    for _ in 0..2 {
        case.defers((Hook::Xdp, Interface::Up0), &large);
        case.answers(CLIENTS, &large, DropReason::TooBig, too_big_kind(&case));
    }
    for shape in [Shape::Options, Shape::Padded] {
        case.answers(CLIENTS, &large.clone().shape(shape), DropReason::TooBig, too_big_kind(&case));
    }
    case.drops_late(CLIENTS, &large_error(&case), DropReason::TooBig);
    made_once(&mut case);
    let out = fits.clone().dst(world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, &fits, Way::Out(Interface::Thin), out, 0);
    case
}

/// Errors are limited in rate all together, but not that a packet is too big, and resets are not.
fn too_many(world: World) -> Case {
    const BURST: usize = 50;
    let mut case = named("too many errors", world.clone());
    let packet = opening(&world);
    let (last, large) = (packet.clone().ttl(1), packet.payload(1400));
    for _ in 0..2 {
        for _ in 0..BURST {
            case.answers(CLIENTS, &last, DropReason::TtlExceeded, over(&case));
        }
        for _ in 0..3 {
            case.drops_late(CLIENTS, &last, DropReason::TtlExceeded);
            case.answers(CLIENTS, &large, DropReason::TooBig, too_big_kind(&case));
            if world.protocol == Protocol::Tcp {
                let stray = tcp(ACK, SocketAddr::new(world.client().ip(), 9), world.vip(0));
                case.refuses_for(Interface::Up0, &stray, DropReason::NoFlow);
            }
        }
        case.then(Step::Wait(1));
    }
    made_once(&mut case);
    case
}

/// A time to live of 1 ends here, of 2 does not.
fn last_hop(world: World) -> Case {
    let mut case = named("time to live", world.clone());
    let packet = opening(&world);
    let way = if world.backends[0].0 == Place::Local { Interface::Pod0 } else { Interface::Up1 };
    for ttl in [0, 1] {
        case.defers((Hook::Xdp, Interface::Up0), &packet.clone().ttl(ttl));
        case.answers(CLIENTS, &packet.clone().ttl(ttl), DropReason::TtlExceeded, over(&case));
    }
    let many = packet.clone().shape(Shape::ManyOptions).ttl(1);
    if world.family == Family::V6 && world.protocol == Protocol::Tcp {
        // More headers than an answer quotes.
        case.drops_late(CLIENTS, &many, DropReason::TtlExceeded);
    } else {
        case.answers(CLIENTS, &many, DropReason::TtlExceeded, over(&case));
    }
    made_once(&mut case);
    let out = packet.clone().src(world.peer(0)).dst(world.endpoint(0)).ttl(1);
    case.inwards(CLIENTS, &packet.ttl(2), Way::Out(way), out, 0);
    case
}

fn last_hop_of_answers(world: World) -> Case {
    let protocol = world.protocol;
    let mut case = named("time to live of answers", world.clone());
    let first = |a, b| if protocol == Protocol::Tcp { tcp(SYN, a, b) } else { udp(a, b) };
    let answer = |a, b| if protocol == Protocol::Tcp { tcp(SYN | ACK, a, b) } else { udp(a, b) };
    travel(&mut case, In, first, 0);
    let packet = answer(world.endpoint(0), world.peer(0));
    case.defers((Hook::Xdp, Interface::Up1), &packet.clone().ttl(1));
    case.answers((Hook::Ingress, Interface::Up1), &packet.clone().ttl(1), DropReason::TtlExceeded, over(&case));
    // An error about an error is never sent.
    let router = ip(world.family, Interface::Up1.number(), 8);
    let error = first(world.peer(0), world.endpoint(0)).error(router, over(&case), 100).ttl(1);
    case.drops((Hook::Ingress, Interface::Up1), error.frame(), DropReason::TtlExceeded);
    made_once(&mut case);
    let out = answer(world.vip(0), world.client()).ttl(1);
    case.outwards((Hook::Xdp, Interface::Up1), &packet.ttl(2), Way::Out(Interface::Up0), out, 0);
    case
}

/// What the node's own stack takes, and what it sends, is not forwarded.
fn own_stack_spends_no_hop(world: World) -> Case {
    let mut case = named("no hop", world.clone());
    let packet = opening(&world).ttl(1);
    case.inwards(CLIENTS, &packet, Way::Stack, packet.clone().dst(world.endpoint(0)), 0);
    let answer = packet.clone().src(world.endpoint(0)).dst(world.client());
    let out = answer.clone().src(world.vip(0));
    case.outwards((Hook::Egress, Interface::Up0), &answer, Way::Stack, out, 0);
    case
}

fn no_backend(mut world: World) -> Case {
    world.backends[0].1 = 0;
    let packet = opening(&world);
    let mut case = named("nobody takes connections", world);
    case.refuses(Interface::Up0, &packet);
    case.then(Step::Weights(vec![1]));
    let out = packet.clone().dst(case.world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), out, 0);
    // Of those who keep their flows: drained, it still gets its own packets.
    case.then(Step::Weights(vec![0]));
    travel(
        &mut case,
        In,
        |a, b| if packet.body == crate::table::packet::Body::Udp { udp(a, b) } else { tcp(ACK, a, b) },
        0,
    );
    case
}

fn stale(mut world: World) -> Case {
    world.stale = true;
    let packet = opening(&world);
    let mut case = named("the selection table names nobody", world);
    for hook in [Hook::Xdp, Hook::Ingress] {
        case.drops((hook, Interface::Up0), packet.frame(), DropReason::StaleTable);
    }
    case
}
