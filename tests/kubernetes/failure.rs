//! What happens when a node or a coordinator dies.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_tests::{
    arp,
    cluster::{Cluster, Node, Proxy, UPLINK, layout::CLIENT4},
};

use crate::{
    clients::Client,
    manifests,
    space::{PATIENCE, Space},
    weir, world,
};

/// An address is answered for again after this at the latest, when the coordinator lives on.
const TAKEOVER: Duration = Duration::from_secs(5);
/// The same when the leading coordinator died with the node.
const LONG_TAKEOVER: Duration = Duration::from_secs(15);
/// On a machine as busy as this one with a whole cluster.
const ALLOWANCE: Duration = Duration::from_secs(3);

/// The table with which a node is cut off.
const CUT: &str = "weir-test-cut";
/// Where coordinators listen for agents: the chart's `coordinator.port`.
const COORDINATOR: u16 = 9561;

/// Puts a failed node back whatever came of the test.
struct Failed<'a>(&'a Node);

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.recover() {
            eprintln!("{error:#}");
        }
    }
}

/// Three pods, and the first address at which clients outside find them.
fn served(space: &Space<'_>) -> Result<String> {
    space.apply(&(manifests::deployment("my-app", 3) + &manifests::service("my-app", "")))?;
    space.wait_for_rollout("deployment/my-app")?;
    weir::wait_for_endpoints(space, "my-app")?;
    Ok(space.wait_for_addresses("my-app", 2)?.remove(0))
}

#[test]
fn another_node_takes_over_the_addresses_of_a_dead_one() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "failure")?;
    let address = served(&space)?;
    let target = manifests::target(&address, 80);
    space.wait_for("an answer", || Ok(Client::Outside.ask(&cluster, &[&target])?.failed == 0))?;

    let owner = owner(&cluster, &address)?;
    let leads = weir::coordinators(&cluster)?.iter().any(|pod| pod.node == owner.name());
    let start = Instant::now();
    owner.fail()?;
    let failed = Failed(owner);
    // A backend on the dead node may be chosen until Kubernetes gives it up; any answer shows that the address is announced.
    space.wait_for("an answer from another node", || {
        Ok(Client::Outside.ask(&cluster, &[&target, "--timeout=300", "--requests=3"])?.answered() > 0)
    })?;
    let limit = if leads { LONG_TAKEOVER } else { TAKEOVER } + ALLOWANCE;
    ensure!(start.elapsed() < limit, "only after {} s, coordinator on it: {leads}", start.elapsed().as_secs_f32());

    // Once the node's pods are known to be gone, nobody is sent there any more.
    space.wait_for("no failures", || {
        Ok(Client::Outside.ask(&cluster, &[&target, "--timeout=500", "--requests=40"])?.failed == 0)
    })?;
    drop(failed);
    // For the tests that follow.
    cluster.kubectl_ok(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]).map(drop)
}

#[test]
fn addresses_outlive_coordinators() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "leaders")?;
    let address = served(&space)?;
    let load = Client::Outside.load(&cluster, &[&manifests::target(&address, 80), "--pause=10"])?;
    for pod in weir::coordinators(&cluster)? {
        kill(Pid::from_raw(pod.host(&cluster)?.process_of_pod(&pod.uid)?), Signal::SIGKILL)?;
    }
    // With a new leader, new Services get addresses; the old one kept its own.
    space.apply(&manifests::service("another", ""))?;
    space.wait_for_addresses("another", 2)?;
    ensure!(space.wait_for_addresses("my-app", 2)?[0] == address, "the address changed");
    load.finish()?.expect_no_failure()
}

/// The coordinator cannot tell a node that is cut off from it to leave an address alone: it has to hear so from its successor.
#[test]
fn an_owner_that_is_cut_off_yields_to_its_successor() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "yields")?;
    let address = served(&space)?;
    let target = manifests::target(&address, 80);
    space.wait_for("an answer", || Ok(Client::Outside.ask(&cluster, &[&target])?.failed == 0))?;

    let owner = owner(&cluster, &address)?;
    let before = answers(&cluster, &address)?;
    ensure!(before.len() == 1, "one node answers: {before:?}");
    let cut = CutOff::new(owner)?;
    let (mut both, mut successor) = (Duration::ZERO, BTreeSet::new());
    let step = Instant::now();
    while step.elapsed() < PATIENCE && (successor.is_empty() || successor == before) {
        let start = Instant::now();
        successor = answers(&cluster, &address)?;
        if successor.len() > 1 {
            both += start.elapsed();
            successor.clear();
        }
    }
    ensure!(successor.len() == 1 && successor != before, "before {before:?}, then {successor:?}");
    // The successor tells its neighbours at once, and once a second after that.
    ensure!(both < Duration::from_secs(2) + ALLOWANCE, "two nodes answered for {} s", both.as_secs_f32());
    drop(cut);
    space.wait_for("an answer", || Ok(Client::Outside.ask(&cluster, &[&target])?.failed == 0))
}

/// Who says to have an address, to the client.
fn answers(cluster: &Cluster, address: &str) -> Result<BTreeSet<[u8; 6]>> {
    arp::answers(&cluster.client(), UPLINK, CLIENT4.parse()?, address.parse()?, Duration::from_millis(200))
}

/// A node whose agent cannot reach a coordinator, until this is dropped.
struct CutOff<'a>(&'a Node);

impl<'a> CutOff<'a> {
    fn new(node: &'a Node) -> Result<Self> {
        let rules = format!(
            "add table inet {CUT}\n\
             add chain inet {CUT} output {{ type filter hook output priority 0; }}\n\
             add rule inet {CUT} output tcp dport {COORDINATOR} drop\n"
        );
        node.namespace().run("nft", &[&rules])?;
        Ok(Self(node))
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.namespace().run("nft", &["delete", "table", "inet", CUT]) {
            eprintln!("{error:#}");
        }
    }
}

/// The node that answers for an address on the network.
fn owner<'a>(cluster: &'a Cluster, address: &str) -> Result<&'a Node> {
    let neighbour = cluster.client().run("ip", &["neigh", "show", "to", address])?;
    for node in cluster.nodes() {
        let link = node.namespace().run("ip", &["-brief", "link", "show", UPLINK])?;
        let hardware =
            link.split_whitespace().find(|word| word.matches(':').count() == 5).context("a hardware address")?;
        if neighbour.contains(hardware) {
            return Ok(node);
        }
    }
    anyhow::bail!("nobody answers for {address}: {neighbour}")
}
