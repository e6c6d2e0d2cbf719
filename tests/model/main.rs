//! A plain model of flows and counters beside the loaded programs, on random packets. Needs root.

mod beside;
mod frames;
mod life;
mod operations;
mod overflow;
mod random;
mod reference;
mod tables;
#[path = "../support/testrun.rs"]
mod testrun;
mod traffic;
mod two_cpus;
mod world;
