//! The control plane: etcd, the API server, the controller manager and the scheduler, in the fabric's namespace.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    certificates::{Certificates, kubeconfig_path},
    daemon::{Daemon, Mounts, last_words},
    groups::Group,
    layout::{API_PORT, FABRIC4, Name, PODS, SERVICES},
    programs::Programs,
};
use crate::{
    namespace::Namespace,
    process::{text, wait_until},
};

const ETCD: &str = "127.0.0.1:2379";
/// How long a part of the control plane may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The control plane of one cluster.
#[derive(Clone, Debug)]
pub(super) struct ControlPlane {
    cluster: Name,
    programs: Programs,
}

impl ControlPlane {
    /// That of a cluster, whether it runs or not.
    pub(super) fn of(cluster: &Name, programs: &Programs) -> Self {
        Self { cluster: cluster.clone(), programs: programs.clone() }
    }

    /// Its programs.
    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Starts etcd and the API server and waits until the latter is ready.
    pub(super) fn start_storage(&self) -> Result<()> {
        let etcd = self.etcd();
        etcd.start()?;
        self.wait_for_port(&etcd, ETCD)?;
        self.start_api()
    }

    /// Starts the API server and waits until it is ready.
    pub(super) fn start_api(&self) -> Result<()> {
        let api = self.api();
        api.start()?;
        self.wait_for_port(&api, &format!("{FABRIC4}:{API_PORT}"))?;
        wait_until(PATIENCE, || {
            api.expect_running()?;
            Ok(self.kubectl()?.args(["get", "--raw", "/readyz"]).output()?.status.success())
        })
        .with_context(|| format!("kube-apiserver is not ready; it printed: {}", last_words(&api.log)))
    }

    /// Kills all but etcd. Controllers that outlived the API server would find all nodes silent when it is back.
    pub(super) fn stop(&self) -> Result<()> {
        [self.controller_manager(), self.scheduler(), self.api()].iter().try_for_each(|daemon| daemon.group.kill())
    }

    /// Starts what makes objects come true.
    pub(super) fn start_controllers(&self) -> Result<()> {
        self.controller_manager().start()?;
        self.scheduler().start()
    }

    /// All of it.
    pub(super) fn daemons(&self) -> [Daemon; 4] {
        [self.etcd(), self.api(), self.controller_manager(), self.scheduler()]
    }

