//! Weir on a real Kubernetes cluster, with clients in pods, on nodes and outside. `cargo xtask test kubernetes` builds the programs of the
//! cluster first; all tests share one cluster of three nodes without kube-proxy, where not said otherwise. Those with KEDA are left out
//! but by `cargo xtask test keda`, which builds it.

mod bad_input;
mod beside;
mod cases;
mod change;
mod clients;
mod failure;
mod install;
mod keda;
mod manifests;
mod observe;
mod policy;
mod remote;
mod sample;
mod scale_policies;
mod scaling;
mod sizing;
mod space;
mod undisturbed;
mod weir;
mod world;
