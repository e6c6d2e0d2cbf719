//! Programs of the benchmark alone, in an object of their own: a driver that puts a packet's headers back before each run, programs
//! that do nothing or next to nothing, and a stateless NAT to compare with.
#![no_std]
#![no_main]

mod driver;
mod floor;
mod nat;
#[path = "../src/bpf/reach.rs"]
#[expect(dead_code, reason = "shared with Weir's programs, which ask more of it")]
mod reach;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for programs of a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
