//! What tests above the unit tests share with the demo and the benchmarks: network namespaces that clean up after themselves, a
//! small network of a client, a node and servers, real TCP and UDP peers, a guard around the real `weir`, a real Kubernetes cluster,
//! and a real Prometheus.

pub mod agent;
pub mod alerts;
pub mod arp;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod evaluation;
pub mod foreign;
pub mod grafana;
pub mod image;
pub mod machine;
pub mod manifests;
pub mod namespace;
pub mod pins;
pub mod process;
pub mod prometheus;
pub mod qinq;
pub mod replay;
pub mod report;
pub mod requirements;
pub mod server;
pub mod syn;
pub mod topology;
pub mod transfer;
pub mod usage;
