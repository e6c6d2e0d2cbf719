//! Services of a cluster: what the API server tells, followed object by object.
//!
//! Data flows [`watch`] (list, watch, resume; an object becomes a few plain values at once) -> [`store`] (what is known, and which
//! Services a change concerns) -> [`crate::discovery::build`], Service by Service -> [`crate::model::Change`]. [`link`] knows how each
//! watch is doing, [`explain`] says what is wrong with one, [`events`] tells users what is wrong with their Services. An API server that
//! is away changes nothing of what is known.

pub mod connect;
pub mod events;
pub mod explain;
pub mod link;
pub mod slim;
pub mod source;
pub mod store;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod watch;

pub use self::{
    connect::ConnectError,
    source::{Kube, Options},
};
