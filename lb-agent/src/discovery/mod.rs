//! Sources: what a user has written, read and checked, and the model that follows from it.
//!
//! Data flows text -> [`document`] -> [`read`] -> [`object`] (Kubernetes' types, checked into ours) -> [`build`] ->
//! [`crate::model::Model`]. What the API server tells enters at [`object`], and goes on Service by Service.

pub mod annotations;
mod backends;
#[cfg(test)]
mod bad_input;
pub mod build;
mod context;
pub mod document;
pub mod files;
mod frontends;
pub mod kube;
pub mod node_ports;
pub mod object;
pub mod owners;
pub mod problem;
pub mod read;
pub mod select;
#[cfg(test)]
mod semantics_tests;
mod service;
mod slice;
pub mod watch;

pub use object::{Objects, ServiceObject, SliceObject};
pub use problem::{ObjectRef, Origin, Problem};
