//! XDP at uplinks: finishes what goes from wire to wire; tc beside it does the rest.

use aya_ebpf::{
    EbpfContext,
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::DropReason;
use lb_ebpf::{
    checksum,
    env::{Env, Hook},
    packet::{Packet, Plain, TransportChange},
    pipeline::{self, Action},
};

use super::{
    env::{Kernel, macs},
    reach,
    tc::count_drop,
    words,
};

/// A driver's buffer.
struct Buffer(*mut xdp_md);

impl Buffer {
    #[inline(always)]
    fn at<T: Plain>(&self, offset: u32) -> Option<*mut T> {
        // SAFETY: `self.0` is the program's context.
        unsafe { reach::at(&raw const (*self.0).data, &raw const (*self.0).data_end, offset) }
    }
}

impl Packet for Buffer {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        // SAFETY: in bounds, as `at` has checked; `Plain` has no invalid patterns.
        self.at::<T>(offset).map(|p| unsafe { words::read(p) })
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: u32, value: T) -> Option<()> {
        // SAFETY: in bounds, as `at` has checked.
        self.at::<T>(offset).map(|p| unsafe { words::write(p, value) })
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: `self.0` is the program's context.
        unsafe { bpf_xdp_get_buff_len(self.0) as u32 }
    }

    #[inline(always)]
    fn segments(&self) -> (u32, u32) {
        (1, 0)
    }

    #[inline(always)]
    fn fix_ip_checksum(&mut self, offset: u32, difference: u32) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        self.store(offset, checksum::apply(field, difference))
    }

    #[inline(always)]
    fn fix_transport_checksum(&mut self, offset: u32, change: TransportChange) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        if change.zero_is_none && field == 0 {
            return Some(());
        }
        let new = checksum::apply(field, checksum::add(change.pseudo, change.data));
        self.store(offset, if change.zero_is_none && new == 0 { 0xffff } else { new })
    }

    #[inline(always)]
    fn encapsulate(&mut self, l3: u32, room: u32, v4: bool) -> Option<u32> {
        // SAFETY: a helper that checks its arguments.
        if unsafe { bpf_xdp_adjust_head(self.0, -(room as i32)) } != 0 {
            return None;
        }
        // The new headers stand where the Ethernet header was, and a new one before them; its addresses come with the way.
        self.store(12, if v4 { 0x0800_u16 } else { 0x86dd }.to_be())?;
        Some(l3)
    }
}

#[xdp(frags)]
pub(crate) fn weir_xdp(ctx: XdpContext) -> u32 {
    let md = ctx.as_ptr().cast::<xdp_md>();
    // SAFETY: `md` is the program's context.
    let env = Kernel { ctx: &ctx, interface: unsafe { (*md).ingress_ifindex }, hook: Hook::Xdp };
    let mut packet = Buffer(md);
    // Only tc takes out what others forward.
    if let Some(scratch) = env.scratch() {
        scratch.target = 0;
    }
    let verdict = pipeline::run(&mut packet, &env);
    match verdict.action() {
        Action::Interface => send(&env, &mut packet, verdict.value()),
        Action::Drop => {
            count_drop(verdict.value());
            xdp_action::XDP_DROP
        }
        // What has to be answered, or read further than the first buffer, tc does.
        Action::Pass
        | Action::Stack
        | Action::Truncated
        | Action::TooBig
        | Action::TimeExceeded
        | Action::Refuse
        | Action::Reply
        | Action::Again => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn send<C: EbpfContext>(env: &Kernel<'_, C>, packet: &mut Buffer, interface: u32) -> u32 {
    let Some(macs) = env.scratch().map(|scratch| macs(&scratch.fib)) else { return xdp_action::XDP_ABORTED };
    if packet.store(0, macs).is_none() {
        count_drop(DropReason::RewriteFailed as u32);
        return xdp_action::XDP_DROP;
    }
    if interface == env.interface {
        return xdp_action::XDP_TX;
    }
    // SAFETY: a helper that checks its arguments.
    unsafe { bpf_redirect(interface, 0) as u32 }
}
