//! The node agent of Weir: reads what should be, plans the smallest change of the kernel's maps, applies it, reads what the
//! backends carry, and decides weights and replicas from it. Data flows one way: source -> model -> pure plan -> apply.

pub mod agent;
pub mod backtest;
pub mod balance;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dataplane;
pub mod discovery;
pub mod health;
pub mod model;
pub mod node;
mod pack;
pub mod plan;
pub mod scaling;
pub mod signals;
pub mod telemetry;
