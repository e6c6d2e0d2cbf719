//! `weir.dev/forwarding: dsr`: what goes to backends of other nodes as it came, and what comes from other nodes for backends of this one.

use std::net::SocketAddr;

use lb_common::{
    Algorithm, BackendState, DropReason, Protocol,
    dsr::{DEFAULT_PORT, OVERHEAD_V4, OVERHEAD_V6},
    service::FRONTEND_FORWARDS,
};
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, ip},
    packet::{ACK, Body, FIN, Part, RST, SYN, Shape, Spec, packet, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let world = |place| World { flags: FRONTEND_FORWARDS, ..World::new(family, protocol, &[place]) };
            for hook in [Hook::Ingress, Hook::Xdp] {
                for shape in [Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded] {
                    cases.push(sent(world(Place::Remote), hook, shape));
                }
            }
            for place in [Place::Local, Place::Own] {
                for shape in [Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded] {
                    cases.push(received(world(place), shape));
                }
            }
            cases.push(tagged(world(Place::Remote)));
            cases.push(forgotten(world(Place::Remote)));
            cases.push(used_again(world(Place::Remote)));
            cases.push(too_big(world(Place::Remote)));
            cases.push(out_of_time(world(Place::Remote)));
            cases.push(in_fragments(world(Place::Remote)));
            cases.push(error_for_another_node(world(Place::Remote)));
            cases.push(gone(world(Place::Remote)));
            cases.push(from_inside(world(Place::Remote)));
            cases.push(near(world(Place::Local)));
            cases.push(not_for_us(world(Place::Local)));
            cases.push(full(world(Place::Local)));
            for algorithm in [Algorithm::Maglev, Algorithm::IpHash, Algorithm::RoundRobin] {
                cases.push(picked_up(World { algorithm, ..world(Place::Remote) }));
            }
            cases.push(nobodys(world(Place::Local)));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {:?}: dsr: {what}", world.family, world.protocol, world.backends[0].0), world)
}

fn opening(world: &World) -> Spec {
    let (client, vip) = (world.client(), world.vip(0));
    if world.protocol == Protocol::Tcp { tcp(SYN, client, vip) } else { udp(client, vip) }
}

fn later(world: &World, flags: u8) -> Spec {
    let (client, vip) = (world.client(), world.vip(0));
    let more = if world.protocol == Protocol::Tcp { tcp(flags, client, vip) } else { udp(client, vip) };
    more.payload(100)
}

fn answer(world: &World) -> Spec {
    let (backend, client) = (world.endpoint(0), world.client());
    if world.protocol == Protocol::Tcp { tcp(SYN | ACK, backend, client) } else { udp(backend, client) }
}

/// What a packet becomes on its way to its backend's node.
fn outgoing(world: &World, packet: &Spec) -> Spec {
    let from = ip(world.family, Interface::Up1.number(), 2);
    packet.clone().ttl(packet.ttl - 1).carried(from, world.endpoint(0), world.vip(0).port(), world.protocol)
}

/// The same as it comes from another node.
fn incoming(world: &World, packet: &Spec) -> Spec {
    packet.carried(ip(world.family, Interface::Up0.number(), 8), world.endpoint(0), world.vip(0).port(), world.protocol)
}

fn forwards(case: &mut Case, packet: &Spec) {
    let out = outgoing(&case.world, packet);
    case.forwards(CLIENTS, packet, Way::Out(Interface::Up1), out);
}

fn sent(world: World, hook: Hook, shape: Shape) -> Case {
    let mut case = named(&format!("to another node, {hook:?}, {shape:?}"), world.clone());
    let packets = [opening(&world), later(&world, ACK), later(&world, ACK | FIN), later(&world, ACK)];
    for packet in packets.map(|packet| packet.shape(shape)) {
        let out = outgoing(&world, &packet);
        case.forwards((hook, Interface::Up0), &packet, Way::Out(Interface::Up1), out);
    }
    case.then(Step::Flows(1));
    case.load(0, [0; 5]);
    case
}

/// Who sees no answers forgets by what the client says.
fn forgotten(world: World) -> Case {
    let mut case = named("forgotten in time", world.clone());
    let stages: &[(&[u8], u32)] = match world.protocol {
        Protocol::Tcp => &[(&[SYN], 20), (&[SYN, ACK], 8000), (&[SYN, ACK, ACK | FIN], 120), (&[SYN, ACK, RST], 10)],
        Protocol::Udp => &[(&[0], 60)],
    };
    for (flags, seconds) in stages {
        for flags in *flags {
            forwards(&mut case, &later(&world, *flags));
        }
        case.then(Step::Wait(*seconds));
        case.then(Step::Sweep([1, 0, 0]));
        case.then(Step::Wait(1));
        case.then(Step::Sweep([0, 1, 0]));
    }
    case.load(0, [0; 5]);
    case
}

