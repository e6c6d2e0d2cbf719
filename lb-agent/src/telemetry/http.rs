//! The HTTP server of `--metrics-listen`: `/metrics`, `/healthz` and `/readyz`, all from the newest snapshot.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::{
    metrics,
    snapshot::{Snapshot, Subscriber},
};

/// The age at which a snapshot says that the agent is stuck. One is published each second.
const STUCK: Duration = Duration::from_secs(10);

const OPEN_METRICS: &str = "application/openmetrics-text";

/// Why the metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be listened at.
    #[error("{flag} {address}: {source}; {}", remedy(.source))]
    Listen {
        /// Who asks for it: `--metrics-listen` or `--healthz-listen`.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server ended.
    #[error("an HTTP server has ended: {0}")]
    Serve(#[source] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this node, or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or run as root",
        _ => "choose another address",
    }
}

/// Takes the address of a flag. Comes before anything else is touched, so that a port in use leaves nothing half done.
pub async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Listen { flag, address, source })
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, snapshots: Subscriber) -> Result<(), HttpError> {
    axum::serve(listener, router(snapshots)).await.map_err(HttpError::Serve)
}

fn router(snapshots: Subscriber) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(serve_readiness))
        .with_state(snapshots)
}

async fn serve_metrics(State(snapshots): State<Subscriber>, headers: HeaderMap) -> Response {
    let snapshot = snapshots.whole().await;
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (kind, text) = if wants_open_metrics(&accept.collect::<Vec<_>>().join(",")) {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (kind, metrics::open_metrics(&snapshot))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics::classic(&snapshot))
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn serve_readiness(State(snapshots): State<Subscriber>) -> Response {
    let snapshot = snapshots.borrow().clone();
    match readiness(&snapshot, snapshot.taken.map(|taken| taken.elapsed())) {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Whether the agent is well: the kernel holds what it should, and goes on holding it.
pub(super) fn is_healthy(agent: &Subscriber) -> bool {
    let snapshot = agent.borrow().clone();
    readiness(&snapshot, snapshot.taken.map(|taken| taken.elapsed())).is_ok()
}

/// Whether the kernel holds what it should, as far as a snapshot of this age can tell.
fn readiness(snapshot: &Snapshot, age: Option<Duration>) -> Result<(), String> {
    match age {
        _ if !snapshot.synced => Err("the first sync is not done".to_owned()),
        None => Err("nothing was measured yet".to_owned()),
        Some(age) if age > STUCK => Err(format!("the agent was last heard of {} s ago", age.as_secs())),
        Some(_) => Ok(()),
    }
}

/// Whether an Accept header (RFC 9110, section 12.5.1) likes OpenMetrics at least as much as plain text.
fn wants_open_metrics(accept: &str) -> bool {
    let quality_of = |kind: &str| accept.split(',').filter_map(|range| quality(range, kind)).fold(0.0, f64::max);
    let open = quality_of(OPEN_METRICS);
    open > 0.0 && open >= quality_of("text/plain")
}

/// The `q` of a media range if it names this kind.
fn quality(range: &str, kind: &str) -> Option<f64> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(kind) {
        return None;
    }
    let q = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim() == "q");
    q.map_or(Some(1.0), |(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::telemetry::{channel, metrics::tests::full};

    #[test]
    fn the_accept_header_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, open) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; version=1.0.0", true),
            (prometheus, true),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.9", false),
            ("application/openmetrics-text;q=x", false),
        ] {
            assert_eq!(wants_open_metrics(accept), open, "{accept}");
        }
    }

    #[test]
    fn readiness_needs_a_sync_and_a_living_agent() {
        let fresh = Some(Duration::from_secs(1));
        let (old, new) = (Snapshot::default(), Snapshot { synced: true, ..Snapshot::default() });
        assert_eq!(readiness(&new, fresh), Ok(()));
        assert_eq!(readiness(&old, fresh), Err("the first sync is not done".to_owned()));
        assert_eq!(readiness(&new, None), Err("nothing was measured yet".to_owned()));
        assert_eq!(
            readiness(&new, Some(Duration::from_secs(11))),
            Err("the agent was last heard of 11 s ago".to_owned())
        );
    }

    async fn ask(address: SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: weir\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.to_lowercase()
    }

    #[tokio::test]
    async fn the_server_answers() {
        let listener = bind("--metrics-listen", SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (publisher, subscriber, _) = channel();
        let server = tokio::spawn(serve(listener, subscriber));

        assert!(ask(address, "/healthz", "*/*").await.starts_with("http/1.1 200"));
        let answer = ask(address, "/readyz", "*/*").await;
        assert!(answer.starts_with("http/1.1 503"), "{answer}");
        assert!(answer.ends_with("the first sync is not done\n"), "{answer}");

        let taken = Some(Instant::now());
        publisher.send_replace(Arc::new(Snapshot { taken, synced: true, ..full() }));
        assert!(ask(address, "/readyz", "*/*").await.starts_with("http/1.1 200"));
        let classic = ask(address, "/metrics", "*/*").await;
        assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
        assert!(classic.contains("# type weir_backend_connections_total counter\n"), "{classic}");
        let open = ask(address, "/metrics", OPEN_METRICS).await;
        assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
        assert!(open.ends_with("# eof\n"), "{open}");
        assert!(ask(address, "/other", "*/*").await.starts_with("http/1.1 404"));
        server.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_a_remedy() {
        let first = bind("--metrics-listen", SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind("--metrics-listen", address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("--metrics-listen {address}: ")), "{error}");
        assert!(error.ends_with("; stop what listens there, or choose another port"), "{error}");
    }
}
