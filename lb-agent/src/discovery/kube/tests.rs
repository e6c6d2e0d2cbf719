//! The watches against an API server that does all that they must live with.

use std::{collections::BTreeMap, future::Future, time::Duration};

use lb_common::Algorithm;
use serde_json::json;

use super::{
    ConnectError, Kube,
    store::Local,
    testing::{Api, service, slice},
};
use crate::{
    discovery::{node_ports::NodePortAddresses, select::Services},
    model::{Change, Model},
    node::NodeView,
};

/// The agent's side of the cluster.
struct Agent {
    kube: Kube,
    model: Model,
    changes: usize,
}

impl Agent {
    async fn start(api: &Api) -> Self {
        let kube = Kube::watch(api.config(), Services::All, "here").await.unwrap();
        Self { kube, model: Model::default(), changes: 0 }
    }

    fn apply(&mut self) {
        let (view, node_ports) = (NodeView::default(), NodePortAddresses::default());
        let default_algorithm = Algorithm::Maglev;
        let local =
            Local { name: "here", view: &view, node_ports: &node_ports, default_algorithm, snat_ports: (61000, 65535) };
        for Change { id, port, .. } in self.kube.changes(&local) {
            self.changes += 1;
            match port {
                Some(port) => drop(self.model.services.insert(id, port)),
                None => drop(self.model.services.remove(&id)),
            }
        }
    }

    /// Every Service with its backends.
    fn shown(&self) -> BTreeMap<&str, Vec<String>> {
        let backends = |port: &crate::model::ServicePort| port.backends.keys().map(ToString::to_string).collect();
        self.model.services.iter().map(|(id, port)| (id.name.as_str(), backends(port))).collect()
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                // What is wrong comes without news.
                let _ = tokio::time::timeout(Duration::from_millis(50), self.kube.changed()).await;
                self.apply();
            }
        };
        if within(wait).await.is_none() {
            panic!("{what}: {:?}, {:?}", self.shown(), self.kube.problems());
        }
    }

    async fn until_shown(&mut self, wanted: &[(&str, &[&str])]) {
        let wanted: BTreeMap<&str, Vec<String>> =
            wanted.iter().map(|(name, at)| (*name, at.iter().map(ToString::to_string).collect())).collect();
        self.until(&format!("{wanted:?}"), |agent| agent.shown() == wanted).await;
    }

    async fn until_problem(&mut self, words: &str) {
        self.until(words, |agent| agent.kube.problems().iter().any(|problem| problem.contains(words))).await;
    }

    async fn until_well(&mut self) {
        self.until("all is well", |agent| agent.kube.problems().is_empty() && agent.kube.status().healthy).await;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(20), work).await.ok()
}

