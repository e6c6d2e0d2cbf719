//! An API server for tests: lists, watches with bookmarks and streamed lists, forgets old versions, denies, hangs up, and goes away.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

type Params = BTreeMap<String, String>;

#[derive(Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, Value)>,
    /// Versions up to this one are forgotten.
    compacted: u64,
    denied: BTreeSet<String>,
    no_streaming: bool,
    /// Streams that began before are to end.
    epoch: u64,
    /// What was asked for: the resource, and `list`, `stream` (a list as a watch) or `watch`.
    asked: Vec<(String, &'static str)>,
    events: Vec<Value>,
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Api {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    pub(crate) address: SocketAddr,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Api {
    /// One that has a Node `here`, and answers.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = Self { inner: Arc::default(), changed: watch::channel(0).0, address, task: Arc::default() };
        api.put("nodes", json!({"metadata": {"name": "here"}}));
        api.serve(listener);
        api
    }

    fn serve(&self, listener: TcpListener) {
        let routes = Router::new()
            .route("/api/v1/{resource}", get(all))
            .route("/api/v1/nodes/{name}", get(node))
            .route("/apis/discovery.k8s.io/v1/{resource}", get(all))
            .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(event))
            // One that goes away must not be reached through a connection of before.
            .layer(axum::middleware::map_response(|mut response: Response| async {
                response.headers_mut().insert("connection", HeaderValue::from_static("close"));
                response
            }))
            .with_state(self.clone());
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        *self.task.lock().unwrap() = Some(task);
    }

    /// Goes away: nobody listens any more, and whoever is connected is hung up on.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
        self.hang_up();
    }

    /// Is back.
    pub(crate) async fn restart(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Ends all streams.
    pub(crate) fn hang_up(&self) {
        self.inner().epoch += 1;
        self.wake();
    }

    /// Forgets all versions but the newest.
    pub(crate) fn compact(&self) {
        let mut inner = self.inner();
        inner.compacted = inner.version;
        inner.history.clear();
    }

    pub(crate) fn deny(&self, resource: &str, denied: bool) {
        let mut inner = self.inner();
        if denied {
            inner.denied.insert(resource.into())
        } else {
            inner.denied.remove(resource)
        };
    }

    pub(crate) fn without_streaming(&self) {
        self.inner().no_streaming = true;
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        self.change(resource, object, false);
    }

    pub(crate) fn delete(&self, resource: &str, object: Value) {
        self.change(resource, object, true);
    }

    fn change(&self, resource: &str, mut object: Value, gone: bool) {
        let mut inner = self.inner();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = (resource.to_owned(), format!("{}/{}", part("namespace"), part("name")));
        let old = if gone { inner.objects.remove(&key) } else { inner.objects.insert(key, object.clone()) };
        let kind = if gone {
            "DELETED"
        } else if old.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        inner.history.push((version, resource.into(), json!({"type": kind, "object": object})));
        drop(inner);
        self.wake();
    }

    /// How often a resource was asked for in this way.
    pub(crate) fn asked(&self, resource: &str, how: &str) -> usize {
        self.inner().asked.iter().filter(|(of, way)| of == resource && *way == how).count()
    }

    /// The Events that were made.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.inner().events.clone()
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": server}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}], "users": [{"name": "u", "user": {}}],
        })
        .to_string()
    }

    /// A configuration for it.
    pub(crate) fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        config.connect_timeout = Some(Duration::from_secs(1));
        config.default_retry = false;
        config
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn refuse(code: u16, reason: &str, message: &str) -> Response {
    (StatusCode::from_u16(code).unwrap(), Json(refusal(code, reason, message))).into_response()
}

fn matches(params: &Params, object: &Value) -> bool {
    let wanted = params.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="));
    wanted.is_none_or(|name| object["metadata"]["name"] == name)
}

async fn all(State(api): State<Api>, Path(resource): Path<String>, Query(params): Query<Params>) -> Response {
    let is = |name: &str| params.get(name).is_some_and(|value| value == "true");
    let how = match (is("watch"), is("sendInitialEvents")) {
        (true, true) => "stream",
        (true, false) => "watch",
        (false, _) => "list",
    };
    let mut inner = api.inner();
    inner.asked.push((resource.clone(), how));
    if inner.denied.contains(&resource) {
        return refuse(403, "Forbidden", &format!("{resource} is forbidden: User \"agent\" cannot {how} resource"));
    }
    if how == "stream" && inner.no_streaming {
        return refuse(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch");
    }
    let objects: Vec<Value> = inner
        .objects
        .iter()
        .filter(|((of, _), o)| *of == resource && matches(&params, o))
        .map(|(_, o)| o.clone())
        .collect();
    if how == "list" {
        let version = inner.version.to_string();
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": objects});
        return Json(list).into_response();
    }
    let since = match how {
        "stream" => inner.version,
        _ => params.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default(),
    };
    let mut first = Vec::new();
    if how == "stream" {
        first.extend(objects.into_iter().map(|object| json!({"type": "ADDED", "object": object})));
        first.push(bookmark(inner.version, &json!({"k8s.io/initial-events-end": "true"})));
    } else if since < inner.compacted {
        first.push(json!({"type": "ERROR", "object": refusal(410, "Expired", "too old resource version")}));
    }
    let state = (api.clone(), api.changed.subscribe(), inner.epoch, since, resource, params, first);
    drop(inner);
    let stream =
        futures::stream::unfold(state, |(api, mut changed, epoch, mut since, resource, params, mut due)| async move {
            loop {
                if !due.is_empty() {
                    let text: String = due.drain(..).map(|event: Value| format!("{event}\n")).collect();
                    let item: Result<Bytes, Infallible> = Ok(text.into());
                    return Some((item, (api, changed, epoch, since, resource, params, due)));
                }
                if api.inner().epoch != epoch {
                    return None;
                }
                {
                    let inner = api.inner();
                    let new = inner.history.iter().filter(|(version, of, _)| *version > since && *of == resource);
                    due.extend(
                        new.filter(|(.., event)| matches(&params, &event["object"])).map(|(.., event)| event.clone()),
                    );
                    if !due.is_empty() {
                        // What the others do is told by a bookmark.
                        due.push(bookmark(inner.version, &json!({})));
                    }
                    since = inner.version;
                }
                if due.is_empty() {
                    changed.changed().await.ok()?;
                }
            }
        });
    Body::from_stream(stream).into_response()
}

fn bookmark(version: u64, annotations: &Value) -> Value {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1", "metadata": metadata}})
}

async fn node(State(api): State<Api>, Path(name): Path<String>) -> Response {
    let inner = api.inner();
    match inner.objects.get(&("nodes".to_owned(), format!("/{name}"))) {
        Some(node) => Json(node.clone()).into_response(),
        None => refuse(404, "NotFound", "nodes not found"),
    }
}

async fn event(State(api): State<Api>, Json(event): Json<Value>) -> Response {
    let mut inner = api.inner();
    if inner.events.iter().any(|known| known["metadata"]["name"] == event["metadata"]["name"]) {
        return refuse(409, "AlreadyExists", "there already");
    }
    inner.events.push(event.clone());
    Json(event).into_response()
}

/// A Service with one port.
pub(crate) fn service(name: &str, address: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "annotations": annotations,
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

/// A slice of a Service with these endpoints.
pub(crate) fn slice(name: &str, service: &str, endpoints: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "nodeName": "there", "conditions": {"ready": true}});
    json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