/// After a FIN the next SYN is another connection; before it, one that was lost on its way.
fn used_again(world: World) -> Case {
    let mut case = named("ports that are used again", world.clone());
    for packet in [opening(&world), opening(&world), later(&world, ACK), later(&world, ACK | FIN), opening(&world)] {
        forwards(&mut case, &packet);
        case.then(Step::Flows(1));
    }
    if world.protocol == Protocol::Tcp {
        case.then(Step::Wait(21));
        case.then(Step::Sweep([0, 1, 0]));
    }
    case
}

fn tagged(world: World) -> Case {
    let mut case = named("with a tag", world.clone());
    let packet = opening(&world).shape(Shape::Vlan);
    case.defers((Hook::Xdp, Interface::Up0), &packet);
    let out = outgoing(&world, &opening(&world));
    case.forwards(CLIENTS, &packet, Way::Out(Interface::Up1), out);
    case
}

fn too_big(world: World) -> Case {
    let mut case = named("larger than the way takes", world.clone());
    let overhead = if world.family == Family::V4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let room = (Interface::Up1.mtu() - overhead) as usize;
    let sized = |bytes: usize| {
        let empty = later(&world, ACK).payload(0).ip().len();
        later(&world, ACK).payload(bytes - empty)
    };
    forwards(&mut case, &opening(&world));
    forwards(&mut case, &sized(room));
    let kind = if world.family == Family::V4 { (3, 4, room as u32) } else { (2, 0, room as u32) };
    case.defers((Hook::Xdp, Interface::Up0), &sized(room + 1));
    case.answers(CLIENTS, &sized(room + 1), DropReason::TooBig, kind);
    case
}

fn out_of_time(world: World) -> Case {
    let mut case = named("without a hop left", world.clone());
    forwards(&mut case, &opening(&world));
    let kind = if world.family == Family::V4 { (11, 0, 0) } else { (3, 0, 0) };
    case.answers(CLIENTS, &later(&world, ACK).ttl(1), DropReason::TtlExceeded, kind);
    case
}

/// Fragments keep their number: who puts them together stands behind the other node, which gives them one.
fn in_fragments(world: World) -> Case {
    let mut case = named("in fragments", world.clone());
    let first = opening(&world).payload(64).part(Part::First);
    let rest = packet(Body::Other(world.protocol as u8), world.client(), world.vip(0)).payload(48).part(Part::Later);
    for fragment in [&first, &rest, &rest] {
        case.passes((Hook::Xdp, Interface::Up0), fragment.frame());
        forwards(&mut case, fragment);
    }
    case.drops(CLIENTS, rest.ttl(1).frame(), DropReason::TtlExceeded);
    case
}

/// A router complains of an answer that another node has sent.
fn error_for_another_node(world: World) -> Case {
    let mut case = named("an error about an answer", world.clone());
    let answered = answer(&world).src(world.vip(0)).dst(world.client()).payload(100);
    let kind = if world.family == Family::V4 { (3, 4, 1400) } else { (2, 0, 1400) };
    let error = answered.error(ip(world.family, Interface::Up0.number(), 8), kind, 2000);
    case.passes(CLIENTS, error.frame());
    forwards(&mut case, &opening(&world));
    forwards(&mut case, &error);
    case.drops(CLIENTS, error.ttl(1).frame(), DropReason::TtlExceeded);
    case
}

fn gone(world: World) -> Case {
    let mut case = named("a backend that is gone", world.clone());
    forwards(&mut case, &opening(&world));
    if world.protocol == Protocol::Tcp {
        forwards(&mut case, &later(&world, ACK));
        case.then(Step::Gone(0));
        case.refuses_for(Interface::Up0, &later(&world, ACK), DropReason::BackendGone);
    } else {
        case.then(Step::State(0, BackendState::Removed));
        case.then(Step::Sweep([0, 0, 1]));
    }
    case
}

/// Who is inside keeps its address towards every backend anyway.
fn from_inside(world: World) -> Case {
    let mut case = named("a client inside", world.clone());
    let came = opening(&world).src(world.client_inside());
    let out = came.clone().dst(world.endpoint(0)).ttl(63);
    case.inwards((Hook::Ingress, Interface::Thin), &came, Way::Out(Interface::Up1), out, 0);
    case
}

/// A local backend needs no other node.
fn near(world: World) -> Case {
    let mut case = named("a backend of this node", world.clone());
    let out = opening(&world).dst(world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, &opening(&world), Way::Out(Interface::Pod0), out, 0);
    case
}

