//! Echo requests: answered at an address that is a Service's alone, by tc, and by nobody else.

use std::net::SocketAddr;

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES};
use crate::table::{
    case::Case,
    net::{Family, Interface},
    packet::{Body, Part, Shape, Spec, packet},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let world = World { echo: true, ..World::new(family, Protocol::Tcp, &[Place::Local]) };
        cases.push(answered(world.clone()));
        cases.push(left_alone(world));
        cases.push(of_others(World::new(family, Protocol::Tcp, &[Place::Local])));
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?}: {what}", world.family), world)
}

/// Request and reply.
fn kinds(world: &World) -> [u8; 2] {
    if world.family == Family::V4 { [8, 0] } else { [128, 129] }
}

fn asks(world: &World, from: SocketAddr) -> Spec {
    packet(Body::Echo(kinds(world)[0]), from, world.vip(0)).payload(56).ttl(9)
}

fn replies(case: &mut Case, at: (Hook, Interface), request: &Spec) {
    let [to, from] = request.macs;
    let answer = Spec { macs: [from, to], ..packet(Body::Echo(kinds(&case.world)[1]), request.dst, request.src) };
    let answer = Spec { payload: request.payload.clone(), shape: request.shape, ..answer };
    case.replies(at, request.frame(), answer.frame());
}

/// Of any size, from outside and from a pod; XDP leaves it to tc.
fn answered(world: World) -> Case {
    let mut case = named("an echo request", world.clone());
    for payload in [0, 1, 56, 1400] {
        let request = asks(&world, world.client()).payload(payload);
        case.passes((Hook::Xdp, Interface::Up0), request.frame());
        replies(&mut case, CLIENTS, &request);
    }
    replies(&mut case, (Hook::Ingress, Interface::Thin), &asks(&world, world.client_inside()));
    replies(&mut case, CLIENTS, &asks(&world, world.client()).shape(Shape::Padded));
    case
}

/// With options, in fragments, from no host, at egress, and what is no request.
fn left_alone(world: World) -> Case {
    let mut case = named("what is like an echo request", world.clone());
    let request = asks(&world, world.client());
    case.passes((Hook::Egress, Interface::Up0), request.frame());
    case.passes(CLIENTS, request.clone().shape(Shape::Options).frame());
    case.passes(CLIENTS, request.clone().part(Part::First).frame());
    case.passes(CLIENTS, packet(Body::Echo(kinds(&world)[1]), world.client(), world.vip(0)).frame());
    let many = if world.family == Family::V4 { "224.0.0.1:0" } else { "[ff02::1]:0" };
    let none = if world.family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
    for nobody in [many, none] {
        case.passes(CLIENTS, asks(&world, nobody.parse().expect("a socket")).frame());
    }
    case
}

/// To an address that may be a host's.
fn of_others(world: World) -> Case {
    let mut case = named("an echo request to another's address", world.clone());
    case.passes(CLIENTS, asks(&world, world.client()).frame());
    case
}
