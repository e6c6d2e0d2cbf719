//! What forecasts remember, in a ConfigMap of each policy, so that the next leader goes on where the last one was: read once, before
//! the first decision where the API server answers in time, and written seldom.
//!
//! A ConfigMap is named after its policy's UID, so that one of another policy is never met, and goes with its policy.
//!
//! It is read by a patch of nothing: RBAC has no right for names that are not known before, and what may be patched an admission policy
//! of the chart narrows to these names, which it could not do with what may be read.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};

use serde_json::json;

use crate::scaling::ScalePolicy;

/// The time between two writes of one policy.
pub const EVERY: Duration = Duration::from_secs(300);

/// The time between two attempts.
const AGAIN: Duration = Duration::from_secs(30);

/// The key of the bytes, and of the signal that they are a history of.
const HISTORY: &str = "history";
const SIGNAL: &str = "signal";

/// A forecast's memory, and the signal that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The signal, as it is shown.
    pub signal: String,
    /// [`crate::scaling::forecast::Watch::remember`].
    pub bytes: Vec<u8>,
}

/// What is to be done about a policy's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// It is to be read.
    Read,
    /// It is to be written, if it is another than before.
    Write,
}

/// When a policy's memory was read and written.
#[derive(Clone, Debug, Default)]
pub struct Record {
    is_read: bool,
    next: Duration,
    /// What is in the API.
    kept: Option<Memory>,
}

impl Record {
    /// What is due. Nothing is written over what could not be read.
    pub fn due(&self, now: Duration) -> Due {
        match self.is_read {
            _ if now < self.next => Due::Nothing,
            true => Due::Write,
            false => Due::Read,
        }
    }

    /// It was read, if there was one.
    pub fn read(&mut self, found: Option<Memory>, now: Duration) {
        self.is_read = true;
        // The first is written as soon as there is anything to remember.
        self.next = if found.is_some() { now + EVERY } else { now };
        self.kept = found;
    }

    /// Whether this is another than what is in the API.
    pub fn is_news(&self, memory: &Memory) -> bool {
        self.kept.as_ref() != Some(memory)
    }

    /// It was written.
    pub fn written(&mut self, memory: Memory, now: Duration) {
        (self.kept, self.next) = (Some(memory), now + EVERY);
    }

    /// It is as it was: nothing new is looked for at once, because it takes a while to put together.
    pub fn unchanged(&mut self, now: Duration) {
        self.next = now + AGAIN;
    }

    /// An attempt has failed.
    pub fn failed(&mut self, now: Duration) {
        self.next = now + AGAIN;
    }
}

/// The name of a policy's ConfigMap; none before the API server has given it a UID.
fn name(policy: &ScalePolicy) -> Option<String> {
    policy.uid().map(|uid| format!("weir-forecast-{uid}"))
}

