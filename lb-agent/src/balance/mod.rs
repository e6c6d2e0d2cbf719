//! Balancing: which share of the new connections each backend gets, and the selection tables that give it to them.

pub mod alias;
pub mod feedback;
pub mod maglev;
pub mod reach;
pub mod sequence;
pub mod tables;
pub mod weights;

pub use tables::{Built, Entry, build, identity};
