//! The cluster-wide part: which address a Service gets, which node announces it, and how many replicas a ScalePolicy wants.
//!
//! `weir coordinator` runs [`coordinator`] (two replicas, one leads by a Lease): objects of the API -> [`allocate`] -> status of Services;
//! nodes that report -> [`owner`] -> orders; what nodes carry -> [`fleet`], and what pods use -> [`usage`] -> [`scale`]. Agents run
//! [`agent`]: one gRPC stream to the leader, and [`announce`], which makes the kernel answer for the addresses of this node. With no
//! coordinator the last owners stay.

pub mod agent;
pub mod allocate;
pub mod announce;
pub mod complain;
pub mod coordinator;
pub mod counts;
pub mod fleet;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod owner;
pub mod pool;
pub mod scale;
pub mod serve;
pub mod tls;
pub mod token;
pub mod usage;
pub mod write;

/// The protocol of `proto/weir.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire {
    tonic::include_proto!("weir.v1alpha1");
}

/// The Lease by which the leader is known; its holder is `POD/ADDRESS:PORT`.
pub const LEASE: &str = "weir-coordinator";
/// The ConfigMap that holds the certificate agents trust, under `ca.crt`.
pub const TRUST: &str = "weir-coordinator-ca";
/// The name in the coordinator's certificate.
pub const SERVER_NAME: &str = "weir-coordinator";
/// The audience of the tokens that agents show.
pub const AUDIENCE: &str = "weir-coordinator";

/// The holder of the Lease, as text.
pub fn holder(name: &str, address: std::net::SocketAddr) -> String {
    format!("{name}/{address}")
}

/// The address in a holder.
pub fn holder_address(holder: &str) -> Option<std::net::SocketAddr> {
    holder.rsplit_once('/')?.1.parse().ok()
}
