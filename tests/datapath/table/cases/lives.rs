//! Lives of flows: what each packet does to the backend's active, pending, connections, closed and resets.

use lb_common::{BackendState, DropReason, Protocol};
use lb_ebpf::{
    env::Hook,
    flow::Direction::{self, In, Out},
};

use super::{CLIENTS, FAMILIES};
use crate::table::{
    case::{Case, Step},
    net::{Interface, Way},
    packet::{ACK, FIN, RST, SYN, Spec, tcp, udp},
    world::{Place, World},
};

type Line = (Direction, u8, [u64; 5]);

/// TCP: direction, flags, and the counts afterwards.
const LIVES: &[(&str, &[Line])] = &[
    (
        "the client closes first, the backend goes on for a while",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [0, 0, 1, 1, 0]),
            (In, ACK, [0, 0, 1, 1, 0]),
        ],
    ),
    (
        "the backend closes first, the client goes on for a while",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [0, 0, 1, 1, 0]),
            (Out, ACK, [0, 0, 1, 1, 0]),
            (In, FIN | ACK, [0, 0, 1, 1, 0]),
        ],
    ),
    (
        "the backend closes before the client's ACK",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [0, 0, 1, 1, 0]),
        ],
    ),
    (
        "the client closes with its first ACK",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [0, 0, 1, 1, 0]),
        ],
    ),
    (
        "SYN and SYN-ACK are sent again",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, SYN, [1, 0, 1, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (In, SYN, [1, 0, 1, 0, 0]),
        ],
    ),
    ("the client resets before the answer", &[(In, SYN, [0, 1, 0, 0, 0]), (In, RST, [0, 0, 0, 1, 1])]),
    (
        "the backend refuses, the client tries again",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, RST | ACK, [0, 0, 0, 1, 1]),
            (In, SYN, [0, 1, 0, 1, 1]),
            (Out, SYN | ACK, [1, 0, 1, 1, 1]),
        ],
    ),
    (
        "the client resets, twice",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (In, RST | ACK, [0, 0, 1, 1, 1]),
            (In, RST, [0, 0, 1, 1, 1]),
        ],
    ),
    (
        "the backend resets a connection that is half closed",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, RST, [0, 0, 1, 1, 1]),
        ],
    ),
    (
        "a reset after both FINs is none",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [0, 0, 1, 1, 0]),
            (In, RST, [0, 0, 1, 1, 0]),
        ],
    ),
    (
        "ports are used again while the last connection is closing",
        &[
            (In, SYN, [0, 1, 0, 0, 0]),
            (Out, SYN | ACK, [1, 0, 1, 0, 0]),
            (In, FIN | ACK, [1, 0, 1, 0, 0]),
            (Out, FIN | ACK, [0, 0, 1, 1, 0]),
            (In, SYN, [0, 1, 1, 1, 0]),
            (Out, SYN | ACK, [1, 0, 2, 1, 0]),
            (In, FIN | ACK, [1, 0, 2, 1, 0]),
            (Out, FIN | ACK, [0, 0, 2, 2, 0]),
        ],
    ),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for place in [Place::Local, Place::Remote] {
            for (name, lines) in LIVES {
                let mut case =
                    Case::new(format!("{family:?} {place:?}: {name}"), World::new(family, Protocol::Tcp, &[place]));
                for (direction, flags, load) in *lines {
                    travel(&mut case, *direction, |a, b| tcp(*flags, a, b), 0);
                    case.load(0, *load);
                    case.then(Step::Flows(1));
                }
                cases.push(case);
            }
            cases.extend(
                [Protocol::Tcp, Protocol::Udp].map(|protocol| removed(World::new(family, protocol, &[place, place]))),
            );
            cases.push(gone(World::new(family, Protocol::Tcp, &[place, place])));
            cases.push(gone_and_asked_again(World::new(family, Protocol::Tcp, &[place, place])));
            cases.push(unhealthy(World::new(family, Protocol::Tcp, &[place, place])));
            cases.push(udp_times(World::new(family, Protocol::Udp, &[place])));
            cases.push(tcp_times(World::new(family, Protocol::Tcp, &[place])));
            cases.push(frontend_removed(World::new(family, Protocol::Tcp, &[place])));
        }
    }
    cases
}

