//! What tests above the unit tests share with the demo and the benchmarks: network namespaces that clean up after themselves, a
//! small network of a client, a node and servers, real TCP and UDP peers, and a guard around the real `weir`.

pub mod agent;
pub mod client;
pub mod foreign;
pub mod manifests;
pub mod namespace;
pub mod pins;
pub mod process;
pub mod requirements;
pub mod server;
pub mod topology;
pub mod transfer;
