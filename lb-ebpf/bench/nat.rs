//! The least that a NAT can do: one frontend, a backend by the hash of the tuple, no memory of anything. IPv4 without options only.
//! Rewrite, route lookup and redirect are what Weir does too, so the difference is what Weir's flows and choices cost.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, xdp_action, xdp_md,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_store_bytes,
    },
    macros::{classifier, map, xdp},
    maps::Array,
    programs::{TcContext, XdpContext},
};
use lb_common::{Port, hash};
use lb_ebpf::{
    checksum,
    env::{Fib, NextHop},
};

/// The one element: the frontend's address, its port, the number of backends.
#[map(name = "nat_frontend")]
static FRONTEND: Array<[u32; 4]> = Array::with_max_entries(1, 0);

/// Address and port of each backend.
#[map(name = "nat_backends")]
static BACKENDS: Array<[u32; 2]> = Array::with_max_entries(1024, 0);

const ETHERTYPE: usize = 12;
const TTL: usize = 22;
const IP_CHECKSUM: usize = 24;
const SRC: usize = 26;
const DST: usize = 30;
const PORTS: usize = 34;
const DST_PORT: usize = 36;
const UDP_CHECKSUM: usize = 40;
const TCP_CHECKSUM: usize = 50;
/// Ethernet, IPv4 without options, and as much of TCP or UDP with payload as is read.
const HEADERS: usize = 52;
const TCP: u8 = 6;
const AF_INET: u8 = 2;
/// The answer need not contain the next hop's link layer address.
const SKIP_NEIGH: u32 = 1 << 2;

/// What a packet says, and what becomes of it.
struct Change {
    ttl: u8,
    protocol: u8,
    src: u32,
    dst: u32,
    dst_port: u16,
    new_dst: u32,
    new_port: u16,
    ip_bytes: u16,
}

#[inline(always)]
fn load<T: Copy>(data: usize, offset: usize) -> T {
    // SAFETY: callers have checked that `HEADERS` bytes are there.
    unsafe { ((data + offset) as *const T).read_unaligned() }
}

#[inline(always)]
fn store<T: Copy>(data: usize, offset: usize, value: T) {
    // SAFETY: callers have checked that `HEADERS` bytes are there.
    unsafe { ((data + offset) as *mut T).write_unaligned(value) }
}

/// Reads the packet and chooses its backend; `None` if it is not for the frontend.
#[inline(always)]
fn change(data: usize, end: usize) -> Option<Change> {
    if data + HEADERS > end {
        return None;
    }
    let [high, low, version, _] = load::<[u8; 4]>(data, ETHERTYPE);
    let [ttl, protocol] = load::<[u8; 2]>(data, TTL);
    if [high, low, version] != [0x08, 0x00, 0x45] {
        return None;
    }
    let (src, dst) = (load::<u32>(data, SRC), load::<u32>(data, DST));
    let ports = load::<u32>(data, PORTS);
    let dst_port = load::<u16>(data, DST_PORT);
    let [frontend, port, backends, _] = *FRONTEND.get(0)?;
    if dst != frontend || dst_port as u32 != port {
        return None;
    }
    let index = hash::scale(hash::mix(hash::mix((src as u64) << 32 | dst as u64) ^ ports as u64), backends);
    let [new_dst, new_port] = *BACKENDS.get(index)?;
    let ip_bytes = u16::from_be(load::<u16>(data, 16));
    Some(Change { ttl, protocol, src, dst, dst_port, new_dst, new_port: new_port as u16, ip_bytes })
}

impl Change {
    #[inline(always)]
    fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    #[inline(always)]
    fn address_difference(&self) -> u32 {
        checksum::word(self.dst, self.new_dst)
    }

    #[inline(always)]
    fn port_difference(&self) -> u32 {
        checksum::half(self.dst_port, self.new_port)
    }

    #[inline(always)]
    fn new_ttl(&self) -> [u8; 2] {
        [self.ttl.wrapping_sub(1), self.protocol]
    }

    #[inline(always)]
    fn ip_difference(&self) -> u32 {
        let (old, new) = ([self.ttl, self.protocol], self.new_ttl());
        checksum::add(self.address_difference(), checksum::half(u16::from_ne_bytes(old), u16::from_ne_bytes(new)))
    }