/// One packet of the only client's flow with a backend.
pub(crate) fn travel(
    case: &mut Case,
    direction: Direction,
    packet: impl Fn(std::net::SocketAddr, std::net::SocketAddr) -> Spec,
    backend: usize,
) {
    let (client, vip) = (case.world.client(), case.world.vip(0));
    let (endpoint, peer) = (case.world.endpoint(backend), case.world.peer(backend));
    let inside = if case.world.backends[backend].0.is_local() { Interface::Pod0 } else { Interface::Up1 };
    match direction {
        In => {
            let out = packet(peer, endpoint).ttl(63);
            case.inwards(CLIENTS, &packet(client, vip), Way::Out(inside), out, backend);
        }
        Out => {
            let out = packet(vip, client).ttl(63);
            case.outwards((Hook::Ingress, inside), &packet(endpoint, peer), Way::Out(Interface::Up0), out, backend);
        }
    }
}

/// A flow's backend is removed, but not gone: TCP keeps it once it is open, an unanswered SYN and UDP go elsewhere.
fn removed(world: World) -> Case {
    let protocol = world.protocol;
    let place = world.backends[0].0;
    let mut case = Case::new(format!("{:?} {protocol:?} {place:?}: the backend is removed", world.family), world);
    let first = |a, b| if protocol == Protocol::Tcp { tcp(SYN, a, b) } else { udp(a, b) };
    travel(&mut case, In, first, 0);
    case.then(Step::Weights(vec![0, 100]));
    case.then(Step::State(0, BackendState::Removed));
    travel(&mut case, In, first, 1);
    let open = if protocol == Protocol::Tcp { [0, 1, 0, 0, 0] } else { [1, 0, 1, 0, 0] };
    case.load(1, open);
    case.load(0, if protocol == Protocol::Tcp { [0, 0, 0, 1, 0] } else { [0, 0, 1, 1, 0] });
    if protocol == Protocol::Tcp {
        travel(&mut case, Out, |a, b| tcp(SYN | ACK, a, b), 1);
        case.then(Step::State(1, BackendState::Removed));
        travel(&mut case, In, |a, b| tcp(ACK, a, b), 1);
        case.load(1, [1, 0, 1, 0, 0]);
    } else {
        case.then(Step::State(1, BackendState::Removed));
        case.then(Step::Sweep([0, 0, 1]));
        case.load(1, [0, 0, 1, 1, 0]);
    }
    case
}

fn establish(case: &mut Case) {
    travel(case, In, |a, b| tcp(SYN, a, b), 0);
    travel(case, Out, |a, b| tcp(SYN | ACK, a, b), 0);
    travel(case, In, |a, b| tcp(ACK, a, b), 0);
    case.then(Step::Weights(vec![0, 100]));
}

/// A client whose backend is gone hears of it with its next packet, and may come again. If the backend is still there after all, it
/// hears so too: its answers meet the client's resets.
fn gone(world: World) -> Case {
    let mut case = Case::new(format!("{:?} {:?}: the backend is gone", world.family, world.backends[0].0), world);
    let (client, vip) = (case.world.client(), case.world.vip(0));
    establish(&mut case);
    case.then(Step::State(0, BackendState::Removed));
    travel(&mut case, In, |a, b| tcp(ACK, a, b), 0);
    case.load(0, [1, 0, 1, 0, 0]);
    case.then(Step::Gone(0));
    case.refuses_for(Interface::Up0, &tcp(ACK, client, vip).payload(10), DropReason::BackendGone);
    case.load(0, [0, 0, 1, 1, 1]);
    case.refuses_for(Interface::Up0, &tcp(FIN | ACK, client, vip), DropReason::BackendGone);
    travel(&mut case, Out, |a, b| tcp(ACK, a, b), 0);
    travel(&mut case, In, |a, b| tcp(RST, a, b), 0);
    case.load(0, [0, 0, 1, 1, 1]);
    case.then(Step::Flows(1));
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 1);
    case.load(1, [0, 1, 0, 0, 0]);
    case.then(Step::Flows(1));
    case
}

