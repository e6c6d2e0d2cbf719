//! What only memory can be made to show: locked buckets, headers out of reach, segmented packets, chosen source ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_agent::dataplane::Write;
use lb_common::{
    Backend, BackendState, DropReason, Port, Protocol, Traffic, backend::BACKEND_GONE, service::FRONTEND_FORWARDS,
};
use lb_ebpf::{
    env::{Event, Hook, Table},
    pipeline::{Action, Verdict},
    table::{self as flow_table, Key},
};

use crate::{
    frame::Frame,
    host::Memory,
    table::{
        net::{Family, Interface, socket},
        packet::{ACK, Body, FIN, Part, SYN, Shape, Spec, packet, tcp, udp},
        run::{Fate, Subject as _},
        verify,
        world::{Place, SNAT_PORT, World},
    },
};

fn start(protocol: Protocol, place: Place) -> (Memory, World) {
    let world = World::new(Family::V4, protocol, &[place]);
    let mut memory = Memory::new();
    world.make(1).iter().for_each(|write| memory.write(write));
    (memory, world)
}

fn send(memory: &mut Memory, via: Interface, packet: &Spec) -> (Verdict, Vec<u8>) {
    let mut frame = Frame::new(&packet.frame());
    (memory.verdict(Hook::Ingress, via, &mut frame), frame.bytes)
}

#[test]
fn a_locked_bucket_turns_openers_away_and_lets_others_pass() {
    for table in [Table::Forward, Table::Reply] {
        let (mut memory, world) = start(Protocol::Tcp, Place::Local);
        let (client, vip) = (world.client(), world.vip(0));
        memory.lock(table, true);
        let busy = Verdict::drop(DropReason::TableBusy);
        assert_eq!(send(&mut memory, Interface::Up0, &tcp(SYN, client, vip)).0, busy, "{table:?}");
        assert_eq!(memory.flows(), (0, 0, 0), "{table:?}: nothing is left of it");
        let load = memory.counters(0).load;
        assert_eq!((load.active, load.pending, load.closed), (0, 0, 0), "{table:?}");
        memory.lock(table, false);
        let pod = Verdict::interface(Interface::Pod0.number().into());
        assert_eq!(send(&mut memory, Interface::Up0, &tcp(SYN, client, vip)).0, pod);
        let answer = tcp(SYN | ACK, world.endpoint(0), client);
        assert_eq!(send(&mut memory, Interface::Pod0, &answer).0.action(), Action::Interface);
        assert_eq!(send(&mut memory, Interface::Up0, &tcp(ACK, client, vip)).0, pod);
        memory.lock(table, true);
        assert_eq!(send(&mut memory, Interface::Up0, &tcp(ACK, client, vip)).0, pod, "{table:?}: changes nothing");
        let fin = send(&mut memory, Interface::Up0, &tcp(FIN | ACK, client, vip)).0;
        assert_eq!(fin, if table == Table::Forward { busy } else { pod }, "{table:?}: changes the state");
        assert_eq!(memory.sweep().busy, 0, "a sweep that finds nothing to do takes no lock");
    }
}

#[test]
fn headers_out_of_reach_are_asked_for_and_change_nothing() {
    for family in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for shape in [Shape::Plain, Shape::ManyOptions] {
                let world = World::new(family, protocol, &[Place::Remote]);
                let packet = match protocol {
                    Protocol::Tcp => tcp(SYN, world.client(), world.vip(0)).payload(40),
                    Protocol::Udp => udp(world.client(), world.vip(0)),
                };
                let packet = packet.shape(shape);
                let headers = packet.l4() + if protocol == Protocol::Tcp { 20 } else { 8 };
                for reach in 0..packet.frame().len() {
                    let mut memory = Memory::new();
                    world.make(1).iter().for_each(|write| memory.write(write));
                    let mut frame = Frame { reach, ..Frame::new(&packet.frame()) };
                    let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut frame);
                    let expected = if reach < headers { Action::Truncated } else { Action::Interface };
                    assert_eq!(verdict.action(), expected, "{family:?} {protocol:?} {shape:?}, {reach} bytes in reach");
                    assert_eq!(memory.flows().0, usize::from(reach >= headers));
                    assert_eq!(frame.bytes == packet.frame(), reach < headers);
                }
            }
        }
    }
}

