//! What the demo plays on: a client, a node and six places for servers, each a network namespace; real nginx servers with CPU limits;
//! the manifests; and the script that `weir` runs to scale.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    manifests::Manifests,
    process::{text, wait_until},
    topology::{Host, Layout, SERVER_PORT, Topology, VIP4, socket},
};

use super::quota::Quota;

/// Servers at the start.
pub(crate) const SERVERS: usize = 4;
/// Servers after scaling.
pub(crate) const SERVERS_MAX: usize = 6;
/// The index of the slow one.
pub(crate) const SLOW: usize = 0;
/// What part of a CPU a server may use, in percent.
const SPEED: u32 = 16;
const SLOW_SPEED: u32 = SPEED / 4;

/// Everything but `weir` and the clients; dropping it removes it.
pub(crate) struct Stage {
    /// The network. First, so that it goes first: its servers must have ended before their groups can be removed.
    pub topology: Topology,
    /// What `weir` reads.
    pub manifests: Manifests,
    /// The script for `--scale-command`.
    pub scale_script: PathBuf,
    _quotas: Vec<Quota>,
}

impl Stage {
    /// Builds everything and starts the first servers.
    pub(crate) fn new(folder: &Path, nginx: &Path) -> Result<Self> {
        let layout = Layout { local: SERVERS_MAX, kind: Some("demo"), ..Layout::default() };
        let topology = Topology::new(layout)?;
        let manifests = Manifests::new()?;
        fs::write(folder.join("index.html"), page()).context("write the page")?;
        let mut quotas = Vec::new();
        let mut starts = Vec::new();
        for (index, host) in topology.hosts.iter().enumerate() {
            let quota = Quota::new(if index == SLOW { SLOW_SPEED } else { SPEED })?;
            starts.push(start_command(folder, nginx, index, host, &quota)?);
            quotas.push(quota);
        }
        for (start, host) in starts.iter().zip(&topology.hosts).take(SERVERS) {
            start_server(start, host)?;
        }
        let scale_script = folder.join("scale.sh");
        write_script(&scale_script, &scale(&manifests, &topology.hosts, &starts))?;
        let stage = Self { topology, manifests, scale_script, _quotas: quotas };
        stage.set_algorithm("random")?;
        stage.manifests.write("endpoints.yaml", &endpoints(&stage.topology.hosts[..SERVERS]))?;
        stage.manifests.write("policy.yaml", POLICY)?;
        Ok(stage)
    }

    /// Where clients go.
    pub(crate) fn frontend() -> SocketAddr {
        socket(VIP4, 80)
    }

    /// Rewrites the Service with this algorithm.
    pub(crate) fn set_algorithm(&self, algorithm: &str) -> Result<()> {
        self.manifests.write("service.yaml", &service(algorithm))
    }
}

fn service(algorithm: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\n  namespace: default\n  annotations:\n    \
         weir.dev/algorithm: {algorithm}\nspec:\n  externalIPs: [{VIP4}]\n  ports:\n  \
         - {{name: http, port: 80, targetPort: {SERVER_PORT}, protocol: TCP}}\n"
    )
}

fn endpoints(hosts: &[Host]) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: shop-1\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: shop}}\naddressType: IPv4\nports:\n\
         - {{name: http, port: {SERVER_PORT}, protocol: TCP}}\nendpoints:\n"
    );
    for host in hosts {
        _ = writeln!(text, "- addresses: [{}]", host.v4);
    }
    text
}

const POLICY: &str = "\
apiVersion: weir.dev/v1alpha1
kind: ScalePolicy
metadata:
  name: shop
  namespace: default
spec:
  serviceRef: {name: shop}
  replicas: {min: 4, max: 6}
  rules:
  - {name: busy, signal: activeConnections, above: 7, for: 2s, add: 2}
";

/// The shell commands that start one server. It puts itself into its group first, so that its first request is as slow as its last.
fn start_command(folder: &Path, nginx: &Path, index: usize, host: &Host, quota: &Quota) -> Result<String> {
    let config = folder.join(format!("nginx-{index}.conf"));
    fs::write(&config, nginx_config(folder, index, host)).with_context(|| config.display().to_string())?;
    Ok(format!(
        "sh -c 'echo $$ > {group} && exec nsenter --net={namespace} {nginx} -p {folder} -c {config}'",
        group = quota.door().display(),
        namespace = host.namespace.path().display(),
        nginx = nginx.display(),
        folder = folder.display(),
        config = config.display(),
    ))
}

/// One process, no workers: killing it is the end of it. Compression at the highest level is the work of a request.
fn nginx_config(folder: &Path, index: usize, host: &Host) -> String {
    let folder = folder.display();
    format!(
        "daemon on;\nmaster_process off;\npid {folder}/nginx-{index}.pid;\nerror_log {folder}/nginx-{index}.log;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n  default_type text/html;\n  \
         gzip on;\n  gzip_comp_level 9;\n  keepalive_timeout 0;\n  server {{\n    \
         listen {address}:{SERVER_PORT} backlog=4096;\n    root {folder};\n    add_header X-Server {index};\n  }}\n}}\n",
        address = host.v4,
    )
}

fn start_server(start: &str, host: &Host) -> Result<()> {
    let output = Command::new("sh").args(["-c", start]).output()?;
    ensure!(output.status.success(), "{start}: {}", text(&output.stderr));
    let address = SocketAddr::new(host.v4, SERVER_PORT);
    let answers = || host.namespace.enter(|| std::net::TcpStream::connect(address).is_ok());
    wait_until(Duration::from_secs(5), answers).with_context(|| format!("{} at {address}", host.name))
}

/// The script: starts the servers from CURRENT to DESIRED, then replaces the EndpointSlice's file in one step.
fn scale(manifests: &Manifests, hosts: &[Host], starts: &[String]) -> String {
    let folder = manifests.path().display();
    let mut text = format!(
        "#!/bin/sh\n# weir runs this: NAME CURRENT DESIRED\nset -eu\necho \"$1: from $2 to $3 servers\"\n\
         if [ \"$3\" -le \"$2\" ] || [ \"$3\" -gt {SERVERS_MAX} ]; then echo 'only scales out, to {SERVERS_MAX}' >&2; exit 1; fi\n"
    );
    for (index, start) in starts.iter().enumerate().skip(SERVERS) {
        _ = writeln!(text, "if [ \"$2\" -le {index} ] && [ \"$3\" -gt {index} ]; then {start}; fi");
    }
    for count in SERVERS + 1..=SERVERS_MAX {
        let list = endpoints(&hosts[..count]);
        _ = write!(text, "if [ \"$3\" -eq {count} ]; then cat > {folder}/.endpoints.new <<'END'\n{list}END\nfi\n");
    }
    _ = writeln!(text, "mv {folder}/.endpoints.new {folder}/endpoints.yaml");
    text
}

fn write_script(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A page of 12 KiB that compresses like text.
fn page() -> String {
    let mut state = 1u32;
    let mut next = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut text = String::from("<!doctype html><title>shop</title>\n");
    while text.len() < 12 * 1024 {
        let seed = next(2000);
        let letters = (0..3 + seed % 7).map(|place| char::from(b'a' + ((seed * 31 + place * place * 7) % 26) as u8));
        text.extend(letters);
        text.push(' ');
    }
    text
}
