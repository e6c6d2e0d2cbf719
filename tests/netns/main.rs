//! Real traffic through the real `weir` in network namespaces. Needs root.

mod algorithms;
mod change;
mod counting;
mod hooks;
mod lab;
mod pmtu;
mod reach;
mod refusals;
mod scaling;
mod support;
mod survival;
mod transfers;
