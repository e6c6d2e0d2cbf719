//! What the agent knows at one moment, as plain values.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{BackendState, DropReason};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{dataplane::Counters, model::ServiceId, scaling::PolicyStatus, signals::requests::RequestLoad};

/// Where the agent publishes snapshots.
pub type Publisher = watch::Sender<Arc<Snapshot>>;

/// Where the agent is asked for its services; it answers with them as they are then.
pub type Asks = mpsc::Receiver<oneshot::Sender<Vec<ServiceSnapshot>>>;

/// How long the agent may take to answer; it may be putting a large change into the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the newest snapshot is read.
#[derive(Clone, Debug)]
pub struct Subscriber {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    asks: mpsc::Sender<oneshot::Sender<Vec<ServiceSnapshot>>>,
}

impl Subscriber {
    /// The newest snapshot, without services: a hundred thousand backends are too many to be copied each second.
    pub fn borrow(&self) -> watch::Ref<'_, Arc<Snapshot>> {
        self.snapshots.borrow()
    }

    /// The newest snapshot with the services as they are now, if the agent answers.
    pub async fn whole(&self) -> Arc<Snapshot> {
        let services = tokio::time::timeout(PATIENCE, self.ask()).await;
        let newest = Arc::clone(&self.borrow());
        match services {
            Ok(Some(services)) => Arc::new(Snapshot { services, ..(*newest).clone() }),
            _ => newest,
        }
    }

    async fn ask(&self) -> Option<Vec<ServiceSnapshot>> {
        let (answer, services) = oneshot::channel();
        self.asks.send(answer).await.ok()?;
        services.await.ok()
    }
}

/// A channel that holds an empty snapshot at first.
pub fn channel() -> (Publisher, Subscriber, Asks) {
    let (publisher, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (asks, asked) = mpsc::channel(4);
    (publisher, Subscriber { snapshots, asks }, asked)
}

/// What the agent knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When it was taken; none before the first.
    pub taken: Option<Instant>,
    /// The whole model has been in the kernel once.
    pub synced: bool,
    /// Every service port; empty in what is published, see [`Subscriber::whole`].
    pub services: Vec<ServiceSnapshot>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Flows in the table, as the last sweep counted them.
    pub flow_entries: u64,
    /// Flows the table has room for.
    pub flow_capacity: u64,
    /// How full the other maps are: name, entries, and for how many there is room.
    pub maps: Vec<(&'static str, u64, u64)>,
    /// Counts that the sweep has repaired.
    pub repairs: u64,
    /// How long syncs took.
    pub syncs: SyncDurations,
    /// The time from changes, as their sources say, to the kernel.
    pub programming: SyncDurations,
    /// Every policy.
    pub policies: Vec<PolicyStatus>,
    /// The node is about to go: load balancers should look for others.
    pub node_leaving: bool,
    /// This node.
    pub node: NodeStatus,
}

/// A service port and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Which.
    pub id: ServiceId,
    /// Its backends.
    pub backends: Vec<BackendSnapshot>,
}

/// A backend of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSnapshot {
    /// Its address.
    pub address: SocketAddr,
    /// Its state.
    pub state: BackendState,
    /// The weight that selection uses now.
    pub effective_weight: u16,
    /// What it has carried.
    pub counters: Counters,
    /// What its requests are like, where they are measured.
    pub requests: Option<RequestLoad>,
}

/// What `weir get nodes` shows of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// When the agent was started, RFC 3339.
    pub started: Option<String>,
    /// When a change was last put into the kernel, RFC 3339.
    pub last_sync: Option<String>,
    /// Where the model comes from.
    pub sources: Vec<SourceStatus>,
    /// What is wrong, each with what to do.
    pub problems: Vec<String>,
    /// How each interface is hooked.
    pub datapath: Vec<InterfaceStatus>,
    /// How packets reach local backends.
    pub delivery: DeliveryStatus,
    /// Whose sockets are balanced.
    pub sockets: SocketStatus,
}

/// Whose sockets are balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketStatus {
    /// `all`, `host` or `off`.
    pub mode: String,
    /// The cgroup the hooks are attached to.
    pub cgroup: Option<String>,
    /// Why.
    pub why: String,
}

/// How packets reach local backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryStatus {
    /// `redirect` or `stack`.
    pub mode: String,
    /// Why.
    pub why: String,
}

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `files` or `kubernetes`.
    pub kind: String,
    /// The folder or the server.
    pub location: String,
    /// Whether what it says now is in force.
    pub healthy: bool,
    /// For how long it cannot have said anything new, in seconds: 0 while a cluster's API server answers; none of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
}

/// How an interface is hooked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// Its name.
    pub interface: String,
    /// `tc`, `xdp` or `xdp-generic`.
    pub mode: String,
    /// Why this mode.
    pub why: String,
}

/// How long something took: a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncDurations {
    counts: [u64; SyncDurations::BOUNDS.len()],
    sum: f64,
}

impl SyncDurations {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 13] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0, f64::INFINITY];

    /// Notes one.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.sum += seconds;
        let bucket = Self::BOUNDS.iter().zip(&mut self.counts).find(|(bound, _)| seconds <= **bound);
        if let Some((_, count)) = bucket {
            *count += 1;
        }
    }

    /// Each bound with how many were within it and above the one before.
    pub fn buckets(&self) -> [(f64, u64); Self::BOUNDS.len()] {
        std::array::from_fn(|index| (Self::BOUNDS[index], self.counts[index]))
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them in seconds.
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

impl Default for SyncDurations {
    fn default() -> Self {
        Self { counts: [0; Self::BOUNDS.len()], sum: 0.0 }
    }
}