async fn shop() -> (Api, Agent) {
    let api = Api::start().await;
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        api.put("services", service(name, address, json!({})));
        api.put("endpointslices", slice(&format!("{name}-1"), name, &["10.0.0.1"]));
    }
    let mut agent = Agent::start(&api).await;
    agent.until_shown(&[("a", &["10.0.0.1:8080"]), ("b", &["10.0.0.1:8080"])]).await;
    agent.until_well().await;
    (api, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let (api, mut agent) = shop().await;
    agent.changes = 0;
    api.put("endpointslices", slice("a-1", "a", &["10.0.0.2", "10.0.0.3"]));
    agent.until_shown(&[("a", &["10.0.0.2:8080", "10.0.0.3:8080"]), ("b", &["10.0.0.1:8080"])]).await;
    assert_eq!(agent.changes, 1, "one Service has changed");
    for round in 0..3 {
        api.hang_up();
        let address = format!("10.0.1.{round}");
        api.put("endpointslices", slice("a-1", "a", &[&address]));
        agent.until_shown(&[("a", &[&format!("{address}:8080")]), ("b", &["10.0.0.1:8080"])]).await;
    }
    api.delete("services", service("b", "10.96.0.2", json!({})));
    agent.until_shown(&[("a", &["10.0.1.2:8080"])]).await;
    let lists =
        ["services", "endpointslices"].map(|resource| (api.asked(resource, "stream"), api.asked(resource, "list")));
    assert_eq!(lists, [(1, 0), (1, 0)], "nothing was listed twice");
    assert!(api.asked("endpointslices", "watch") >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_for_too_long_is_listed_anew() {
    let (api, mut agent) = shop().await;
    agent.changes = 0;
    api.stop().await;
    api.delete("services", service("b", "10.96.0.2", json!({})));
    api.put("services", service("c", "10.96.0.3", json!({})));
    api.put("endpointslices", slice("a-2", "a", &["10.0.0.9"]));
    api.compact();
    api.restart().await;
    agent.until_shown(&[("a", &["10.0.0.1:8080", "10.0.0.9:8080"]), ("c", &[])]).await;
    assert_eq!(agent.changes, 3, "only what is other than before");
    assert!(api.asked("services", "stream") >= 2);
    agent.until_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_changes_nothing() {
    let (api, mut agent) = shop().await;
    agent.changes = 0;
    api.stop().await;
    agent.until_problem("cannot be reached").await;
    let problems = agent.kube.problems();
    assert_eq!(problems.len(), 1, "told once, not for every watch: {problems:?}");
    assert!(problems[0].contains("; what is known stays in force"), "{problems:?}");
    let status = agent.kube.status();
    assert!(!status.healthy && status.lag_seconds > Some(0.0), "{status:?}");
    assert_eq!((agent.shown().len(), agent.changes), (2, 0));
    api.restart().await;
    agent.until_well().await;
    assert_eq!((agent.changes, agent.kube.status().lag_seconds), (0, Some(0.0)));
    assert_eq!(api.asked("services", "stream"), 1, "what it has sent need not be sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_an_api_server_waits_for_it() {
    let api = Api::start().await;
    api.stop().await;
    let mut agent = Agent::start(&api).await;
    agent.until_problem("cannot be reached").await;
    assert!(!agent.kube.is_complete() && agent.changes == 0);
    assert!(agent.kube.problems().iter().any(|problem| problem.contains("what the kernel holds stays in force")));
    api.put("services", service("a", "10.96.0.1", json!({})));
    api.restart().await;
    agent.until_shown(&[("a", &[])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_verb_is_named_until_it_is_there() {
    let api = Api::start().await;
    api.put("services", service("a", "10.96.0.1", json!({})));
    for resource in ["pods", "services"] {
        api.deny(resource, true);
    }
    let mut agent = Agent::start(&api).await;
    for resource in ["pods", "services"] {
        agent.until_problem(&format!("give its ClusterRole the verb watch on {resource}")).await;
    }
    assert!(!agent.kube.is_complete(), "without Services nothing is known");
    api.deny("services", false);
    agent.until_shown(&[("a", &[])]).await;
    assert!(agent.kube.is_complete(), "weights of Pods are not worth waiting for");
    api.deny("pods", false);
    agent.until_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_api_server_is_asked_page_by_page() {
    let api = Api::start().await;
    api.without_streaming();
    api.put("services", service("a", "10.96.0.1", json!({})));
    let mut agent = Agent::start(&api).await;
    agent.until_shown(&[("a", &[])]).await;
    agent.until_well().await;
    api.put("endpointslices", slice("a-1", "a", &["10.0.0.1"]));
    agent.until_shown(&[("a", &["10.0.0.1:8080"])]).await;
    assert_eq!((api.asked("services", "list"), api.asked("services", "stream")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_the_cluster_does_not_know_is_named() {
    let api = Api::start().await;
    let error = Kube::watch(api.config(), Services::All, "nowhere").await.err().unwrap();
    assert!(matches!(error, ConnectError::NoNode { .. }));
    assert_eq!(
        error.to_string(),
        "there is no Node nowhere; --node-name must be the name of this machine's Node: here"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_hear_of_what_is_wrong_once_and_the_default_is_in_force() {
    let (api, mut agent) = shop().await;
    let wrong = || service("a", "10.96.0.1", json!({"weir.dev/algorithm": "fastest"}));
    let mut second = Agent::start(&api).await;
    api.put("services", wrong());
    for agent in [&mut agent, &mut second] {
        agent.until_problem("Service shop/a: metadata.annotations.weir.dev/algorithm: \"fastest\"").await;
    }
    let told = async {
        while api.events().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    within(told).await.expect("an Event");
    let events = api.events();
    assert_eq!(events.len(), 1, "two agents make one Event: {events:?}");
    let event = &events[0];
    assert_eq!((&event["reason"], &event["regarding"]["uid"]), (&json!("InvalidAnnotation"), &json!("uid-a")));
    assert!(event["note"].as_str().unwrap().contains("least-connections"), "the values there are: {event}");
    assert!(agent.model.services.values().all(|port| port.algorithm == Algorithm::Maglev));
    api.put("services", service("a", "10.96.0.1", json!({"weir.dev/algorithm": "random"})));
    agent.until_well().await;
    agent.until("the algorithm", |agent| agent.model.services.values().any(|p| p.algorithm == Algorithm::Random)).await;
}
