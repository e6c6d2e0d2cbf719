//! The real `weir` in the node's namespace: started, waited for, asked, killed and started again.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{
    manifests::Manifests,
    namespace::{Namespace, unique_name},
    pins::PinFolder,
    process::{Running, text, wait_until},
    topology::{NODE_NAME, Topology, UPLINK},
};

/// How long starting, stopping and applying may take before a test gives up; not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The `weir` of this build: `WEIR_BIN`, else beside the running program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEIR_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join("weir")).find(|path| path.is_file());
    found.with_context(|| format!("no `weir` near {}: `cargo xtask build` makes it", own.display()))
}

/// How `weir run` is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program; [`binary`] where none is given.
    pub binary: Option<PathBuf>,
    /// `--node-name`.
    pub node_name: String,
    /// `--interface`.
    pub interfaces: Vec<String>,
    /// `--datapath`.
    pub datapath: String,
    /// `--metrics-listen`.
    pub metrics: String,
    /// Further arguments.
    pub extra: Vec<String>,
    /// Whether dropping the agent prints what it printed; a test's output is shown only if the test fails.
    pub show_log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: None,
            node_name: NODE_NAME.to_owned(),
            interfaces: vec![UPLINK.to_owned()],
            datapath: "auto".to_owned(),
            metrics: "127.0.0.1:9100".to_owned(),
            extra: Vec::new(),
            show_log: true,
        }
    }
}

impl Options {
    /// With this `--datapath`.
    pub fn datapath(name: &str) -> Self {
        Self { datapath: name.to_owned(), ..Self::default() }
    }

    /// With further arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.extra.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }
}

/// A backend as `weir get backends -o json` shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Backend {
    pub service: String,
    pub frontend: Option<String>,
    pub address: String,
    pub port: u16,
    pub protocol: String,
    pub local: bool,
    pub state: String,
    pub weight: u32,
    pub effective_weight: u32,
    pub active_connections: u64,
    pub pending_connections: u64,
    pub remote_connections: u64,
    pub in_flight: Option<u64>,
    pub connections_total: u64,
    pub packets_in: Option<u64>,
    pub packets_out: Option<u64>,
    pub bytes_in: Option<u64>,
    pub bytes_out: Option<u64>,
}

/// A node's agent; dropping it kills it and detaches everything.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a Namespace,
    manifests: &'a Manifests,
    options: Options,
    pins: PinFolder,
    folder: PathBuf,
    running: Option<Running>,
}

impl<'a> Agent<'a> {
    /// Starts it and waits until it is ready.
    pub fn start(topology: &'a Topology, manifests: &'a Manifests, options: Options) -> Result<Self> {
        let mut agent = Self::prepare(topology, manifests, options)?;
        agent.restart()?;
        Ok(agent)
    }

    /// All but starting it.
    pub fn prepare(topology: &'a Topology, manifests: &'a Manifests, options: Options) -> Result<Self> {
        Self::prepare_on(&topology.node, manifests, options)
    }

    /// Starts it on some node and waits until it is ready.
    pub fn start_on(node: &'a Namespace, manifests: &'a Manifests, options: Options) -> Result<Self> {
        let mut agent = Self::prepare_on(node, manifests, options)?;
        agent.restart()?;
        Ok(agent)
    }

    fn prepare_on(node: &'a Namespace, manifests: &'a Manifests, options: Options) -> Result<Self> {
        let folder = env::temp_dir().join(unique_name("agent"));
        fs::create_dir(&folder)?;
        Ok(Self { node, manifests, options, pins: PinFolder::new("test")?, folder, running: None })
    }

