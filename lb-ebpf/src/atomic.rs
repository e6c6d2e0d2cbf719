//! The few atomic operations on map memory. On the BPF target `core`'s atomic types lack the operations that return values, its
//! intrinsics have them; elsewhere the standard types do the same.

/// Adds `value` (wrapping) and returns what was there before.
///
/// # Safety
/// `cell` is valid and aligned; everyone else touches it only atomically.
#[inline(always)]
pub unsafe fn fetch_add(cell: *mut u64, value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(cell, value)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        core::sync::atomic::AtomicU64::from_ptr(cell).fetch_add(value, core::sync::atomic::Ordering::SeqCst)
    }
}

/// Puts `new` where `old` stands; whether it stood there.
///
/// # Safety
/// `cell` is valid and aligned; everyone else touches it only atomically.
#[inline(always)]
pub unsafe fn compare_exchange(cell: *mut u32, old: u32, new: u32) -> bool {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_cxchg::<
            u32,
            { core::intrinsics::AtomicOrdering::SeqCst },
            { core::intrinsics::AtomicOrdering::SeqCst },
        >(cell, old, new)
        .1
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
        AtomicU32::from_ptr(cell).compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }
}

/// The same for a double word.
///
/// # Safety
/// `cell` is valid and aligned; everyone else touches it only atomically.
#[inline(always)]
pub unsafe fn compare_exchange64(cell: *mut u64, old: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_cxchg::<
            u64,
            { core::intrinsics::AtomicOrdering::SeqCst },
            { core::intrinsics::AtomicOrdering::SeqCst },
        >(cell, old, new)
        .1
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
        AtomicU64::from_ptr(cell).compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }
}

/// Puts `new` there, as a full barrier, and returns what was there before.
///
/// # Safety
/// `cell` is valid and aligned; everyone else touches it only atomically.
#[inline(always)]
pub unsafe fn exchange(cell: *mut u32, new: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_xchg::<u32, { core::intrinsics::AtomicOrdering::SeqCst }>(cell, new)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        core::sync::atomic::AtomicU32::from_ptr(cell).swap(new, core::sync::atomic::Ordering::SeqCst)
    }
}
