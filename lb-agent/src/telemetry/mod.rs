//! What the agent shows of itself: metrics and health over HTTP, and a control socket that the other commands ask.
//!
//! The agent publishes a [`Snapshot`] each second; everything here reads the newest one, so that no command can hold up the agent.
//! Only a scrape asks it for more: what every backend carries.

pub mod classic;
pub mod control;
pub mod health_check_node_port;
pub mod http;
pub mod metrics;
pub mod proxy_health;
pub mod snapshot;

pub use snapshot::{
    Asks, BackendSnapshot, DeliveryStatus, InterfaceStatus, NodeStatus, Publisher, ServiceSnapshot, Snapshot,
    SocketStatus, SourceStatus, Subscriber, SyncDurations, channel,
};
