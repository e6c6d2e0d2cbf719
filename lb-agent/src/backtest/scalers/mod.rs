//! What decides in a replay: ours, and models of others to compare with.

pub mod fixed;
pub mod hpa;
pub mod kpa;
pub mod weir;
