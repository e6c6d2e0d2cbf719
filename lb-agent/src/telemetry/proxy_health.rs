//! The server of `--healthz-listen`: `/healthz` and `/livez` as kube-proxy has them on port 10256. Load balancers of clouds ask there whether
//! a node should get traffic of Services with `externalTrafficPolicy: Cluster`.

use std::time::SystemTime;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    http::{HttpError, is_healthy},
    snapshot::Subscriber,
};

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, agent: Subscriber) -> Result<(), HttpError> {
    axum::serve(listener, router(agent)).await.map_err(HttpError::Serve)
}

fn router(agent: Subscriber) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(agent)
}

/// Whether new connections should come here: not to a node that is about to go, though its proxy is well.
async fn healthz(State(agent): State<Subscriber>) -> Response {
    let eligible = !agent.borrow().node_leaving;
    let healthy = is_healthy(&agent);
    let mut body = health(&agent, healthy);
    body["nodeEligible"] = eligible.into();
    reply(healthy && eligible, body)
}

/// Whether the proxy is well.
async fn livez(State(agent): State<Subscriber>) -> Response {
    let healthy = is_healthy(&agent);
    reply(healthy, health(&agent, healthy))
}

fn health(agent: &Subscriber, healthy: bool) -> Value {
    let now = SystemTime::now();
    let age = agent.borrow().taken.filter(|_| !healthy).map(|taken| taken.elapsed());
    let updated = now.checked_sub(age.unwrap_or_default()).unwrap_or(now);
    let time = |at| humantime::format_rfc3339_nanos(at).to_string();
    json!({"lastUpdated": time(updated), "currentTime": time(now), "healthy": healthy})
}

fn reply(well: bool, body: Value) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use http_body_util::BodyExt;

    use super::*;
    use crate::telemetry::{Snapshot, channel};

    #[tokio::test]
    async fn a_leaving_node_is_alive_and_not_eligible() {
        let (publisher, agent, _) = channel();
        // Synced, leaving: the answers of /healthz and /livez.
        for (synced, node_leaving, healthz_status, livez_status) in
            [(true, false, 200, 200), (true, true, 503, 200), (false, false, 503, 503)]
        {
            let taken = Some(Instant::now());
            publisher.send_replace(Arc::new(Snapshot { taken, synced, node_leaving, ..Snapshot::default() }));
            let answers = [healthz(State(agent.clone())).await, livez(State(agent.clone())).await];
            assert_eq!(answers.each_ref().map(|answer| answer.status().as_u16()), [healthz_status, livez_status]);
            let [health, _] = answers;
            let body = health.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["healthy"], &body["nodeEligible"]), (&synced.into(), &(!node_leaving).into()));
            let time = |field: &str| humantime::parse_rfc3339(body[field].as_str().unwrap()).unwrap();
            assert!(time("lastUpdated") <= time("currentTime"));
        }
    }
}