/// Reads a policy's memory.
pub async fn read(client: &Client, policy: &ScalePolicy) -> Result<Option<Memory>, kube::Error> {
    let Some(name) = name(policy) else { return Ok(None) };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &policy.namespace().unwrap_or_default());
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({}))).await {
        Ok(map) => Ok(memory(map)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes it.
pub async fn write(client: &Client, policy: &ScalePolicy, memory: &Memory) -> Result<(), kube::Error> {
    let (Some(name), Some(map)) = (name(policy), config_map(policy, memory)) else { return Ok(()) };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &policy.namespace().unwrap_or_default());
    let parameters = PatchParams::apply("weir-coordinator").force();
    api.patch(&name, &parameters, &Patch::Apply(map)).await.map(drop)
}

fn config_map(policy: &ScalePolicy, memory: &Memory) -> Option<ConfigMap> {
    let owner = OwnerReference {
        api_version: ScalePolicy::api_version(&()).into_owned(),
        kind: ScalePolicy::kind(&()).into_owned(),
        name: policy.name_any(),
        uid: policy.uid()?,
        ..OwnerReference::default()
    };
    Some(ConfigMap {
        metadata: ObjectMeta {
            name: name(policy),
            namespace: policy.namespace(),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "weir-coordinator".to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some([(SIGNAL.to_owned(), memory.signal.clone())].into()),
        binary_data: Some([(HISTORY.to_owned(), ByteString(memory.bytes.clone()))].into()),
        ..ConfigMap::default()
    })
}

fn memory(map: ConfigMap) -> Option<Memory> {
    let signal = map.data.and_then(|mut data: BTreeMap<_, _>| data.remove(SIGNAL))?;
    let ByteString(bytes) = map.binary_data.and_then(|mut data| data.remove(HISTORY))?;
    Some(Memory { signal, bytes })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        net::SocketAddr,
        sync::{Arc, Mutex},
        time::SystemTime,
    };

    use axum::{Json, Router, extract::Path, http::StatusCode, routing::patch};
    use lb_common::{Protocol, SocketKey};
    use serde_json::Value;

    use super::*;
    use crate::{
        cluster::{
            counts::Counts,
            fleet::ServiceCounts,
            scale::{
                entry::{Entry, Sight},
                replicas::Replica,
                target::Workload,
            },
        },
        scaling::{Clock, asked::Answers},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(signal: &str) -> ScalePolicy {
        serde_json::from_value(json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "ScalePolicy",
            "metadata": {"namespace": "shop", "name": "web", "uid": "1-2"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "serviceRef": {"name": "web"}, "replicas": {"max": 9},
                "targets": [{"signal": signal, "perReplica": 8}], "forecast": {},
            },
        }))
        .unwrap()
    }

    /// A replica with so many connections, for two minutes.
    fn watch(entry: &mut Entry, active: u64) {
        let socket = SocketKey::new(SocketAddr::from(([10, 0, 0, 1], 80)), Protocol::Tcp);
        let replica = Replica { name: "a".into(), sockets: [socket].into(), ready: true, ..Replica::default() };
        let carries = Counts { active, ..Counts::default() };
        for second in 1_800_000_000..1_800_000_120 {
            let now = Duration::from_secs(second);
            let sight = Sight {
                clock: Clock { now, wall: SystemTime::UNIX_EPOCH + now },
                replicas: std::slice::from_ref(&replica),
                counts: &ServiceCounts { backends: [(socket, carries.clone())].into(), at: now },
                usage: &HashMap::new(),
                answers: Answers::default(),
                workload: Some(Ok(&Workload { set: 1, ..Workload::default() })),
                claimed: None,
                rival: None,
                sized: None,
                knocked: None,
            };
            entry.tick(&sight);
        }
    }

    /// An API server that knows one kind, by patches alone, and takes nothing without an owner.
    async fn api() -> (Client, Arc<Mutex<BTreeMap<String, Value>>>) {
        let kept: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let maps = Arc::clone(&kept);
        let missing =
            || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""});
        let answer = move |Path(name): Path<String>, body: String| async move {
            let map: Value = serde_json::from_str(&body).unwrap();
            let mut maps = maps.lock().unwrap();
            if map != json!({}) {
                assert_eq!(map["metadata"]["ownerReferences"][0]["uid"], "1-2");
                maps.insert(name.clone(), map);
            }
            let found = maps.get(&name).cloned();
            found.map_or_else(|| (StatusCode::NOT_FOUND, Json(missing())), |map| (StatusCode::OK, Json(map)))
        };
        let router = Router::new().route("/api/v1/namespaces/shop/configmaps/{name}", patch(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap(), kept)
    }

    #[tokio::test]
    async fn the_next_leader_remembers_what_the_last_one_did() {
        let (client, kept) = api().await;
        let object = policy("activeConnections");
        assert_eq!(read(&client, &object).await.unwrap(), None);
        let mut old = Entry::new(object.clone());
        let empty = old.memory().unwrap();
        watch(&mut old, 40);
        let memory = old.memory().unwrap();
        assert_ne!(memory, empty);
        write(&client, &object, &memory).await.unwrap();
        assert_eq!(kept.lock().unwrap().keys().collect::<Vec<_>>(), ["weir-forecast-1-2"]);

        let found = read(&client, &object).await.unwrap().unwrap();
        assert_eq!(found, memory);
        let mut new = Entry::new(object);
        new.recall(&found).unwrap();
        assert_eq!(new.memory(), Some(memory));
        let mut other = Entry::new(policy("connectionsPerSecond"));
        let before = other.memory();
        other.recall(&found).unwrap();
        assert_eq!(other.memory(), before, "the history of another signal says nothing");
        assert!(new.recall(&Memory { bytes: vec![9], ..found }).unwrap_err().to_string().contains("version 9"));
    }

    #[test]
    fn it_is_read_first_and_written_seldom() {
        let memory = |byte| Memory { signal: "inFlight".into(), bytes: vec![byte] };
        let mut record = Record::default();
        assert_eq!(record.due(SECOND), Due::Read);
        record.failed(SECOND);
        assert_eq!([record.due(30 * SECOND), record.due(31 * SECOND)], [Due::Nothing, Due::Read]);
        record.read(Some(memory(1)), 40 * SECOND);
        assert_eq!([record.due(339 * SECOND), record.due(340 * SECOND)], [Due::Nothing, Due::Write]);
        assert!(!record.is_news(&memory(1)) && record.is_news(&memory(2)));
        record.written(memory(2), 350 * SECOND);
        assert_eq!([record.due(649 * SECOND), record.due(650 * SECOND)], [Due::Nothing, Due::Write]);
        assert!(!record.is_news(&memory(2)));
        let mut first = Record::default();
        first.read(None, SECOND);
        assert_eq!(first.due(SECOND), Due::Write, "there is nothing to lose yet, and the sooner there is the better");
    }
}