#[test]
fn a_packet_without_an_ethernet_header_is_as_good() {
    for (family, kind) in [(Family::V4, 0x0800), (Family::V6, 0x86dd)] {
        let world = World::new(family, Protocol::Udp, &[Place::Remote]);
        let mut memory = Memory::new();
        world.make(1).iter().for_each(|write| memory.write(write));
        let packet = udp(world.client(), world.vip(0));
        let mut frame = Frame { bare: Some(kind), ..Frame::new(&packet.ip()) };
        let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut frame);
        assert_eq!(verdict, Verdict::interface(Interface::Up1.number().into()));
        assert_eq!(frame.bytes, packet.src(world.peer(0)).dst(world.endpoint(0)).ttl(63).ip());
    }
}

/// What a world forwards to its other node, and what of that is for this one.
fn forwarding(family: Family, place: Place) -> (Memory, World) {
    let world = World { flags: FRONTEND_FORWARDS, ..World::new(family, Protocol::Udp, &[place]) };
    let mut memory = Memory::new();
    world.make(1).iter().for_each(|write| memory.write(write));
    (memory, world)
}

#[test]
fn a_packet_without_an_ethernet_header_is_given_one_with_the_datagram_around_it() {
    for (family, kind) in [(Family::V4, 0x0800_u16), (Family::V6, 0x86dd)] {
        let (mut memory, world) = forwarding(family, Place::Remote);
        let packet = udp(world.client(), world.vip(0));
        let mut frame = Frame { bare: Some(kind), ..Frame::new(&packet.ip()) };
        let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut frame);
        assert_eq!(verdict, Verdict::interface(Interface::Up1.number().into()));
        let from = world.masked_peer(0).ip();
        let outer = packet.ttl(63).carried(from, world.endpoint(0), 80, Protocol::Udp).seen_in(&frame.bytes);
        assert_eq!(frame.bytes[12..], outer.frame()[12..]);

        let (mut memory, world) = forwarding(family, Place::Local);
        let packet = udp(world.client(), world.vip(0));
        let outer = packet.carried(from, world.endpoint(0), 80, Protocol::Udp);
        let mut frame = Frame { bare: Some(kind), ..Frame::new(&outer.ip()) };
        let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut frame);
        assert_eq!(verdict, Verdict::interface(Interface::Pod0.number().into()));
        assert_eq!(frame.bytes[12..], packet.dst(world.endpoint(0)).ttl(63).frame()[12..]);
    }
}

#[test]
fn what_is_in_a_datagram_for_us_and_for_no_frontend_goes_nowhere() {
    let (mut memory, world) = forwarding(Family::V4, Place::Local);
    let other = SocketAddr::new(world.vip(0).ip(), 81);
    let from = world.masked_peer(0).ip();
    let outer = udp(world.client(), other).carried(from, world.endpoint(0), 80, Protocol::Udp);
    let (fate, _) = memory.run(Hook::Ingress, Interface::Up0, &outer.frame()).expect("a fate");
    assert_eq!((fate, memory.drops.get(&DropReason::StaleTable)), (Fate::Drop, Some(&1)));
    let twice = udp(world.client(), world.vip(0)).carried(from, world.endpoint(0), 80, Protocol::Udp);
    let twice = twice.carried(from, world.endpoint(0), 80, Protocol::Udp);
    let (fate, _) = memory.run(Hook::Ingress, Interface::Up0, &twice.frame()).expect("a fate");
    assert_eq!(fate, Fate::Next, "what is in it is for no frontend");
    assert_eq!(memory.flows(), (0, 0, 0));
}

/// Two nodes that hold each other for that of the backend: each packet goes there once, and not round and round.
#[test]
fn what_was_forwarded_is_not_forwarded_again() {
    let world =
        World { flags: FRONTEND_FORWARDS, ..World::new(Family::V4, Protocol::Udp, &[Place::Remote, Place::Local]) };
    let mut memory = Memory::new();
    world.make(1).iter().for_each(|write| memory.write(write));
    let packet = udp(world.client(), world.vip(0));
    assert_eq!(send(&mut memory, Interface::Up0, &packet).0, Verdict::interface(Interface::Up1.number().into()));
    assert_eq!(memory.flows(), (0, 0, 1));
    let outer = packet.carried(world.masked_peer(0).ip(), world.endpoint(1), 80, Protocol::Udp);
    assert_eq!(send(&mut memory, Interface::Up0, &outer).0, Verdict::interface(Interface::Pod0.number().into()));
    assert_eq!(memory.flows(), (1, 1, 0), "the other node knows better");
}

