//! The agent on a cluster whose API server comes and goes.

use std::collections::BTreeSet;

use lb_common::BackendState;
use serde_json::json;
use tokio::task::JoinHandle;

use super::{
    tests::{CAPACITY, config, proc},
    *,
};
use crate::{
    config::SourceConfig,
    dataplane::fake::Fake,
    discovery::kube::{
        self,
        testing::{Api, service, slice},
    },
};

/// The agent as it runs, over maps in memory.
struct Running {
    _folders: [tempfile::TempDir; 2],
    fake: Fake,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    async fn start(api: &Api, fake: &Fake) -> Self {
        let (folder, proc) = (tempfile::tempdir().unwrap(), proc());
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let options = kube::Options { kubeconfig: Some(kubeconfig), ..kube::Options::default() };
        let config = RunConfig {
            source: SourceConfig::Kube(options),
            node_name: "here".into(),
            ..config(folder.path().into(), proc.path().into())
        };
        let prepared = Prepared::new(config).await.unwrap();
        let control = Control::bind_at(folder.path().join("control.sock")).await.unwrap();
        let task = tokio::spawn(run(prepared, control, fake.clone()));
        Self { _folders: [folder, proc], fake: fake.clone(), task }
    }

    /// The addresses clients use.
    fn frontends(&self) -> BTreeSet<String> {
        let tables = self.fake.state().tables.clone();
        tables.frontends.keys().filter(|key| !key.is_of_address()).map(|key| key.socket().to_string()).collect()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if is_so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.fake.state().tables);
    }
}

fn addresses<const N: usize>(addresses: [&str; N]) -> BTreeSet<String> {
    addresses.map(|address| format!("{address}:80")).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_without_an_api_server_leaves_the_kernel_as_it_is_until_it_knows() {
    let (api, fake) = (Api::start().await, Fake::new(CAPACITY));
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        api.put("services", service(name, address, json!({})));
        api.put("endpointslices", slice(&format!("{name}-1"), name, &["10.0.0.1"]));
    }
    let first = Running::start(&api, &fake).await;
    first.until("in force", |a| a.frontends() == addresses(["10.96.0.1", "10.96.0.2"])).await;
    drop(first);
    api.stop().await;
    api.delete("services", service("b", "10.96.0.2", json!({})));
    api.put("services", service("c", "10.96.0.3", json!({})));
    let before = fake.state().writes.len();
    let second = Running::start(&api, &fake).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(second.frontends(), addresses(["10.96.0.1", "10.96.0.2"]), "the last known state is served");
    assert_eq!(fake.state().writes.len(), before, "nothing is touched");
    api.restart().await;
    second.until("what is true now", |a| a.frontends() == addresses(["10.96.0.1", "10.96.0.3"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_go_on_while_the_api_server_is_away() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (api, fake) = (Api::start().await, Fake::new(CAPACITY));
    let checks = json!({"weir.dev/health-check": "tcp", "weir.dev/health-check-interval": "100ms",
                        "weir.dev/health-check-threshold": "1"});
    api.put("services", service("a", "10.96.0.1", checks));
    let mut endpoints = slice("a-1", "a", &["127.0.0.1"]);
    endpoints["ports"][0]["port"] = json!(port);
    api.put("endpointslices", endpoints);
    let agent = Running::start(&api, &fake).await;
    let state = |a: &Running| a.fake.state().tables.backends.values().next().map(|backend| backend.state);
    agent.until("it answers", |a| state(a) == Some(BackendState::Ready as u8)).await;
    api.stop().await;
    drop(server);
    agent.until("it answers no more", |a| state(a) == Some(BackendState::Unhealthy as u8)).await;
}
