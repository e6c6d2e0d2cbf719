//! VLAN tags of a packet that becomes an answer: one that stands in the packet is taken out before, so that the answer is made of a packet
//! without, and put back after.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::generated::{bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push},
};
use lb_ebpf::{env::Scratch, header};

use super::{reach, tc::Buffer};

/// Bytes of a tag.
const BYTES: u16 = 4;
/// Where the IP header is behind a tag.
pub(super) const L3: u16 = 14 + BYTES;

/// Takes a tag out: the outer one, if the kernel has it beside the packet, where the one in the packet then takes its place; else that.
/// Not inlined, as what is on the stack here would else be there while everybody's packets are worked on.
#[inline(never)]
pub(super) fn take_out(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    // SAFETY: `skb` is the program's context; a helper that checks its arguments.
    unsafe {
        let (kind, information) = if (*skb).vlan_present != 0 {
            ((*skb).vlan_proto, (*skb).vlan_tci)
        } else {
            let Some([kind, information]) = reach::load::<[u16; 2]>(skb, 12) else { return false };
            (kind as u32, u16::from_be(information) as u32)
        };
        scratch.tag = kind << 16 | information & 0xffff;
        (scratch.packet.l3, scratch.packet.l4) = (L3 - BYTES, scratch.packet.l4.wrapping_sub(BYTES));
        bpf_skb_vlan_pop(skb) == 0
    }
}

/// Puts it back as the outer one, and sends the answer to whom the packet came from: of one with a tag in it the kernel does not find the
/// next hop. The program's return value.
#[inline(never)]
pub(super) fn send_back(skb: *mut __sk_buff, scratch: &Scratch) -> i32 {
    let (kind, information) = ((scratch.tag >> 16) as u16, scratch.tag as u16);
    // SAFETY: `skb` is the program's context; helpers that check their arguments.
    unsafe {
        if header::turn_link(&mut Buffer(skb)).is_none() || bpf_skb_vlan_push(skb, kind, information) != 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect((*skb).ifindex, 0) as i32
    }
}