    /// Starts it (again) and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        wait_until(PATIENCE, || self.is_ready())
            .with_context(|| format!("weir run is not ready; it printed:\n{}", self.log()))
    }

    /// The same with other options.
    pub fn restart_with(&mut self, options: Options) -> Result<()> {
        self.options = options;
        self.restart()
    }

    /// Starts it (again).
    pub fn launch(&mut self) -> Result<()> {
        let command = self.run_command()?;
        self.running = Some(Running::start(command, &self.folder.join("log"))?);
        Ok(())
    }

    /// Whether it says that it is ready; an error if it has ended.
    pub fn is_ready(&mut self) -> Result<bool> {
        if let Some(status) = self.running.as_mut().context("the agent does not run")?.ended()? {
            bail!("weir run ended: {status}");
        }
        Ok(http_get(self.node, &self.options.metrics, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
    }

    /// `weir run` with the options.
    pub fn run_command(&self) -> Result<Command> {
        self.run_command_with(&self.options)
    }

    /// `weir run` for the same node with other options.
    pub fn run_command_with(&self, options: &Options) -> Result<Command> {
        let mut command = self.node.command(self.binary()?)?;
        command.arg("run").arg("--manifests").arg(self.manifests.path()).arg("--pin-path").arg(self.pins.path());
        let Options { node_name, datapath, metrics, .. } = options;
        command.args(["--node-name", node_name, "--datapath", datapath, "--metrics-listen", metrics]);
        command.args(options.interfaces.iter().flat_map(|interface| ["--interface", interface])).args(&options.extra);
        // Found by itself it would be the machine's root cgroup, with every process of the machine in it.
        if !options.extra.iter().any(|argument| ["--cgroup", "--socket-lb"].contains(&argument.as_str())) {
            command.args(["--socket-lb", "off"]);
        }
        Ok(command)
    }

    fn binary(&self) -> Result<PathBuf> {
        self.options.binary.clone().map_or_else(binary, Ok)
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.running.take().context("the agent does not run")?.kill9()
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the agent does not run")?;
        running.signal(Signal::SIGTERM)?;
        running.wait(PATIENCE).map(drop)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.as_ref().context("the agent does not run")?.signal(signal)
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its pins.
    pub fn pins(&self) -> &PinFolder {
        &self.pins
    }

    /// Its manifests.
    pub fn manifests(&self) -> &Manifests {
        self.manifests
    }

    /// Runs another `weir` command on this node.
    pub fn weir(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.node.command(self.binary()?)?;
        Ok(command.args(arguments).arg("--pin-path").arg(self.pins.path()).output()?)
    }

    /// The same; it must succeed; returns what it printed.
    pub fn weir_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.weir(arguments)?;
        ensure!(output.status.success(), "weir {arguments:?}: {}: {}", output.status, text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// The same with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let printed = self.weir_ok(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("weir {arguments:?} printed {printed}"))
    }

    /// `weir get backends`.
    pub fn backends(&self) -> Result<Vec<Backend>> {
        let mut list = self.json(&["get", "backends"])?;
        serde_json::from_value(list["items"].take()).context("items of weir get backends")
    }

    /// `weir get backends` of one protocol.
    pub fn backends_of(&self, protocol: &str) -> Result<Vec<Backend>> {
        Ok(self.backends()?.into_iter().filter(|backend| backend.protocol == protocol).collect())
    }

    /// Waits until the backends are as they should be.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&[Backend]) -> bool) -> Result<()> {
        let mut last = Vec::new();
        let waited = wait_until(PATIENCE, || {
            last = self.backends()?;
            Ok(condition(&last))
        });
        waited.with_context(|| format!("{what}; the backends are {last:#?}\nthe agent printed:\n{}", self.log()))
    }

    /// Dropped packets by reason, those of 0 left out.
    pub fn drops(&self) -> Result<Vec<(String, u64)>> {
        let metrics = self.metrics()?;
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("weir_dropped_packets_total{reason=\""));
        let drops = lines.filter_map(|line| {
            let (reason, count) = line.split_once("\"} ")?;
            Some((reason.to_owned(), count.split(' ').next()?.parse::<f64>().ok()? as u64))
        });
        Ok(drops.filter(|(_, count)| *count > 0).collect())
    }

    /// The metrics page.
    pub fn metrics(&self) -> Result<String> {
        http_get(self.node, &self.options.metrics, "/metrics")
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Err(error) = self.weir(&["detach"]) {
            eprintln!("weir detach: {error:#}");
        }
        if self.options.show_log {
            eprintln!("the agent printed:\n{}", self.log());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// One HTTP/1.1 GET inside a namespace; the whole answer as text.
pub fn http_get(namespace: &Namespace, address: &str, path: &str) -> Result<String> {
    let address: SocketAddr = address.parse()?;
    namespace.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?
}

/// Whether a folder holds nothing, or is gone.
pub fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
