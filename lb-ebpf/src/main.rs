//! The BPF programs: Weir's pipeline at XDP and tc, and the sweep. Everything that decides is in the library.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod bpf;
#[path = "bpf/object.rs"]
mod object;
