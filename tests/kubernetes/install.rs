//! The chart on a real cluster: it installs, every right is needed or refused, and it leaves nothing behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::{
    cluster::{
        Cluster, Proxy,
        release::{NAMESPACE, Release},
    },
    process::wait_until,
};

use crate::{
    space::{PATIENCE, pods},
    world,
};

/// Everything that a service account of Weir may do: verbs, resource with its group, name; all in the whole cluster, or in [`NAMESPACE`].
type Rights = &'static [(&'static [&'static str], &'static str, &'static str)];

const AGENT: Rights = &[
    (&["list", "watch"], "services", ""),
    (&["list", "watch"], "pods", ""),
    (&["get", "list", "watch"], "nodes", ""),
    (&["list", "watch"], "endpointslices.discovery.k8s.io", ""),
    (&["list"], "scalepolicies.weir.dev", ""),
    (&["create"], "events.events.k8s.io", ""),
    (&["get"], "leases.coordination.k8s.io", "weir-coordinator"),
    (&["get"], "configmaps", "weir-coordinator-ca"),
];

const COORDINATOR: Rights = &[
    (&["list", "watch"], "services", ""),
    (&["list", "watch"], "nodes", ""),
    (&["list", "watch"], "endpointslices.discovery.k8s.io", ""),
    (&["list", "watch"], "addresspools.weir.dev", ""),
    (&["patch"], "services/status", ""),
    (&["patch"], "addresspools.weir.dev/status", ""),
    (&["list", "watch"], "scalepolicies.weir.dev", ""),
    (&["patch"], "scalepolicies.weir.dev/status", ""),
    (&["list", "watch"], "horizontalpodautoscalers.autoscaling", ""),
    (&["get"], "deployments.apps", ""),
    (&["get", "patch"], "deployments.apps/scale", ""),
    (&["get"], "statefulsets.apps", ""),
    (&["get", "patch"], "statefulsets.apps/scale", ""),
    (&["get"], "replicasets.apps", ""),
    (&["get", "patch"], "replicasets.apps/scale", ""),
    (&["list", "watch"], "verticalpodautoscalers.autoscaling.k8s.io", ""),
    (&["get", "patch"], "pods", ""),
    (&["patch"], "pods/resize", ""),
    (&["create"], "events.events.k8s.io", ""),
    (&["create"], "tokenreviews.authentication.k8s.io", ""),
    (&["get", "update"], "leases.coordination.k8s.io", "weir-coordinator"),
    (&["get", "update"], "secrets", "weir-coordinator-tls"),
    (&["patch"], "configmaps", "weir-coordinator-ca"),
];

#[test]
fn installed_it_is_healthy_has_no_right_too_many_and_leaves_nothing() -> Result<()> {
    let cluster = world::enter(Proxy::None)?;
    let release = Release::install(&cluster, &[])?;
    every_agent_is_healthy(&cluster, &release)?;
    for (account, rights) in [("weir-agent", AGENT), ("weir-coordinator", COORDINATOR)] {
        has_just_these_rights(&cluster, account, rights)?;
        is_really_refused(&cluster, account)?;
    }
    nothing_was_refused(&cluster)?;
    release.uninstall()?;
    nothing_is_left(&cluster)
}

fn every_agent_is_healthy(cluster: &Cluster, release: &Release<'_>) -> Result<()> {
    for node in cluster.nodes() {
        let output = release.weir(&node.name(), &["status", "-o", "json"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let status: Value = serde_json::from_str(&said)
            .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
        assert_eq!(status["healthy"], true, "{}: {}", node.name(), status["problems"]);
        assert!(pins(&node.name()).exists());
    }
    Ok(())
}

fn pins(node: &str) -> std::path::PathBuf {
    Path::new("/sys/fs/bpf").join(node)
}

/// What the API server says of every verb on every resource, against the table.
fn has_just_these_rights(cluster: &Cluster, account: &str, rights: Rights) -> Result<()> {
    let allowed = allowed(cluster, account)?;
    let mut expected: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (verbs, resource, name) in rights {
        let verbs = verbs.iter().map(|verb| (*verb).to_owned());
        expected.entry(((*resource).to_owned(), (*name).to_owned())).or_default().extend(verbs);
    }
    assert_eq!(allowed, expected, "{account}");
    Ok(())
}

/// Verbs by resource and name, without what every user may do (ask about itself).
fn allowed(cluster: &Cluster, account: &str) -> Result<BTreeMap<(String, String), BTreeSet<String>>> {
    let listed = as_account(cluster, account, &["auth", "can-i", "--list", "--no-headers"])?;
    let mut allowed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in listed.lines() {
        // RESOURCES  NON-RESOURCE URLS  RESOURCE NAMES  VERBS
        let lists: Vec<Vec<&str>> = line
            .split('[')
            .skip(1)
            .filter_map(|rest| rest.split_once(']'))
            .map(|(list, _)| list.split_whitespace().collect())
            .collect();
        let resource = line.split_whitespace().next().filter(|word| !word.starts_with('[')).unwrap_or_default();
        let [_, names, verbs] = &lists[..] else { continue };
        if resource.is_empty() || resource.starts_with("selfsubject") {
            continue;
        }
        let name = names.first().copied().unwrap_or_default();
        let verbs = verbs.iter().map(|verb| (*verb).to_owned());
        allowed.entry((resource.to_owned(), name.to_owned())).or_default().extend(verbs);
    }
    Ok(allowed)
}

/// Tries what a stolen token would be used for.
fn is_really_refused(cluster: &Cluster, account: &str) -> Result<()> {
    let (agent, other) = (account == "weir-agent", "weir-coordinator-other");
    let mut attempts: Vec<Vec<&str>> = vec![
        vec!["get", "secrets", "--all-namespaces"],
        vec!["get", "secret", "--namespace", NAMESPACE, other],
        vec!["get", "lease", "--namespace", NAMESPACE, other],
        vec!["get", "service", "--namespace=default", "kubernetes"],
        vec!["get", "configmaps", "--all-namespaces"],
        vec!["create", "serviceaccount", "--namespace", NAMESPACE, "mine"],
        vec!["create", "token", "--namespace", NAMESPACE, "default"],
        vec![
            "create",
            "clusterrolebinding",
            "mine",
            "--clusterrole=cluster-admin",
            "--serviceaccount=kube-system:weir-agent",
        ],
        vec!["create", "secret", "generic", "--namespace", NAMESPACE, "mine"],
        vec!["delete", "service", "--namespace=default", "kubernetes"],
        vec!["delete", "pods", "--all", "--namespace", NAMESPACE],
        vec!["annotate", "node", "--all", "a=b"],
        vec!["label", "service", "--namespace=default", "kubernetes", "a=b"],
        vec!["patch", "daemonset", "--namespace", NAMESPACE, "weir-agent", "--patch={}"],
    ];
    if agent {
        attempts.push(vec!["get", "addresspools"]);
        attempts.push(vec!["get", "secret", "--namespace", NAMESPACE, "weir-coordinator-tls"]);
    } else {
        attempts.push(vec!["get", "pods", "--all-namespaces"]);
        attempts.push(vec!["get", "configmap", "--namespace", NAMESPACE, "weir-coordinator-ca"]);
    }
    for attempt in attempts {
        let output = command_as(cluster, account, &attempt)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("orbidden"), "{account}: {attempt:?}: {said}");
    }
    Ok(())
}

fn command_as(cluster: &Cluster, account: &str, arguments: &[&str]) -> Result<std::process::Command> {
    let mut kubectl = cluster.kubectl()?;
    kubectl.arg(format!("--as=system:serviceaccount:{NAMESPACE}:{account}")).args(arguments);
    // As a token's holder is: without these it would have no more than its own roles.
    for group in ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"] {
        kubectl.arg(format!("--as-group={group}"));
    }
    Ok(kubectl)
}

fn as_account(cluster: &Cluster, account: &str, arguments: &[&str]) -> Result<String> {
    let output = command_as(cluster, account, &[arguments, &["--namespace", NAMESPACE]].concat())?.output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Agents and coordinators need no more than they have.
fn nothing_was_refused(cluster: &Cluster) -> Result<()> {
    for component in ["agent", "coordinator"] {
        let selector = format!("--selector=app.kubernetes.io/name=weir,app.kubernetes.io/component={component}");
        let logs =
            cluster.kubectl_ok(&["logs", "--namespace", NAMESPACE, &selector, "--tail=-1", "--max-log-requests=10"])?;
        let refused: Vec<_> = logs.lines().filter(|line| line.to_lowercase().contains("forbidden")).collect();
        assert!(refused.is_empty(), "{component}: {refused:#?}");
    }
    Ok(())
}

fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        assert!(!pins(&node.name()).exists(), "{} has pins", node.name());
        let filters = node.namespace().run("tc", &["filter", "show", "dev", weir_tests::cluster::UPLINK, "ingress"])?;
        assert!(!filters.contains("weir"), "{}: {filters}", node.name());
    }
    // Helm waits for what it deletes, not for the pods that their owners' end removes.
    wait_until(PATIENCE, || Ok(pods(cluster, NAMESPACE, "app.kubernetes.io/name=weir")?.is_empty()))?;
    let kinds = cluster.kubectl_ok(&["api-resources", "--verbs=list", "--output=name"])?;
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let left =
        cluster.kubectl_ok(&["get", &kinds.join(","), "--all-namespaces", "--output=name", "--ignore-not-found"])?;
    let ours: Vec<_> = left.lines().filter(|name| name.contains("weir")).collect();
    // The nodes, and what kubelet makes for each, have the cluster's name.
    let own = cluster.name().to_string();
    let ours: Vec<_> = ours.into_iter().filter(|name| !name.contains(&format!("/{own}-"))).collect();
    assert!(ours.is_empty(), "{ours:?}");
    Ok(())
}
