//! tc: ingress and egress of every interface.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
    },
    macros::classifier,
    programs::TcContext,
};
use lb_common::{DropReason, names::INTERFACE_PEER};
use lb_ebpf::{
    answer::{self, Complaint},
    env::{Env, Hook, NextHop},
    packet::{Packet, Plain, TransportChange},
    pipeline::{self, Action, Verdict},
};

use super::{
    env::{Kernel, interface_flags, macs},
    maps::{self, DROPS},
    reach, vlan,
};

/// Lets the next program decide, and the stack if there is none.
const NEXT: i32 = -1;
/// Bytes brought into reach when headers are not: Ethernet, IP with options, ICMP, and the same of a quoted packet.
const REACH: u32 = 224;

/// A socket buffer.
pub(super) struct Buffer(pub(super) *mut __sk_buff);

impl Packet for Buffer {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        // SAFETY: `self.0` is the program's context.
        unsafe { reach::load(self.0, offset) }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: u32, value: T) -> Option<()> {
        // SAFETY: the helper checks the offset; `value` is `size_of::<T>()` readable bytes.
        let result =
            unsafe { bpf_skb_store_bytes(self.0, offset, (&raw const value).cast(), size_of::<T>() as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: `self.0` is the program's context.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn segments(&self) -> (u32, u32) {
        // SAFETY: `self.0` is the program's context.
        let (segments, size) = unsafe { ((*self.0).gso_segs, (*self.0).gso_size) };
        if size > 0 { (segments, size) } else { (1, 0) }
    }

    #[inline(always)]
    fn fix_ip_checksum(&mut self, offset: u32, difference: u32) -> Option<()> {
        // SAFETY: the helper checks the offset.
        let result = unsafe { bpf_l3_csum_replace(self.0, offset, 0, difference as u64, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_transport_checksum(&mut self, offset: u32, change: TransportChange) -> Option<()> {
        let zero = if change.zero_is_none { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        let pseudo = BPF_F_PSEUDO_HDR as u64 | if change.v6 { maps::checksum_v6_flag() } else { 0 };
        // SAFETY: the helper checks the offset.
        let result = unsafe {
            bpf_l4_csum_replace(self.0, offset, 0, change.pseudo as u64, pseudo | zero)
                | bpf_l4_csum_replace(self.0, offset, 0, change.data as u64, zero)
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn bare(&self) -> Option<u16> {
        // SAFETY: `self.0` is the program's context.
        let protocol = unsafe { (*self.0).protocol as u16 };
        let version = match u16::from_be(protocol) {
            0x0800 => 4,
            0x86dd => 6,
            _ => return None,
        };
        // An Ethernet header that says what the socket buffer says is one.
        let [first, _] = self.load::<[u8; 2]>(0)?;
        let bare = self.load::<u16>(12) != Some(protocol) && first >> 4 == version;
        bare.then_some(u16::from_be(protocol))
    }

    #[inline(always)]
    fn reshape(&mut self, length: u32, room: i32) -> Option<()> {
        // SAFETY: helpers that check their arguments.
        let result = unsafe {
            bpf_skb_change_tail(self.0, length, 0)
                | if room == 0 { 0 } else { bpf_skb_adjust_room(self.0, room, BPF_ADJ_ROOM_MAC, 0) }
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn encapsulate(&mut self, l3: u32, room: u32, v4: bool) -> Option<u32> {
        let family = if v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        // Segments keep their size: it was asked for whether they fit.
        let flags = family | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO;
        // SAFETY: helpers that check their arguments.
        let result = unsafe {
            // A tag that is still in the packet would stand before the new headers, where no route leads. Behind generic XDP the kernel may
            // take another place for the end of the Ethernet header than we do.
            if l3 == 0 && !give_ethernet(self.0) || l3 > 14 && bpf_skb_vlan_pop(self.0) != 0 {
                return None;
            }
            bpf_skb_adjust_room(self.0, room as i32, BPF_ADJ_ROOM_MAC, flags as u64)
        };
        (result == 0).then_some(14)
    }

    #[inline(always)]
    fn decapsulate(&mut self, l3: u32, room: u32) -> Option<()> {
        if l3 == 0 && !give_ethernet(self.0) {
            return None;
        }
        // SAFETY: a helper that checks its arguments.
        let result =
            unsafe { bpf_skb_adjust_room(self.0, -(room as i32), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO as u64) };
        (result == 0).then_some(())
    }
}

#[inline(always)]
fn run(ctx: &TcContext, hook: Hook) -> i32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: `skb` is the program's context.
    let env = Kernel { ctx, interface: unsafe { (*skb).ifindex }, hook };
    let mut packet = Buffer(skb);
    let Some(scratch) = env.scratch() else { return NEXT };
    scratch.target = 0;
    let mut verdict = Verdict::TRUNCATED;
    // Once more with more in reach, and once more for what was in it.
    for _ in 0..3 {
        verdict = pipeline::run(&mut packet, &env);
        let again = verdict.action() as u32 == Action::Again as u32;
        if !again && (verdict.action() as u32 != Action::Truncated as u32 || !pull(skb)) {
            break;
        }
    }
    let (what, limit, reason) = match verdict.action() {
        // What another node has forwarded is on its way to nobody else.
        Action::Pass | Action::Truncated | Action::Again if is_forwarded(&env) => {
            return drop_packet(DropReason::StaleTable as u32);
        }
        Action::Pass | Action::Truncated | Action::Again | Action::Stack => return NEXT,
        Action::Interface => return redirect(&env, skb, verdict.value()),
        Action::Reply => return reply(&env, skb),
        Action::Drop => return drop_packet(verdict.value()),
        Action::TooBig => (Complaint::TooBig, verdict.value(), DropReason::TooBig as u32),
        Action::TimeExceeded => (Complaint::TimeExceeded, 0, DropReason::TtlExceeded as u32),
        Action::Refuse => (Complaint::Refused, 0, verdict.value()),
    };
    tell(&env, &mut packet, what, limit, reason)
}

/// Whether another node has forwarded the packet.
#[inline(always)]
fn is_forwarded<E: Env>(env: &E) -> bool {
    env.scratch().is_some_and(|scratch| scratch.target != 0)
}

/// Sends back what has been turned round; a packet that has no Ethernet header is given one.
#[inline(always)]
fn reply<E: Env>(env: &E, skb: *mut __sk_buff) -> i32 {
    let bare = env.scratch().is_some_and(|scratch| scratch.packet.l3 == 0);
    if bare && !give_ethernet(skb) {
        return drop_packet(DropReason::RewriteFailed as u32);
    }
    // SAFETY: `skb` is the program's context; helpers that check their arguments, of which the first finds the next hop itself.
    unsafe {
        let interface = (*skb).ifindex;
        let sent =
            if bare { bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) } else { bpf_redirect(interface, 0) };
        sent as i32
    }
}

/// Drops a packet, and sends its sender an answer that says why instead, where that can be made.
#[inline(always)]
fn tell<E: Env>(env: &E, packet: &mut Buffer, what: Complaint, limit: u32, reason: u32) -> i32 {
    count_drop(reason);
    let answered = env.scratch().is_some_and(|scratch| {
        scratch.tag = 0;
        if scratch.packet.l3 == vlan::L3 && !vlan::take_out(packet.0, scratch) {
            return false;
        }
        let parsed = &mut scratch.packet;
        if parsed.l3 == 0 {
            (parsed.l3, parsed.l4) = (14, parsed.l4 + 14);
            if !give_ethernet(packet.0) {
                return false;
            }
        }
        // Through memory: what it is the verifier then follows once, not once for every complaint.
        let what = match black_box(what as u32) {
            0 => Complaint::TooBig,
            1 => Complaint::TimeExceeded,
            _ => Complaint::Refused,
        };
        answer::answer(packet, env, parsed, what, limit)
    });
    if !answered {
        return TC_ACT_SHOT;
    }
    if let Some(scratch) = env.scratch()
        && scratch.tag != 0
    {
        return vlan::send_back(packet.0, scratch);
    }
    // SAFETY: `packet.0` is the program's context; a helper that checks its arguments, and finds the next hop itself.
    unsafe { bpf_redirect_neigh((*packet.0).ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Brings headers into reach; `false` if they are already, and the packet simply ends there.
#[inline(always)]
fn pull(skb: *mut __sk_buff) -> bool {
    // SAFETY: `skb` is the program's context.
    unsafe {
        let reach = (*skb).len.min(REACH);
        (*skb).data_end - (*skb).data < reach && bpf_skb_pull_data(skb, reach) == 0
    }
}

#[inline(always)]
fn redirect<E: Env>(env: &E, skb: *mut __sk_buff, interface: u32) -> i32 {
    let Some(scratch) = env.scratch() else { return drop_packet(DropReason::RewriteFailed as u32) };
    // SAFETY: `skb` is the program's context, `next_hop` has the layout and size the helper expects.
    unsafe {
        if scratch.packet.l3 == 0 && !give_ethernet(skb) {
            return drop_packet(DropReason::RewriteFailed as u32);
        }
        // The tag that the kernel has taken out of the packet, then the one that is still in there.
        let (outer, inner) = ((*skb).vlan_present != 0, scratch.packet.l3 > 14);
        if outer && bpf_skb_vlan_pop(skb) != 0 || inner && bpf_skb_vlan_pop(skb) != 0 {
            return drop_packet(DropReason::RewriteFailed as u32);
        }
        // Only what comes in may go straight into a pod, past the host's end of its interface.
        let direct = env.hook() == Hook::Ingress && scratch.resolved != 0;
        if direct && interface_flags(interface) & INTERFACE_PEER != 0 {
            // Whoever bridges in there goes by them.
            return match Buffer(skb).store(0, macs(&scratch.fib)) {
                Some(()) => bpf_redirect_peer(interface, 0) as i32,
                None => drop_packet(DropReason::RewriteFailed as u32),
            };
        }
        let hop = core::ptr::from_mut(&mut scratch.next_hop).cast();
        bpf_redirect_neigh(interface, hop, size_of::<NextHop>() as i32, 0) as i32
    }
}

/// Puts an Ethernet header before a packet that has none; the redirect fills in its addresses.
#[inline(always)]
fn give_ethernet(skb: *mut __sk_buff) -> bool {
    // SAFETY: `skb` is the program's context; a helper that checks its arguments.
    let (protocol, result) = unsafe { ((*skb).protocol as u16, bpf_skb_change_head(skb, 14, 0)) };
    result == 0 && Buffer(skb).store(12, protocol).is_some()
}

#[inline(always)]
fn drop_packet(reason: u32) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
}

/// Counts a packet dropped for this [`DropReason`].
#[inline(always)]
pub(super) fn count_drop(reason: u32) {
    if let Some(count) = DROPS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 };
    }
}

#[classifier]
pub(crate) fn weir_ingress(ctx: TcContext) -> i32 {
    run(&ctx, Hook::Ingress)
}

#[classifier]
pub(crate) fn weir_egress(ctx: TcContext) -> i32 {
    run(&ctx, Hook::Egress)
}
