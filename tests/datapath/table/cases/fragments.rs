//! Packets in fragments: the others follow the first one, in both directions, and those that come before it are nobody's.

use std::net::SocketAddr;

use lb_common::{DropReason, Protocol};
use lb_ebpf::{
    env::Hook,
    flow::Direction::{self, In, Out},
};

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Interface, Way},
    packet::{ACK, Body, Part, SYN, Shape, Spec, packet, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for place in [Place::Local, Place::Remote] {
                cases.push(in_order(World::new(family, protocol, &[place])));
            }
            cases.push(too_early(World::new(family, protocol, &[Place::Local])));
            cases.push(too_early(World { cluster: true, ..World::new(family, protocol, &[Place::Local]) }));
            cases.push(too_late(World::new(family, protocol, &[Place::Local])));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {:?}: {what}", world.family, world.protocol, world.backends[0].0), world)
}

fn opening(world: &World, src: SocketAddr, dst: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN, src, dst) } else { udp(src, dst) }
}

fn answer(world: &World, src: SocketAddr, dst: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN | ACK, src, dst) } else { udp(src, dst) }
}

/// What has no ports.
fn later(world: &World, src: SocketAddr, dst: SocketAddr) -> Spec {
    packet(Body::Other(world.protocol as u8), src, dst).payload(48).part(Part::Later)
}

/// A fragment on its way, which XDP leaves to tc.
fn travels(case: &mut Case, direction: Direction, packet: impl Fn(&World, SocketAddr, SocketAddr) -> Spec) {
    let world = case.world.clone();
    let (client, vip, endpoint, peer) = (world.client(), world.vip(0), world.endpoint(0), world.peer(0));
    let inside = if world.backends[0].0.is_local() { Interface::Pod0 } else { Interface::Up1 };
    match direction {
        In => {
            let came = packet(&world, client, vip);
            case.passes((Hook::Xdp, Interface::Up0), came.frame());
            case.inwards(CLIENTS, &came, Way::Out(inside), packet(&world, peer, endpoint).ttl(63), 0);
        }
        Out => {
            let came = packet(&world, endpoint, peer);
            case.passes((Hook::Xdp, inside), came.frame());
            case.outwards(
                (Hook::Ingress, inside),
                &came,
                Way::Out(Interface::Up0),
                packet(&world, vip, client).ttl(63),
                0,
            );
        }
    }
}

fn in_order(world: World) -> Case {
    let mut case = named("fragments in order", world);
    for shape in [Shape::Plain, Shape::Options, Shape::Padded] {
        travels(&mut case, In, |world, a, b| opening(world, a, b).payload(64).shape(shape).part(Part::First));
        travels(&mut case, In, |world, a, b| later(world, a, b).shape(shape));
        travels(&mut case, In, |world, a, b| later(world, a, b).payload(9).shape(shape));
        travels(&mut case, Out, |world, a, b| answer(world, a, b).payload(64).shape(shape).part(Part::First).id(9));
        travels(&mut case, Out, |world, a, b| later(world, a, b).shape(shape).id(9));
    }
    case.then(Step::Flows(1));
    case
}

/// Where the whole address is ours, a fragment without its first one is dropped; elsewhere it may be for somebody beside us.
fn too_early(world: World) -> Case {
    let whole = world.cluster;
    let what = if whole { "of a cluster's address" } else { "of another's address" };
    let mut case = named(&format!("a fragment before its first one, {what}"), world.clone());
    let early = later(&world, world.client(), world.vip(0));
    case.passes((Hook::Xdp, Interface::Up0), early.frame());
    if whole {
        case.drops(CLIENTS, early.frame(), DropReason::Fragment);
    } else {
        case.passes(CLIENTS, early.frame());
    }
    travels(&mut case, In, |world, a, b| opening(world, a, b).part(Part::First));
    case.passes(CLIENTS, later(&world, world.client(), world.endpoint(0)).frame());
    travels(&mut case, In, later);
    case
}

/// Nobody waits for a fragment for longer than half a minute, and one that has no hop left is told of to nobody.
fn too_late(world: World) -> Case {
    let mut case = named("a fragment that comes too late", world.clone());
    travels(&mut case, In, |world, a, b| opening(world, a, b).part(Part::First));
    case.drops(CLIENTS, later(&world, world.client(), world.vip(0)).ttl(1).frame(), DropReason::TtlExceeded);
    case.then(Step::Wait(30));
    travels(&mut case, In, later);
    case.then(Step::Wait(1));
    case.passes(CLIENTS, later(&world, world.client(), world.vip(0)).frame());
    case
}
