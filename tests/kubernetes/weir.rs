//! Weir in the cluster, and its own command on each node.

use std::{collections::BTreeSet, mem, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::{
    agent::{self, Backend},
    cluster::{
        Cluster, Node, Proxy,
        layout::{POOL4, POOL6},
        release::{NAMESPACE, Release},
    },
    process::text,
};

use crate::{
    manifests,
    space::{Pod, Space, pods},
};

const AGENTS: &str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent";
const COORDINATORS: &str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=coordinator";

/// Installs the chart: in place of kube-proxy where there is none, for chosen Services where there is one. It stays until [`remove`].
pub(crate) fn install(cluster: &Cluster, proxy: Proxy) -> Result<()> {
    let beside = ["services=labelled", "loadBalancer.default=false"];
    mem::forget(Release::install(cluster, if proxy == Proxy::None { &[] } else { &beside })?);
    cluster.apply(&manifests::pool(&[POOL4, POOL6]))
}

/// Changes values of the release, which replaces the pods that they concern.
pub(crate) fn upgrade(cluster: &Cluster, values: &[&str]) -> Result<()> {
    let release = Release::existing(cluster);
    let upgraded = release.upgrade(values);
    mem::forget(release);
    upgraded
}

/// Uninstalls it.
pub(crate) fn remove(cluster: &Cluster) -> Result<()> {
    Release::existing(cluster).uninstall()
}

/// The agent's pod on a node.
pub(crate) fn agent(cluster: &Cluster, node: &Node) -> Result<Pod> {
    let found = agents(cluster)?.into_iter().find(|pod| pod.node == node.name());
    found.with_context(|| format!("no agent on {}", node.name()))
}

/// The agents' pods.
pub(crate) fn agents(cluster: &Cluster) -> Result<Vec<Pod>> {
    pods(cluster, NAMESPACE, AGENTS)
}

/// The coordinators' pods.
pub(crate) fn coordinators(cluster: &Cluster) -> Result<Vec<Pod>> {
    pods(cluster, NAMESPACE, COORDINATORS)
}

/// What the coordinators that run have logged.
pub(crate) fn coordinators_say(cluster: &Cluster) -> Result<String> {
    cluster.kubectl_ok(&["logs", "--namespace", NAMESPACE, "--selector", COORDINATORS, "--tail=-1"])
}

/// The one that leads.
pub(crate) fn leader(cluster: &Cluster) -> Result<Pod> {
    let lease =
        ["--namespace", NAMESPACE, "get", "lease", "weir-coordinator", "--output=jsonpath={.spec.holderIdentity}"];
    let holder = cluster.kubectl_ok(&lease)?;
    let leads = |pod: &Pod| holder.split_once('/').is_some_and(|(name, _)| name == pod.name);
    coordinators(cluster)?.into_iter().find(leads).with_context(|| format!("{holder} is no pod"))
}

/// Runs `weir` as a process of a node and returns what it printed.
pub(crate) fn on(node: &Node, arguments: &[&str]) -> Result<String> {
    let mut command = node.command(agent::binary()?)?;
    command.args(arguments).arg("--pin-path").arg(PathBuf::from("/sys/fs/bpf").join(node.name()));
    let output = command.output()?;
    ensure!(output.status.success(), "weir {arguments:?} on {}: {}", node.name(), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// The addresses and ports of a Service's backends as a node's kernel has them.
fn endpoints(node: &Node, namespace: &str, service: &str) -> Result<BTreeSet<(String, u16)>> {
    let backends = backends(node, namespace, service)?;
    Ok(backends.into_iter().map(|found| (found.address, found.port)).collect())
}

/// Waits until every node has the ready endpoints of a Service: they come a moment after the rollout that kubectl waits for.
pub(crate) fn wait_for_endpoints(space: &Space<'_>, service: &str) -> Result<()> {
    for node in space.cluster().nodes() {
        space.wait_for(&format!("the ready endpoints of {service} on {}", node.name()), || {
            let ready = space.ready_endpoints(service)?;
            Ok(!ready.is_empty() && endpoints(node, space.name(), service)? == ready)
        })?;
    }
    Ok(())
}

/// The backends of a Service as a node's kernel has them.
pub(crate) fn backends(node: &Node, namespace: &str, service: &str) -> Result<Vec<Backend>> {
    let printed = on(node, &["get", "backends", "--namespace", namespace, "--output=json"])?;
    let mut list: Value = serde_json::from_str(&printed).with_context(|| format!("weir printed {printed}"))?;
    let backends: Vec<Backend> = serde_json::from_value(list["items"].take()).context("items of weir get backends")?;
    Ok(backends.into_iter().filter(|found| found.service == service).collect())
}
