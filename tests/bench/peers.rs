//! Whom Weir is compared with over veth: plain routing, the rules of kube-proxy's two older and newer modes, and proxies. A proxy is a
//! process of its own, on the CPU of the thread that serves both ends: whoever waits for the other leaves the CPU to it, and the CPU time
//! of both is that of the request.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    namespace::{Namespace, unique_name},
    process::{Running, text, wait_until, with_input},
    requirements,
};

use crate::load::last_cpu;

const KUBE_PROXY_NFT: &str = include_str!("kube-proxy.nft");
const KUBE_PROXY_IPTABLES: &str = include_str!("kube-proxy.iptables");
/// What reads the rules of iptables: for the kernel's older tables where it has them, else for nftables.
const RESTORE: [&str; 2] = ["iptables-legacy-restore", "iptables-nft-restore"];
/// The module of nginx for connections that are not HTTP, where it is not built in.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const START: Duration = Duration::from_secs(10);

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Direct,
    Nftables,
    Iptables,
    Haproxy,
    Nginx,
    Weir,
}

use Subject::{Direct, Haproxy, Iptables, Nftables, Nginx, Weir};

impl Subject {
    /// In the order in which they take turns, and are told.
    pub(crate) const ALL: [Self; 6] = [Direct, Nftables, Iptables, Haproxy, Nginx, Weir];

    /// The name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Direct => "direct",
            Nftables => "nftables",
            Iptables => "iptables",
            Haproxy => "haproxy",
            Nginx => "nginx-stream",
            Weir => "weir",
        }
    }

    /// Whether it carries datagrams.
    pub(crate) fn has_udp(self) -> bool {
        self != Haproxy
    }

    /// Makes a node carry connections from the frontend to the server, of all subjects that need no more than the node; the process that
    /// does, if one does.
    pub(crate) fn start(self, node: &Namespace, frontend: SocketAddr, server: SocketAddr) -> Result<Option<Proxy>> {
        match self {
            Direct | Weir => Ok(None),
            Nftables => node.run("nft", &[KUBE_PROXY_NFT]).map(|_| None),
            Iptables => iptables(node).map(|()| None),
            Haproxy => {
                let arguments = ["haproxy", "-db", "-f"];
                Proxy::start(node, frontend, &arguments, &haproxy(frontend, server)).map(Some)
            }
            Nginx => {
                let arguments = ["nginx", "-e", "stderr", "-c"];
                Proxy::start(node, frontend, &arguments, &nginx(frontend, server)).map(Some)
            }
        }
    }
}

fn iptables(node: &Namespace) -> Result<()> {
    let restore = |program: &str| -> Result<()> {
        let output = with_input(node.command(program)?, KUBE_PROXY_IPTABLES.as_bytes())?;
        ensure!(output.status.success(), "{program}: {}", text(&output.stderr));
        Ok(())
    };
    let [legacy, nft] = RESTORE;
    restore(legacy).or_else(|error| {
        eprintln!("{error:#}\nthe kernel has no older iptables: its rules are those of nftables here ({nft})");
        restore(nft)
    })
}

/// Times are longer than a turn, so that no connection is ended by them; all else that costs is as it comes.
fn haproxy(frontend: SocketAddr, server: SocketAddr) -> String {
    format!(
        "global\n    nbthread 1\n    maxconn 4096\ndefaults\n    mode tcp\n    timeout connect 10s\n    timeout client 60s\n    \
         timeout server 60s\nlisten web\n    bind {frontend}\n    server one {server}\n"
    )
}

/// `proxy_timeout` also says how long the proxy knows who has sent a datagram.
fn nginx(frontend: SocketAddr, server: SocketAddr) -> String {
    let module =
        if Path::new(NGINX_STREAM).exists() { format!("load_module {NGINX_STREAM};\n") } else { String::new() };
    let servers = ["", " udp"].map(|protocol| {
        format!("    server {{ listen {frontend}{protocol}; proxy_pass {server}; proxy_timeout 60s; }}\n")
    });
    format!(
        "{module}user root;\nworker_processes 1;\ndaemon off;\npid off;\nerror_log stderr;\n\
         events {{ worker_connections 16384; }}\nstream {{\n{}}}\n",
        servers.concat()
    )
}

/// A proxy that runs; dropping it ends it.
pub(crate) struct Proxy {
    process: Running,
    folder: PathBuf,
}

impl Proxy {
    /// Starts a program with this configuration, whose file follows the arguments, on a node that has the frontend's address itself.
    fn start(node: &Namespace, frontend: SocketAddr, arguments: &[&str], config: &str) -> Result<Self> {
        let name = arguments[0];
        let folder = std::env::temp_dir().join(unique_name(name));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let file = folder.join("config");
        fs::write(&file, config)?;
        node.address("lo", &[&format!("{}/32", frontend.ip())])?;
        let mut command = node.command("taskset")?;
        command.args(["-c", &last_cpu()?.to_string()]).args(arguments).arg(&file);
        let process = Running::start(command, &folder.join("log"))?;
        let mut proxy = Self { process, folder };
        proxy.wait(node, frontend).with_context(|| {
            let remedy = "`cargo xtask setup --for bench` installs what it needs";
            format!("{name} does not listen at {frontend}: {remedy}; it said:\n{}", proxy.process.log())
        })?;
        Ok(proxy)
    }

    /// Waits until it listens.
    fn wait(&mut self, node: &Namespace, frontend: SocketAddr) -> Result<()> {
        wait_until(START, || {
            ensure!(self.process.ended()?.is_none(), "it has ended");
            Ok(node.run("ss", &["-Hltn"])?.contains(&frontend.to_string()))
        })
    }

    /// The CPU time in nanoseconds that its threads, and those of its children, have used. Exact only while they wait.
    pub(crate) fn cpu_time(&self) -> Result<f64> {
        let (mut sum, mut processes) = (0.0, vec![self.process.pid()]);
        while let Some(pid) = processes.pop() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
                let task = task?.path();
                let (stat, children) =
                    (fs::read_to_string(task.join("schedstat"))?, fs::read_to_string(task.join("children"))?);
                let used = stat.split(' ').next().and_then(|used| used.parse::<f64>().ok());
                sum += used.with_context(|| format!("{}: {stat}", task.display()))?;
                processes.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        Ok(sum)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The programs that are called.
pub(crate) fn tools() -> Vec<&'static str> {
    let restore = RESTORE.into_iter().find(|program| requirements::find(program).is_some()).unwrap_or(RESTORE[0]);
    vec!["ip", "ss", "taskset", "nft", restore, "haproxy", "nginx"]
}
