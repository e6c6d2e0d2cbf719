//! Scaling in a cluster: the leader of the coordinators decides for every ScalePolicy, by the code that a single node decides by, and
//! has it done through the workloads' scale subresource, so that nobody who is connected notices.
//!
//! [`leader`] is the shell: watches, workloads that are looked at, writes. What it hands to an [`entry`] is plain; an entry decides and
//! says what is to be done, with [`drain`] for scaling in and [`size`] for the size of replicas, which [`resize`] gives to [`pods`];
//! [`status`] is what is told of it.

pub mod claims;
pub mod drain;
pub mod entry;
pub mod keda;
pub mod leader;
pub mod pods;
pub mod replicas;
pub mod resize;
pub mod size;
pub mod status;
pub mod target;
pub mod watch;
pub mod write;
