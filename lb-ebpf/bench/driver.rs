//! The restoring driver. BPF_PROG_TEST_RUN repeats a program on one packet, which a NAT has changed after the first turn. The
//! driver writes the tuple and the time to live of the next flow into the packet, then jumps to the program under test. What the
//! driver itself costs is measured with a program that returns at once, and subtracted. From a packet that has become longer at its front the driver
//! takes what was added: that is in what the program costs.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_MMAPABLE, xdp_action, xdp_md},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::{classifier, map, xdp},
    maps::{Array, ProgramArray},
    programs::{TcContext, XdpContext},
};

/// Lets the next program decide.
const NEXT: i32 = -1;

/// How far headers go that are put back: Ethernet, IPv6 without extension headers, ports.
const HEADERS: usize = 58;

/// The one element: the next tuple of this run, counted from its first; the first one's index; their number; the packet's length.
#[map(name = "control")]
static CONTROL: Array<[u32; 4]> = Array::with_max_entries(1, 0);

/// Tuples as they stand in packets: the last word of the source and of the destination, ports; then time to live and protocol, or for
/// IPv6 the hop limit + 65536. The rest of all IPv6 addresses is the same, and stays in the packet.
#[map(name = "tuples")]
static TUPLES: Array<[u32; 4]> = Array::with_max_entries(1 << 22, BPF_F_MMAPABLE);

#[map(name = "xdp_subject")]
static XDP_SUBJECT: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map(name = "tc_subject")]
static TC_SUBJECT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Writes the next tuple into the packet.
#[inline(always)]
fn restore(data: usize, end: usize) -> Option<()> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: one thread runs the driver; nobody else touches the element meanwhile.
    let index = unsafe {
        let [next, first, count, _] = *control;
        (*control)[0] = if next + 1 < count { next + 1 } else { 0 };
        first + next
    };
    let [src, dst, ports, lifetime] = *TUPLES.get(index)?;
    if data + HEADERS > end {
        return None;
    }
    // SAFETY: in bounds, as just checked.
    unsafe {
        if lifetime >> 16 == 0 {
            ((data + 22) as *mut u16).write_unaligned(lifetime as u16);
            ((data + 26) as *mut u32).write_unaligned(src);
            ((data + 30) as *mut u32).write_unaligned(dst);
            ((data + 34) as *mut u32).write_unaligned(ports);
        } else {
            ((data + 21) as *mut u8).write(lifetime as u8);
            ((data + 34) as *mut u32).write_unaligned(src);
            ((data + 50) as *mut u32).write_unaligned(dst);
            ((data + 54) as *mut u32).write_unaligned(ports);
        }
    }
    Some(())
}

/// Where the packet begins and ends.
#[inline(always)]
fn bounds(md: *const xdp_md) -> (usize, usize) {
    // SAFETY: `md` is the program's context.
    unsafe { (read_volatile(&raw const (*md).data) as usize, read_volatile(&raw const (*md).data_end) as usize) }
}

/// Takes off what was put before the packet, and gives it an Ethernet header again.
#[inline(always)]
fn shorten(md: *mut xdp_md) -> Option<()> {
    // SAFETY: one thread runs the driver.
    let length = unsafe { (*CONTROL.get_ptr(0)?)[3] };
    // SAFETY: `md` is the program's context.
    let added = unsafe { bpf_xdp_get_buff_len(md) as u32 }.wrapping_sub(length);
    if added == 0 {
        return Some(());
    }
    // SAFETY: a helper that checks its arguments.
    if unsafe { bpf_xdp_adjust_head(md, added as i32) } != 0 {
        return None;
    }
    let (data, end) = bounds(md);
    if data + HEADERS > end {
        return None;
    }
    // SAFETY: in bounds, as just checked.
    unsafe {
        let is_v4 = ((data + 14) as *const u8).read() >> 4 == 4;
        let kind: u16 = if is_v4 { 0x0800 } else { 0x86dd };
        ((data + 12) as *mut u16).write_unaligned(kind.to_be());
    }
    Some(())
}

#[xdp(frags)]
fn bench_xdp_driver(ctx: XdpContext) -> u32 {
    let md = ctx.as_ptr().cast::<xdp_md>();
    if shorten(md).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    let (data, end) = bounds(md);
    if restore(data, end).is_some() {
        // SAFETY: nothing here needs to be dropped.
        unsafe { XDP_SUBJECT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[xdp(frags)]
fn bench_xdp_empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
fn bench_tc_driver(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: `skb` is the program's context.
    let (data, end) =
        unsafe { (read_volatile(&raw const (*skb).data) as usize, read_volatile(&raw const (*skb).data_end) as usize) };
    if restore(data, end).is_some() {
        // SAFETY: nothing here needs to be dropped.
        unsafe { TC_SUBJECT.tail_call(&ctx, 0) };
    }
    // No verdict of any program under test: the jump has failed.
    i32::MAX
}

#[classifier]
fn bench_tc_empty(_ctx: TcContext) -> i32 {
    NEXT
}
