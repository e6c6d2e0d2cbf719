//! An agent and a coordinator as Prometheus sees them: their real HTTP servers, with numbers that grow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_agent::{
    cluster::{coordinator::Status, metrics},
    dataplane::Counters,
    model::ServiceId,
    scaling::{PolicyStatus, ScalePolicy, forecast::ForecastReport, status::SignalStatus, validate},
    signals::requests::{Answers, RequestLoad},
    telemetry::{BackendSnapshot, NodeStatus, ServiceSnapshot, Snapshot, SourceStatus, channel, http},
};
use lb_common::{BackendLoad, BackendState, DropReason, Protocol, Traffic};
use serde_json::json;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

/// How often an agent's numbers grow.
const TICK: Duration = Duration::from_millis(200);

/// A node with services of both protocols and families, a policy and syncs, after so many ticks.
pub(crate) fn snapshot(ticks: u64) -> Result<Snapshot> {
    let mut snapshot = Snapshot {
        taken: Some(Instant::now()),
        synced: true,
        services: vec![
            service(Protocol::Tcp, &["10.0.0.1:8080", "[fd00::1]:8080"], ticks)?,
            service(Protocol::Udp, &["10.0.0.1:8080"], ticks)?,
        ],
        drops: [(DropReason::NoFlow, 9 + ticks)].into(),
        flow_entries: 12,
        flow_capacity: 4096,
        maps: vec![("frontends", 7, 100), ("slots", 70, 1000)],
        policies: vec![policy()?],
        node: NodeStatus {
            sources: vec![SourceStatus { kind: "kubernetes".into(), healthy: true, ..SourceStatus::default() }],
            ..NodeStatus::default()
        },
        ..Snapshot::default()
    };
    for _ in 0..=ticks {
        snapshot.syncs.observe(Duration::from_millis(3));
        snapshot.programming.observe(Duration::from_millis(700));
    }
    Ok(snapshot)
}

fn service(protocol: Protocol, backends: &[&str], ticks: u64) -> Result<ServiceSnapshot> {
    let backend = |text: &&str| -> Result<BackendSnapshot> {
        Ok(BackendSnapshot {
            address: text.parse()?,
            state: BackendState::Ready,
            effective_weight: 100,
            counters: Counters {
                load: BackendLoad { active: 3, connections: 1000 + 2 * ticks, ..BackendLoad::default() },
                traffic: Traffic { packets_in: 5000, packets_out: 6, bytes_in: 700 + ticks, bytes_out: 8000 + ticks },
            },
            requests: Some(RequestLoad {
                in_flight: 2,
                begun: 100 + ticks,
                unseen: 0,
                answers: Answers::new(vec![0, 90 + ticks, 8], 3_000_000),
            }),
        })
    };
    let id = ServiceId { namespace: "shop".to_owned(), name: "dns".to_owned(), port: 53, protocol };
    Ok(ServiceSnapshot { id, backends: backends.iter().map(backend).collect::<Result<_>>()? })
}

fn policy() -> Result<PolicyStatus> {
    let resource: ScalePolicy = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "ScalePolicy",
        "metadata": {"name": "dns", "namespace": "shop"},
        "spec": {
            "serviceRef": {"name": "dns"},
            "replicas": {"max": 4},
            "targets": [{"signal": "bytesPerSecond", "perReplica": 1000}],
        },
    }))?;
    let mut status = PolicyStatus::new(&validate(&resource)?);
    status.current_replicas = Some(2);
    status.desired_replicas = Some(3);
    status.forecast = Some(ForecastReport { quantile: 0.9, upper: Some(2000.0), ..ForecastReport::default() });
    status.signals =
        vec![SignalStatus { signal: "bytesPerSecond".to_owned(), value: Some(1500.5), age_seconds: Some(0.5) }];
    Ok(status)
}

/// Serves an agent's metrics on a port of loopback while the runtime lives; they grow, or stay as they are at first.
pub(crate) fn serve_agent(runtime: &Runtime, grows: bool) -> Result<SocketAddr> {
    let listener = runtime.block_on(http::bind("--metrics-listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let address = listener.local_addr()?;
    let (publisher, subscriber, mut asks) = channel();
    publisher.send_replace(Arc::new(snapshot(0)?));
    runtime.spawn(http::serve(listener, subscriber));
    runtime.spawn(async move {
        let mut ticks = 0;
        let mut clock = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = clock.tick(), if grows => {
                    ticks += 1;
                    if let Ok(newer) = snapshot(ticks) {
                        publisher.send_replace(Arc::new(newer));
                    }
                }
                Some(answer) = asks.recv() => {
                    let services = publisher.borrow().services.clone();
                    // Whoever asked may have gone.
                    let _ = answer.send(services);
                }
            }
        }
    });
    Ok(address)
}

/// The same of a coordinator that leads.
pub(crate) fn serve_coordinator(runtime: &Runtime) -> Result<SocketAddr> {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let status = Status {
        leads: true,
        pools: [("office".to_owned(), (16, 3))].into(),
        owners: [("192.0.2.1".parse()?, "node-1".to_owned())].into(),
        agents: 1,
        // The agent of this stage has them.
        policies: Vec::new(),
    };
    let (sender, receiver) = watch::channel(status);
    runtime.spawn(async move {
        metrics::serve(listener, receiver).await;
        drop(sender);
    });
    Ok(address)
}
