//! The shell around the policies' [`Entry`]s: once a second the leader looks at workloads and at what the nodes report, gives each entry
//! what concerns it, has done what it says, and writes what there is to tell.
//!
//! A coordinator that does not lead, or has not yet heard of everything, does nothing; nor does a leader that the API server does not
//! answer, which stops leading soon.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use kube::{Client, api::ApiResource};
use lb_common::SocketKey;
use tokio::{
    sync::watch as channel,
    time::{MissedTickBehavior, interval},
};

use super::{
    claims,
    drain::Action,
    entry::{Entry, Sight},
    keda::Wants,
    pods, remember,
    replicas::{self, Replica},
    size::Sizer,
    target::{self, Kinds, TargetError, Workload},
    watch::{Seen, Watches},
    write,
};
use crate::{
    agent::uptime,
    cluster::{allocate::ServiceKey, fleet::ServiceCounts, serve::Agents, usage::Pods},
    scaling::{
        Clock, Knocks, UsageSample,
        asked::{self, Asker, Questions},
        policy::TargetRef,
        status::SignalStatus,
    },
};

/// So often is decided.
const TICK: Duration = Duration::from_secs(1);
/// So often a workload is looked at that nothing happens to.
const LOOK: Duration = Duration::from_secs(4);
/// A workload that could not be looked at for so long is not known any more.
const KNOWN: Duration = Duration::from_secs(15);
/// A new leader waits so long for the agents of nodes that are ready.
const REBUILD: Duration = Duration::from_secs(10);
/// So many requests are under way at a time.
pub(super) const AT_ONCE: usize = 16;

/// Whether each node is ready.
pub type Nodes = Arc<BTreeMap<String, bool>>;

/// A policy as metrics show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Its namespace and name.
    pub policy: ServiceKey,
    /// Replicas that are set.
    pub current: Option<u32>,
    /// Replicas that are wanted.
    pub desired: Option<u32>,
    /// What the replicas carry.
    pub signals: Vec<SignalStatus>,
}

/// The scaling part of a coordinator.
pub struct Leader {
    /// The API.
    pub client: Client,
    /// What this coordinator is called in Events.
    pub name: String,
    /// What the nodes report, and where drains are ordered.
    pub agents: Agents,
    /// Whether this coordinator leads.
    pub leads: channel::Receiver<bool>,
    /// The nodes; none before they are known.
    pub nodes: channel::Receiver<Option<Nodes>>,
    /// The namespaces that it scales in; none: all.
    pub namespaces: Vec<String>,
    /// What policies want, for KEDA.
    pub wants: channel::Sender<Option<Wants>>,
    /// What there is to show.
    pub shown: channel::Sender<Vec<Shown>>,
}

impl Leader {
    /// Works until the future is dropped.
    pub async fn run(self) {
        let mut watches = Watches::new(&self.client, &self.namespaces);
        let mut work = Work::default();
        let mut since: Option<(Duration, bool)> = None;
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = watches.changed() => {
                    self.publish_wants(&watches.seen);
                    continue;
                }
                _ = clock.tick() => {}
                // A client waits: it does not until the next tick.
                () = self.agents.knocked() => {}
            }
            if !*self.leads.borrow() {
                (work, since) = (Work::default(), None);
                self.shown.send_if_modified(|shown| !std::mem::take(shown).is_empty());
                continue;
            }
            let (begun, rebuilt) = since.get_or_insert_with(|| (uptime(), false));
            let nodes = self.nodes.borrow().clone().filter(|_| watches.seen.is_complete());
            *rebuilt |= nodes.as_ref().is_some_and(|nodes| self.is_rebuilt(nodes, *begun));
            if let Some(nodes) = nodes.filter(|_| *rebuilt) {
                work.tick(&self, &watches.seen, &nodes).await;
                self.shown.send_replace(work.shown());
            }
        }
    }

    /// Whether the agents of all ready nodes have said what they carry, or had the time to.
    fn is_rebuilt(&self, nodes: &Nodes, since: Duration) -> bool {
        let heard: BTreeSet<String> =
            self.agents.fleet(|_| false, |fleet| fleet.nodes().map(|(name, _)| name.to_owned()).collect());
        let all = nodes.iter().filter(|(_, ready)| **ready).all(|(name, _)| heard.contains(name));
        all || uptime().saturating_sub(since) >= REBUILD
    }

    fn publish_wants(&self, seen: &Seen) {
        if seen.is_complete() {
            let wants = seen
                .policies()
                .map(|(key, policy)| (key.clone(), policy.status.as_ref().and_then(|status| status.desired_replicas)));
            let wants: BTreeMap<ServiceKey, Option<u32>> = wants.collect();
            self.wants.send_if_modified(|known| {
                let is_new = known.as_deref() != Some(&wants);
                *known = Some(Arc::new(wants));
                is_new
            });
        }
    }
}

