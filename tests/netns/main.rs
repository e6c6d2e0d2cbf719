//! Real traffic through the real `weir` in network namespaces. Needs root.

mod algorithms;
mod change;
mod counting;
mod delivery;
mod fragments;
mod hooks;
mod interfaces;
mod lab;
mod limits;
mod pmtu;
mod pods;
mod policies;
mod reach;
mod refusals;
mod requests;
mod scaling;
mod snat;
mod sockets;
mod sockets_counts;
mod sockets_lab;
mod sockets_policy;
mod support;
mod survival;
mod transfers;
mod usage;
mod waking;
