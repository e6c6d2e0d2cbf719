//! What costs least: to read a packet as Weir reads it and let it pass, and to send it back at once.

use core::{hint::black_box, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, xdp_action, xdp_md},
    helpers::generated::{bpf_redirect, bpf_xdp_get_buff_len},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_ebpf::{
    packet::{Packet, Plain, TransportChange},
    parse::{self, Outcome, Parsed},
};

use crate::{reach, words};

/// A program's context.
trait Context: Copy {
    /// A place in the packet.
    fn place<T: Plain>(self, offset: u32) -> Option<*mut T>;
    /// The packet's bytes.
    fn length(self) -> u32;
}

impl Context for *mut xdp_md {
    #[inline(always)]
    fn place<T: Plain>(self, offset: u32) -> Option<*mut T> {
        // SAFETY: the program's own context.
        unsafe { reach::at(&raw const (*self).data, &raw const (*self).data_end, offset) }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: the program's own context.
        unsafe { bpf_xdp_get_buff_len(self) as u32 }
    }
}

impl Context for *mut __sk_buff {
    #[inline(always)]
    fn place<T: Plain>(self, offset: u32) -> Option<*mut T> {
        // SAFETY: the program's own context.
        unsafe { reach::at(&raw const (*self).data, &raw const (*self).data_end, offset) }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: the program's own context.
        unsafe { (*self).len }
    }
}

/// A packet that is only read.
struct Reader<C>(C);

impl<C: Context> Packet for Reader<C> {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        // SAFETY: in bounds, as `place` has checked; `Plain` has no invalid patterns.
        self.0.place::<T>(offset).map(|place| unsafe { words::read(place) })
    }

    fn store<T: Plain>(&mut self, _offset: u32, _value: T) -> Option<()> {
        None
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.length()
    }

    fn segments(&self) -> (u32, u32) {
        (1, 0)
    }

    fn fix_ip_checksum(&mut self, _offset: u32, _difference: u32) -> Option<()> {
        None
    }

    fn fix_transport_checksum(&mut self, _offset: u32, _change: TransportChange) -> Option<()> {
        None
    }
}

/// Whether the packet could be read to its ports.
#[inline(always)]
fn is_read<C: Context>(context: C) -> bool {
    let mut parsed = Parsed::default();
    let outcome = parse::frame(&Reader(context), &mut parsed);
    black_box(&parsed);
    matches!(outcome, Outcome::Ports)
}

#[xdp(frags)]
fn bench_xdp_parse(ctx: XdpContext) -> u32 {
    if is_read(ctx.as_ptr().cast::<xdp_md>()) { xdp_action::XDP_PASS } else { xdp_action::XDP_ABORTED }
}

#[classifier]
fn bench_tc_parse(ctx: TcContext) -> i32 {
    if is_read(ctx.as_ptr().cast::<__sk_buff>()) { -1 } else { i32::MAX }
}

#[xdp(frags)]
fn bench_xdp_back(ctx: XdpContext) -> u32 {
    let md = ctx.as_ptr().cast::<xdp_md>();
    // SAFETY: `md` is the program's context.
    let (data, end) =
        unsafe { (read_volatile(&raw const (*md).data) as usize, read_volatile(&raw const (*md).data_end) as usize) };
    if data + 12 > end {
        return xdp_action::XDP_ABORTED;
    }
    let macs = data as *mut [u8; 12];
    // SAFETY: in bounds, as just checked.
    unsafe {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs.read_unaligned();
        macs.write_unaligned([g, h, i, j, k, l, a, b, c, d, e, f]);
    }
    xdp_action::XDP_TX
}

#[classifier]
fn bench_tc_back(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: `skb` is the program's context; a helper that checks its arguments.
    unsafe { bpf_redirect((*skb).ifindex, 0) as i32 }
}