#[test]
fn a_segmented_packet_counts_as_what_goes_over_the_wire() {
    let (mut memory, world) = start(Protocol::Tcp, Place::Narrow);
    let (client, vip) = (world.client(), world.vip(0));
    assert_eq!(send(&mut memory, Interface::Up0, &tcp(SYN, client, vip)).0.action(), Action::Interface);
    let before = memory.counters(0).traffic;
    let packet = tcp(ACK, client, vip).payload(2500);
    let mut whole = Frame::new(&packet.frame());
    let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut whole);
    assert_eq!(verdict, Verdict::too_big(1280), "in one piece");
    let mut large = Frame { segments: (2, 1241), ..Frame::new(&packet.frame()) };
    let verdict = memory.verdict(Hook::Ingress, Interface::Up0, &mut large);
    assert_eq!(verdict, Verdict::too_big(1280), "one byte too many in each");
    assert_eq!(memory.counters(0).traffic, before);
    let mut segmented = Frame { segments: (3, 1000), ..Frame::new(&packet.frame()) };
    assert_eq!(memory.verdict(Hook::Ingress, Interface::Up0, &mut segmented).action(), Action::Interface);
    // As after a datagram was taken off it: how many there are nobody says.
    let mut uncounted = Frame { segments: (0, 1000), ..Frame::new(&packet.frame()) };
    assert_eq!(memory.verdict(Hook::Ingress, Interface::Up0, &mut uncounted).action(), Action::Interface);
    let (before, bytes) = (
        Traffic { packets_in: before.packets_in + 3, bytes_in: before.bytes_in + 2500 + 3 * 40, ..before },
        2500 + 3 * 40,
    );
    let expected = Traffic { packets_in: before.packets_in + 3, bytes_in: before.bytes_in + bytes, ..before };
    assert_eq!(memory.counters(0).traffic, expected);
    verify::checksums(&segmented.bytes).expect("checksums");
}

#[test]
fn source_ports_start_anywhere_and_are_all_used_once() {
    for offset in [0, 1, 2, 1000, u32::MAX - 1, u32::MAX] {
        let (mut memory, world) = start(Protocol::Udp, Place::Remote);
        memory.limits.snat_last = memory.limits.snat_first + 2;
        let mut ports = Vec::new();
        for client in 0..4 {
            memory.random.borrow_mut().push_back(offset);
            match asks(&mut memory, &world, 40000 + client) {
                Ok(port) => {
                    answers(&mut memory, &world, port);
                    ports.push(port);
                }
                Err(verdict) => assert_eq!(verdict, Verdict::drop(DropReason::SnatPortsExhausted)),
            }
        }
        ports.sort_unstable();
        assert_eq!(ports, [61000, 61001, 61002], "from offset {offset}");
        assert_eq!(memory.flows(), (3, 3, 0));
    }
}

#[test]
fn source_ports_of_sockets_of_the_node_are_left_alone() {
    for family in [Family::V4, Family::V6] {
        let world = World::new(family, Protocol::Udp, &[Place::Remote]);
        let mut memory = Memory::new();
        memory.limits.snat_last = memory.limits.snat_first + 3;
        world.make(1).iter().for_each(|write| memory.write(write));
        let source = world.backend(0, 1, BackendState::Ready).source.ip();
        memory.sockets = [61000, 61001, 61003].map(|port| SocketAddr::new(source, port)).into();
        assert_eq!(asks(&mut memory, &world, 40000), Ok(61002), "{family:?}");
        answers(&mut memory, &world, 61002);
        let exhausted = Verdict::drop(DropReason::SnatPortsExhausted);
        assert_eq!(asks(&mut memory, &world, 40001), Err(exhausted), "{family:?}");
        memory.sockets.clear();
        assert!(asks(&mut memory, &world, 40002).is_ok(), "{family:?}");
    }
}

#[test]
fn a_source_port_is_taken_from_whoever_was_not_answered_for_longest() {
    let (mut memory, world) = start(Protocol::Udp, Place::Remote);
    memory.limits.snat_last = memory.limits.snat_first + 3;
    for client in 0..4 {
        assert_eq!(asks(&mut memory, &world, 40000 + client), Ok(61000 + client));
        memory.clock += 1;
    }
    // The one that has waited longest is answered: the next one has to go.
    answers(&mut memory, &world, 61000);
    assert_eq!(asks(&mut memory, &world, 40004), Ok(61001));
    assert_eq!((memory.flows(), memory.counters(0).load.closed), ((4, 4, 0), 1));
    for port in [61001, 61002, 61003] {
        answers(&mut memory, &world, port);
    }
    assert_eq!(asks(&mut memory, &world, 40005), Err(Verdict::drop(DropReason::SnatPortsExhausted)));
    assert_eq!((memory.flows(), memory.counters(0).load.closed), ((4, 4, 0), 1));
}

