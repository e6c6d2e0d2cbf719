//! The coordinator's side of the agents' streams: who is alive, what they report, and the orders that go back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use ipnet::IpNet;
use kube::Client;
use lb_common::SocketKey;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    allocate::ServiceKey,
    counts,
    fleet::Fleet,
    token::{self, TokenError},
    usage::{Pods, Usages},
    wire::{Draining, Measured, Orders, Report, ServiceName, Services, coordinator_server::Coordinator},
};
use crate::{
    agent::uptime,
    scaling::{Knocks, UsageSample},
};

/// An agent that says nothing for so long is dead, and its node with it.
pub const SILENCE: Duration = Duration::from_secs(3);
/// An agent that hung up (its node's kernel lives, and answers without it) is waited for so long.
pub const ABSENCE: Duration = Duration::from_secs(60);
/// Orders that an agent does not take are at most so many.
const BACKLOG: usize = 16;

/// What is known of an agent.
#[derive(Clone, Debug)]
struct Agent {
    /// None until it has reported: nothing is decided from an agent of which nothing is known.
    networks: Option<Vec<IpNet>>,
    last: Instant,
    /// When its stream ended while it lived.
    left: Option<Instant>,
    /// Which of its streams this is about: an agent may come back before its old stream ends.
    stream: u64,
    orders: mpsc::Sender<Result<Orders, Status>>,
}

impl Agent {
    fn lives(&self, now: Instant) -> bool {
        match self.left {
            Some(left) => now.duration_since(left) < ABSENCE,
            None => now.duration_since(self.last) < SILENCE,
        }
    }
}

/// The agents, and the orders in force.
#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<String, Agent>,
    fleet: Fleet,
    owners: BTreeMap<IpAddr, String>,
    decided: bool,
    /// Who gets no new connections; none until it is decided.
    draining: Option<BTreeSet<SocketKey>>,
    /// Whose usage is wanted; none until it is decided.
    measured: Option<Pods>,
    /// The Services whose requests are measured; none until it is decided.
    followed: Option<BTreeSet<ServiceKey>>,
    /// The Services that who asks for them in vain wakes; none until it is decided.
    waking: Option<BTreeSet<ServiceKey>>,
    /// Who of these was asked for.
    knocks: Knocks,
    usages: Usages,
    streams: u64,
    /// Reports that were taken in.
    reports: u64,
}

impl State {
    fn orders(&self, node: &str, sequence: u64) -> Orders {
        let ours = self.owners.iter().filter(|(_, owner)| *owner == node);
        let draining = self.draining.as_ref();
        Orders {
            sequence,
            addresses: ours.map(|(address, _)| address.to_string()).collect(),
            decided: self.decided,
            elsewhere: Vec::new(),
            draining: draining.map(|keys| Draining { backends: keys.iter().map(counts::socket).collect() }),
            measured: self.measured.as_ref().map(|pods| Measured { uids: measured(pods, node) }),
            followed: self.followed.as_ref().map(services),
            waking: self.waking.as_ref().map(services),
        }
    }

    /// Takes in who was asked for in vain. Returns whether any of that is news.
    fn hear(&mut self, report: &Report, now: Duration) -> bool {
        let Some(waking) = &self.waking else { return false };
        let asked = report.knocks.iter().filter_map(|knock| {
            let ServiceName { namespace, name } = knock.service.clone()?;
            Some(((namespace, name), now.saturating_sub(Duration::from_millis(knock.age.into()))))
        });
        let news = asked
            .filter(|(service, _)| waking.contains(service))
            .filter(|(service, at)| self.knocks.note(service.clone(), *at));
        news.count() > 0
    }

    fn tell_everyone(&self) {
        self.tell(|_| true);
    }

    fn tell(&self, whom: impl Fn(&str) -> bool) {
        for (name, agent) in self.agents.iter().filter(|(name, _)| whom(name)) {
            // Who does not take them gets the same with its next answer.
            let _ = agent.orders.try_send(Ok(self.orders(name, 0)));
        }
    }
}

fn services(services: &BTreeSet<ServiceKey>) -> Services {
    let name = |(namespace, name): &ServiceKey| ServiceName { namespace: namespace.clone(), name: name.clone() };
    Services { services: services.iter().map(name).collect() }
}

fn measured(pods: &Pods, node: &str) -> Vec<String> {
    pods.get(node).into_iter().flatten().cloned().collect()
}

