//! A node: containerd, kubelet and, where asked for, kube-proxy in the node's namespace and control group.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{
    addons::PAUSE_IMAGE,
    certificates::{Certificates, kubeconfig_path},
    control_plane::flag,
    daemon::{DEVICE_PLUGINS, Daemon, Mounts},
    groups::{self, Group},
    layout::{DNS_SERVICE, Name, NodePlan, PODS},
    network,
    programs::{CNI_PLUGINS, Programs},
};
use crate::{
    namespace::Namespace,
    process::{text, wait_until},
    requirements,
};

/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

const CONTAINERD: &str = "containerd";

/// Which kube-proxy runs beside, or instead of, what is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// None at all.
    None,
    /// kube-proxy with nftables.
    Nftables,
    /// kube-proxy with iptables.
    Iptables,
}

impl Proxy {
    /// kube-proxy's word for its mode, where it runs.
    pub fn mode(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
        }
    }
}

fn enter_group(mut command: Command, group: &Group) -> Result<Command> {
    let mut door = group.door()?;
    // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || door.write_all(b"0"));
    }
    Ok(command)
}

/// A node of a cluster.
#[derive(Clone, Debug)]
pub struct Node {
    cluster: Name,
    plan: NodePlan,
    programs: Programs,
}

impl Node {
    /// A node of a cluster, whether it runs or not.
    pub fn of(cluster: &Name, plan: NodePlan, programs: &Programs) -> Self {
        Self { cluster: cluster.clone(), plan, programs: programs.clone() }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.plan.name()
    }

    /// Its addresses and everything else that is known without asking it.
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// Its network.
    pub fn namespace(&self) -> Namespace {
        Namespace::existing(&self.name())
    }

    /// The control group of its daemons and pods.
    pub fn group(&self) -> Group {
        Group::at(self.name())
    }

