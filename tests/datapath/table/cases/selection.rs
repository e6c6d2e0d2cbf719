//! Which backend a new flow gets: all algorithms, weights, session affinity. What chance decides is tested in memory, where chance
//! can be told.

use std::net::SocketAddr;

use lb_agent::balance::tables::build;
use lb_common::{Algorithm, BackendState, Port, Protocol, hash};

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way, socket},
    packet::{SYN, Spec, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for algorithm in Algorithm::ALL {
                cases.push(only_one(family, protocol, algorithm));
            }
            let world = |algorithm| with(family, protocol, algorithm, &[100, 100, 100]);
            cases.push(in_order(
                "round robin",
                with(family, protocol, Algorithm::RoundRobin, &[5, 1, 1]),
                &[0, 1, 2, 0, 1, 2, 0],
            ));
            let smooth = with(family, protocol, Algorithm::WeightedRoundRobin, &[5, 1, 1]);
            cases.push(in_order("smooth weighted round robin", smooth, &[0, 0, 1, 0, 2, 0, 0, 0, 0, 1]));
            cases.push(by_client(world(Algorithm::IpHash)));
            cases.push(by_tuple(world(Algorithm::Maglev)));
            cases.push(tables_change(world(Algorithm::RoundRobin)));
            cases.push(affinity(family, protocol));
        }
    }
    cases
}

fn with(family: Family, protocol: Protocol, algorithm: Algorithm, weights: &[u16]) -> World {
    let backends = weights.iter().map(|weight| (Place::Local, *weight)).collect();
    World { algorithm, backends, ..World::new(family, protocol, &[]) }
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?} {}: {what}", world.family, world.protocol, world.algorithm.name()), world)
}

/// A new flow of this client goes to this backend.
fn chooses(case: &mut Case, client: SocketAddr, backend: usize) {
    let packet = |a, b| -> Spec { if case.world.protocol == Protocol::Tcp { tcp(SYN, a, b) } else { udp(a, b) } };
    let (came, out) = (packet(client, case.world.vip(0)), packet(client, case.world.endpoint(backend)).ttl(63));
    case.inwards(CLIENTS, &came, Way::Out(Interface::Pod0), out, backend);
}

fn client(case: &Case, host: u8, port: u16) -> SocketAddr {
    socket(case.world.family, Interface::Up0.number(), host, port)
}

/// All but one have weight 0.
fn only_one(family: Family, protocol: Protocol, algorithm: Algorithm) -> Case {
    let mut case = named("weight 0 gets nothing", with(family, protocol, algorithm, &[0, 7, 0]));
    for port in 40000..40012 {
        let client = client(&case, 10, port);
        chooses(&mut case, client, 1);
    }
    case.load(0, [0; 5]);
    case.load(2, [0; 5]);
    case
}

fn in_order(what: &str, world: World, order: &[usize]) -> Case {
    let mut case = named(what, world);
    for (port, backend) in (40000..).zip(order) {
        let client = client(&case, 10, port);
        chooses(&mut case, client, *backend);
        // A packet of a flow that exists chooses nothing.
        chooses(&mut case, client, *backend);
    }
    case
}

/// The same backend for all ports of a client.
fn by_client(world: World) -> Case {
    let table = build(world.algorithm.table(), &world.entries(0), 251);
    let mut case = named("by the client's address", world);
    let mut chosen = std::collections::BTreeSet::new();
    for host in 100..110 {
        for port in [40000, 50000] {
            let client = client(&case, host, port);
            let slot = hash::by_client(&client.ip().into(), table.len);
            let backend = table.slots[slot as usize] as usize;
            chosen.insert(backend);
            chooses(&mut case, client, backend);
        }
    }
    assert!(chosen.len() > 1, "ten clients on one backend show nothing");
    case
}

fn by_tuple(world: World) -> Case {
    let table = build(world.algorithm.table(), &world.entries(0), 251);
    let mut case = named("by the 5-tuple", world.clone());
    let mut chosen = std::collections::BTreeSet::new();
    let vip = world.vip(0);
    for port in 40000..40012 {
        let client = client(&case, 10, port);
        let (from, to) = (client.ip().into(), vip.ip().into());
        let protocol = world.protocol as u8;
        let slot = hash::by_tuple(&from, Port::new(port), &to, Port::new(vip.port()), protocol, table.len);
        let backend = table.slots[slot as usize] as usize;
        chosen.insert(backend);
        chooses(&mut case, client, backend);
    }
    assert!(chosen.len() > 1, "twelve flows on one backend show nothing");
    case
}

/// Flows stay where they are when the tables change; new ones follow the new tables.
fn tables_change(world: World) -> Case {
    let mut case = named("tables change", world);
    let [a, b, c] = [40000, 40001, 40002].map(|port| client(&case, 10, port));
    chooses(&mut case, a, 0);
    chooses(&mut case, b, 1);
    case.then(Step::Weights(vec![0, 0, 100]));
    chooses(&mut case, a, 0);
    chooses(&mut case, b, 1);
    chooses(&mut case, c, 2);
    case
}

/// A client stays for 100 s after its last new flow, while its backend takes connections.
fn affinity(family: Family, protocol: Protocol) -> Case {
    let world = World { affinity: 100, ..with(family, protocol, Algorithm::RoundRobin, &[100, 100, 100]) };
    let mut case = named("session affinity", world);
    let (one, other) = (|case: &Case, port| client(case, 10, port), |case: &Case, port| client(case, 11, port));
    let first = one(&case, 40000);
    chooses(&mut case, first, 0);
    let same = one(&case, 40001);
    chooses(&mut case, same, 0);
    let second = other(&case, 40000);
    chooses(&mut case, second, 1);
    case.then(Step::Wait(99));
    let within = one(&case, 40002);
    chooses(&mut case, within, 0);
    case.then(Step::Wait(99));
    let extended = one(&case, 40003);
    chooses(&mut case, extended, 0);
    case.then(Step::Wait(100));
    let over = one(&case, 40004);
    chooses(&mut case, over, 2);
    case.then(Step::State(2, BackendState::Draining));
    let elsewhere = one(&case, 40005);
    chooses(&mut case, elsewhere, 0);
    let again = one(&case, 40006);
    chooses(&mut case, again, 0);
    case.then(Step::State(0, BackendState::Removed));
    let gone = one(&case, 40007);
    chooses(&mut case, gone, 1);
    case
}
