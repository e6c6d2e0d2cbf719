//! Under load nothing fails: while pods come and go, while agents die, while the API server is away.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_tests::cluster::{Cluster, Node, Proxy, release};

use crate::{
    clients::{Client, Load},
    manifests,
    space::{Pod, Space},
    weir, world,
};

/// How long the API server is away: longer than any watch, lease or probe takes to notice.
const OUTAGE: Duration = Duration::from_secs(60);

/// A Service under load from everywhere.
struct Scene<'a> {
    cluster: &'a Cluster,
    space: Space<'a>,
    addresses: Vec<String>,
    clients: Vec<Pod>,
}

impl<'a> Scene<'a> {
    /// The pods go on serving for `grace` seconds after they are told to end.
    fn new(cluster: &'a Cluster, name: &str, grace: u32) -> Result<Self> {
        let space = Space::new(cluster, name)?;
        space.apply(
            &(manifests::deployment("my-app", 4).replace("--port=80", &format!("--port=80, --grace={grace}"))
                + &manifests::service("my-app", "")
                + &manifests::clients(cluster.nodes())),
        )?;
        space.wait_for_rollout("deployment/my-app")?;
        weir::wait_for_endpoints(&space, "my-app")?;
        space.wait_for_clients()?;
        let addresses = space.wait_for_addresses("my-app", 2)?;
        let clients = space.pods("role=client")?;
        let scene = Self { cluster, space, addresses, clients };
        scene.expect_service()?;
        Ok(scene)
    }

    /// Everybody is answered.
    fn expect_service(&self) -> Result<()> {
        for client in self.everybody() {
            for target in self.targets(client)? {
                self.space.wait_for("an answer", || Ok(client.ask(self.cluster, &[&target])?.failed == 0))?;
            }
        }
        Ok(())
    }

    /// Short connections and kept ones, from outside, from a node and from a pod.
    fn load(&self) -> Result<Vec<Load>> {
        let mut loads = Vec::new();
        for client in self.everybody() {
            for target in self.targets(client)? {
                loads.push(client.load(self.cluster, &[&target, "--pause=10"])?);
                loads.push(client.load(self.cluster, &[&target, "--pause=10", "--keep"])?);
            }
        }
        Ok(loads)
    }

    fn everybody(&self) -> [Client<'_>; 4] {
        let host = Client::Host(&self.cluster.nodes()[1]);
        [Client::Outside, host, Client::Pod(&self.clients[0]), Client::Pod(&self.clients[2])]
    }

    /// Waits until every node's kernel has these many backends of the Service, pods by families, and no other carries anything.
    fn expect_backends(&self, count: usize) -> Result<()> {
        let name = self.space.name();
        for node in self.cluster.nodes() {
            let wanted = format!("{count} backends on {}", node.name());
            let told = || Ok(weir::backends(node, name, "my-app").is_ok_and(|backends| backends.len() == count));
            self.space.wait_for(&wanted, told).with_context(|| self.look(node))?;
        }
        Ok(())
    }

    /// What a person would look at when a node has other backends than it should.
    fn look(&self, node: &Node) -> String {
        let name = self.space.name();
        let backends = weir::on(node, &["get", "backends", "--namespace", name, "--output=wide"]);
        let flows = weir::on(node, &["get", "flows", "--namespace", name]);
        let pods = self.space.kubectl(&["get", "pods,endpointslices", "--output=wide"]);
        let said = [backends, flows, pods].map(|said| said.unwrap_or_else(|error| format!("{error:#}")));
        format!("{}\n{}", said.join("\n"), release::look(self.cluster))
    }

    /// The load balancer's address for those outside; the cluster address for those inside.
    fn targets(&self, client: Client<'_>) -> Result<Vec<String>> {
        let addresses = match client {
            Client::Outside => self.addresses.clone(),
            Client::Host(_) | Client::Pod(_) => self.space.cluster_addresses("my-app")?,
        };
        Ok(addresses.iter().map(|address| manifests::target(address, 80)).collect())
    }
}