#[test]
fn a_flood_of_syns_leaves_source_ports_to_who_was_answered() {
    let (mut memory, world) = start(Protocol::Tcp, Place::Remote);
    memory.limits.snat_last = memory.limits.snat_first + 3;
    for client in 0..4 {
        let client = socket(Family::V4, 10, 9, 40000 + client);
        send(&mut memory, Interface::Up0, &tcp(SYN, client, world.vip(0)));
    }
    let peer = |port| SocketAddr::new(world.peer(0).ip(), port);
    send(&mut memory, Interface::Up1, &tcp(SYN | ACK, world.endpoint(0), peer(61000)));
    // Far more than there are ports: each takes that of one that was not answered either.
    for client in 0..1000 {
        let client = socket(Family::V4, 10, 8, 1000 + client);
        let verdict = send(&mut memory, Interface::Up0, &tcp(SYN, client, world.vip(0))).0;
        assert_eq!(verdict.action(), Action::Interface, "{client}");
    }
    let client = socket(Family::V4, 10, 9, 40000);
    let (verdict, frame) = send(&mut memory, Interface::Up0, &tcp(ACK, client, world.vip(0)));
    assert_eq!((verdict.action(), source_port(&frame)), (Action::Interface, 61000), "its connection is made");
    let load = memory.counters(0).load;
    assert_eq!((load.active, load.pending, load.connections), (1, 3, 1));
}

#[test]
fn where_replies_have_no_room_who_was_not_answered_makes_way() {
    let world = World { frontends: 2, ..World::new(Family::V4, Protocol::Tcp, &[Place::Local]) };
    let mut memory = Memory::new();
    world.make(1).iter().for_each(|write| memory.write(write));
    let clients = clients_whose_replies_meet(&memory, &world, 10);
    let pod = Verdict::interface(Interface::Pod0.number().into());
    let opens = |memory: &mut Memory, client| {
        let (verdict, frame) = send(memory, Interface::Up0, &tcp(SYN, client, world.vip(1)));
        assert_eq!((verdict, source_port(&frame)), (pod, client.port()), "the backend sees the client's own address");
    };
    let answered = |memory: &mut Memory, client| {
        send(memory, Interface::Pod0, &tcp(SYN | ACK, world.endpoint(0), client));
        send(memory, Interface::Up0, &tcp(ACK, client, world.vip(1)));
    };
    for client in &clients[..7] {
        opens(&mut memory, *client);
        answered(&mut memory, *client);
    }
    opens(&mut memory, clients[7]);
    opens(&mut memory, clients[8]);
    assert_eq!(memory.flows(), (8, 8, 0), "one has made way");
    answered(&mut memory, clients[8]);
    let load = memory.counters(1).load;
    assert_eq!((load.active, load.pending), (8, 0), "and it was none that was answered");
    let (verdict, frame) = send(&mut memory, Interface::Up0, &tcp(SYN, clients[9], world.vip(1)));
    assert_eq!((verdict.action(), source_port(&frame)), (Action::Interface, SNAT_PORT), "nobody can: another bucket");
}

/// Clients whose reply entries share a bucket, while of their forward entries at most four do.
fn clients_whose_replies_meet(memory: &Memory, world: &World, count: usize) -> Vec<SocketAddr> {
    let bucket = |port, id| {
        flow_table::Place::of(&memory.limits, &Key { addr: world.client().ip().into(), id, port: Port::new(port) })
            .bucket()
    };
    let mut forward = BTreeMap::<u32, usize>::new();
    let mut fits = |port: &u16| {
        let together = forward.entry(bucket(*port, 1)).or_default();
        *together += 1;
        *together <= 4
    };
    let meet = (10000..).filter(|port| bucket(*port, 0) == bucket(10000, 0)).filter(|port| fits(port));
    meet.take(count).map(|port| SocketAddr::new(world.client().ip(), port)).collect()
}

/// A datagram of a client; from which source port it went on.
fn asks(memory: &mut Memory, world: &World, client: u16) -> Result<u16, Verdict> {
    let client = SocketAddr::new(world.client().ip(), client);
    let (verdict, frame) = send(memory, Interface::Up0, &udp(client, world.vip(0)));
    if verdict.action() == Action::Interface { Ok(source_port(&frame)) } else { Err(verdict) }
}

