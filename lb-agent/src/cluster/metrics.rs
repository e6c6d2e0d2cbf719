//! `/metrics`, `/healthz` and `/readyz` of the coordinator.

use axum::{Router, http::header, response::IntoResponse, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::watch};

use super::{coordinator::Status, scale::leader::Shown};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabels {
    namespace: String,
    policy: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SignalLabels {
    namespace: String,
    policy: String,
    signal: String,
}

type Floats<L> = Family<L, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, status: watch::Receiver<Status>) {
    let router = Router::new()
        .route("/metrics", get(async move || answer(&status.borrow().clone())))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async || "ok\n"));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server has ended");
    }
}

fn answer(status: &Status) -> axum::response::Response {
    match text(status) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn text(status: &Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("weir");
    let leader = Gauge::<i64>::default();
    leader.set(i64::from(status.leads));
    registry.register("leader", "1 if this coordinator leads", leader);
    let agents = Gauge::<i64>::default();
    agents.set(status.agents as i64);
    registry.register("coordinator_agents", "Agents that are alive, as the leader sees it", agents);
    let pools = Family::<PoolLabels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for (pool, (total, used)) in &status.pools {
        let label = |state| PoolLabels { pool: pool.clone(), state };
        pools.get_or_create(&label("total")).set(*total as f64);
        pools.get_or_create(&label("used")).set(f64::from(*used));
    }
    registry.register("address_pool_addresses", "Addresses of each AddressPool, by state", pools);
    let announced = Family::<NodeLabels, Gauge<i64>>::default();
    for node in status.owners.values() {
        announced.get_or_create(&NodeLabels { node: node.clone() }).inc();
    }
    registry.register("announced_addresses", "Addresses that each node announces", announced);
    policies(&mut registry, &status.policies);
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

fn policies(registry: &mut Registry, shown: &[Shown]) {
    let (current, desired) =
        (Family::<PolicyLabels, Gauge<i64>>::default(), Family::<PolicyLabels, Gauge<i64>>::default());
    let signals = Floats::<SignalLabels>::default();
    for Shown { policy: (namespace, name), current: set, desired: wanted, signals: values } in shown {
        let labels = PolicyLabels { namespace: namespace.clone(), policy: name.clone() };
        for (family, number) in [(&current, set), (&desired, wanted)] {
            if let Some(number) = number {
                family.get_or_create(&labels).set((*number).into());
            }
        }
        for (signal, value) in values.iter().filter_map(|signal| Some((signal.signal.to_string(), signal.value?))) {
            let labels = SignalLabels { namespace: namespace.clone(), policy: name.clone(), signal };
            signals.get_or_create(&labels).set(value);
        }
    }
    registry.register("policy_replicas", "Replicas of a ScalePolicy's workload, as set", current);
    registry.register("policy_desired_replicas", "Replicas that a ScalePolicy wants", desired);
    registry.register("signal", "What the replicas of a ScalePolicy carry", signals);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_tells() {
        let status = Status {
            leads: true,
            pools: [("p".to_owned(), (16, 3))].into(),
            owners: [("192.0.2.1".parse().unwrap(), "a".to_owned())].into(),
            agents: 2,
            policies: vec![Shown {
                policy: ("shop".to_owned(), "web".to_owned()),
                current: Some(2),
                desired: Some(4),
                ..Shown::default()
            }],
        };
        let text = text(&status).unwrap();
        for line in [
            "weir_leader 1",
            "weir_coordinator_agents 2",
            "weir_address_pool_addresses{pool=\"p\",state=\"used\"} 3",
            "weir_announced_addresses{node=\"a\"} 1",
            "weir_policy_replicas{namespace=\"shop\",policy=\"web\"} 2",
            "weir_policy_desired_replicas{namespace=\"shop\",policy=\"web\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line || l == format!("{line}.0")), "{line}\n{text}");
        }
    }
}