/// All agents' streams; one for server and coordinator.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    state: Arc<Mutex<State>>,
    /// Told when a client asks for a Service that it wakes.
    knocked: Arc<Notify>,
}

impl Agents {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here panics with the lock held; if it did, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The networks of each node that is alive, once it has reported them.
    pub fn alive(&self) -> BTreeMap<String, Vec<IpNet>> {
        let now = Instant::now();
        let state = self.state();
        let alive = state.agents.iter().filter(|(_, agent)| agent.lives(now));
        alive.filter_map(|(name, agent)| Some((name.clone(), agent.networks.clone()?))).collect()
    }

    /// Puts owners in force, and tells every agent if they are new.
    pub fn order(&self, owners: BTreeMap<IpAddr, String>) {
        let mut state = self.state();
        if state.decided && state.owners == owners {
            return;
        }
        (state.owners, state.decided) = (owners, true);
        state.tell_everyone();
    }

    /// Says who gets no new connections.
    pub fn drain(&self, backends: BTreeSet<SocketKey>) {
        let mut state = self.state();
        if state.draining.as_ref() != Some(&backends) {
            state.draining = Some(backends);
            state.tell_everyone();
        }
    }

    /// Says which Services' requests are measured.
    pub fn follow(&self, services: BTreeSet<ServiceKey>) {
        let mut state = self.state();
        if state.followed.as_ref() != Some(&services) {
            state.followed = Some(services);
            state.tell_everyone();
        }
    }

    /// Says which Services are woken by who asks for them in vain.
    pub fn wake(&self, services: BTreeSet<ServiceKey>) {
        let mut state = self.state();
        if state.waking.as_ref() != Some(&services) {
            state.knocks.retain(|service, _| services.contains(service));
            state.waking = Some(services);
            state.tell_everyone();
        }
    }

    /// Waits until a client asks for a Service that it wakes, and that nobody has asked for lately. Cancel safe.
    pub async fn knocked(&self) {
        self.knocked.notified().await;
    }

    /// Who was asked for in vain.
    pub fn knocks(&self) -> Knocks {
        self.state().knocks.clone()
    }

    /// Says whose usage is wanted.
    pub fn measure(&self, pods: Pods) {
        let mut state = self.state();
        let before = state.measured.replace(pods);
        state.tell(|node| {
            let (before, now) = (before.as_ref(), state.measured.as_ref());
            before.is_none() || before.and_then(|pods| pods.get(node)) != now.and_then(|pods| pods.get(node))
        });
    }

    /// What these pods use, as far as it is known.
    pub fn usage(&self, pods: &Pods) -> HashMap<String, UsageSample> {
        self.state().usages.of(pods)
    }

    /// Reports that were taken in so far.
    pub fn reports(&self) -> u64 {
        self.state().reports
    }

    /// Looks at what all nodes carry; `gone` says which nodes are no more. Who has been silent for long is not counted any more.
    pub fn fleet<T>(&self, gone: impl Fn(&str) -> bool, look: impl FnOnce(&Fleet) -> T) -> T {
        let mut state = self.state();
        let now = uptime();
        let is_over = |(name, at): (&str, Duration)| {
            let silent = now.saturating_sub(at);
            (silent >= ABSENCE || (silent >= SILENCE && gone(name))).then(|| name.to_owned())
        };
        let over: Vec<String> = state.fleet.nodes().filter_map(is_over).collect();
        over.iter().for_each(|name| state.fleet.forget(name));
        look(&state.fleet)
    }

    /// Gives no more orders: this coordinator leads no more, and another one may. The streams stay, so that whoever leads next
    /// finds the agents where they are; agents that hear of no order keep to the last, and look for the leader.
    pub fn suspend(&self) {
        let mut state = self.state();
        (state.decided, state.draining) = (false, None);
        (state.measured, state.followed, state.waking) = (None, None, None);
        state.tell_everyone();
    }

    fn join(&self, node: &str, orders: mpsc::Sender<Result<Orders, Status>>) -> u64 {
        let mut state = self.state();
        state.streams += 1;
        let stream = state.streams;
        let networks = state.agents.get(node).and_then(|agent| agent.networks.clone());
        let agent = Agent { networks, last: Instant::now(), left: None, stream, orders };
        state.agents.insert(node.to_owned(), agent);
        state.fleet.join(node);
        stream
    }

