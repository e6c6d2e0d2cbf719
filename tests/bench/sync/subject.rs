//! The programs that are measured: each follows the same API server on the same node, alone.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::{
    agent::{self, http_get},
    cluster::{Cluster, Node, Proxy},
    process::{Running, text},
    usage::Process,
};

use crate::load::Load;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The agent.
    Weir,
    /// kube-proxy in its nftables mode.
    KubeProxy,
}

/// A program that runs.
pub(crate) enum Subject<'a> {
    Weir { node: &'a Node, running: Running },
    KubeProxy { node: &'a Node },
}

/// The histograms of a subject, each with the label of the series that count.
pub(crate) struct Histograms {
    /// What it takes itself for one change.
    pub(crate) own: (&'static str, &'static str),
    /// From the time that an EndpointSlice names to the kernel.
    pub(crate) whole: (&'static str, &'static str),
}

const METRICS: &str = "127.0.0.1:9560";
const PROXY_METRICS: &str = "127.0.0.1:10249";

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Weir, Self::KubeProxy];

    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::KubeProxy => "kube-proxy",
        }
    }

    pub(crate) const fn histograms(self) -> Histograms {
        let v4 = "ip_family=\"IPv4\"";
        match self {
            Self::Weir => {
                Histograms { own: ("weir_sync_duration_seconds", ""), whole: ("weir_endpoint_programming_seconds", "") }
            }
            Self::KubeProxy => Histograms {
                own: ("kubeproxy_sync_partial_proxy_rules_duration_seconds", v4),
                whole: ("kubeproxy_network_programming_duration_seconds", v4),
            },
        }
    }
}

impl<'a> Subject<'a> {
    /// Starts it; the kernel must have nothing of it.
    pub(crate) fn start(kind: Kind, cluster: &Cluster, node: &'a Node) -> Result<Self> {
        match kind {
            Kind::Weir => {
                let mut command = node.command(agent::binary()?)?;
                command.args(["run", "--kube", "--node-name", &node.name(), "--metrics-listen", METRICS]);
                command.arg("--kubeconfig").arg(cluster.name().kubeconfig()).arg("--pin-path").arg(pin_path(node));
                command.arg("--cgroup").arg(node.group().path());
                let running = Running::start(command, &node.plan().folder().join("weir.log"))?;
                Ok(Self::Weir { node, running })
            }
            Kind::KubeProxy => {
                node.start_proxy(Proxy::Nftables)?;
                Ok(Self::KubeProxy { node })
            }
        }
    }

    /// Whether all that it knows of is in the kernel.
    pub(crate) fn is_done(&mut self) -> Result<bool> {
        match self {
            Self::Weir { node, running } => {
                ensure!(running.ended()?.is_none(), "weir has ended: {}", running.log());
                let answer = http_get(&node.namespace(), METRICS, "/readyz");
                Ok(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
            }
            Self::KubeProxy { node } => {
                node.proxy().expect_running()?;
                let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ";
                let page = self.metrics().unwrap_or_default();
                let time = page.lines().find_map(|line| line.strip_prefix(last)).unwrap_or("0");
                Ok(time.parse::<f64>()? > 0.0)
            }
        }
    }

    /// Fails unless the kernel has everything: all endpoints, or the chains of all Services, which is where kube-proxy has theirs.
    pub(crate) fn check(&self, load: Load) -> Result<()> {
        let (found, wanted) = match self {
            Self::Weir { node, .. } => {
                let printed = weir(node, &["map", "list", "--output=json"])?;
                let list: Value = serde_json::from_str(&printed)?;
                let maps = list["items"].as_array().context("items of weir map list")?;
                let backends = maps.iter().find(|map| map["name"] == "backends").context("the map of backends")?;
                (backends["entries"].as_u64().context("its entries")?, load.endpoints)
            }
            Self::KubeProxy { node } => {
                let chains = node.namespace().run("nft", &["list", "chains", "ip"])?;
                let of_service = |line: &&str| line.contains("chain service-") && line.contains('/');
                (chains.lines().filter(of_service).count() as u64, load.services)
            }
        };
        ensure!(found >= wanted.into(), "the kernel has {found} endpoints or chains, not {wanted}");
        Ok(())
    }

    /// Its page of metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        match self {
            Self::Weir { node, .. } => http_get(&node.namespace(), METRICS, "/metrics"),
            Self::KubeProxy { node } => http_get(&node.namespace(), PROXY_METRICS, "/metrics"),
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> Result<Process> {
        match self {
            Self::Weir { running, .. } => Ok(Process(running.pid())),
            Self::KubeProxy { node } => {
                let pid = node.proxy().group.processes().into_iter().min().context("kube-proxy does not run")?;
                Ok(Process(pid.unsigned_abs()))
            }
        }
    }

    /// Ends it, and takes away what it has put into the kernel.
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Self::Weir { node, running } => {
                running.signal(Signal::SIGKILL)?;
                drop(running);
                weir(node, &["detach"]).map(drop)
            }
            Self::KubeProxy { node } => {
                node.proxy().group.kill()?;
                node.namespace().run("nft", &["flush", "ruleset"]).map(drop)
            }
        }
    }
}

fn pin_path(node: &Node) -> PathBuf {
    PathBuf::from("/sys/fs/bpf").join(node.name())
}

fn weir(node: &Node, arguments: &[&str]) -> Result<String> {
    let output = node.command(agent::binary()?)?.args(arguments).arg("--pin-path").arg(pin_path(node)).output()?;
    ensure!(output.status.success(), "weir {arguments:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}
