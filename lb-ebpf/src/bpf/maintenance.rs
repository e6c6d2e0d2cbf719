//! Programs that the agent runs itself, through BPF_PROG_TEST_RUN: only programs write flows and counts, so nothing stays locked
//! or half-written when the agent is killed.

use aya_ebpf::{
    EbpfContext, bindings::__sk_buff, helpers::generated::bpf_loop, macros::classifier, programs::TcContext,
};
use lb_common::{
    abi::{RepairRequest, SWEEP_BATCH, SweepRequest, SweepResult},
    flow::WAYS,
};
use lb_ebpf::{
    env::{Env, Hook},
    flow::{self, Count},
    sweep,
};

use super::{env::Kernel, maps::SWEEP};

/// What a run of the sweep knows.
struct Run {
    /// The first slot.
    first: u32,
    now: u32,
    ctx: *mut core::ffi::c_void,
}

/// Maintenance happens at no interface.
#[inline(always)]
fn env(ctx: &TcContext) -> Kernel<'_, TcContext> {
    Kernel { ctx, interface: 0, hook: Hook::Ingress }
}

/// Reads what the agent has put behind the packet's Ethernet header.
#[inline(always)]
fn request<T: Copy>(ctx: &TcContext) -> Option<T> {
    const HEADER: usize = 14;
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: `skb` is the program's context; the read is checked against its end.
    unsafe {
        let start = (*skb).data as usize + HEADER;
        if start + size_of::<T>() > (*skb).data_end as usize {
            return None;
        }
        Some((start as *const T).read_unaligned())
    }
}

#[classifier]
pub(crate) fn weir_sweep(ctx: TcContext) -> i32 {
    let Some(SweepRequest { first, count }) = request(&ctx) else { return -1 };
    let now = env(&ctx).now();
    let mut run = Run { first: first.wrapping_mul(WAYS as u32), now, ctx: ctx.as_ptr() };
    // SAFETY: the callback has the signature the helper calls, and `run` outlives the loop.
    unsafe { bpf_loop(count.min(SWEEP_BATCH) * WAYS as u32, one_slot as *mut _, (&raw mut run).cast(), 0) as i32 }
}

#[inline(never)]
extern "C" fn one_slot(index: u32, run: *mut core::ffi::c_void) -> i64 {
    // SAFETY: the helper passes on the pointer to `Run` that it was given.
    let run = unsafe { &*run.cast::<Run>() };
    let ctx = TcContext::new(run.ctx.cast());
    let env = env(&ctx);
    let Some(result) = SWEEP.get_ptr_mut(0) else { return 1 };
    // SAFETY: the agent runs one sweep at a time.
    sweep::slot(&env, run.first.wrapping_add(index), run.now, unsafe { &mut *result.cast::<SweepResult>() });
    0
}

#[classifier]
pub(crate) fn weir_repair(ctx: TcContext) -> i32 {
    let Some(RepairRequest { backend, active, pending, .. }) = request(&ctx) else { return -1 };
    let Some(load) = env(&ctx).load(backend) else { return -1 };
    flow::add(load, Count::Active, active as u64);
    flow::add(load, Count::Pending, pending as u64);
    0
}