    /// Takes in a report, and returns the answer; none if the stream is not the agent's newest.
    fn report(&self, node: &str, stream: u64, report: &Report) -> Option<Orders> {
        let mut state = self.state();
        let agent = state.agents.get_mut(node).filter(|agent| agent.stream == stream)?;
        agent.last = Instant::now();
        agent.networks = Some(report.networks.iter().filter_map(|text| text.parse().ok()).collect());
        state.reports += 1;
        state.usages.take(node, report, uptime());
        if state.hear(report, uptime()) {
            self.knocked.notify_one();
        }
        state.fleet.take(node, report, uptime());
        let elsewhere = state.fleet.elsewhere(node);
        Some(Orders { elsewhere, ..state.orders(node, report.sequence) })
    }

    /// Takes in the end of a stream. A connection to a dead node ends when it is given up on, long after: that is no sign of life.
    fn leave(&self, node: &str, stream: u64) {
        let now = Instant::now();
        let mut state = self.state();
        let agent = state.agents.get_mut(node).filter(|agent| agent.stream == stream && agent.lives(now));
        if let Some(agent) = agent {
            agent.left = Some(now);
        }
    }
}

/// The gRPC service.
#[derive(Clone)]
pub struct Server {
    /// The streams.
    pub agents: Agents,
    /// Whether this coordinator leads.
    pub leads: watch::Receiver<bool>,
    /// For checking tokens.
    pub client: Client,
    /// The agents' service account.
    pub account: String,
}

#[tonic::async_trait]
impl Coordinator for Server {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<Orders, Status>> + Send>>;

