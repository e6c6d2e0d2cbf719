//! The requests of the node's own sockets, packet by packet: attached to the cgroup only while a Service is measured, because even a
//! packet that is none of ours pays for it.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext, bindings::__sk_buff, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext,
};
use lb_ebpf::{
    env::{Env as _, Hook, Shared},
    flow::Direction,
    packet::{Packet, Plain, TransportChange},
    parse::{self, FRAGMENT, MALFORMED, Outcome, Parsed, protocol},
    requests, socket,
};

use super::{env::Kernel, reach, sock::connection};

/// The packet goes on.
const ALLOW: i32 = 1;

/// A socket's packet, from its IP header on. Nobody writes it.
struct Bare(*mut __sk_buff);

impl Packet for Bare {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        // SAFETY: `self.0` is the program's context.
        unsafe { reach::load(self.0, offset) }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: `self.0` is the program's context.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn segments(&self) -> (u32, u32) {
        (1, 0)
    }

    #[inline(always)]
    fn fix_ip_checksum(&mut self, _: u32, _: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn fix_transport_checksum(&mut self, _: u32, _: TransportChange) -> Option<()> {
        None
    }

    #[inline(always)]
    fn bare(&self) -> Option<u16> {
        // SAFETY: `self.0` is the program's context.
        Some(u16::from_be(unsafe { (*self.0).protocol as u16 }))
    }
}

#[inline(always)]
fn follow(ctx: &SkBuffContext, direction: Direction) -> Option<()> {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the program's context; helpers that check their arguments.
    let socket = unsafe {
        let socket = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if socket.is_null() {
            return None;
        }
        bpf_sk_fullsock(socket)
    };
    if socket.is_null() {
        return None;
    }
    let connection: Shared<_> = connection(socket.cast())?;
    let env = Kernel { ctx, interface: 0, hook: Hook::Egress };
    let measured = socket::measured(&env, connection)?;
    let mut parsed = Parsed::default();
    let packet = Bare(skb);
    let is_whole = parse::frame(&packet, &mut parsed) == Outcome::Ports && parsed.flags & (FRAGMENT | MALFORMED) == 0;
    if !is_whole || parsed.protocol != protocol::TCP {
        return None;
    }
    requests::follow(&packet, &env, &parsed, &measured, direction);
    if socket::measured(&env, connection).is_none() {
        env.end_request(measured.key);
    }
    None
}

#[cgroup_skb(egress)]
pub(crate) fn weir_sent(ctx: SkBuffContext) -> i32 {
    let _ = follow(&ctx, Direction::In);
    ALLOW
}

#[cgroup_skb(ingress)]
pub(crate) fn weir_received(ctx: SkBuffContext) -> i32 {
    let _ = follow(&ctx, Direction::Out);
    ALLOW
}
