//! What users see of Weir in Prometheus and Grafana, under the real Prometheus: no root. `cargo xtask test prometheus` runs it.

mod alerts;
mod asked;
mod dashboards;
mod documented;
mod metrics;
mod sample;
mod stage;
