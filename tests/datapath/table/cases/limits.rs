//! What a Service limits: who is skipped, who is turned away, and that a place is free again.

use std::net::SocketAddr;

use lb_common::{Algorithm, DropReason, Protocol};
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, socket},
    packet::{ACK, RST, SYN, Spec, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for algorithm in Algorithm::ALL {
                cases.push(all_full(family, protocol, algorithm));
            }
            cases.push(skipped_with_affinity(family, protocol));
            cases.push(rate_of_a_client(family, protocol));
            cases.push(rate_of_all(family, protocol));
        }
        cases.push(a_place_is_free_again(family));
    }
    cases
}

fn limited(family: Family, protocol: Protocol, places: usize, limits: [u32; 3]) -> World {
    World { limits, ..World::new(family, protocol, &vec![Place::Local; places]) }
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {}: {what}", world.family, world.protocol, world.algorithm.name()), world)
}

fn client(case: &Case, host: u8, port: u16) -> SocketAddr {
    socket(case.world.family, Interface::Up0.number(), host, port)
}

fn opening(case: &Case, host: u8, port: u16) -> Spec {
    let (client, vip) = (client(case, host, port), case.world.vip(0));
    if case.world.protocol == Protocol::Tcp { tcp(SYN, client, vip) } else { udp(client, vip) }
}

fn comes_in(case: &mut Case, host: u8, port: u16, backend: usize) {
    let packet = opening(case, host, port);
    let out = packet.clone().dst(case.world.endpoint(backend)).ttl(63);
    case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), out, backend);
}

/// XDP drops as tc does: nobody is told.
fn comes_too_early(case: &mut Case, host: u8, port: u16, reason: DropReason) {
    let frame = opening(case, host, port).frame();
    case.drops((Hook::Xdp, Interface::Up0), frame.clone(), reason);
    case.drops(CLIENTS, frame, reason);
}

/// The only backend takes two; a flow that exists goes on.
fn all_full(family: Family, protocol: Protocol, algorithm: Algorithm) -> Case {
    let world = World { algorithm, ..limited(family, protocol, 1, [2, 0, 0]) };
    let mut case = named("the backend is full", world);
    comes_in(&mut case, 9, 40000, 0);
    comes_in(&mut case, 9, 40001, 0);
    let refused = opening(&case, 9, 40002);
    case.refuses_for(Interface::Up0, &refused, DropReason::BackendsFull);
    comes_in(&mut case, 9, 40001, 0);
    case.then(Step::Flows(2));
    case.load(0, if protocol == Protocol::Tcp { [0, 2, 0, 0, 0] } else { [2, 0, 2, 0, 0] });
    case
}

/// A client goes elsewhere when its backend is full, and stays there.
fn skipped_with_affinity(family: Family, protocol: Protocol) -> Case {
    let world = World { affinity: 100, ..limited(family, protocol, 2, [2, 0, 0]) };
    let mut case = named("a client's backend is full", world);
    for (port, backend) in [(40000, 0), (40001, 0), (40002, 1), (40003, 1)] {
        comes_in(&mut case, 9, port, backend);
    }
    let refused = opening(&case, 9, 40004);
    case.refuses_for(Interface::Up0, &refused, DropReason::BackendsFull);
    case
}

fn a_place_is_free_again(family: Family) -> Case {
    let mut case = named("a place is free again", limited(family, Protocol::Tcp, 1, [1, 0, 0]));
    comes_in(&mut case, 9, 40000, 0);
    let (client, vip, endpoint) = (client(&case, 9, 40000), case.world.vip(0), case.world.endpoint(0));
    let inside = (Hook::Ingress, Interface::Pod0);
    case.outwards(
        inside,
        &tcp(SYN | ACK, endpoint, client),
        Way::Out(Interface::Up0),
        tcp(SYN | ACK, vip, client).ttl(63),
        0,
    );
    let refused = opening(&case, 9, 40001);
    case.refuses_for(Interface::Up0, &refused, DropReason::BackendsFull);
    case.inwards(CLIENTS, &tcp(RST, client, vip), Way::Out(Interface::Pod0), tcp(RST, client, endpoint).ttl(63), 0);
    comes_in(&mut case, 9, 40001, 0);
    case.load(0, [0, 1, 1, 1, 1]);
    case
}

/// Two a second of one client, others are not held up; what was not used is not saved up.
fn rate_of_a_client(family: Family, protocol: Protocol) -> Case {
    let mut case = named("a client's new connections", limited(family, protocol, 1, [0, 2, 0]));
    comes_in(&mut case, 9, 40000, 0);
    comes_in(&mut case, 9, 40001, 0);
    comes_too_early(&mut case, 9, 40002, DropReason::ClientRate);
    comes_in(&mut case, 9, 40001, 0);
    if family == Family::V4 {
        comes_in(&mut case, 8, 40000, 0);
    } else {
        // The hosts of a network of IPv6 are one client.
        comes_too_early(&mut case, 8, 40000, DropReason::ClientRate);
    }
    case.then(Step::Wait(20));
    comes_in(&mut case, 9, 40003, 0);
    comes_in(&mut case, 9, 40004, 0);
    comes_too_early(&mut case, 9, 40005, DropReason::ClientRate);
    case
}

fn rate_of_all(family: Family, protocol: Protocol) -> Case {
    let mut case = named("a frontend's new connections", limited(family, protocol, 1, [0, 0, 3]));
    for host in 7..10 {
        comes_in(&mut case, host, 40000, 0);
    }
    comes_too_early(&mut case, 6, 40000, DropReason::FrontendRate);
    case.then(Step::Wait(1));
    for host in 7..10 {
        comes_in(&mut case, host, 40001, 0);
    }
    comes_too_early(&mut case, 6, 40000, DropReason::FrontendRate);
    case
}
