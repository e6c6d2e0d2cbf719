//! Weir's packet pipeline: one generic path over {XDP, tc} x {IPv4, IPv6} x {TCP, UDP}.
//!
//! A packet moves through [`parse`] -> [`pipeline`] ([`table`], [`select`], [`flow`]) -> [`rewrite`] and out. Nothing here knows BPF:
//! the packet is behind [`packet::Packet`], the maps, the clock and the routing table behind [`env::Env`]. The programs in this
//! package's binary give both their kernel form; the tests give them memory and run the same code on the host.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]

pub mod answer;
#[cfg(test)]
extern crate std;

pub mod atomic;
pub mod checksum;
pub mod create;
pub mod dsr;
pub mod echo;
pub mod env;
pub mod flow;
pub mod fragment;
pub mod header;
pub mod icmp;
pub mod limits;
#[cfg(test)]
mod memory;
pub mod mss;
pub mod neighbor;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod rate;
pub mod requests;
pub mod reset;
pub mod rewrite;
pub mod select;
pub mod socket;
pub mod socket_peers;
pub mod sweep;
pub mod table;
pub mod wake;