    /// kubectl as the administrator, in the fabric's namespace.
    pub(super) fn kubectl(&self) -> Result<std::process::Command> {
        let mut command = Namespace::existing(&self.cluster.fabric()).command(self.programs.path("kubectl"))?;
        // Not the user's own settings, and no discovery cache of another cluster at the same address.
        let cache = self.cluster.folder().join("kubectl-cache");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).arg("--cache-dir").arg(cache);
        Ok(command)
    }

    /// Helm as the administrator, in the same place.
    pub(super) fn helm(&self) -> Result<std::process::Command> {
        let mut command = Namespace::existing(&self.cluster.fabric()).command(self.programs.path("helm"))?;
        let folder = self.cluster.folder().join("helm");
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, &folder);
        }
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        Ok(command)
    }

    /// The same with arguments; it must succeed; returns what it printed.
    pub(super) fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl()?.args(arguments).output()?;
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {}", text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    fn etcd(&self) -> Daemon {
        let data = self.cluster.folder().join("etcd");
        self.daemon(
            "etcd",
            vec![
                flag("data-dir", data.display()),
                flag("listen-client-urls", format_args!("http://{ETCD}")),
                flag("advertise-client-urls", format_args!("http://{ETCD}")),
                flag("listen-peer-urls", "http://127.0.0.1:2380"),
                // A test's data need not survive a power failure.
                "--unsafe-no-fsync".to_owned(),
                flag("log-level", "warn"),
            ],
        )
    }

    fn api(&self) -> Daemon {
        let pki = Certificates::of(&self.cluster);
        let (certificate, key) = (|name| pki.certificate(name).display().to_string(), |name| path(pki.key(name)));
        self.daemon(
            "kube-apiserver",
            vec![
                flag("advertise-address", FABRIC4),
                flag("secure-port", API_PORT),
                flag("etcd-servers", format_args!("http://{ETCD}")),
                flag("service-cluster-ip-range", SERVICES),
                flag("authorization-mode", "Node,RBAC"),
                flag("enable-admission-plugins", "NodeRestriction"),
                flag("allow-privileged", true),
                flag("client-ca-file", certificate("ca")),
                flag("tls-cert-file", certificate("kube-apiserver")),
                flag("tls-private-key-file", key("kube-apiserver")),
                flag("kubelet-certificate-authority", certificate("ca")),
                flag("kubelet-client-certificate", certificate("kubelet-client")),
                flag("kubelet-client-key", key("kubelet-client")),
                // The nodes' names are known to no name server.
                flag("kubelet-preferred-address-types", "InternalIP"),
                flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
                flag("service-account-key-file", path(pki.service_account_public())),
                flag("service-account-signing-key-file", key("service-account")),
                flag("requestheader-client-ca-file", certificate("front-proxy-ca")),
                flag("requestheader-allowed-names", "front-proxy-client"),
                flag("requestheader-username-headers", "X-Remote-User"),
                flag("requestheader-group-headers", "X-Remote-Group"),
                flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
                flag("proxy-client-cert-file", certificate("front-proxy-client")),
                flag("proxy-client-key-file", key("front-proxy-client")),
                // No proxy serves Services in the fabric: extensions are reached by their endpoints.
                flag("enable-aggregator-routing", true),
            ],
        )
    }

    fn controller_manager(&self) -> Daemon {
        let pki = Certificates::of(&self.cluster);
        self.daemon(
            "kube-controller-manager",
            vec![
                flag("kubeconfig", kubeconfig_path(&self.cluster, "kube-controller-manager").display()),
                flag("leader-elect", false),
                flag("use-service-account-credentials", true),
                flag("service-account-private-key-file", path(pki.key("service-account"))),
                flag("root-ca-file", pki.certificate("ca").display()),
                flag("cluster-signing-cert-file", pki.certificate("ca").display()),
                flag("cluster-signing-key-file", path(pki.key("ca"))),
                flag("cluster-cidr", PODS),
                flag("service-cluster-ip-range", SERVICES),
                // With kubelet's lease of the same length, a dead node is noticed while a test can wait for it.
                flag("node-monitor-grace-period", "16s"),
                flag("node-monitor-period", "2s"),
            ],
        )
    }

    fn scheduler(&self) -> Daemon {
        let kubeconfig = kubeconfig_path(&self.cluster, "kube-scheduler");
        self.daemon("kube-scheduler", vec![flag("kubeconfig", kubeconfig.display()), flag("leader-elect", false)])
    }

    fn daemon(&self, program: &str, arguments: Vec<String>) -> Daemon {
        let fabric = self.cluster.fabric();
        Daemon {
            program: self.programs.path(program),
            arguments: arguments.into_iter().map(Into::into).collect(),
            search_path: self.programs.search_path(),
            group: Group::at(&fabric).below(program),
            hostname: fabric.clone(),
            namespace: fabric,
            mounts: Mounts::Machine,
            log: self.cluster.folder().join(format!("{program}.log")),
        }
    }

    fn wait_for_port(&self, daemon: &Daemon, address: &str) -> Result<()> {
        let address: SocketAddr = address.parse()?;
        let fabric = Namespace::existing(&self.cluster.fabric());
        wait_until(PATIENCE, || {
            daemon.expect_running()?;
            fabric.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })
        .with_context(|| format!("{} does not listen on {address}", daemon.program.display()))
    }
}

/// `--name=value`.
pub(super) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn path(path: PathBuf) -> String {
    path.display().to_string()
}
