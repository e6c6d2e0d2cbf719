//! Packets at random, many of them damaged, from a seed: for what no table thinks of.

use std::net::SocketAddr;

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::{
    net::{Family, Interface, ip},
    packet::{Part, Shape, Spec, tcp, udp},
    world::{Place, World},
};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as u32
    }

    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }

    /// A packet of a client, a backend or a router.
    fn packet(&mut self, world: &World) -> (Interface, Spec) {
        let client = SocketAddr::new(world.client().ip(), 40000 + self.below(40) as u16);
        let number = self.below(world.backends.len() as u32) as usize;
        let (place, endpoint) = (world.backends[number].0, world.endpoint(number));
        let peer = if place.is_local() { client } else { world.peer(number) };
        let inside = if place == Place::Remote { Interface::Up1 } else { Interface::Pod0 };
        let (flags, kind) = (self.any(&[2, 2, 16, 16, 17, 18, 4, 20]), self.any(&[1, 2, 3, 4, 11]));
        let payload = self.below(60) as usize;
        let carry = |src, dst| if world.protocol == Protocol::Tcp { tcp(flags, src, dst) } else { udp(src, dst) };
        let bytes = 20 + self.below(80) as usize;
        match self.below(6) {
            0..3 => (Interface::Up0, carry(client, world.vip(0)).payload(payload)),
            3 => (inside, carry(endpoint, peer).payload(payload)),
            4 => {
                let router = ip(world.family, inside.number(), 8);
                (inside, carry(peer, endpoint).payload(payload).error(router, (kind, 0, 0), bytes))
            }
            _ => (Interface::Up0, carry(world.vip(0), client).payload(payload).error(client.ip(), (kind, 0, 0), bytes)),
        }
    }

    /// A frame, and where it comes. Every second one is damaged.
    pub(crate) fn frame(&mut self, world: &World) -> (Hook, Interface, Vec<u8>) {
        let (via, packet) = self.packet(world);
        let shapes = [Shape::Plain, Shape::Plain, Shape::Options, Shape::ManyOptions, Shape::Padded, Shape::Vlan];
        let part = if self.one_in(20) { self.any(&[Part::First, Part::Later]) } else { Part::Whole };
        let packet = packet.shape(self.any(&shapes)).part(part).ttl(self.any(&[64, 64, 64, 2, 1, 0]));
        let mut frame = packet.frame();
        if self.one_in(2) {
            self.damage(&mut frame);
        }
        (self.any(&[Hook::Ingress, Hook::Ingress, Hook::Xdp, Hook::Egress]), via, frame)
    }

    /// Headers are damaged more often than what is behind them.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let end = if self.one_in(4) { frame.len() } else { frame.len().min(70) };
            let at = 12 + self.below(end as u32 - 12) as usize;
            frame[at] = if self.one_in(2) { self.next() as u8 } else { frame[at] ^ 1 << self.below(8) };
        }
        if self.one_in(6) {
            frame.truncate(self.below(frame.len() as u32) as usize);
        }
    }
}

/// A Service of each family and protocol, with a local and a remote backend.
pub(crate) fn worlds() -> Vec<World> {
    let families = [Family::V4, Family::V6];
    let both = families.into_iter().flat_map(|f| [Protocol::Tcp, Protocol::Udp].map(|p| (f, p)));
    both.map(|(f, p)| World::new(f, p, &[Place::Local, Place::Remote, Place::Narrow])).collect()
}
