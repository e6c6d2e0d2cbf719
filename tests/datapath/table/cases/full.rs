//! Full buckets and used-up source ports: who has to go, who is turned away, and that the counts follow.

use std::net::SocketAddr;

use lb_common::{DropReason, Port, Protocol, hash};
use lb_ebpf::env::Hook;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Interface, Way},
    packet::{ACK, FIN, SYN, Spec, tcp, udp},
    world::{BUCKETS, FLOW_SEED, Place, World},
};

const INSIDE: (Hook, Interface) = (Hook::Ingress, Interface::Pod0);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        cases.push(all_established(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(order_of_states(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(expired_first(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(udp_answered(World::new(family, Protocol::Udp, &[Place::Local])));
        cases.push(udp_one_way(World::new(family, Protocol::Udp, &[Place::Local])));
        for protocol in PROTOCOLS {
            cases.push(ports_used_up(World::new(family, protocol, &[Place::Remote])));
            cases.push(ports_by_endpoint(World::new(family, protocol, &[Place::Remote, Place::Remote])));
            cases.push(two_frontends(World { frontends: 2, ..World::new(family, protocol, &[Place::Local]) }));
        }
    }
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?}: {what}", world.family, world.protocol), world)
}

/// Clients whose flows share a bucket, and one bucket has eight ways.
fn crowd(world: &World) -> Vec<SocketAddr> {
    let bucket = |port| hash::flow(FLOW_SEED, &world.client().ip().into(), Port::new(port), 0) as u32 & (BUCKETS - 1);
    let wanted = bucket(10000);
    (10000..)
        .filter(|port| bucket(*port) == wanted)
        .take(12)
        .map(|port| SocketAddr::new(world.client().ip(), port))
        .collect()
}

fn opening(world: &World, client: SocketAddr) -> Spec {
    if world.protocol == Protocol::Tcp { tcp(SYN, client, world.vip(0)) } else { udp(client, world.vip(0)) }
}

fn comes(case: &mut Case, packet: &Spec) {
    let out = packet.clone().dst(case.world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, packet, Way::Out(Interface::Pod0), out, 0);
}

fn answers(case: &mut Case, packet: &Spec) {
    let packet = packet.clone().src(case.world.endpoint(0));
    let out = packet.clone().src(case.world.vip(0)).ttl(63);
    case.outwards(INSIDE, &packet, Way::Out(Interface::Up0), out, 0);
}

fn opens(case: &mut Case, client: SocketAddr) {
    let packet = opening(&case.world, client);
    comes(case, &packet);
}

fn accepts(case: &mut Case, client: SocketAddr) {
    let vip = case.world.vip(0);
    answers(case, &if case.world.protocol == Protocol::Tcp { tcp(SYN | ACK, vip, client) } else { udp(vip, client) });
}

fn speaks(case: &mut Case, client: SocketAddr) {
    let packet = tcp(ACK, client, case.world.vip(0));
    comes(case, &packet);
}

fn establishes(case: &mut Case, client: SocketAddr) {
    opens(case, client);
    accepts(case, client);
    speaks(case, client);
}

fn turned_away(case: &mut Case, client: SocketAddr, reason: DropReason) {
    let frame = opening(&case.world, client).frame();
    case.drops((Hook::Xdp, Interface::Up0), frame.clone(), reason);
    case.drops(CLIENTS, frame, reason);
}

/// Who speaks keeps its place; after half a minute of silence the most silent goes.
fn all_established(world: World) -> Case {
    let clients = crowd(&world);
    let mut case = named("a bucket of established flows", world);
    for client in &clients[..8] {
        establishes(&mut case, *client);
    }
    turned_away(&mut case, clients[8], DropReason::TableFull);
    case.load(0, [8, 0, 8, 0, 0]);
    case.then(Step::Wait(10));
    for client in &clients[..7] {
        speaks(&mut case, *client);
    }
    case.then(Step::Wait(19));
    turned_away(&mut case, clients[8], DropReason::TableFull);
    case.then(Step::Wait(1));
    establishes(&mut case, clients[8]);
    case.load(0, [8, 0, 9, 1, 0]);
    case.then(Step::Flows(8));
    let gone = tcp(ACK, clients[7], case.world.vip(0));
    case.refuses_for(Interface::Up0, &gone, DropReason::NoFlow);
    turned_away(&mut case, clients[9], DropReason::TableFull);
    case
}

/// Unanswered before unacknowledged before closing; established never.
fn order_of_states(world: World) -> Case {
    let clients = crowd(&world);
    let mut case = named("who goes first", world);
    for client in &clients[..5] {
        establishes(&mut case, *client);
    }
    establishes(&mut case, clients[5]);
    let fin = tcp(FIN | ACK, clients[5], case.world.vip(0));
    comes(&mut case, &fin);
    let fin = tcp(FIN | ACK, case.world.vip(0), clients[5]);
    answers(&mut case, &fin);
    opens(&mut case, clients[6]);
    accepts(&mut case, clients[6]);
    opens(&mut case, clients[7]);
    case.load(0, [6, 1, 7, 1, 0]);
    establishes(&mut case, clients[8]);
    case.load(0, [7, 0, 8, 2, 0]);
    establishes(&mut case, clients[9]);
    case.load(0, [7, 0, 9, 3, 0]);
    establishes(&mut case, clients[10]);
    case.load(0, [8, 0, 10, 3, 0]);
    turned_away(&mut case, clients[11], DropReason::TableFull);
    case
}

/// A closed flow whose time is over goes before a fresh one that is unanswered.
fn expired_first(world: World) -> Case {
    let clients = crowd(&world);
    let mut case = named("expired flows go first", world);
    establishes(&mut case, clients[0]);
    let fin = tcp(FIN | ACK, clients[0], case.world.vip(0));
    comes(&mut case, &fin);
    let fin = tcp(FIN | ACK, case.world.vip(0), clients[0]);
    answers(&mut case, &fin);
    case.then(Step::Wait(11));
    for client in &clients[1..8] {
        opens(&mut case, *client);
    }
    case.load(0, [0, 7, 1, 1, 0]);
    opens(&mut case, clients[8]);
    case.load(0, [0, 8, 1, 1, 0]);
    // Now all are alike: the first of them, as they all came in one second.
    opens(&mut case, clients[9]);
    case.load(0, [0, 8, 1, 2, 0]);
    case.then(Step::Flows(8));
    case
}

/// Answered exchanges keep their place for half a minute.
fn udp_answered(world: World) -> Case {
    let clients = crowd(&world);
    let mut case = named("a bucket of answered exchanges", world);
    for client in &clients[..8] {
        opens(&mut case, *client);
        accepts(&mut case, *client);
    }
    turned_away(&mut case, clients[8], DropReason::TableFull);
    case.then(Step::Wait(29));
    turned_away(&mut case, clients[8], DropReason::TableFull);
    case.then(Step::Wait(1));
    opens(&mut case, clients[8]);
    case.load(0, [8, 0, 9, 1, 0]);
    case
}

/// Unanswered exchanges make way at once.
fn udp_one_way(world: World) -> Case {
    let clients = crowd(&world);
    let mut case = named("a bucket of unanswered exchanges", world);
    for client in &clients[..7] {
        opens(&mut case, *client);
        accepts(&mut case, *client);
    }
    opens(&mut case, clients[7]);
    opens(&mut case, clients[8]);
    case.load(0, [8, 0, 9, 1, 0]);
    accepts(&mut case, clients[8]);
    turned_away(&mut case, clients[9], DropReason::TableFull);
    case
}

/// The tables' node has one source port towards each endpoint: who was not answered gives it up to the next, and who was answered (and has
/// acknowledged that) keeps it until its flow is over.
fn ports_used_up(world: World) -> Case {
    let client = |port| SocketAddr::new(world.client().ip(), port);
    let mut case = named("source ports are used up", world.clone());
    let out = |packet: &Spec| packet.clone().src(world.peer(0)).dst(world.endpoint(0)).ttl(63);
    let leaves = Way::Out(Interface::Up1);
    let comes = |case: &mut Case, hook, packet: &Spec| case.inwards(hook, packet, leaves, out(packet), 0);
    for port in [40000, 40001] {
        comes(&mut case, CLIENTS, &opening(&world, client(port)));
        case.then(Step::Flows(1));
    }
    let (tcp_is, vip) = (world.protocol == Protocol::Tcp, world.vip(0));
    case.load(0, if tcp_is { [0, 1, 0, 1, 0] } else { [1, 0, 2, 1, 0] });
    let answer = if tcp_is { tcp(SYN | ACK, vip, vip) } else { udp(vip, vip) };
    let came = answer.clone().src(world.endpoint(0)).dst(world.peer(0));
    let seen = answer.dst(client(40001)).ttl(63);
    case.outwards((Hook::Xdp, Interface::Up1), &came, Way::Out(Interface::Up0), seen, 0);
    if tcp_is {
        comes(&mut case, CLIENTS, &tcp(ACK, client(40001), vip));
    }
    turned_away(&mut case, client(40002), DropReason::SnatPortsExhausted);
    case.then(Step::Flows(1));
    case.then(Step::Wait(8001));
    case.then(Step::Sweep([0, 1, 0]));
    comes(&mut case, (Hook::Xdp, Interface::Up0), &opening(&world, client(40002)));
    case
}

/// Each endpoint has its own source ports.
fn ports_by_endpoint(world: World) -> Case {
    let mut case = named("one source port to two endpoints", world.clone());
    for (number, port) in [(0, 40000), (1, 40001)] {
        let client = SocketAddr::new(world.client().ip(), port);
        let out = opening(&world, client).src(world.peer(number)).dst(world.endpoint(number)).ttl(63);
        case.inwards(CLIENTS, &opening(&world, client), Way::Out(Interface::Up1), out, number);
        let answer = if world.protocol == Protocol::Tcp { tcp(SYN | ACK, client, client) } else { udp(client, client) };
        let came = answer.clone().src(world.endpoint(number)).dst(world.peer(number));
        let out = answer.src(world.vip(0)).ttl(63);
        case.outwards((Hook::Xdp, Interface::Up1), &came, Way::Out(Interface::Up0), out, number);
    }
    case
}

/// One client and port, two frontends, one local endpoint: answers would be for either, so the second flow comes from the node.
fn two_frontends(world: World) -> Case {
    let (client, endpoint) = (world.client(), world.endpoint(0));
    let mut case = named("two frontends of one endpoint", world.clone());
    let masked = world.masked_peer(0);
    for (frontend, peer) in [(0, client), (1, masked)] {
        let index = frontend as usize;
        let packet = opening(&world, client).dst(world.vip(frontend));
        let out = packet.clone().src(peer).dst(endpoint).ttl(63);
        case.inwards(CLIENTS, &packet, Way::Out(Interface::Pod0), out, index);
        let answer = if world.protocol == Protocol::Tcp { tcp(SYN | ACK, endpoint, peer) } else { udp(endpoint, peer) };
        let out = answer.clone().src(world.vip(frontend)).dst(client).ttl(63);
        case.outwards(INSIDE, &answer, Way::Out(Interface::Up0), out, index);
        case.load(index, [1, 0, 1, 0, 0]);
    }
    case.then(Step::Flows(2));
    case
}