/// A client that opens a new connection where it had one with a backend that is gone is sent to another.
fn gone_and_asked_again(world: World) -> Case {
    let place = world.backends[0].0;
    let mut case =
        Case::new(format!("{:?} {place:?}: the backend is gone, its client comes again", world.family), world);
    establish(&mut case);
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    case.then(Step::Gone(0));
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 1);
    case.load(0, [0, 0, 1, 1, 0]);
    case.load(1, [0, 1, 0, 0, 0]);
    case.then(Step::Flows(1));
    case
}

/// A client that asks an unhealthy backend again is sent to another, unless that one has answered already.
fn unhealthy(world: World) -> Case {
    let mut case = Case::new(format!("{:?} {:?}: the backend is unhealthy", world.family, world.backends[0].0), world);
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    case.then(Step::Weights(vec![0, 100]));
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    case.then(Step::State(0, BackendState::Unhealthy));
    // No client asks again sooner; a SYN of the same second is the one that XDP has left to tc.
    case.then(Step::Wait(1));
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 1);
    case.load(0, [0, 0, 0, 1, 0]);
    case.load(1, [0, 1, 0, 0, 0]);
    travel(&mut case, Out, |a, b| tcp(SYN | ACK, a, b), 1);
    case.then(Step::State(1, BackendState::Unhealthy));
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 1);
    case.load(1, [1, 0, 1, 0, 0]);
    case
}

fn udp_times(world: World) -> Case {
    let mut case = Case::new(format!("UDP {:?} {:?}: answered lives longer", world.family, world.backends[0].0), world);
    travel(&mut case, In, udp, 0);
    case.then(Step::Wait(30));
    case.then(Step::Sweep([1, 0, 0]));
    case.then(Step::Wait(1));
    case.then(Step::Sweep([0, 1, 0]));
    case.load(0, [0, 0, 1, 1, 0]);
    travel(&mut case, In, udp, 0);
    travel(&mut case, Out, udp, 0);
    case.then(Step::Wait(60));
    case.then(Step::Sweep([1, 0, 0]));
    case.load(0, [1, 0, 2, 1, 0]);
    travel(&mut case, Out, udp, 0);
    case.then(Step::Wait(61));
    case.then(Step::Sweep([0, 1, 0]));
    case.load(0, [0, 0, 2, 2, 0]);
    case
}

fn tcp_times(world: World) -> Case {
    let mut case = Case::new(format!("TCP {:?} {:?}: times of states", world.family, world.backends[0].0), world);
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    case.then(Step::Wait(20));
    case.then(Step::Sweep([1, 0, 0]));
    case.then(Step::Wait(1));
    case.then(Step::Sweep([0, 1, 0]));
    case.load(0, [0, 0, 0, 1, 0]);
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    travel(&mut case, Out, |a, b| tcp(SYN | ACK, a, b), 0);
    travel(&mut case, In, |a, b| tcp(ACK, a, b), 0);
    case.then(Step::Wait(8000));
    case.then(Step::Sweep([1, 0, 0]));
    travel(&mut case, In, |a, b| tcp(FIN | ACK, a, b), 0);
    travel(&mut case, Out, |a, b| tcp(FIN | ACK, a, b), 0);
    case.then(Step::Wait(10));
    case.then(Step::Sweep([1, 0, 0]));
    case.then(Step::Wait(1));
    case.then(Step::Sweep([0, 1, 0]));
    case.load(0, [0, 0, 1, 2, 0]);
    let late = tcp(ACK, case.world.client(), case.world.vip(0));
    case.refuses_for(Interface::Up0, &late, DropReason::NoFlow);
    case
}

/// Flows of a removed frontend go on until the sweep forgets them; new ones are nobody's.
fn frontend_removed(world: World) -> Case {
    let mut case = Case::new(format!("{:?} {:?}: the frontend is removed", world.family, world.backends[0].0), world);
    travel(&mut case, In, |a, b| tcp(SYN, a, b), 0);
    travel(&mut case, Out, |a, b| tcp(SYN | ACK, a, b), 0);
    case.then(Step::RemoveFrontends);
    case.passes(CLIENTS, tcp(SYN, case.world.client(), case.world.vip(0)).frame());
    travel(&mut case, Out, |a, b| tcp(ACK, a, b), 0);
    case.then(Step::Sweep([0, 0, 1]));
    case.load(0, [0, 0, 1, 1, 0]);
    case
}
