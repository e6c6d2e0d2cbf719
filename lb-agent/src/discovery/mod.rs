//! Sources: what a user has written, read and checked, and the model that follows from it.
//!
//! Data flows text -> [`document`] -> [`object`] (Kubernetes' types, checked into ours) -> [`build`] -> [`crate::model::Model`].

pub mod annotations;
#[cfg(test)]
mod bad_input;
pub mod build;
pub mod document;
pub mod files;
pub mod object;
pub mod problem;
mod service;
mod slice;
pub mod watch;

pub use object::{Objects, ServiceObject, SliceObject};
pub use problem::{Origin, Problem};
