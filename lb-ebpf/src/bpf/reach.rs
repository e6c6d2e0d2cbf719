//! What of a packet can be read directly, in the form that the verifier understands.

use core::{hint::black_box, ptr::read_volatile};

use aya_ebpf::bindings::__sk_buff;
use lb_ebpf::packet::{MAX_OFFSET, Plain};

use super::words;

/// A place in the packet whose bounds are in the context's words `data` and `end`.
///
/// # Safety
/// `data` and `end` are the words of the program's own context.
#[inline(always)]
pub(super) unsafe fn at<T: Plain>(data: *const u32, end: *const u32, offset: u32) -> Option<*mut T> {
    // What the compiler knows of the offset, and would leave the comparison out for, the verifier does not.
    let offset = black_box(offset);
    if offset > MAX_OFFSET {
        return None;
    }
    // SAFETY: the caller's promise. Volatile: a pointer kept across a call is a number to the verifier.
    let (data, end) = unsafe { (read_volatile(data) as usize, read_volatile(end) as usize) };
    let start = data + offset as usize;
    (start + size_of::<T>() <= end).then_some(start as *mut T)
}

/// Reads what is at an offset of a socket buffer.
///
/// # Safety
/// `skb` is the program's own context.
#[inline(always)]
pub(super) unsafe fn load<T: Plain>(skb: *const __sk_buff, offset: u32) -> Option<T> {
    // SAFETY: the caller's promise; what is in bounds may be read, and `Plain` has no invalid patterns.
    unsafe { at::<T>(&raw const (*skb).data, &raw const (*skb).data_end, offset).map(|place| words::read(place)) }
}
