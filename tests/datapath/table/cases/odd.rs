//! Packets that are cut, wrong or not for us: nothing panics, no flow is made of them, and what is not ours stays as it was.

use lb_common::{DropReason, Protocol};
use lb_ebpf::{
    env::Hook,
    flow::Direction::{In, Out},
};

use super::{CLIENTS, FAMILIES, PROTOCOLS, lives::travel};
use crate::table::{
    case::{Case, Step},
    net::{Family, Interface, Way},
    packet::{ACK, Body, FIN, Part, RST, SYN, Shape, Spec, packet, tcp, udp},
    world::{Place, World},
};

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let world = World::new(family, protocol, &[Place::Remote]);
            for shape in [Shape::Plain, Shape::ManyOptions, Shape::DoubleVlan] {
                cases.push(cut_on_the_way(world.clone(), shape));
            }
            cases.push(ends_early(world.clone(), Shape::Plain));
            cases.push(ends_early(world.clone(), Shape::ManyOptions));
            cases.push(ends_before_its_ports(world.clone()));
            cases.push(malformed_answers(world.clone()));
            cases.push(vlan(world.clone()));
            cases.push(others_ports(world));
        }
        cases.push(wrong_tcp(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(wrong_udp(World::new(family, Protocol::Udp, &[Place::Local])));
        cases.push(wrong_ip(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(no_flow(World::new(family, Protocol::Tcp, &[Place::Local])));
        cases.push(cut_errors(World::new(family, Protocol::Udp, &[Place::Local])));
    }
    cases.push(no_checksum());
    cases.push(other_protocols());
    cases
}

fn named(what: &str, world: World) -> Case {
    Case::new(format!("{:?} {:?}: {what}", world.family, world.protocol), world)
}

/// A packet that opens a flow.
fn opening(world: &World) -> Spec {
    match world.protocol {
        Protocol::Tcp => tcp(SYN, world.client(), world.vip(0)).payload(5),
        Protocol::Udp => udp(world.client(), world.vip(0)),
    }
}

/// Every prefix: the IP header promises more than there is, so it is not for us to say what it would have been.
fn cut_on_the_way(world: World, shape: Shape) -> Case {
    let frame = opening(&world).shape(shape).frame();
    let mut case = named(&format!("every prefix, {shape:?}"), world);
    for length in 0..frame.len() {
        for hook in HOOKS {
            case.passes((hook, Interface::Up0), &frame[..length]);
        }
    }
    case
}

/// Every prefix with an IP header that tells the truth: without ports it is nobody's, without the rest of the header malformed.
fn ends_early(world: World, shape: Shape) -> Case {
    let packet = opening(&world).shape(shape);
    let frame = packet.frame();
    let header = if world.protocol == Protocol::Tcp { 20 } else { 8 };
    // UDP has a length of its own, to its end.
    let complete = if world.protocol == Protocol::Tcp { packet.l4() + header } else { frame.len() };
    let least = packet.l3() + if world.family == Family::V4 { 20 } else { 40 };
    let mut case = named(&format!("ends early, {shape:?}"), world);
    for length in least..complete {
        let cut = with_ip_length(&packet, length);
        for hook in HOOKS {
            if length < packet.l4() + 4 {
                case.passes((hook, Interface::Up0), cut.clone());
            } else {
                case.drops((hook, Interface::Up0), cut.clone(), DropReason::Malformed);
            }
        }
    }
    case
}

/// The IP packet ends before the transport header does, and the frame goes on: what looks like ports is padding. In IPv4 a whole packet's
/// lengths tell, of a first fragment there is only this.
fn ends_before_its_ports(world: World) -> Case {
    let (shape, part) = match world.family {
        Family::V4 => (Shape::Plain, Part::First),
        Family::V6 => (Shape::ManyOptions, Part::Whole),
    };
    let packet = opening(&world).payload(32).shape(shape).part(part);
    let mut case = named("ends before its ports", world.clone());
    let network = if world.family == Family::V4 { 20 } else { 40 };
    for end in [packet.l3() + network, packet.l4(), packet.l4() + 4, packet.l4() + 7] {
        let bytes = end - packet.l3();
        let (at, value) = if world.family == Family::V4 { (2, bytes) } else { (4, bytes - 40) };
        // IPv6: nothing is a jumbogram's length.
        let value = value.max(usize::from(at == 4)) as u16;
        let frame = patched(&packet, packet.l3() + at, &value.to_be_bytes());
        case.drops(CLIENTS, frame, DropReason::Malformed);
    }
    case
}

/// The first bytes of a packet's frame, with an IP header that says so.
fn with_ip_length(packet: &Spec, length: usize) -> Vec<u8> {
    let mut frame = packet.frame()[..length].to_vec();
    let bytes = length - packet.l3();
    let (at, value) = if packet.src.is_ipv4() { (2, bytes) } else { (4, bytes - 40) };
    // The header's checksum is not looked at: the kernel's stack does that, or the next router.
    frame[packet.l3() + at..packet.l3() + at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    frame
}

/// An answer of a known flow is ours even if it is wrong; of an unknown one it is not.
fn malformed_answers(world: World) -> Case {
    let mut case = named("malformed answers", world.clone());
    let at = (Hook::Ingress, Interface::Up1);
    let answer = match world.protocol {
        Protocol::Tcp => tcp(SYN | ACK, world.endpoint(0), world.peer(0)),
        Protocol::Udp => udp(world.endpoint(0), world.peer(0)),
    };
    let cut = with_ip_length(&answer, answer.l4() + 6);
    case.passes(at, cut.clone());
    case.passes(at, answer.clone().part(Part::First).frame());
    let first = |a, b| if world.protocol == Protocol::Tcp { tcp(SYN, a, b) } else { udp(a, b) };
    travel(&mut case, In, first, 0);
    case.drops(at, cut, DropReason::Malformed);
    travel(&mut case, Out, |a, b| if world.protocol == Protocol::Tcp { tcp(SYN | ACK, a, b) } else { udp(a, b) }, 0);
    case
}

/// A tag in the packet would travel on with it: XDP leaves it to tc, where the kernel has taken one tag out of the packet, and we take out
/// another. What has three goes on.
fn vlan(world: World) -> Case {
    let packet = opening(&world);
    let mut case = named("VLAN tags", world.clone());
    case.defers((Hook::Xdp, Interface::Up0), &packet.clone().shape(Shape::Vlan));
    case.then(Step::Flows(1));
    let out = packet.clone().src(world.peer(0)).dst(world.endpoint(0)).ttl(63);
    case.inwards(CLIENTS, &packet, Way::Out(Interface::Up1), out.clone(), 0);
    case.inwards(CLIENTS, &packet.clone().shape(Shape::Vlan), Way::Out(Interface::Up1), out, 0);
    case.then(Step::Flows(1));
    case.passes(CLIENTS, packet.shape(Shape::DoubleVlan).frame());
    case
}

/// Other ports, the other protocol, other addresses, and at egress everything that goes to a frontend.
fn others_ports(world: World) -> Case {
    let (client, vip) = (world.client(), world.vip(0));
    let other_port = std::net::SocketAddr::new(vip.ip(), 81);
    let other_address = std::net::SocketAddr::new(world.endpoint(0).ip(), vip.port());
    let other_protocol: fn(_, _) -> Spec = if world.protocol == Protocol::Tcp { udp } else { |a, b| tcp(SYN, a, b) };
    let packets = [
        opening(&world).dst(other_port),
        opening(&world).dst(other_address),
        opening(&world).src(vip).dst(client),
        opening(&world).src(world.endpoint(0)).dst(client),
        other_protocol(client, vip),
    ];
    let mut case = named("not a frontend's", world.clone());
    for packet in packets {
        for shape in [Shape::Plain, Shape::ManyOptions, Shape::Padded, Shape::Vlan] {
            for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
                case.passes((hook, Interface::Up0), packet.clone().shape(shape).frame());
            }
        }
    }
    case.passes((Hook::Egress, Interface::Up0), opening(&world).frame());
    case
}

fn patched(packet: &Spec, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Data offsets that point into the header, or behind the packet.
fn wrong_tcp(world: World) -> Case {
    let packet = opening(&world);
    let mut case = named("wrong data offset", world);
    for offset in [0, 1, 4, 7, 15] {
        for hook in HOOKS {
            let frame = patched(&packet, packet.l4() + 12, &[offset << 4]);
            case.drops((hook, Interface::Up0), frame, DropReason::Malformed);
        }
    }
    case
}

/// Lengths below the header's, and beyond the IP packet's.
fn wrong_udp(world: World) -> Case {
    let packet = opening(&world);
    let mut case = named("wrong length", world);
    for length in [0_u16, 7, 29, 65535] {
        for hook in HOOKS {
            let frame = patched(&packet, packet.l4() + 4, &length.to_be_bytes());
            case.drops((hook, Interface::Up0), frame, DropReason::Malformed);
        }
    }
    case
}

/// IP headers that contradict themselves or the frame.
fn wrong_ip(world: World) -> Case {
    let packet = opening(&world);
    let v4 = world.family == Family::V4;
    let first: &[u8] = if v4 { &[0x44, 0x4f, 0x65, 0x05] } else { &[0x40, 0x50, 0x00] };
    let mut case = named("wrong IP header", world);
    for hook in HOOKS {
        let at = (hook, Interface::Up0);
        for byte in first {
            case.passes(at, patched(&packet, 14, &[*byte]));
        }
        let lengths: &[u16] = if v4 { &[19, 46, 65535] } else { &[26, 65535] };
        for length in lengths {
            case.passes(at, patched(&packet, if v4 { 16 } else { 18 }, &length.to_be_bytes()));
        }
    }
    case
}

/// What opens no connection and belongs to none is answered with a reset, unless it is one.
fn no_flow(world: World) -> Case {
    let (client, vip) = (world.client(), world.vip(0));
    let mut case = named("belongs to no flow", world);
    for flags in [RST, RST | ACK, SYN | RST] {
        for hook in HOOKS {
            case.drops((hook, Interface::Up0), tcp(flags, client, vip).frame(), DropReason::NoFlow);
        }
    }
    for flags in [ACK, SYN | ACK, FIN | ACK, FIN, 0] {
        for shape in [Shape::Plain, Shape::ManyOptions, Shape::Padded] {
            for payload in [0, 1, 1000] {
                let packet = tcp(flags, client, vip).shape(shape).payload(payload);
                case.refuses_for(Interface::Up0, &packet, DropReason::NoFlow);
            }
        }
    }
    case.then(Step::Flows(0));
    case
}

/// Every prefix of an ICMP error about a flow.
fn cut_errors(world: World) -> Case {
    let kind = if world.family == Family::V4 { (3, 3, 0) } else { (1, 4, 0) };
    let error = udp(world.vip(0), world.client()).error(world.client().ip(), kind, 500);
    let frame = error.frame();
    let mut case = named("every prefix of an error", world);
    travel(&mut case, In, udp, 0);
    for length in 0..frame.len() {
        for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
            case.passes((hook, Interface::Up0), &frame[..length]);
        }
    }
    case
}

/// UDP over IPv4 without a checksum stays without.
fn no_checksum() -> Case {
    let mut case = named("without a checksum", World::new(Family::V4, Protocol::Udp, &[Place::Remote]));
    for direction in [In, Out] {
        travel(&mut case, direction, |a, b| packet(Body::UdpNoSum, a, b).payload(9), 0);
    }
    let world = case.world.clone();
    let bare = |src, dst| packet(Body::UdpNoSum, src, dst).payload(9);
    let (came, out) = (bare(world.client(), world.vip(0)), bare(world.peer(0), world.endpoint(0)).ttl(63));
    case.inwards((Hook::Xdp, Interface::Up0), &came, Way::Out(Interface::Up1), out, 0);
    let error = bare(world.vip(0), world.client()).error(world.client().ip(), (3, 3, 0), 500);
    let out = bare(world.endpoint(0), world.peer(0)).error(world.peer(0).ip(), (3, 3, 0), 500).ttl(63);
    case.translates(CLIENTS, &error, Way::Out(Interface::Up1), out);
    case
}

/// Frames and protocols of which nobody here knows ports.
fn other_protocols() -> Case {
    let world = World::new(Family::V4, Protocol::Tcp, &[Place::Local]);
    let mut case = named("other protocols", world.clone());
    let (client, vip) = (world.client(), world.vip(0));
    for protocol in [2, 4, 41, 47, 50, 132, 255] {
        for hook in HOOKS {
            case.passes((hook, Interface::Up0), packet(Body::Other(protocol), client, vip).payload(40).frame());
        }
    }
    // ARP, LLDP, a length instead of a type.
    for ethertype in [[0x08, 0x06], [0x88, 0xcc], [0x00, 0x40]] {
        for hook in HOOKS {
            case.passes((hook, Interface::Up0), patched(&opening(&world), 12, &ethertype));
        }
    }
    case
}
