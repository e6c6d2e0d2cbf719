//! A real Kubernetes cluster on one machine: etcd, the API server, controllers and scheduler, and nodes that are network namespaces with a
//! kubelet and a containerd of their own. Nothing in it is a mock.
//!
//! [`Cluster::up`] starts one, which outlives the program that started it; [`down`] removes it, also what a killed start left.

mod addons;
mod certificates;
mod control_plane;
mod daemon;
pub(crate) mod groups;
pub mod keda;
pub mod layout;
mod network;
mod node;
pub mod programs;
pub mod release;
mod teardown;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use self::{
    certificates::Certificates,
    control_plane::ControlPlane,
    daemon::last_words,
    layout::{MAX_NODES, Name},
    programs::Programs,
};
use crate::{
    namespace::Namespace,
    process::{text, wait_until},
};

pub use self::{
    daemon::Daemon,
    groups::Group,
    network::UPLINK,
    node::{Node, Proxy},
    teardown::down,
};

/// How long a node may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name; two of different names do not meet.
    pub name: Name,
    /// How many nodes, 1 to 64.
    pub nodes: usize,
    /// Which kube-proxy.
    pub proxy: Proxy,
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    name: Name,
    control_plane: ControlPlane,
    nodes: Vec<Node>,
}

/// What is written down of a cluster, last of all: with it, the start was finished.
#[derive(Serialize, Deserialize)]
struct Record {
    nodes: usize,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes and its name server are ready. What an earlier one of its name left is removed first.
    /// `progress` is told what has been done.
    pub fn up(config: &Config, programs: &Programs, progress: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        ensure!((1..=MAX_NODES).contains(&config.nodes), "a cluster has 1 to {MAX_NODES} nodes, not {}", config.nodes);
        programs::check_machine()?;
        down(&config.name).context("remove what is left of an earlier cluster")?;
        let cluster = Self::of(&config.name, config.nodes, programs);
        cluster.prepare()?;
        progress("networks and certificates");
        cluster.start(config.proxy, progress).with_context(|| format!("start cluster {}", config.name))?;
        let record = serde_json::to_vec(&Record { nodes: config.nodes })?;
        fs::write(config.name.folder().join(RECORD), record)?;
        Ok(cluster)
    }

    /// A cluster that was started before.
    pub fn open(name: &Name, programs: &Programs) -> Result<Self> {
        let record = fs::read(name.folder().join(RECORD));
        let record =
            record.with_context(|| format!("cluster {name} does not run: `cargo xtask cluster up` starts one"))?;
        let record: Record = serde_json::from_slice(&record)?;
        Ok(Self::of(name, record.nodes, programs))
    }

    fn of(name: &Name, nodes: usize, programs: &Programs) -> Self {
        let nodes = name.nodes(nodes).into_iter().map(|plan| Node::of(name, plan, programs)).collect();
        Self { name: name.clone(), control_plane: ControlPlane::of(name, programs), nodes }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its nodes, of which the first also runs the name server.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The client outside of the cluster, in the nodes' subnet.
    pub fn client(&self) -> Namespace {
        Namespace::existing(&self.name.client())
    }

    /// Where the control plane is, and from where the API server is reached.
    pub fn fabric(&self) -> Namespace {
        Namespace::existing(&self.name.fabric())
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Result<Command> {
        self.control_plane.kubectl()
    }

    /// The same with arguments; it must succeed; returns what it printed.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        self.control_plane.kubectl_ok(arguments)
    }

    /// Helm as the administrator.
    pub fn helm(&self) -> Result<Command> {
        self.control_plane.helm()
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--filename=-"], manifests)
    }

    /// Applies manifests in a namespace that they do not name.
    pub fn apply_in(&self, namespace: &str, manifests: &str) -> Result<()> {
        self.kubectl_with(&["--namespace", namespace, "apply", "--filename=-"], manifests)
    }

    /// Deletes what the manifests name and waits until it is gone.
    pub fn delete(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["delete", "--ignore-not-found", "--filename=-"], manifests)
    }