/// What a leader knows and forgets when it leads no more.
#[derive(Default)]
struct Work {
    entries: BTreeMap<ServiceKey, Entry>,
    looks: BTreeMap<ServiceKey, Look>,
    kinds: Kinds,
    asker: Asker,
}

/// A policy's workload, and when it was last looked at.
struct Look {
    target: TargetRef,
    resource: Option<ApiResource>,
    found: Result<Workload, TargetError>,
    at: Duration,
    /// When it was last found.
    known: Duration,
}

impl Work {
    async fn tick(&mut self, leader: &Leader, seen: &Seen, nodes: &Nodes) {
        self.adopt(seen);
        remember::recall(&mut self.entries, &leader.client, uptime()).await;
        self.look(&leader.client).await;
        let services = self.services(|_| true);
        let replicas = seen.replicas(&services);
        self.look_at_pods(&leader.client, &replicas).await;
        let pods = self.measured(&replicas);
        let gone = |name: &str| !nodes.get(name).copied().unwrap_or(false);
        let counts: BTreeMap<ServiceKey, ServiceCounts> = leader.agents.fleet(gone, |fleet| {
            let ages = fleet.ages(uptime());
            services.iter().map(|service| (service.clone(), fleet.service(service, &ages))).collect()
        });
        let usage = leader.agents.usage(&pods);
        self.ask(&replicas);
        let knocks = leader.agents.knocks();
        let actions = self.decide(seen, &replicas, &counts, (&usage, &knocks));
        // Who is to go hears of it before anything is done about it.
        let draining: BTreeSet<SocketKey> = self.entries.values().flat_map(Entry::draining).collect();
        if *leader.leads.borrow() {
            leader.agents.drain(draining);
            leader.agents.measure(pods);
            leader.agents.follow(self.services(Entry::reads_requests));
            leader.agents.wake(self.services(Entry::wakes));
            self.act(leader, actions).await;
            self.write(leader).await;
            remember::remember(&mut self.entries, &leader.client, uptime()).await;
        }
    }

    /// Asks others for the signals of policies that read what they know.
    fn ask(&mut self, replicas: &BTreeMap<ServiceKey, Vec<Replica>>) {
        let mut questions = Questions::new();
        for (key, entry) in &self.entries {
            let Ok((policy, _)) = &entry.policy else { continue };
            asked::questions(policy, &replicas::addresses(replicas_of(key, entry, replicas)), &mut questions);
        }
        self.asker.tick(questions, uptime());
    }

    /// The pods of policies that read what these use.
    fn measured(&self, replicas: &BTreeMap<ServiceKey, Vec<Replica>>) -> Pods {
        let services = self.services(Entry::reads_usage);
        let mut pods = replicas::pods(services.iter().filter_map(|service| replicas.get(service)).flatten());
        for (sizer, replica) in self.sized(replicas) {
            let container = replica.uid.as_deref().and_then(|uid| sizer.measured(uid));
            if let (Some(node), Some(container)) = (&replica.node, container) {
                pods.entry(node.clone()).or_default().insert(container);
            }
        }
        pods
    }

