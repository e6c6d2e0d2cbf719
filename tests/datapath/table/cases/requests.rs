//! Requests of a measured Service: when they begin, are answered and end, in both directions, at every hook and place of a backend.

use lb_common::{Protocol, service::FRONTEND_MEASURED};
use lb_ebpf::env::Hook;

use super::FAMILIES;
use crate::table::{
    case::{Case, Step},
    net::{Interface, Way},
    packet::{ACK, FIN, RST, SYN, Spec, tcp},
    world::{Place, World},
};

/// Sequence numbers that begin again soon.
const CLIENT: u32 = u32::MAX - 20;
const BACKEND: u32 = u32::MAX - 30;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (place, hook) in [(Place::Local, Hook::Ingress), (Place::Own, Hook::Ingress), (Place::Remote, Hook::Xdp)] {
            let mut world = World::new(family, Protocol::Tcp, &[place]);
            world.flags = FRONTEND_MEASURED;
            let title = format!("{family:?}, {place:?} backend, {hook:?}: requests");
            cases.push(life(Talk::open(&title, world.clone(), hook)));
            cases.push(reset(Talk::open(&format!("{title} and a reset"), world, hook)));
        }
        let world = World::new(family, Protocol::Tcp, &[Place::Local]);
        cases.push(unmeasured(Talk::open(&format!("{family:?}: requests that nobody asks for"), world, Hook::Ingress)));
    }
    cases
}

/// Two requests on one connection, the first with an answer in parts.
fn life(mut talk: Talk) -> Case {
    talk.sees([0, 0, 0]);
    talk.asks(ACK, 0, 40);
    talk.sees([1, 1, 0]);
    talk.answers(ACK, 0, 0);
    talk.wait(30);
    talk.sees([1, 1, 0]);
    talk.answers(ACK, 0, 10);
    talk.sees([1, 1, 1]);
    // The same once more: its acknowledgment was lost.
    talk.asks(ACK, 0, 40);
    talk.sees([1, 1, 1]);
    talk.answers(ACK, 10, 10);
    talk.wait(1);
    talk.sees([0, 1, 1]);
    talk.answers(ACK, 20, 10);
    talk.sees([1, 1, 1]);
    talk.asks(ACK, 40, 40);
    talk.sees([1, 2, 1]);
    talk.answers(ACK, 30, 10);
    talk.sees([1, 2, 2]);
    talk.answers(FIN | ACK, 40, 0);
    talk.sees([0, 2, 2]);
    talk.asks(FIN | ACK, 80, 0);
    talk.sees([0, 2, 2]);
    talk.case
}

fn reset(mut talk: Talk) -> Case {
    talk.asks(ACK, 0, 40);
    talk.sees([1, 1, 0]);
    talk.asks(RST | ACK, 40, 0);
    talk.sees([0, 1, 0]);
    talk.case
}

fn unmeasured(mut talk: Talk) -> Case {
    talk.asks(ACK, 0, 40);
    talk.answers(ACK, 0, 10);
    talk.sees([0, 0, 0]);
    talk.case
}

/// A connection.
struct Talk {
    case: Case,
    hook: Hook,
}

impl Talk {
    fn open(name: &str, world: World, hook: Hook) -> Self {
        let mut talk = Self { case: Case::new(name, world), hook };
        let before = u32::MAX;
        talk.asks(SYN, before, 0);
        talk.answers(SYN | ACK, before, 0);
        talk.asks(ACK, 0, 0);
        talk
    }

    fn sees(&mut self, requests: [u64; 3]) {
        self.case.then(Step::Requests(0, requests));
    }

    fn wait(&mut self, seconds: u32) {
        self.case.then(Step::Wait(seconds));
    }

    /// A segment of the client: so many bytes from this offset on.
    fn asks(&mut self, flags: u8, offset: u32, bytes: usize) {
        let world = &self.case.world;
        let segment = |src, dst| self::segment(flags, src, dst, CLIENT.wrapping_add(offset), BACKEND).payload(bytes);
        let (packet, out) = (segment(world.client(), world.vip(0)), segment(world.peer(0), world.endpoint(0)));
        let (way, ttl) = match world.backends[0].0 {
            Place::Own => (Way::Stack, 64),
            Place::Local => (Way::Out(Interface::Pod0), 63),
            _ => (Way::Out(Interface::Up1), 63),
        };
        self.case.inwards((self.hook, Interface::Up0), &packet, way, out.ttl(ttl), 0);
    }

    /// The same of the backend.
    fn answers(&mut self, flags: u8, offset: u32, bytes: usize) {
        let world = &self.case.world;
        let segment = |src, dst| self::segment(flags, src, dst, BACKEND.wrapping_add(offset), CLIENT).payload(bytes);
        let (packet, out) = (segment(world.endpoint(0), world.peer(0)), segment(world.vip(0), world.client()));
        let leaves = Way::Out(Interface::Up0);
        match world.backends[0].0 {
            Place::Own => self.case.outwards((Hook::Egress, Interface::Up0), &packet, Way::Stack, out, 0),
            Place::Local => self.case.outwards((Hook::Ingress, Interface::Pod0), &packet, leaves, out.ttl(63), 0),
            _ => self.case.outwards((self.hook, Interface::Up1), &packet, leaves, out.ttl(63), 0),
        }
    }
}

fn segment(flags: u8, src: std::net::SocketAddr, dst: std::net::SocketAddr, sequence: u32, acknowledged: u32) -> Spec {
    tcp(flags, src, dst).numbers(sequence, acknowledged)
}