/// Kubelet starts it again.
fn kill_agent(cluster: &Cluster, agent: &Pod) -> Result<()> {
    let process = agent.host(cluster)?.process_of_pod(&agent.uid)?;
    Ok(kill(Pid::from_raw(process), Signal::SIGKILL)?)
}

/// Every load went on to the end without a failure.
fn expect_undisturbed(loads: Vec<Load>) -> Result<()> {
    // As long as anything that was done may take to show.
    thread::sleep(Duration::from_secs(1));
    for (number, load) in loads.into_iter().enumerate() {
        let report = load.finish()?;
        ensure!(report.failed == 0 && report.answered() > 50, "load {number}: {report:?}");
    }
    Ok(())
}

#[test]
fn pods_come_and_go_under_load() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let scene = Scene::new(&cluster, "rollout", 3)?;
    let loads = scene.load()?;
    for replicas in ["--replicas=8", "--replicas=2", "--replicas=4"] {
        scene.space.kubectl(&["scale", "deployment/my-app", replicas])?;
        scene.space.wait_for_rollout("deployment/my-app")?;
    }
    scene.space.kubectl(&["rollout", "restart", "deployment/my-app"])?;
    scene.space.wait_for_rollout("deployment/my-app")?;
    expect_undisturbed(loads)
}

#[test]
fn agents_die_under_load() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    // Nobody learns of an end while no agent lives, and three start at once here. Less than the 30 s that kubelet gives pods by default.
    let scene = Scene::new(&cluster, "agents", 25)?;
    let loads = scene.load()?;
    for node in cluster.nodes() {
        kill_agent(&cluster, &weir::agent(&cluster, node)?)?;
    }
    // One that is back knows what changed while it was away.
    scene.space.kubectl(&["scale", "deployment/my-app", "--replicas=2"])?;
    scene.space.wait_for_rollout("deployment/my-app")?;
    scene.expect_backends(4)?;
    expect_undisturbed(loads).with_context(|| release::look(&cluster))
}

#[test]
fn the_chart_is_upgraded_under_load() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let scene = Scene::new(&cluster, "upgrade", 10)?;
    let pods = || -> Result<BTreeSet<String>> {
        let pods = weir::agents(&cluster)?.into_iter().chain(weir::coordinators(&cluster)?);
        Ok(pods.map(|pod| pod.uid).collect())
    };
    let old = pods()?;
    let loads = scene.load()?;
    weir::upgrade(&cluster, &["agent.podAnnotations.upgraded=yes", "coordinator.podAnnotations.upgraded=yes"])?;
    // What changes once the upgrade is through reaches the kernel through the new agents, before the pods that end have ended.
    scene.space.kubectl(&["scale", "deployment/my-app", "--replicas=2"])?;
    scene.space.wait_for_rollout("deployment/my-app")?;
    scene.expect_backends(4)?;
    expect_undisturbed(loads).with_context(|| release::look(&cluster))?;
    scene.space.wait_for("new pods only", || Ok(old.is_disjoint(&pods()?)))
}

#[test]
fn the_control_plane_is_away_under_load() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let scene = Scene::new(&cluster, "outage", 3)?;
    let agent = weir::agent(&cluster, &cluster.nodes()[0])?;
    let loads = scene.load()?;
    cluster.stop_control_plane()?;
    let back = Instant::now() + OUTAGE;
    // An agent that starts meanwhile goes on with what is pinned.
    kill_agent(&cluster, &agent)?;
    thread::sleep(back.saturating_duration_since(Instant::now()));
    cluster.start_control_plane()?;
    scene.space.kubectl(&["scale", "deployment/my-app", "--replicas=6"])?;
    scene.space.wait_for_rollout("deployment/my-app")?;
    scene.expect_backends(12)?;
    expect_undisturbed(loads)
}
