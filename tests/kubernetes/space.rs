//! A Kubernetes namespace of one test, and what tests do in it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use weir_tests::{
    cluster::{Cluster, Node},
    process::wait_until,
};

use crate::{manifests, weir};

/// How long anything in the cluster may take before a test gives up; not a measurement. After an outage of the API server kubelet alone may
/// wait for a minute before it asks again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// A namespace; dropping it deletes it and everything in it.
pub(crate) struct Space<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Space<'a> {
    /// Makes one.
    pub(crate) fn new(cluster: &'a Cluster, name: &str) -> Result<Self> {
        cluster.kubectl_ok(&["create", "namespace", name])?;
        let space = Self { cluster, name: name.to_owned() };
        // Without it no pod is admitted; it comes a moment later.
        space.wait_for("the service account", || {
            Ok(space.kubectl_output(&["get", "serviceaccount", "default"])?.status.success())
        })?;
        Ok(space)
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.cluster.apply_in(&self.name, manifests)
    }

    /// The sample, `my-app` with so many pods and its Service, and a client on every node; waits until all are there, also in
    /// the nodes' kernels.
    pub(crate) fn sample(&self, replicas: u32) -> Result<()> {
        let manifests = manifests::deployment("my-app", replicas)
            + &manifests::service("my-app", "")
            + &manifests::clients(self.cluster.nodes());
        self.apply(&manifests)?;
        self.wait_for_rollout("deployment/my-app")?;
        weir::wait_for_endpoints(self, "my-app")?;
        self.wait_for_clients()
    }

    /// Runs kubectl here; it must succeed; returns what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_ok(&[&["--namespace", &self.name], arguments].concat())
    }

    /// A list or an object as JSON.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("kubectl get {arguments:?} printed {printed}"))
    }

    /// Waits until a Deployment or DaemonSet has rolled out.
    pub(crate) fn wait_for_rollout(&self, of: &str) -> Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        let waited = self.kubectl(&["rollout", "status", of, &limit]);
        waited.map(drop).with_context(|| self.kubectl(&["describe", "pods"]).unwrap_or_default())
    }

    /// Waits until a condition holds.
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_until(PATIENCE, condition).with_context(|| format!("{what} in namespace {}", self.name))
    }

    /// Waits until the pods that ask are ready.
    pub(crate) fn wait_for_clients(&self) -> Result<()> {
        self.kubectl(&["wait", "--for=condition=Ready", "pods", "--selector=role=client", "--timeout=60s"]).map(drop)
    }

    /// Waits until a Service has so many addresses from a pool; those of IPv4 come first.
    pub(crate) fn wait_for_addresses(&self, service: &str, count: usize) -> Result<Vec<String>> {
        let mut addresses = Vec::new();
        self.wait_for("EXTERNAL-IP", || {
            let object = self.get(&["service", service])?;
            let ingress = object["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
            addresses = ingress.filter_map(|entry| entry["ip"].as_str().map(str::to_owned)).collect();
            Ok(addresses.len() == count)
        })
        .with_context(|| self.kubectl(&["describe", "service", service]).unwrap_or_default())?;
        addresses.sort_by_key(|address| address.contains(':'));
        Ok(addresses)
    }

    /// A Service's cluster addresses.
    pub(crate) fn cluster_addresses(&self, service: &str) -> Result<Vec<String>> {
        let object = self.get(&["service", service])?;
        let addresses = object["spec"]["clusterIPs"].as_array().into_iter().flatten();
        Ok(addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect())
    }

    /// The ready endpoints of a Service: address and port.
    pub(crate) fn ready_endpoints(&self, service: &str) -> Result<BTreeSet<(String, u16)>> {
        let slices = self.get(&["endpointslices", &format!("--selector=kubernetes.io/service-name={service}")])?;
        let mut found = BTreeSet::new();
        for slice in slices["items"].as_array().into_iter().flatten() {
            let port = slice["ports"][0]["port"].as_u64().context("a port")? as u16;
            let ready =
                slice["endpoints"].as_array().into_iter().flatten().filter(|it| it["conditions"]["ready"] == true);
            found.extend(ready.filter_map(|it| Some((it["addresses"][0].as_str()?.to_owned(), port))));
        }
        Ok(found)
    }

    /// The pods that a label selects.
    pub(crate) fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        pods(self.cluster, &self.name, selector)
    }

    fn kubectl_output(&self, arguments: &[&str]) -> Result<std::process::Output> {
        Ok(self.cluster.kubectl()?.args(["--namespace", &self.name]).args(arguments).output()?)
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl_ok(&["delete", "namespace", &self.name, "--wait=false"]) {
            eprintln!("{error:#}");
        }
    }
}

/// The pods of a namespace that a label selects.
pub(crate) fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let printed =
        cluster.kubectl_ok(&["--namespace", namespace, "get", "pods", "--output=json", "--selector", selector])?;
    let list: Value = serde_json::from_str(&printed).context("a list of pods")?;
    list["items"].as_array().into_iter().flatten().map(Pod::read).collect()
}

/// A pod as tests see it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// What kubelet and its control groups call it.
    pub(crate) uid: String,
    /// The node it is on.
    pub(crate) node: String,
    /// Its addresses, IPv4 first.
    pub(crate) addresses: Vec<String>,
}

impl Pod {
    /// The node it is on.
    pub(crate) fn host<'a>(&self, cluster: &'a Cluster) -> Result<&'a Node> {
        cluster.nodes().iter().find(|node| node.name() == self.node).with_context(|| format!("no node {}", self.node))
    }

    /// Its addresses with a port.
    pub(crate) fn targets(&self, port: u16) -> Result<Vec<String>> {
        let sockets = self.addresses.iter().map(|address| Ok(SocketAddr::new(address.parse()?, port).to_string()));
        sockets.collect()
    }

    fn read(pod: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
        Ok(Self {
            name: text(&pod["metadata"]["name"]).context("a pod's name")?,
            uid: text(&pod["metadata"]["uid"]).context("a pod's uid")?,
            node: text(&pod["spec"]["nodeName"]).context("a pod's node")?,
            addresses: addresses.filter_map(|address| text(&address["ip"])).collect(),
        })
    }
}