    /// The replicas of policies that size them.
    fn sized<'a>(
        &'a self,
        replicas: &'a BTreeMap<ServiceKey, Vec<Replica>>,
    ) -> impl Iterator<Item = (&'a Sizer, &'a Replica)> {
        self.entries.iter().flat_map(move |(key, entry)| {
            let replicas = replicas_of(key, entry, replicas);
            entry.size.iter().flat_map(move |sizer| replicas.iter().map(move |replica| (sizer, replica)))
        })
    }

    /// Looks at the pods that are sized and whose time has come.
    async fn look_at_pods(&mut self, client: &Client, replicas: &BTreeMap<ServiceKey, Vec<Replica>>) {
        let mut due = Vec::new();
        for (key, entry) in &self.entries {
            let Some(sizer) = &entry.size else { continue };
            let container = sizer.container();
            due.extend(
                sizer
                    .due(replicas_of(key, entry, replicas), uptime())
                    .into_iter()
                    .map(|pod| (key.clone(), container.to_owned(), pod)),
            );
        }
        let looks = due.into_iter().map(|(key, container, pod)| async move {
            let found = write::pod(client, &key.0, pod).await;
            (key, pod.1.to_owned(), found.map(|found| found.map(|found| pods::read(&found, &container))))
        });
        for (key, uid, found) in all(looks.collect::<Vec<_>>()).await {
            let sizer = self.entries.get_mut(&key).and_then(|entry| entry.size.as_mut());
            match (sizer, found) {
                (Some(sizer), Ok(seen)) => sizer.saw(&uid, seen, uptime()),
                (_, Err(error)) => tracing::warn!(policy = ?key, %error, "a pod cannot be looked at"),
                (None, Ok(_)) => {}
            }
        }
    }

    /// The Services of policies of which this is so.
    fn services(&self, so: impl Fn(&Entry) -> bool) -> BTreeSet<ServiceKey> {
        self.entries.iter().filter(|(_, entry)| so(entry)).filter_map(|(key, entry)| service(key, entry)).collect()
    }

    fn adopt(&mut self, seen: &Seen) {
        let mut before = std::mem::take(&mut self.entries);
        for (key, policy) in seen.policies() {
            let known = before.remove(key).filter(|known| known.object.metadata.uid == policy.metadata.uid);
            let entry = match known {
                Some(mut entry) => {
                    entry.adopt(policy);
                    entry
                }
                None => Entry::new(policy.clone()),
            };
            self.entries.insert(key.clone(), entry);
        }
        let entries = &self.entries;
        self.looks.retain(|key, look| entries.get(key).and_then(target_of) == Some(&look.target));
    }

    /// Looks at the workloads whose time has come.
    async fn look(&mut self, client: &Client) {
        let now = uptime();
        let is_due = |look: &Look, busy: bool| {
            let failed = look.found.as_ref().is_err_and(|error| !error.is_lasting());
            failed || busy || now.saturating_sub(look.at) >= LOOK
        };
        let mut due = Vec::new();
        for (key, entry) in &self.entries {
            let Some(target) = target_of(entry) else { continue };
            let busy = entry.draining().next().is_some();
            if self.looks.get(key).is_none_or(|look| is_due(look, busy)) {
                due.push((key.clone(), target.clone()));
            }
        }
        let mut asked = Vec::new();
        for (key, target) in due {
            let resource = write::within(self.kinds.find(client, &target)).await;
            asked.push((key, target, resource));
        }
        let looks = asked.into_iter().map(|(key, target, resource)| async move {
            let found = match &resource {
                Ok(resource) => write::within(target::look(client.clone(), &key.0, &target, resource)).await,
                Err(_) => Err(TargetError::Silent),
            };
            let (resource, found) = match resource {
                Ok(resource) => (Some(resource), found),
                Err(error) => (None, Err(error)),
            };
            (key, Look { target, resource, found, at: now, known: now })
        });
        let looks: Vec<(ServiceKey, Look)> = all(looks.collect()).await;
        looks.into_iter().for_each(|(key, look)| self.found(key, look));
    }

    /// A look that failed leaves what is known for a while.
    fn found(&mut self, key: ServiceKey, mut look: Look) {
        if let (Err(error), Some(before)) = (&look.found, self.looks.remove(&key))
            && !error.is_lasting()
        {
            let fresh = look.at.saturating_sub(before.known) < KNOWN;
            look.known = before.known;
            if fresh && before.found.is_ok() {
                (look.found, look.resource) = (before.found, before.resource);
            }
        }
        self.looks.insert(key, look);
    }

    fn decide(
        &mut self,
        seen: &Seen,
        replicas: &BTreeMap<ServiceKey, Vec<Replica>>,
        counts: &BTreeMap<ServiceKey, ServiceCounts>,
        (usage, knocks): (&HashMap<String, UsageSample>, &Knocks),
    ) -> Vec<(ServiceKey, Vec<Action>)> {
        let clock = clock();
        let targets: Vec<(ServiceKey, i128, TargetRef)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key.clone(), created(entry), target_of(entry)?.clone())))
            .collect();
        let nobody = ServiceCounts { at: clock.now, ..ServiceCounts::default() };
        let mut actions = Vec::new();
        for (key, entry) in &mut self.entries {
            let replicas = replicas_of(key, entry, replicas);
            let counts = service(key, entry).and_then(|service| counts.get(&service));
            let target = target_of(entry);
            let others = targets.iter().map(|(key, created, target)| (key, *created, target));
            let rival = target.and_then(|target| claims::rival(others, (key, created(entry)), target));
            let claimed = target.and_then(|target| claims::owner(seen.autoscalers(), &key.0, target));
            let sized = target.and_then(|target| claims::owner(seen.verticals(), &key.0, target));
            let look = target.and_then(|_| self.looks.get(key));
            let policy = entry.policy.as_ref().ok();
            let addresses = || replicas::addresses(replicas);
            let answers = policy.map(|(policy, _)| self.asker.answers(policy, &addresses(), clock.now));
            let sight = Sight {
                clock,
                replicas,
                counts: counts.unwrap_or(&nobody),
                usage,
                answers: answers.unwrap_or_default(),
                workload: look.map(|look| look.found.as_ref()),
                claimed: claimed.map(|claimed| claimed.title.as_str()),
                rival: rival.as_deref(),
                sized: sized.map(|sized| sized.title.as_str()),
                knocked: service(key, entry).and_then(|service| knocks.last(&service)),
            };
            actions.push((key.clone(), entry.tick(&sight)));
        }
        actions
    }

    async fn act(&mut self, leader: &Leader, actions: Vec<(ServiceKey, Vec<Action>)>) {
        let looks = &self.looks;
        let doing = actions.into_iter().filter_map(|(key, actions)| {
            let look = looks.get(&key)?;
            let (resource, workload) = (look.resource.as_ref()?, look.found.as_ref().ok()?);
            (!actions.is_empty()).then_some((key, actions, &look.target, resource, workload.clone()))
        });
        let results = doing.map(|(key, actions, target, resource, mut workload)| async move {
            let mut results = Vec::new();
            for action in actions {
                let result = write::act(&leader.client, &key.0, (target, resource), &workload, &action).await;
                let failed = result.is_err();
                if let Ok(Some(now)) = &result {
                    workload = now.clone();
                }
                results.push((action, result));
                if failed {
                    break;
                }
            }
            (key, results)
        });
        let results = all(results.collect()).await;
        for (key, results) in results {
            for (action, result) in results {
                if let Err(error) = &result {
                    tracing::warn!(policy = ?key, %error, ?action, "not done");
                }
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.acted(&action, result.as_ref().map(drop), clock());
                }
                match (self.looks.get_mut(&key), result) {
                    (Some(look), Ok(Some(now))) => look.found = Ok(now),
                    // It is looked at anew before another attempt.
                    (Some(look), Err(_)) => look.at = Duration::ZERO,
                    _ => {}
                }
            }
        }
    }

    /// Writes what is new of each policy.
    async fn write(&mut self, leader: &Leader) {
        let client = &leader.client;
        let writes = self.entries.values_mut().map(|entry| async move {
            if let Some(status) = entry.news().cloned() {
                let written = write::status(client, &entry.object, &status);
                match tokio::time::timeout(write::PATIENCE, written).await {
                    Ok(Ok(())) => entry.object.status = Some(status),
                    // The policy is gone.
                    Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the status of a ScalePolicy cannot be written"),
                    Err(_) => tracing::warn!("the API server does not answer"),
                }
            }
            for told in entry.report.take_events() {
                let publishing = write::tell(client, &leader.name, &entry.object, &told);
                if let Ok(Err(error)) = tokio::time::timeout(write::PATIENCE, publishing).await {
                    tracing::warn!(%error, "an Event of a ScalePolicy cannot be written");
                }
            }
        });
        all(writes.collect()).await;
    }

    fn shown(&self) -> Vec<Shown> {
        let shown = |(key, entry): (&ServiceKey, &Entry)| Shown {
            policy: key.clone(),
            current: entry.report.status.current_replicas,
            desired: entry.report.status.desired_replicas,
            signals: entry.report.signals.clone(),
        };
        self.entries.iter().map(shown).collect()
    }
}

/// Waits for all of them, some at a time.
pub(super) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    stream::iter(futures).buffer_unordered(AT_ONCE).collect().await
}

fn clock() -> Clock {
    Clock { now: uptime(), wall: SystemTime::now() }
}

/// What a policy scales.
fn target_of(entry: &Entry) -> Option<&TargetRef> {
    entry.policy.as_ref().ok()?.0.target.as_ref()
}

/// The Service of a policy.
fn service(key: &ServiceKey, entry: &Entry) -> Option<ServiceKey> {
    Some((key.0.clone(), entry.policy.as_ref().ok()?.0.service.clone()))
}

/// The replicas of a policy's Service; none are known of one without a Service.
fn replicas_of<'a>(key: &ServiceKey, entry: &Entry, all: &'a BTreeMap<ServiceKey, Vec<Replica>>) -> &'a [Replica] {
    service(key, entry).and_then(|service| all.get(&service)).map_or(&[], Vec::as_slice)
}

/// When a policy was made, in nanoseconds since 1970.
fn created(entry: &Entry) -> i128 {
    entry.object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_nanosecond())
}