fn received(world: World, shape: Shape) -> Case {
    let mut case = named(&format!("from another node, {shape:?}"), world.clone());
    let own = world.backends[0].0 == Place::Own;
    let (way, ttl) = if own { (Way::Stack, 64) } else { (Way::Out(Interface::Pod0), 63) };
    let arrives = |case: &mut Case, packet: Spec| {
        // What Ethernet's least length adds stands behind the datagram.
        let inner = packet.clone().shape(if shape == Shape::Padded { Shape::Plain } else { shape });
        let outer = incoming(&case.world, &inner).shape(if shape == Shape::Padded { shape } else { Shape::Plain });
        case.passes((Hook::Xdp, Interface::Up0), outer.frame());
        let out = inner.dst(case.world.endpoint(0)).ttl(ttl);
        case.inwards(CLIENTS, &outer, way, out, 0);
    };
    let leaves = |case: &mut Case, packet: Spec| {
        let out = packet.clone().src(case.world.vip(0));
        match own {
            true => case.outwards((Hook::Egress, Interface::Up0), &packet, Way::Stack, out, 0),
            false => {
                let at = (Hook::Ingress, Interface::Pod0);
                case.outwards(at, &packet, Way::Out(Interface::Up0), out.ttl(63), 0);
            }
        }
    };
    arrives(&mut case, opening(&world));
    leaves(&mut case, answer(&world));
    arrives(&mut case, later(&world, ACK));
    case.load(0, [1, 0, 1, 0, 0]);
    // The way may change: from here on it comes by itself.
    let direct = later(&world, ACK);
    case.inwards(CLIENTS, &direct, way, direct.clone().dst(world.endpoint(0)).ttl(ttl), 0);
    case.then(Step::Flows(1));
    if world.protocol == Protocol::Tcp {
        arrives(&mut case, later(&world, ACK | FIN));
        leaves(&mut case, answer(&world).dst(world.client()).payload(3));
        case.load(0, [1, 0, 1, 0, 0]);
    }
    case
}

/// Datagrams to that port that are no concern of ours.
fn not_for_us(world: World) -> Case {
    let mut case = named("datagrams of others", world.clone());
    let right = incoming(&world, &opening(&world));
    let changed = |at: usize, byte: u8| {
        let mut frame = right.frame();
        frame[right.l4() + 8 + at] = byte;
        frame
    };
    let other_protocol = if world.protocol == Protocol::Tcp { 17 } else { 6 };
    for (at, byte) in [(0, b'w'), (2, 2), (3, other_protocol), (5, 79), (7, 9)] {
        case.passes(CLIENTS, changed(at, byte));
    }
    // Another backend's address, and a pod that plays the node.
    let elsewhere = SocketAddr::new(ip(world.family, Interface::Up1.number(), 21), DEFAULT_PORT);
    case.passes(CLIENTS, right.clone().dst(elsewhere).frame());
    case.passes((Hook::Ingress, Interface::Thin), right.frame());
    // Cut short.
    for bytes in [8, 20] {
        let short = packet(Body::UdpNoSum, right.src, right.dst).payload(bytes);
        let payload = right.payload[..bytes].to_vec();
        case.passes(CLIENTS, Spec { payload, ..short }.frame());
    }
    case.then(Step::Flows(0));
    case
}

/// The node that has chosen has counted: what it sends is taken.
fn full(mut world: World) -> Case {
    world.limits[0] = 1;
    let mut case = named("a backend with as many connections as it may have", world.clone());
    for port in [40_000, 40_001] {
        let client = SocketAddr::new(world.client().ip(), port);
        let inner = opening(&world).src(client);
        let out = inner.clone().dst(world.endpoint(0)).ttl(63);
        case.inwards(CLIENTS, &incoming(&world, &inner), Way::Out(Interface::Pod0), out, 0);
    }
    case
}

/// A hash gives every node the same backend: what opens no connection goes where the others would send it.
fn picked_up(world: World) -> Case {
    let algorithm = world.algorithm;
    let mut case = named(&format!("a flow of another node's, {algorithm:?}"), world.clone());
    if world.protocol == Protocol::Udp {
        return case;
    }
    let packet = later(&world, ACK);
    if algorithm == Algorithm::RoundRobin {
        case.refuses_for(Interface::Up0, &packet, DropReason::NoFlow);
    } else {
        forwards(&mut case, &packet);
        forwards(&mut case, &later(&world, ACK | FIN));
    }
    case.then(Step::Flows(0));
    case.load(0, [0; 5]);
    case
}

/// Neither node knows it.
fn nobodys(world: World) -> Case {
    let mut case = named("of no flow", world.clone());
    if world.protocol == Protocol::Tcp {
        let inner = later(&world, ACK);
        case.answers_inner(Interface::Up0, &incoming(&world, &inner), DropReason::NoFlow, inner.refused());
    }
    case.then(Step::Flows(0));
    case
}
