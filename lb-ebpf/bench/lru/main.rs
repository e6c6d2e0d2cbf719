//! Weir's programs with one thing replaced: the flow table is a kernel LRU hash. All else is compiled from the same files, so that the
//! difference is what the table costs or saves.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics), allow(internal_features))]
#![allow(dead_code, unreachable_pub, reason = "the files hold what others use, too")]

// What the replaced table has in common with the real one.
extern crate lb_ebpf as original;
// The files name the library whose modules these are.
extern crate self as lb_ebpf;

#[path = "../../src/bpf/object.rs"]
mod object;
mod table;

/// Modules of the library, compiled again over the other table.
macro_rules! modules {
    ($($path:literal $name:ident;)*) => { $(
        #[path = $path]
        mod $name;
    )* };
}

modules! {
    "../../src/answer.rs" answer;
    "../../src/atomic.rs" atomic;
    "../../src/checksum.rs" checksum;
    "../../src/create.rs" create;
    "../../src/dsr.rs" dsr;
    "../../src/echo.rs" echo;
    "../../src/env.rs" env;
    "../../src/flow.rs" flow;
    "../../src/fragment.rs" fragment;
    "../../src/header.rs" header;
    "../../src/icmp.rs" icmp;
    "../../src/limits.rs" limits;
    "../../src/mss.rs" mss;
    "../../src/neighbor.rs" neighbor;
    "../../src/packet.rs" packet;
    "../../src/parse.rs" parse;
    "../../src/pipeline.rs" pipeline;
    "../../src/rate.rs" rate;
    "../../src/requests.rs" requests;
    "../../src/reset.rs" reset;
    "../../src/rewrite.rs" rewrite;
    "../../src/select.rs" select;
    "../../src/wake.rs" wake;
}

#[path = "../../src/bpf"]
mod bpf {
    mod env;
    pub(crate) mod maps;
    mod reach;
    mod tc;
    mod vlan;
    mod words;
    mod xdp;
}
