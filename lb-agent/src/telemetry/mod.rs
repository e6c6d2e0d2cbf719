//! What the agent shows of itself: metrics and health over HTTP, and a control socket that the other commands ask.
//!
//! The agent publishes a [`Snapshot`] each second; everything here reads the newest one and nothing else, so that no scrape and no
//! command can hold up the agent.

pub mod classic;
pub mod control;
pub mod http;
pub mod metrics;
pub mod snapshot;

pub use snapshot::{
    BackendSnapshot, InterfaceStatus, NodeStatus, Publisher, ServiceSnapshot, Snapshot, SourceStatus, Subscriber,
    SyncDurations, channel,
};
