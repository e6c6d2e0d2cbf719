//! What becomes of the TCP connections that the socket hooks have made.

use core::ptr::{addr_of_mut, read_volatile};

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_ESTABLISHED,
        BPF_TCP_FIN_WAIT1, BPF_TCP_LAST_ACK, bpf_sock_ops,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use lb_common::Traffic;
use lb_ebpf::{env::Hook, socket};

use super::{env::Kernel, sock::connection};

/// The kernel goes on as it would.
const DEFAULT: u32 = 1;

#[sock_ops]
pub(crate) fn weir_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    let op = ctx.op();
    if !matches!(op, BPF_SOCK_OPS_TCP_CONNECT_CB | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_STATE_CB) {
        return DEFAULT;
    }
    // SAFETY: the program's context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return DEFAULT;
    }
    let Some(connection) = connection(sk.cast()) else { return DEFAULT };
    let env = Kernel { ctx: &ctx, interface: 0, hook: Hook::Egress };
    // SAFETY: in the storage of a socket that stays while the program runs.
    let owner = unsafe { addr_of_mut!((*connection.ptr()).owner) };
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            // Before its SYN is sent. A socket that cannot be followed is still taken off the counts at its last close.
            let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
        }
        // SAFETY: an owner, changed by these functions only.
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => unsafe { socket::establish(&env, owner) },
        _ => {
            let (before, after) = (ctx.arg(0), ctx.arg(1));
            match after {
                BPF_TCP_CLOSE => {
                    socket::count_traffic(&env, connection, &carried(ops));
                    // From FIN_WAIT2 a connection also gets here in peace, by TIME_WAIT.
                    let cut = matches!(before, BPF_TCP_ESTABLISHED | BPF_TCP_FIN_WAIT1 | BPF_TCP_CLOSE_WAIT);
                    // SAFETY: as above.
                    unsafe { socket::end(&env, owner, cut) }
                    socket::end_requests(&env, connection);
                }
                BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => {
                    // SAFETY: as above.
                    unsafe { socket::finish(&env, owner) }
                    socket::end_requests(&env, connection);
                }
                _ => {}
            }
        }
    }
    DEFAULT
}

/// What a connection has carried.
#[inline(always)]
fn carried(ops: *mut bpf_sock_ops) -> Traffic {
    // SAFETY: the program's context. Volatile: each field in an access of its own, as the verifier wants it.
    unsafe {
        Traffic {
            packets_in: read_volatile(&raw const (*ops).segs_out) as u64,
            packets_out: read_volatile(&raw const (*ops).segs_in) as u64,
            bytes_in: read_volatile(&raw const (*ops).bytes_acked),
            bytes_out: read_volatile(&raw const (*ops).bytes_received),
        }
    }
}