    /// Asks the routing table; `false` if the packet has no way.
    #[inline(always)]
    fn route<C: EbpfContext>(&self, ctx: &C, interface: u32, flags: u32, fib: &mut Fib) -> bool {
        fib.family = AF_INET;
        fib.protocol = self.protocol;
        fib.dst_port = Port(self.new_port);
        fib.bytes = self.ip_bytes;
        fib.interface = interface;
        fib.src[0] = self.src;
        fib.dst[0] = self.new_dst;
        // SAFETY: `fib` has the layout and the size the helper expects, `ctx` is this program's.
        let answer =
            unsafe { bpf_fib_lookup(ctx.as_ptr(), core::ptr::from_mut(fib).cast(), size_of::<Fib>() as i32, flags) };
        answer as u32 == BPF_FIB_LKUP_RET_SUCCESS
    }
}

#[xdp(frags)]
fn bench_xdp_nat(ctx: XdpContext) -> u32 {
    let md = ctx.as_ptr().cast::<xdp_md>();
    // SAFETY: `md` is the program's context.
    let (data, end, interface) = unsafe {
        (
            read_volatile(&raw const (*md).data) as usize,
            read_volatile(&raw const (*md).data_end) as usize,
            (*md).ingress_ifindex,
        )
    };
    let Some(change) = change(data, end) else { return xdp_action::XDP_PASS };
    let mut fib = Fib::default();
    if change.ttl <= 1 || !change.route(&ctx, interface, 0, &mut fib) {
        return xdp_action::XDP_PASS;
    }
    let difference = checksum::add(change.address_difference(), change.port_difference());
    if change.protocol == TCP {
        store(data, TCP_CHECKSUM, checksum::apply(load(data, TCP_CHECKSUM), difference));
    } else if load::<u16>(data, UDP_CHECKSUM) != 0 {
        store(data, UDP_CHECKSUM, checksum::apply(load(data, UDP_CHECKSUM), difference));
    }
    store(data, IP_CHECKSUM, checksum::apply(load(data, IP_CHECKSUM), change.ip_difference()));
    store(data, TTL, change.new_ttl());
    store(data, DST, change.new_dst);
    store(data, DST_PORT, change.new_port);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = fib.macs;
    store(data, 0, [g, h, i, j, k, l, a, b, c, d, e, f]);
    if fib.interface == interface {
        return xdp_action::XDP_TX;
    }
    // SAFETY: a helper that checks its arguments.
    unsafe { bpf_redirect(fib.interface, 0) as u32 }
}

#[classifier]
fn bench_tc_nat(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: `skb` is the program's context.
    let (data, end, interface) = unsafe {
        (
            read_volatile(&raw const (*skb).data) as usize,
            read_volatile(&raw const (*skb).data_end) as usize,
            (*skb).ifindex,
        )
    };
    let Some(change) = change(data, end) else { return -1 };
    let mut fib = Fib::default();
    if change.ttl <= 1 || !change.route(&ctx, interface, SKIP_NEIGH, &mut fib) {
        return -1;
    }
    if rewrite(skb, &change) != 0 {
        return TC_ACT_SHOT;
    }
    let mut hop = NextHop { family: fib.family as u32, addr: fib.dst };
    // SAFETY: `hop` has the layout and size the helper expects.
    unsafe { bpf_redirect_neigh(fib.interface, (&raw mut hop).cast(), size_of::<NextHop>() as i32, 0) as i32 }
}

/// Through the helpers, which keep the checksums of packets right that the device is to complete; 0 if all went well.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, change: &Change) -> i64 {
    let transport = change.checksum_offset() as u32;
    let zero = if change.protocol == TCP { 0 } else { BPF_F_MARK_MANGLED_0 as u64 };
    let pseudo = BPF_F_PSEUDO_HDR as u64 | zero;
    let (ttl, dst, port) = (change.new_ttl(), change.new_dst, change.new_port);
    // SAFETY: the helpers check offsets; the values are as long as said.
    unsafe {
        bpf_l4_csum_replace(skb, transport, 0, change.address_difference() as u64, pseudo)
            | bpf_l4_csum_replace(skb, transport, 0, change.port_difference() as u64, zero)
            | bpf_skb_store_bytes(skb, DST_PORT as u32, (&raw const port).cast(), 2, 0)
            | bpf_l3_csum_replace(skb, IP_CHECKSUM as u32, 0, change.ip_difference() as u64, 0)
            | bpf_skb_store_bytes(skb, TTL as u32, (&raw const ttl).cast(), 2, 0)
            | bpf_skb_store_bytes(skb, DST as u32, (&raw const dst).cast(), 4, 0)
    }
}
