//! Words of a packet in one instruction each. Headers stand at odd words, and of a load of four bytes that may be anywhere the compiler makes
//! four loads of one and puts them together. Every processor for which the verifier takes such a load does it at once.

use core::{arch::asm, mem::MaybeUninit};

use lb_ebpf::packet::Plain;

/// Reads a value.
///
/// # Safety
/// The verifier knows that all its bytes are in the packet.
#[inline(always)]
pub(crate) unsafe fn read<T: Plain>(place: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let (from, to) = (place.cast::<u8>(), value.as_mut_ptr().cast::<u8>());
    // SAFETY: in bounds of both; `Plain` has no invalid patterns, and its size is a multiple of two bytes.
    unsafe {
        for at in (0..whole::<T>()).step_by(4) {
            let word: u32;
            asm!("{word} = *(u32 *)({from} + 0)", from = in(reg) from.add(at), word = out(wreg) word, options(pure, readonly, nostack));
            to.add(at).cast::<u32>().write_unaligned(word);
        }
        if whole::<T>() < size_of::<T>() {
            let at = whole::<T>();
            let half: u32;
            asm!("{half} = *(u16 *)({from} + 0)", from = in(reg) from.add(at), half = out(wreg) half, options(pure, readonly, nostack));
            to.add(at).cast::<u16>().write_unaligned(half as u16);
        }
        value.assume_init()
    }
}

/// Writes a value.
///
/// # Safety
/// As for [`read`].
#[inline(always)]
pub(crate) unsafe fn write<T: Plain>(place: *mut T, value: T) {
    let (from, to) = ((&raw const value).cast::<u8>(), place.cast::<u8>());
    // SAFETY: as in `read`.
    unsafe {
        for at in (0..whole::<T>()).step_by(4) {
            let word = from.add(at).cast::<u32>().read_unaligned();
            asm!("*(u32 *)({to} + 0) = {word}", to = in(reg) to.add(at), word = in(wreg) word, options(nostack));
        }
        if whole::<T>() < size_of::<T>() {
            let at = whole::<T>();
            let half = from.add(at).cast::<u16>().read_unaligned() as u32;
            asm!("*(u16 *)({to} + 0) = {half}", to = in(reg) to.add(at), half = in(wreg) half, options(nostack));
        }
    }
}

/// How many bytes of a type are whole words of four; none or two are left.
const fn whole<T>() -> usize {
    const { assert!(size_of::<T>().is_multiple_of(2)) };
    size_of::<T>() / 4 * 4
}