    /// Brings an image archive to every node.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        in_parallel(self.nodes.iter().map(|node| || node.load_image(archive)))
    }

    /// Kills the API server and those that act through it, as when their machine is away. Nodes and what runs on them stay.
    pub fn stop_control_plane(&self) -> Result<()> {
        self.control_plane.stop()
    }

    /// Starts them again and waits until the API server is ready.
    pub fn start_control_plane(&self) -> Result<()> {
        self.control_plane.start_api()?;
        self.control_plane.start_controllers()
    }

    /// All its daemons.
    pub fn daemons(&self) -> Vec<Daemon> {
        self.control_plane.daemons().into_iter().chain(self.nodes.iter().flat_map(Node::daemons)).collect()
    }

    fn prepare(&self) -> Result<()> {
        let plans: Vec<_> = self.nodes.iter().map(|node| node.plan().clone()).collect();
        fs::create_dir_all(self.name.folder())?;
        network::build(&self.name, &plans)?;
        Certificates::of(&self.name).write(&self.name, &plans)
    }

    /// containerd takes as long to start as the API server does: both at once.
    fn start(&self, proxy: Proxy, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
        thread::scope(|scope| {
            let runtimes = scope.spawn(|| self.start_runtimes(progress));
            self.control_plane.start_storage()?;
            progress("the API server is ready");
            self.control_plane.start_controllers()?;
            self.create_objects()?;
            match runtimes.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        self.nodes.iter().try_for_each(|node| node.start_kubelet(proxy))?;
        self.wait_for_nodes()?;
        progress("the nodes are ready");
        self.wait_for_dns()?;
        progress("the name server is ready");
        Ok(())
    }

    fn start_runtimes(&self, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
        self.nodes.iter().try_for_each(Node::start_containerd)?;
        self.load_image(&addons::pause_archive(&self.name, self.control_plane.programs())?)?;
        self.nodes[0].load_image(&addons::coredns_archive(&self.name, self.control_plane.programs())?)?;
        progress("containerd is ready");
        Ok(())
    }

    fn create_objects(&self) -> Result<()> {
        let nodes = self.nodes.iter().map(|node| format!("---\n{}\n", node.manifest())).collect::<String>();
        self.apply(&(nodes + "---\n" + &addons::coredns_manifest(&self.name)))
    }

    fn wait_for_nodes(&self) -> Result<()> {
        wait_until(PATIENCE, || {
            self.daemons().iter().try_for_each(Daemon::expect_running)?;
            let ready = self.kubectl_ok(&["get", "nodes", READY_COLUMN, "--no-headers"])?;
            Ok(ready.lines().filter(|line| line.trim() == "True").count() == self.nodes.len())
        })
        .map_err(|why| {
            let logs: String =
                self.nodes.iter().flat_map(Node::daemons).map(|daemon| last_words(&daemon.log) + "\n").collect();
            anyhow!("not all nodes are ready: {why:#}; their daemons printed: {logs}")
        })
    }

    fn wait_for_dns(&self) -> Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl_ok(&["--namespace=kube-system", "rollout", "status", "deployment/coredns", &limit]).map(drop)
    }

    fn kubectl_with(&self, arguments: &[&str], manifests: &str) -> Result<()> {
        let mut command = self.kubectl()?;
        command.args(arguments);
        let output = crate::process::with_input(command, manifests.as_bytes())?;
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {}; it was given\n{manifests}", text(&output.stderr));
        }
        Ok(())
    }
}

/// The names of all clusters, also of those that are half up.
pub fn names() -> Vec<Name> {
    let entries = fs::read_dir(layout::STATE).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

const RECORD: &str = "cluster.json";
const READY_COLUMN: &str = r#"-o=custom-columns=READY:.status.conditions[?(@.type=="Ready")].status"#;

/// Runs all at the same time and returns the first error.
fn in_parallel<F: FnOnce() -> Result<()> + Send>(tasks: impl Iterator<Item = F>) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = tasks.map(|task| scope.spawn(task)).collect();
        running.into_iter().try_for_each(|task| match task.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Says what has been done and after how many seconds.
pub fn print_progress() -> impl Fn(&str) + Sync {
    let start = Instant::now();
    move |what| eprintln!("{:6.1} s  {what}", start.elapsed().as_secs_f64())
}