/// The backend's answer to a source port.
fn answers(memory: &mut Memory, world: &World, port: u16) {
    let peer = SocketAddr::new(world.peer(0).ip(), port);
    assert_eq!(send(memory, Interface::Up1, &udp(world.endpoint(0), peer)).0.action(), Action::Interface);
}

fn source_port(frame: &[u8]) -> u16 {
    let l4 = if frame[12..14] == [0x08, 0x00] { 34 } else { 54 };
    u16::from_be_bytes([frame[l4], frame[l4 + 1]])
}

#[test]
fn rare_events_are_told() {
    let (mut memory, world) = start(Protocol::Tcp, Place::Local);
    let client = SocketAddr::new(world.client().ip(), 40000);
    send(&mut memory, Interface::Up0, &tcp(SYN, client, world.vip(0)));
    send(&mut memory, Interface::Up0, &tcp(SYN, client, world.vip(0)));
    let stranger = SocketAddr::new(client.ip(), 40001);
    send(&mut memory, Interface::Up0, &tcp(ACK, stranger, world.vip(0)));
    let told = memory.events.borrow();
    assert_eq!(*told, [Event::NewFlow(0), Event::Drop(DropReason::NoFlow as u32)]);
}

#[test]
fn without_resets_the_unknown_is_dropped_and_a_gone_backend_keeps_its_flows() {
    let (mut memory, world) = start(Protocol::Tcp, Place::Local);
    memory.resets = false;
    let (client, vip) = (world.client(), world.vip(0));
    let pod = Verdict::interface(Interface::Pod0.number().into());
    assert_eq!(send(&mut memory, Interface::Up0, &tcp(ACK, client, vip)).0, Verdict::drop(DropReason::NoFlow));
    assert_eq!(send(&mut memory, Interface::Up0, &tcp(SYN, client, vip)).0, pod);
    let answer = tcp(SYN | ACK, world.endpoint(0), client);
    assert_eq!(send(&mut memory, Interface::Pod0, &answer).0.action(), Action::Interface);
    let backend = world.backend(0, 1, BackendState::Removed);
    memory.write(&Write::PutBackend(0, Backend { flags: backend.flags | BACKEND_GONE, ..backend }));
    assert_eq!(send(&mut memory, Interface::Up0, &tcp(SYN, client, vip)).0, pod);
    assert_eq!(send(&mut memory, Interface::Up0, &tcp(ACK, client, vip)).0, pod);
    assert_eq!(memory.counters(0).load.active, 1);
}

#[test]
fn an_answer_is_never_larger_than_what_it_answers() {
    for family in [Family::V4, Family::V6] {
        let world = World::new(family, Protocol::Tcp, &[Place::Local]);
        for shape in [Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded] {
            let mut memory = Memory::new();
            world.make(1).iter().for_each(|write| memory.write(write));
            let packet = tcp(ACK, world.client(), world.vip(0)).shape(shape);
            let (fate, after) = memory.run(Hook::Ingress, Interface::Up0, &packet.frame()).expect("a verdict");
            assert_eq!(fate, Fate::Out(Some(Interface::Up0)), "{family:?} {shape:?}");
            assert!(after.len() <= packet.frame().len(), "{family:?} {shape:?}: {} bytes", after.len());
        }
    }
}

#[test]
fn fragments_of_two_clients_never_get_one_number() {
    for family in [Family::V4, Family::V6] {
        let world = World::new(family, Protocol::Udp, &[Place::Remote]);
        let mut memory = Memory::new();
        memory.limits.snat_last = memory.limits.snat_first + 100;
        world.make(1).iter().for_each(|write| memory.write(write));
        let clients = [8, 9].map(|host| socket(family, 10, host, 40000));
        let mut numbers = BTreeSet::new();
        for round in 0..20 {
            for client in clients {
                let first = udp(client, world.vip(0)).part(Part::First).id(round);
                let later = packet(Body::Other(17), client, world.vip(0)).payload(32).part(Part::Later).id(round);
                let [a, b] =
                    [first, later].map(|part| part.clone().id_of(&send(&mut memory, Interface::Up0, &part).1).id);
                assert_eq!(a, b, "{family:?}: one packet has one number");
                assert!(numbers.insert(a), "{family:?}: {a} twice");
            }
        }
    }
}
