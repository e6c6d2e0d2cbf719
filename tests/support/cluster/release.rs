//! Weir on a cluster as users get it: from the chart, by Helm. What differs is only that the nodes share one machine.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    Cluster,
    layout::{API_PORT, FABRIC4},
};
use crate::process::text;

/// The release's name.
const NAME: &str = "weir";
/// The namespace that it is installed in.
pub const NAMESPACE: &str = "kube-system";
/// How long Helm may wait.
const TIMEOUT: &str = "--timeout=3m";

/// An installed release; dropping it uninstalls it, which leaves nothing in the kernel.
#[derive(Debug)]
pub struct Release<'a> {
    cluster: &'a Cluster,
    installed: bool,
}

impl<'a> Release<'a> {
    /// Installs the chart with values (`name=value`) and waits until all of it is ready. The image must be on the nodes.
    pub fn install(cluster: &'a Cluster, values: &[&str]) -> Result<Self> {
        let release = Self { cluster, installed: true };
        release.helm("install", values).with_context(|| look(cluster))?;
        Ok(release)
    }

    /// The release that was installed before and left: dropping this uninstalls it.
    pub fn existing(cluster: &'a Cluster) -> Self {
        Self { cluster, installed: true }
    }

    /// Changes values, and waits until the pods are new on every node: Helm is content while one agent may still be away.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.helm("upgrade", values).with_context(|| look(self.cluster))?;
        let rollout = ["rollout", "status", "daemonset/weir-agent", "--namespace", NAMESPACE, TIMEOUT];
        self.cluster.kubectl_ok(&rollout).map(drop).with_context(|| look(self.cluster))
    }

    /// Uninstalls it, and says what Helm and the hook said.
    pub fn uninstall(mut self) -> Result<()> {
        self.installed = false;
        let mut helm = self.cluster.helm()?;
        run(helm.args(["uninstall", NAME, "--namespace", NAMESPACE, "--wait", TIMEOUT]))
            .with_context(|| look(self.cluster))
    }

    fn helm(&self, verb: &str, values: &[&str]) -> Result<()> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/weir");
        let mut helm = self.cluster.helm()?;
        helm.args([verb, NAME]).arg(chart).args(["--namespace", NAMESPACE, "--wait", TIMEOUT]);
        for value in shared().iter().map(String::as_str).chain(values.iter().copied()) {
            helm.args(["--set", value]);
        }
        run(&mut helm)
    }

    /// Runs `weir` in the agent's pod of a node.
    pub fn weir(&self, node: &str, arguments: &[&str]) -> Result<std::process::Output> {
        let pod = self.agent_pod(node)?;
        let mut kubectl = self.cluster.kubectl()?;
        kubectl.args(["exec", "--namespace", NAMESPACE, &pod, "--", "/weir"]).args(arguments);
        Ok(kubectl.output()?)
    }

    /// The agent's pod of a node.
    pub fn agent_pod(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={node}");
        let selector = "--selector=app.kubernetes.io/name=weir,app.kubernetes.io/component=agent";
        let names = ["get", "pods", "--namespace", NAMESPACE, &field, selector, "--output=name"];
        let printed = self.cluster.kubectl_ok(&names)?;
        printed.lines().next().map(str::to_owned).with_context(|| format!("no agent on {node}"))
    }
}

/// All nodes have one bpffs and one tree of control groups, and no kube-proxy for the Service of the API server.
fn shared() -> Vec<String> {
    vec![
        "image.pullPolicy=Never".to_owned(),
        format!("apiServer.host={FABRIC4}"),
        format!("apiServer.port={API_PORT}"),
        "pinPath=/sys/fs/bpf/$(NODE_NAME)".to_owned(),
        "cgroup=/sys/fs/cgroup/unified/$(NODE_NAME)".to_owned(),
    ]
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(())
}

/// What a person would look at when something is wrong.
pub fn look(cluster: &Cluster) -> String {
    let look = |arguments: &[&str]| {
        let selected = [arguments, &["--namespace", NAMESPACE, "--selector=app.kubernetes.io/name=weir"]].concat();
        cluster.kubectl_ok(&selected).unwrap_or_else(|error| error.to_string())
    };
    let logs = look(&["logs", "--tail=100", "--prefix", "--timestamps", "--max-log-requests=20"]);
    format!("{}\n{}\n{logs}", look(&["get", "pods", "--output=wide"]), look(&["describe", "pods"]))
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if !self.installed {
            return;
        }
        let gone = Self { cluster: self.cluster, installed: false }.uninstall();
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
    }
}
