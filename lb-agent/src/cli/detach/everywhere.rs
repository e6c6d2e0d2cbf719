//! `weir detach --daemonset`: ends the balancing on every node, before an uninstallation.
//!
//! A Job cannot visit every node, but the agents' DaemonSet does: its pods are turned into ones that run `weir detach --hold`, which are
//! ready when their node is clean. They have the mounts, the capabilities and the tolerations for it already.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::{Selector, SelectorExt},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The container that runs the agent.
const CONTAINER: &str = "agent";
/// Time between two looks at the DaemonSet.
const INTERVAL: Duration = Duration::from_secs(1);

/// A DaemonSet, as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    namespace: String,
    name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("not NAMESPACE/NAME, such as kube-system/weir-agent".into()),
        }
    }
}

/// Why not every node was detached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EverywhereError {
    /// There is no way to the API server.
    #[error(
        "the API server cannot be reached: {0}; set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, or KUBECONFIG"
    )]
    Config(#[source] Box<kube::Error>),
    /// The DaemonSet cannot be changed.
    #[error("patch of DaemonSet {target}: {source}; grant get and patch on it, and list on the pods of its namespace")]
    Patch {
        /// `NAMESPACE/NAME`.
        target: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Some nodes were not done in time.
    #[error(
        "after {} s {done} of {wanted} nodes are detached, and not: {}; run `weir detach` there or restart them, then \
         uninstall without this step (helm uninstall --no-hooks)",
        .after.as_secs(),
        .missing.join(", ")
    )]
    Unfinished {
        /// How long was waited.
        after: Duration,
        /// Nodes that are detached.
        done: i32,
        /// Nodes that have an agent.
        wanted: i32,
        /// Nodes that are not detached.
        missing: Vec<String>,
    },
}

/// How far the nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that are detached.
    pub done: i32,
    /// Nodes that have an agent; none while that is not known.
    pub wanted: Option<i32>,
}

impl Progress {
    /// Reads a DaemonSet. Its pods are ready when they have detached, but only the new ones of them mean that.
    fn of(set: &DaemonSet) -> Self {
        let Some(status) = &set.status else { return Self::default() };
        if status.observed_generation < set.metadata.generation {
            return Self::default();
        }
        let (wanted, new) = (status.desired_number_scheduled, status.updated_number_scheduled.unwrap_or(0));
        let old = status.current_number_scheduled - new;
        Self { done: (status.number_ready - old).max(0), wanted: Some(wanted) }
    }

    fn is_complete(self) -> bool {
        self.wanted.is_some_and(|wanted| self.done >= wanted)
    }
}

/// Turns the agents of a DaemonSet into ones that detach, all at a time, and waits until they have. `hold` is where they say so.
pub async fn detach(target: &Target, hold: SocketAddr, patience: Duration) -> Result<i32, EverywhereError> {
    let client = Client::try_default().await.map_err(|error| EverywhereError::Config(Box::new(error)))?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &target.namespace);
    let start = Instant::now();
    let patched = sets.patch(&target.name, &PatchParams::default(), &Patch::Strategic(patch(hold))).await;
    let mut set = patched.map_err(|source| EverywhereError::Patch {
        target: format!("{}/{}", target.namespace, target.name),
        source: Box::new(source),
    })?;
    loop {
        let progress = Progress::of(&set);
        if progress.is_complete() {
            return Ok(progress.done);
        }
        if start.elapsed() >= patience {
            let missing = unready(&client, target, &set.spec.selector).await;
            let wanted = progress.wanted.unwrap_or(0);
            return Err(EverywhereError::Unfinished { after: patience, done: progress.done, wanted, missing });
        }
        sleep(INTERVAL).await;
        match sets.get(&target.name).await {
            Ok(now) => set = now,
            Err(error) => tracing::warn!(%error, "looking at DaemonSet {}", target.name),
        }
    }
}

/// What makes an agent's pod one that detaches.
fn patch(hold: SocketAddr) -> Value {
    let container = json!({"name": CONTAINER, "args": ["detach", format!("--hold={hold}")]});
    json!({"spec": {
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": {"spec": {"containers": [container]}},
    }})
}

/// The nodes whose pod is not ready, for a message: what cannot be found out is left out.
async fn unready(client: &Client, target: &Target, selector: &LabelSelector) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let found = pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let selector = Selector::try_from(selector.clone()).unwrap_or_default();
    let ours = found.iter().filter(|pod| selector.matches(pod.labels()));
    let mut nodes: Vec<_> =
        ours.filter(|pod| !is_ready(pod)).filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    nodes
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target: Target = "kube-system/weir-agent".parse().unwrap();
        assert_eq!(target, Target { namespace: "kube-system".into(), name: "weir-agent".into() });
        for bad in ["weir-agent", "/weir-agent", "kube-system/", "a/b/c", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_new_pods_that_are_ready_are_done() {
        let set = |generation: i64, observed: i64, scheduled: i32, updated: Option<i32>, ready: i32| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": generation},
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": 3, "currentNumberScheduled": scheduled,
                    "numberMisscheduled": 0, "updatedNumberScheduled": updated, "numberReady": ready,
                },
            }))
            .unwrap()
        };
        let cases = [
            ("not seen by the controller yet", set(2, 1, 3, Some(3), 3), 0, false),
            ("all are old", set(2, 2, 3, None, 3), 0, false),
            ("all are deleted", set(2, 2, 0, None, 0), 0, false),
            ("new ones detach", set(2, 2, 3, Some(3), 1), 1, false),
            ("one is old still", set(2, 2, 3, Some(2), 3), 2, false),
            ("all have detached", set(2, 2, 3, Some(3), 3), 3, true),
        ];
        for (name, set, done, complete) in cases {
            let progress = Progress::of(&set);
            assert_eq!((progress.done, progress.is_complete()), (done, complete), "{name}");
        }
        assert!(!Progress::of(&DaemonSet::default()).is_complete(), "no status");
    }

    #[test]
    fn the_patch_leaves_everything_but_the_arguments() {
        let patch = patch("0.0.0.0:9560".parse().unwrap());
        let container = &patch["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container, &json!({"name": "agent", "args": ["detach", "--hold=0.0.0.0:9560"]}));
    }

    #[test]
    fn nodes_that_are_left_are_named_with_a_remedy() {
        let missing = vec!["a".to_owned(), "b".to_owned()];
        let error = EverywhereError::Unfinished { after: Duration::from_secs(60), done: 1, wanted: 3, missing };
        let text = error.to_string();
        assert!(
            text.starts_with("after 60 s 1 of 3 nodes are detached, and not: a, b; run `weir detach` there"),
            "{text}"
        );
    }
}
