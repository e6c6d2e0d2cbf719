//! Programs of the benchmark alone, in an object of their own: a driver that puts a packet's headers back before each run, programs
//! that do nothing or next to nothing, and a stateless NAT to compare with.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod driver;
mod floor;
mod nat;
#[path = "../src/bpf/object.rs"]
mod object;
#[path = "../src/bpf/reach.rs"]
#[expect(dead_code, reason = "shared with Weir's programs, which ask more of it")]
mod reach;
#[path = "../src/bpf/words.rs"]
#[expect(dead_code, reason = "as above")]
mod words;