    async fn join(&self, request: Request<Streaming<Report>>) -> Result<Response<Self::JoinStream>, Status> {
        if !*self.leads.borrow() {
            return Err(Status::failed_precondition("this coordinator does not lead"));
        }
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        let node = token::node(&self.client, &token, &self.account).await.map_err(|error| refusal(&error))?;
        let (orders, receiver) = mpsc::channel(BACKLOG);
        let stream = self.agents.join(&node, orders.clone());
        tracing::info!(node, "agent joined");
        tokio::spawn(listen(self.agents.clone(), node, stream, request.into_inner(), orders));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn refusal(error: &TokenError) -> Status {
    tracing::warn!(%error, "an agent was refused");
    match error {
        TokenError::Api(_) => Status::unavailable(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}

/// Answers one agent's reports until its stream ends.
async fn listen(
    agents: Agents,
    node: String,
    stream: u64,
    mut reports: Streaming<Report>,
    orders: mpsc::Sender<Result<Orders, Status>>,
) {
    let mut hung_up = true;
    while let Some(report) = reports.next().await {
        let Ok(report) = report else { break };
        let Some(answer) = agents.report(&node, stream, &report) else {
            hung_up = false;
            break;
        };
        if orders.send(Ok(answer)).await.is_err() {
            break;
        }
    }
    if hung_up {
        tracing::info!(node, "agent left");
        agents.leave(&node, stream);
    }
}

/// The addresses among `owners` that a node has, as it is told.
pub fn addresses(orders: &Orders) -> BTreeSet<IpAddr> {
    orders.addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::wire::Knock;

    fn report(sequence: u64) -> Report {
        Report { sequence, networks: vec!["192.0.2.0/24".into()], ..Report::default() }
    }

    fn join(agents: &Agents, node: &str) -> (u64, mpsc::Receiver<Result<Orders, Status>>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (agents.join(node, sender), receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_death_and_hanging_up_is_absence() {
        let agents = Agents::default();
        let (a, _orders_a) = join(&agents, "a");
        let (b, _orders_b) = join(&agents, "b");
        for stream in [(a, "a"), (b, "b")] {
            agents.report(stream.1, stream.0, &report(1)).unwrap();
        }
        agents.leave("b", b);
        tokio::time::advance(SILENCE).await;
        assert_eq!(agents.alive().into_keys().collect::<Vec<_>>(), ["b"]);
        agents.leave("a", a);
        assert_eq!(agents.alive().len(), 1, "its connection was given up on: it stays dead");
        tokio::time::advance(ABSENCE).await;
        assert!(agents.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_joined_counts_once_it_has_reported() {
        let agents = Agents::default();
        let (first, _orders) = join(&agents, "a");
        assert!(agents.alive().is_empty(), "its networks are not known, and it could be given no address");
        agents.report("a", first, &report(1)).unwrap();
        let known = agents.alive();
        assert_eq!(known["a"], ["192.0.2.0/24".parse::<IpNet>().unwrap()]);
        let (_second, _orders) = join(&agents, "a");
        assert_eq!(agents.alive(), known, "it comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_stream_does_not_speak_for_its_agent() {
        let agents = Agents::default();
        let (old, _orders) = join(&agents, "a");
        let (new, _orders) = join(&agents, "a");
        assert!(agents.report("a", old, &report(1)).is_none());
        agents.leave("a", old);
        assert!(agents.report("a", new, &report(1)).is_some());
        tokio::time::advance(SILENCE / 2).await;
        assert_eq!(agents.alive().len(), 1);
    }

    #[tokio::test]
    async fn orders_go_to_everyone_when_owners_change() {
        let agents = Agents::default();
        let (stream, mut orders) = join(&agents, "a");
        let undecided = agents.report("a", stream, &report(1)).unwrap();
        assert!(!undecided.decided && undecided.addresses.is_empty());
        let owners: BTreeMap<IpAddr, String> = [(IpAddr::from([192, 0, 2, 1]), "a".to_owned())].into();
        agents.order(owners.clone());
        let told = orders.recv().await.unwrap().unwrap();
        assert_eq!((told.decided, told.addresses), (true, vec!["192.0.2.1".to_owned()]));
        agents.order(owners);
        assert!(orders.try_recv().is_err(), "nothing new");
    }

    #[tokio::test]
    async fn everyone_is_told_whose_requests_are_measured() {
        let agents = Agents::default();
        let (stream, mut orders) = join(&agents, "a");
        assert_eq!(agents.report("a", stream, &report(1)).unwrap().followed, None, "nobody has decided");
        let services: BTreeSet<ServiceKey> = [("shop".to_owned(), "web".to_owned())].into();
        agents.follow(services.clone());
        let told = orders.recv().await.unwrap().unwrap().followed.unwrap().services;
        assert_eq!((told[0].namespace.as_str(), told[0].name.as_str(), told.len()), ("shop", "web", 1));
        agents.follow(services);
        assert!(orders.try_recv().is_err(), "nothing new");
        agents.suspend();
        assert_eq!(orders.recv().await.unwrap().unwrap().followed, None);
    }

    #[tokio::test]
    async fn a_node_is_asked_for_its_own_pods() {
        let agents = Agents::default();
        let (stream, mut orders) = join(&agents, "a");
        assert_eq!(agents.report("a", stream, &report(1)).unwrap().measured, None, "nobody has decided");
        let pods = |node: &str, uids: &[&str]| (node.to_owned(), uids.iter().map(ToString::to_string).collect());
        agents.measure([pods("a", &["u1", "u2"]), pods("b", &["u3"])].into());
        let told = orders.recv().await.unwrap().unwrap().measured.unwrap();
        assert_eq!(told.uids, ["u1", "u2"]);
        agents.measure([pods("a", &["u1", "u2"])].into());
        assert!(orders.try_recv().is_err(), "nothing new here");
        agents.measure(Pods::new());
        assert_eq!(orders.recv().await.unwrap().unwrap().measured, Some(Measured::default()));
        agents.suspend();
        assert_eq!(orders.recv().await.unwrap().unwrap().measured, None);
    }

    #[tokio::test]
    async fn who_asks_for_a_service_that_it_wakes_is_heard_at_once() {
        let agents = Agents::default();
        let (stream, mut orders) = join(&agents, "a");
        let name = |name: &str| ServiceName { namespace: "shop".into(), name: name.into() };
        let knock =
            |service: &str, age| Report { knocks: vec![Knock { service: Some(name(service)), age }], ..report(1) };
        agents.report("a", stream, &knock("web", 0)).unwrap();
        assert_eq!(agents.knocks(), Knocks::default(), "nobody has decided whom to wake");
        let web = ("shop".to_owned(), "web".to_owned());
        agents.wake([web.clone()].into());
        assert_eq!(orders.recv().await.unwrap().unwrap().waking, Some(Services { services: vec![name("web")] }));
        agents.report("a", stream, &knock("other", 0)).unwrap();
        agents.report("a", stream, &knock("web", 20)).unwrap();
        agents.knocked().await;
        assert_eq!(agents.knocks().iter().map(|(service, _)| service.clone()).collect::<Vec<_>>(), [web]);
        agents.report("a", stream, &knock("web", 20)).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(50), agents.knocked()).await;
        assert!(again.is_err(), "the same client, told of again");
        agents.suspend();
        assert_eq!(orders.recv().await.unwrap().unwrap().waking, None);
    }
}
