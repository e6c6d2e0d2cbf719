//! The control socket: what only a running agent knows, for the other commands. It answers questions and takes no orders.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as Segments, State},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::get as on_get,
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use super::snapshot::Subscriber;
use crate::{
    discovery::kube::explain,
    scaling::{PolicyStatus, ScalePolicy},
};

/// Where the sockets of all agents of a machine are.
pub const FOLDER: &str = "/run/weir";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest file name made of a pin path: with the folder it must fit into a socket's address, 108 bytes.
const LONGEST: usize = 80;

/// Why an agent cannot be asked, or cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "no agent is running for the pin path {pin_path} ({socket}: {source}); start `weir run`, or name its folder with --pin-path"
    )]
    NoAgent {
        /// The pin path.
        pin_path: String,
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens already.
    #[error("another agent is running and listens at {socket}; stop it, or give this one its own --pin-path")]
    Running {
        /// The socket.
        socket: String,
    },
    /// The socket cannot be made.
    #[error("the control socket {socket} cannot be made: {source}; check that the folder can be written")]
    Listen {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The agent did not answer.
    #[error("the agent at {socket} did not answer: {why}; look at its log")]
    NoAnswer {
        /// The socket.
        socket: String,
        /// Why.
        why: String,
    },
    /// The agent refused.
    #[error("{0}")]
    Refused(String),
}

/// The socket of the agent that uses this pin path.
pub fn socket(pin_path: &Path) -> PathBuf {
    Path::new(FOLDER).join(file_name(pin_path))
}

fn file_name(pin_path: &Path) -> String {
    let text = pin_path.to_string_lossy();
    let mut name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    if name.len() > LONGEST {
        let mixed = |hash, byte: &u8| lb_common::hash::mix(hash ^ u64::from(*byte));
        let hash = text.as_bytes().iter().fold(lb_common::hash::SELECTION_SEED, mixed);
        name = format!("{}-{hash:016x}", &name[..LONGEST - 17]);
    }
    name + ".sock"
}

/// A control socket, removed when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays is replaced by the next agent.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Control {
    /// Listens for this pin path; takes the place of a socket that an agent has left behind.
    pub async fn bind(pin_path: &Path) -> Result<Self, ControlError> {
        Self::bind_at(socket(pin_path)).await
    }

    /// Listens at a path of the caller's choice.
    pub async fn bind_at(path: PathBuf) -> Result<Self, ControlError> {
        let name = path.display().to_string();
        if UnixStream::connect(&path).await.is_ok() {
            return Err(ControlError::Running { socket: name });
        }
        let listener = listen(&path).map_err(|source| ControlError::Listen { socket: name, source })?;
        Ok(Self { listener, file: SocketFile(path) })
    }

    /// Answers until the future is dropped. The policies of a cluster are asked of its API server.
    pub async fn serve(self, snapshots: Subscriber, cluster: Option<kube::Client>) -> io::Result<()> {
        let Self { listener, file } = self;
        let result = axum::serve(listener, router(Known { snapshots, cluster })).await;
        drop(file);
        result
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// What there is to answer from.
#[derive(Clone)]
struct Known {
    snapshots: Subscriber,
    cluster: Option<kube::Client>,
}

impl Known {
    async fn policies(&self) -> Result<Vec<PolicyStatus>, Response> {
        let Some(client) = &self.cluster else { return Ok(self.snapshots.borrow().policies.clone()) };
        let api: kube::Api<ScalePolicy> = kube::Api::all(client.clone());
        match tokio::time::timeout(PATIENCE / 2, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => Ok(list.items.iter().map(PolicyStatus::told).collect()),
            Ok(Err(error)) => {
                Err(failed(StatusCode::BAD_GATEWAY, &explain::api_error(&error, "list", "scalepolicies")))
            }
            Err(_) => Err(failed(StatusCode::GATEWAY_TIMEOUT, &"the API server does not answer")),
        }
    }
}

fn failed(status: StatusCode, error: &dyn std::fmt::Display) -> Response {
    (status, Json(json!({ "error": error.to_string() }))).into_response()
}

fn router(known: Known) -> Router {
    Router::new()
        .route("/v1/policies", on_get(policies))
        .route("/v1/policies/{namespace}/{name}/explain", on_get(explained))
        .route("/v1/nodes", on_get(nodes))
        .route("/v1/status", on_get(status))
        .with_state(known)
}

async fn policies(State(known): State<Known>) -> Response {
    match known.policies().await {
        Ok(policies) => list("PolicyList", &json!(policies)).into_response(),
        Err(failed) => failed,
    }
}

async fn nodes(State(known): State<Known>) -> Json<Value> {
    list("NodeList", &json!([known.snapshots.borrow().node]))
}

async fn status(State(known): State<Known>) -> Json<Value> {
    Json(json!(known.snapshots.borrow().node))
}

async fn explained(State(known): State<Known>, Segments((namespace, name)): Segments<(String, String)>) -> Response {
    let policies = match known.policies().await {
        Ok(policies) => policies,
        Err(failed) => return failed,
    };
    match policies.iter().find(|policy| policy.namespace == namespace && policy.name == name) {
        Some(policy) => Json(json!(policy)).into_response(),
        None => {
            let error = format!("there is no policy {namespace}/{name}; `weir get policies` lists them");
            failed(StatusCode::NOT_FOUND, &error)
        }
    }
}

fn list(kind: &str, items: &Value) -> Json<Value> {
    Json(json!({ "apiVersion": "weir.dev/v1alpha1", "kind": kind, "items": items }))
}

/// Asks the agent that uses this pin path for `/v1/...`.
pub async fn get(pin_path: &Path, path: &str) -> Result<Value, ControlError> {
    let socket = socket(pin_path);
    let name = socket.display().to_string();
    let stream = UnixStream::connect(&socket).await.map_err(|source| ControlError::NoAgent {
        pin_path: pin_path.display().to_string(),
        socket: name.clone(),
        source,
    })?;
    ask(stream, path, name).await
}

async fn ask(stream: UnixStream, path: &str, socket: String) -> Result<Value, ControlError> {
    let answer = match tokio::time::timeout(PATIENCE, exchange(stream, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(ControlError::NoAnswer { socket, why: error.to_string() });
        }
        Err(_) => {
            let why = format!("nothing came within {} s", PATIENCE.as_secs());
            return Err(ControlError::NoAnswer { socket, why });
        }
    };
    match answer {
        (status, body) if status.is_success() => Ok(body),
        (status, body) => {
            let said = body.get("error").and_then(Value::as_str).map(str::to_owned);
            Err(ControlError::Refused(said.unwrap_or_else(|| format!("{path}: {status}"))))
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(stream: UnixStream, path: &str) -> Result<(StatusCode, Value), Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header("host", "weir").body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    Ok((status, value))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::{
        NodeStatus, Snapshot, channel,
        metrics::tests::{full, policy},
    };

    #[test]
    fn each_pin_path_has_its_own_socket() {
        let name = |path: &str| file_name(Path::new(path));
        assert_eq!(name("/sys/fs/bpf/weir"), "-sys-fs-bpf-weir.sock");
        let long = |end| name(&format!("/sys/fs/bpf/{}{end}", "x".repeat(200)));
        assert_ne!(long("a"), long("b"));
        assert!(FOLDER.len() + 1 + long("a").len() < 108);
        assert_eq!(socket(Path::new("/sys/fs/bpf/weir")), Path::new("/run/weir/-sys-fs-bpf-weir.sock"));
    }

    async fn asked(socket: &Path, path: &str) -> Result<Value, ControlError> {
        ask(UnixStream::connect(socket).await.unwrap(), path, socket.display().to_string()).await
    }

    #[tokio::test]
    async fn the_socket_answers_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir/test.sock");
        let control = Control::bind_at(path.clone()).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (publisher, subscriber, _) = channel();
        let server = tokio::spawn(control.serve(subscriber, None));
        let node = NodeStatus { name: "n1".to_owned(), ..NodeStatus::default() };
        publisher.send_replace(Arc::new(Snapshot { node, ..full() }));

        let policies = asked(&path, "/v1/policies").await.unwrap();
        assert_eq!((&policies["apiVersion"], &policies["kind"]), (&json!("weir.dev/v1alpha1"), &json!("PolicyList")));
        assert_eq!(policies["items"], json!([policy()]));
        assert_eq!(asked(&path, "/v1/nodes").await.unwrap()["items"][0]["name"], "n1");
        assert_eq!(asked(&path, "/v1/status").await.unwrap()["lastSync"], Value::Null);
        let explained = asked(&path, "/v1/policies/shop/web/explain").await.unwrap();
        assert_eq!(explained["desiredReplicas"], 4);
        let missing = asked(&path, "/v1/policies/shop/other/explain").await.unwrap_err();
        assert!(missing.to_string().starts_with("there is no policy shop/other;"), "{missing}");
        assert!(asked(&path, "/v2").await.unwrap_err().to_string().contains("404"));

        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(!path.exists(), "the socket is removed with its agent");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let control = Control::bind_at(path.clone()).await.unwrap();
        let error = Control::bind_at(path.clone()).await.unwrap_err();
        assert!(matches!(error, ControlError::Running { .. }), "{error}");
        assert!(path.exists());
        drop(control);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn no_agent_is_said_with_a_remedy() {
        let error = get(Path::new("/nowhere/weir-test"), "/v1/nodes").await.unwrap_err().to_string();
        assert!(error.starts_with("no agent is running for the pin path /nowhere/weir-test"), "{error}");
        assert!(error.contains("weir run") && error.contains("--pin-path"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_says_nothing_is_named() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = ask(ours, "/v1/nodes", "x.sock".to_owned()).await.unwrap_err().to_string();
        assert!(error.starts_with("the agent at x.sock did not answer: "), "{error}");
    }
}
