//! A cluster of its own for each turn: two nodes, a model of one pod, who balances, who scales, and a client on each node.

use std::{
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use weir_tests::{
    agent,
    cluster::{self, Cluster, Config, Node, layout::Name, programs::Programs, release::Release},
    evaluation::{Numbers, Sample},
    image::{self, PEER},
    process::{text, wait_until, with_input},
    replay::{self, Arrival},
};

use crate::{
    load::Load,
    metrics_server,
    outcome::Outcome,
    watch,
    ways::{FLEET, Way},
};

const NAME: &str = "evaluate";
const NODES: usize = 2;
/// How long who scales may take until it sees the pod.
const PATIENCE: Duration = Duration::from_secs(180);
/// So long nobody asks before the clients begin.
const REST: Duration = Duration::from_secs(5);

/// Gives one way its turn.
pub(crate) fn play(way: Way, round: u32, load: &Load) -> Result<Outcome> {
    let stage = Stage::start(way)?;
    let release = if way.proxy() == cluster::Proxy::None { Some(Release::install(&stage.0, &[])?) } else { None };
    if way.is_hpa() {
        metrics_server::install(&stage.0)?;
    }
    let clients = stage.prepare(way)?;
    let (outcomes, samples) = stage.run(load, &clients)?;
    drop(release);
    ensure!(outcomes.len() == load.arrivals.len(), "{} of {} requests", outcomes.len(), load.arrivals.len());
    let numbers = Numbers::of(FLEET, load.seconds, &outcomes, &samples)?;
    Ok(Outcome { way, name: way.name(), round, numbers })
}

/// A cluster; dropping it removes it.
struct Stage(Cluster);

/// A pod that asks.
struct Client {
    uid: String,
    node: Node,
}

impl Stage {
    fn start(way: Way) -> Result<Self> {
        let config = Config { name: NAME.parse()?, nodes: NODES, proxy: way.proxy() };
        let started = Cluster::up(&config, &Programs::find()?, &|_| {});
        let stage = Self(started.inspect_err(|_| remove(&config.name))?);
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("image.tar");
        let peer = Path::new(env!("CARGO_BIN_EXE_peer"));
        for image in [image::peer(peer)?, image::weir(&agent::binary()?, image::WEIR)?, metrics_server::image()?] {
            image.write(&archive)?;
            stage.0.load_image(&archive)?;
        }
        Ok(stage)
    }

    /// Everything that has to be there before the clients begin.
    fn prepare(&self, way: Way) -> Result<Vec<Client>> {
        let names: Vec<_> = self.0.nodes().iter().map(Node::name).collect();
        let clients: String = names.iter().map(|node| client(node)).collect();
        wait_until(PATIENCE, || Ok(self.kubectl(&["get", "serviceaccount", "default"]).is_ok()))?;
        self.0.apply_in("default", &(model() + &clients))?;
        self.kubectl(&["rollout", "status", "deployment/model", "--timeout=120s"])?;
        self.kubectl(&["wait", "--for=condition=Ready", "pods", "--selector=role=client", "--timeout=60s"])?;
        self.0.apply_in("default", &way.scaler())?;
        let (kind, condition) = if way.is_hpa() { ("hpa", "ScalingActive") } else { ("scalepolicy", "Ready") };
        let of_scaler = || -> Result<Value> { self.get(&[kind, "model"]) };
        wait_until(PATIENCE, || {
            let scaler = of_scaler()?;
            let mut conditions = scaler["status"]["conditions"].as_array().into_iter().flatten();
            Ok(conditions.any(|found| found["type"] == condition && found["status"] == "True"))
        })
        .with_context(|| format!("{kind} is not {condition}: {:#}", of_scaler().unwrap_or_default()["status"]))?;
        let pods = self.get(&["pods", "--selector=role=client"])?;
        let clients = pods["items"].as_array().into_iter().flatten().map(|pod| {
            let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            let node = self.0.nodes().iter().find(|node| node.name() == name).with_context(|| name.to_owned())?;
            let uid = pod["metadata"]["uid"].as_str().context("a pod's uid")?;
            Ok(Client { uid: uid.to_owned(), node: node.clone() })
        });
        clients.collect()
    }

    /// The clients follow their shares of the load; meanwhile the pods are watched.
    fn run(&self, load: &Load, clients: &[Client]) -> Result<(Vec<replay::Outcome>, Vec<Sample>)> {
        let service = self.get(&["service", "model"])?;
        let address = service["spec"]["clusterIP"].as_str().context("a cluster address")?;
        let target = format!("{address}:80");
        thread::sleep(REST);
        let (stop, start) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch::watch(&self.0, start, &stop));
            let asking = clients.iter().enumerate().map(|(number, client)| {
                let (arrivals, target) = (load.share(number, clients.len()), &target);
                scope.spawn(move || client.follow(target, &arrivals))
            });
            // All are started before the first is waited for.
            let asking: Vec<_> = asking.collect();
            let outcomes: Result<Vec<_>> =
                asking.into_iter().map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?).collect();
            stop.store(true, Ordering::Relaxed);
            let samples = watcher.join().map_err(|_| anyhow!("the watch panicked"))??;
            Ok((outcomes?.concat(), samples))
        })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.0.kubectl_ok(arguments)
    }

    fn get(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[&["get", "--output=json"], arguments].concat())?)?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove(self.0.name());
    }
}

fn remove(name: &Name) {
    if let Err(error) = cluster::down(name) {
        eprintln!("cluster {name}: {error:#}");
    }
}

impl Client {
    fn follow(&self, target: &str, arrivals: &[Arrival]) -> Result<Vec<replay::Outcome>> {
        let mut command = self.node.command_in_pod(&self.uid, "/peer")?;
        command.args(["replay", target]).stderr(Stdio::piped());
        let output = with_input(command, &serde_json::to_vec(arrivals)?)?;
        ensure!(output.status.success(), "the client: {}", text(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Pods that take a while to start, as those that load a model do, and may use a part of a CPU.
fn model() -> String {
    let cpu = format!("{}m", (FLEET.pod_cpus * 1e3) as u32);
    format!(
        r#"---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: model}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: model}}}}
  template:
    metadata: {{labels: {{app: model}}}}
    spec:
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: model}}}}}}
      containers:
      - name: model
        image: {PEER}
        imagePullPolicy: Never
        args: [serve, --port=80, --startup=15]
        ports: [{{name: http, containerPort: 80}}]
        resources: {{requests: {{cpu: {cpu}}}, limits: {{cpu: {cpu}}}}}
        readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: model, annotations: {{weir.dev/algorithm: least-connections}}}}
spec: {{selector: {{app: model}}, ports: [{{port: 80}}]}}
"#
    )
}

fn client(node: &str) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{name: client-{node}, labels: {{role: client}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: client, image: {PEER}, imagePullPolicy: Never, args: [serve, --port=7, --grace=0]}}
"#
    )
}
