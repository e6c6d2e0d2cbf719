//! Replays a load trace through a queueing model of replicas, under a ScalePolicy and under models of other autoscalers, and says how
//! many requests waited too long and what the replicas cost. The policy is decided by the function that decides in production, and
//! sees what it would see there.

pub mod fleet;
pub mod fronts;
pub mod plot;
pub mod replay;
pub mod run;
pub mod scalers;
pub mod score;
pub mod trace;
pub mod workload;
