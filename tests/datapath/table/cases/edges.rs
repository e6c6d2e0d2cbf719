//! Checksums at the edges of one's complement arithmetic, where 0 and 0xffff are the same number and (for UDP) mean different things.

use lb_common::Protocol;

use super::{CLIENTS, FAMILIES, PROTOCOLS};
use crate::table::{
    case::Case,
    net::{Interface, Way},
    packet::{SYN, Spec, tcp, udp},
    world::{Place, World},
};

pub(crate) fn cases() -> Vec<Case> {
    let worlds = FAMILIES.iter().flat_map(|f| PROTOCOLS.iter().map(|p| World::new(*f, *p, &[Place::Remote])));
    worlds.map(edge).collect()
}

/// Payloads with which the checksum is 0 or 0xffff before or after the rewrite.
fn edge(world: World) -> Case {
    let mut case = Case::new(format!("{:?} {:?}: checksums at the edge", world.family, world.protocol), world.clone());
    let payload = |word: u16| vec![word.to_be_bytes()[0], word.to_be_bytes()[1], 7];
    let packet = |src, dst, word| match world.protocol {
        Protocol::Tcp => Spec { payload: payload(word), ..tcp(SYN, src, dst) },
        Protocol::Udp => Spec { payload: payload(word), ..udp(src, dst) },
    };
    let (client, vip, peer, endpoint) = (world.client(), world.vip(0), world.peer(0), world.endpoint(0));
    let mut sent = 0;
    for (src, dst) in [(client, vip), (peer, endpoint)] {
        // The checksum falls as the word rises, by one each.
        let first = checksum(&packet(src, dst, 0));
        for word in (first - 2..=first).chain([first.wrapping_add(1)]) {
            let checksum = checksum(&packet(src, dst, word));
            sent += usize::from(matches!(checksum, 0 | 0xffff));
            let out = packet(peer, endpoint, word).ttl(63);
            case.inwards(CLIENTS, &packet(client, vip, word), Way::Out(Interface::Up1), out.clone(), 0);
            case.inwards(
                (lb_ebpf::env::Hook::Xdp, Interface::Up0),
                &packet(client, vip, word),
                Way::Out(Interface::Up1),
                out,
                0,
            );
        }
    }
    assert!(sent >= 2, "no checksum is at the edge");
    case
}

fn checksum(packet: &Spec) -> u16 {
    let at = packet.l4() + if packet.body == crate::table::packet::Body::Udp { 6 } else { 16 };
    let frame = packet.frame();
    u16::from_be_bytes([frame[at], frame[at + 1]])
}