    /// A command that will run as a process of the node: in its network and its control group. It dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let group = self.group().below("system/commands");
        group.create()?;
        enter_group(self.namespace().command(program)?, &group)
    }

    /// A command that will run as a further process of a pod's container, as `kubectl exec` does it, but without the API server.
    pub fn command_in_pod(&self, uid: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let (group, pid) = self.container(uid)?;
        let mut command = self.namespace().command("nsenter")?;
        command.arg("--target").arg(pid.to_string()).args(["--mount", "--net", "--uts", "--ipc", "--"]).arg(program);
        enter_group(command, &group)
    }

    /// The process that a pod's container started.
    pub fn process_of_pod(&self, uid: &str) -> Result<i32> {
        self.container(uid).map(|(_, pid)| pid)
    }

    /// The group of a pod's container and its first process; the pause program is not meant.
    fn container(&self, uid: &str) -> Result<(Group, i32)> {
        let qualities = ["kubepods", "kubepods/besteffort", "kubepods/burstable"];
        let pods = qualities.iter().map(|quality| self.group().below(quality).below(&format!("pod{uid}")));
        let containers = pods.flat_map(|pod| pod.children());
        let mut first = containers.filter_map(|group| Some((group.processes().into_iter().min()?, group)));
        // Before a container's program runs there, the runtime's does: also in the group of the pause program.
        let is_own = |exe: PathBuf| exe != Path::new("/pause") && !exe.to_string_lossy().contains("runc");
        let found = first.find(|(pid, _)| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(is_own));
        found.map(|(pid, group)| (group, pid)).with_context(|| format!("pod {uid} runs nothing on {}", self.name()))
    }

    /// The object that kubelet finds when it registers: with subnets and a zone, which it does not set itself.
    pub fn manifest(&self) -> serde_json::Value {
        let pods = self.plan.pods();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name(), "labels": {
                "kubernetes.io/hostname": self.name(),
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": self.plan.zone(),
            }},
            "spec": {"podCIDR": pods[0], "podCIDRs": pods},
        })
    }

    /// Makes its groups and settings and starts containerd.
    pub fn start_containerd(&self) -> Result<()> {
        groups::create_everywhere(&self.name())?;
        let folder = self.plan.folder();
        fs::create_dir_all(DEVICE_PLUGINS)?;
        fs::create_dir_all(folder.join("cni"))?;
        fs::write(folder.join("cni/10-weir.conflist"), serde_json::to_string_pretty(&self.network_settings())?)?;
        fs::write(folder.join("containerd.toml"), self.containerd_settings()?)?;
        fs::write(folder.join("kubelet.json"), serde_json::to_string_pretty(&self.kubelet_settings())?)?;
        self.containerd().start()
    }

    /// Brings an image archive into containerd.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let containerd = self.containerd();
        wait_until(PATIENCE, || {
            containerd.expect_running()?;
            Ok(self.ctr().arg("version").output()?.status.success())
        })
        .context("containerd does not answer")?;
        let output = self.ctr().args(["--namespace=k8s.io", "images", "import"]).arg(archive).output()?;
        if !output.status.success() {
            bail!("ctr images import {}: {}", archive.display(), text(&output.stderr));
        }
        Ok(())
    }

    /// Starts kubelet and kube-proxy.
    pub fn start_kubelet(&self, proxy: Proxy) -> Result<()> {
        self.kubelet().start()?;
        self.start_proxy(proxy)
    }

    /// Starts kube-proxy alone.
    pub fn start_proxy(&self, proxy: Proxy) -> Result<()> {
        let Some(mode) = proxy.mode() else { return Ok(()) };
        let settings = serde_json::to_string_pretty(&self.proxy_settings(mode))?;
        fs::write(self.plan.folder().join("kube-proxy.json"), settings)?;
        self.proxy().start()
    }

    /// Pulls the plug: its link is down and nothing on it runs any more.
    pub fn fail(&self) -> Result<()> {
        network::set_link(&self.cluster, &self.plan, false)?;
        self.group().freeze(true)
    }

    /// Ends [`Self::fail`]: everything goes on where it stopped.
    pub fn recover(&self) -> Result<()> {
        self.group().freeze(false)?;
        network::set_link(&self.cluster, &self.plan, true)
    }

    /// Its daemons; kube-proxy is one of them when it was started.
    pub fn daemons(&self) -> Vec<Daemon> {
        let proxy = Some(self.proxy()).filter(|proxy| proxy.group.path().exists());
        [self.containerd(), self.kubelet()].into_iter().chain(proxy).collect()
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new(self.programs.path("ctr"));
        command.arg("--address").arg(self.plan.socket());
        command
    }

    fn containerd(&self) -> Daemon {
        self.daemon(CONTAINERD, vec![flag("config", self.file("containerd.toml").display())])
    }

    fn kubelet(&self) -> Daemon {
        let [v4, v6] = self.plan.addresses();
        self.daemon(
            "kubelet",
            vec![
                flag("config", self.file("kubelet.json").display()),
                flag("kubeconfig", self.file("kubelet.kubeconfig").display()),
                flag("root-dir", self.file("kubelet").display()),
                flag("cert-dir", self.file("kubelet/pki").display()),
                flag("hostname-override", self.name()),
                flag("node-ip", format_args!("{v4},{v6}")),
            ],
        )
    }

    /// kube-proxy, whether it runs or not.
    pub fn proxy(&self) -> Daemon {
        self.daemon("kube-proxy", vec![flag("config", self.file("kube-proxy.json").display())])
    }

    fn daemon(&self, program: &str, arguments: Vec<String>) -> Daemon {
        Daemon {
            program: self.programs.path(program),
            arguments: arguments.into_iter().map(Into::into).collect(),
            search_path: self.programs.search_path(),
            namespace: self.name(),
            hostname: self.name(),
            mounts: match program {
                CONTAINERD => Mounts::Own,
                _ => Mounts::Of(self.daemon_group(CONTAINERD)),
            },
            group: self.daemon_group(program),
            log: self.file(&format!("{program}.log")),
        }
    }

    fn daemon_group(&self, program: &str) -> Group {
        self.group().below("system").below(program)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.plan.folder().join(name)
    }

    fn network_settings(&self) -> serde_json::Value {
        let ranges = self.plan.pods().map(|subnet| json!([{"subnet": subnet}]));
        json!({
            "cniVersion": "1.0.0",
            "name": self.name(),
            "plugins": [
                {"type": "ptp", "ipMasq": false, "ipam": {
                    "type": "host-local",
                    "dataDir": self.file("addresses"),
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                }},
                {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
            ],
        })
    }

    /// TOML has no need of a library here: all that varies are paths.
    fn containerd_settings(&self) -> Result<String> {
        let runc = requirements::find("runc").context("the program `runc`: `cargo xtask setup` installs it")?;
        Ok(format!(
            r#"version = 3
root = "{root}"
state = "{state}"

[grpc]
address = "{socket}"

# Its socket's path is the same for every containerd of the machine.
[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
# There is no CAP_SYS_RESOURCE in many virtual machines, and without it a container that wants a lower score does not start.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{cni}"
# The plugin's would be one more process for each pod, and its results would stay behind.
use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{runc_root}"
SystemdCgroup = false
"#,
            root = self.file("containerd").display(),
            state = self.file("run").display(),
            socket = self.plan.socket().display(),
            cni = self.file("cni").display(),
            runc = runc.display(),
            runc_root = self.file("runc").display(),
        ))
    }

    fn kubelet_settings(&self) -> serde_json::Value {
        let pki = Certificates::of(&self.cluster);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": pki.certificate("ca")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.certificate(&self.name()),
            "tlsPrivateKeyFile": pki.key(&self.name()),
            "containerRuntimeEndpoint": format!("unix://{}", self.plan.socket().display()),
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            // Nothing of the machine's own names reaches a pod.
            "resolvConf": "",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.name()),
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            "evictionHard": {},
            "localStorageCapacityIsolation": false,
            // Images were loaded, not pulled: a removed one would not come back.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeLeaseDurationSeconds": 16,
            "podLogsDir": self.file("logs"),
            "volumePluginDir": self.file("volume-plugins"),
            "readOnlyPort": 0,
        })
    }

    fn proxy_settings(&self, mode: &str) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "hostnameOverride": self.name(),
            "clientConnection": {"kubeconfig": kubeconfig_path(&self.cluster, "kube-proxy")},
            "clusterCIDR": PODS,
            "detectLocalMode": "ClusterCIDR",
            // These limits are the machine's, not the node's.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
    }
}
