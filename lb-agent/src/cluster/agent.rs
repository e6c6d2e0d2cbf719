//! The agent's side: finds the coordinator that leads, keeps a stream to it, and says which addresses this node is to announce. With no
//! coordinator the last word stays.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{Api, Client};
use lb_common::SocketKey;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{MetadataValue, errors::InvalidMetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    LEASE, SERVER_NAME, TRUST,
    allocate::ServiceKey,
    counts::{BackendName, Carried, News, Told, socket_keys},
    holder_address,
    serve::addresses,
    tls::AUTHORITY,
    usage,
    wire::{Knock, Orders, Report, ServiceName, Services, coordinator_client::CoordinatorClient},
};
use crate::{
    agent::uptime,
    scaling::{AWAKE, Knocks},
    signals::usage::{Place, Usage},
};

/// Time between two reports.
const REPORT: Duration = Duration::from_secs(1);
/// A coordinator that does not answer for so long is looked for anew.
const SILENCE: Duration = Duration::from_secs(3);
/// Time between two attempts to find one.
const RETRY: Duration = Duration::from_millis(700);

/// Where the coordinator is found.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of its Lease and of its certificate's ConfigMap.
    pub namespace: String,
    /// The file of the token that the agent shows.
    pub token: PathBuf,
    /// Where the cgroups of this node's pods are.
    pub pods: Place,
}

/// What this node tells the coordinator.
#[derive(Clone, Debug, Default)]
pub struct Speech {
    /// The networks of its uplinks.
    pub networks: Vec<IpNet>,
    /// What backends carry through it, and when that was read; none before it was.
    pub carried: Option<(Instant, Arc<Carried>)>,
    /// Services that clients have asked for while they had no backend.
    pub knocks: Knocks,
}

/// What the coordinator has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The addresses that this node announces; none if nobody has ever decided.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// What backends carry through other nodes, by the number they were told under; empty without a stream.
    pub elsewhere: BTreeMap<u32, (Arc<BackendName>, u64)>,
    /// Backends that get no new connections.
    pub draining: BTreeSet<SocketKey>,
    /// Pods whose usage is wanted, by their UIDs.
    pub measured: Arc<BTreeSet<String>>,
    /// Services whose requests are measured, by namespace and name; none if nobody has ever said.
    pub followed: Option<BTreeSet<ServiceKey>>,
    /// Services that who asks for them in vain wakes; none if nobody has ever said.
    pub waking: Option<BTreeSet<ServiceKey>>,
    /// When the last report was sent that a leader has answered; none before one has. The leader counts a node's silence from when it
    /// takes a report in, which is later: while this is less than that ago, it has given nothing of this node's to another one.
    pub heard: Option<Instant>,
    /// Why there is none.
    pub problem: Option<String>,
}

impl Word {
    /// Whether the leader stands by it.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.duration_since(heard) < SILENCE)
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The API server does not say where the coordinator is.
    #[error("{what} in namespace {namespace}: {source}")]
    Api {
        /// What was read.
        what: &'static str,
        /// Where.
        namespace: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Nobody leads.
    #[error("no coordinator leads in namespace {namespace}: look at the pods of Deployment weir-coordinator")]
    NoLeader {
        /// Where.
        namespace: String,
    },
    /// The token cannot be read.
    #[error("token {path}: {source}; mount a service account token with audience {audience}", audience = super::AUDIENCE)]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The token is no text for a header.
    #[error("token: {0}")]
    Header(#[from] InvalidMetadataValue),
    /// No connection.
    #[error("coordinator {address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// The coordinator refused, or hung up.
    #[error("coordinator {address}: {status}")]
    Stream {
        /// Where.
        address: SocketAddr,
        /// What it said.
        status: Box<Status>,
    },
    /// The coordinator says nothing.
    #[error("coordinator {address} has not answered for {SILENCE:?}")]
    Silent {
        /// Where.
        address: SocketAddr,
    },
    /// Another one leads now.
    #[error("coordinator {address} leads no more")]
    Deposed {
        /// Where.
        address: SocketAddr,
    },
}

/// Keeps a stream to whoever leads, until the future is dropped.
pub async fn follow(config: Config, client: Client, speech: watch::Receiver<Speech>, word: watch::Sender<Word>) {
    let mut link = Link { config, client, speech, word, trust: None, unread: None };
    loop {
        let Err(error) = link.once().await;
        let text = error.to_string();
        link.word.send_if_modified(|word| {
            word.elsewhere.clear();
            word.problem.replace(text.clone()).as_ref() != Some(&text)
        });
        tokio::time::sleep(RETRY.mul_f64(0.5 + fraction())).await;
    }
}

/// A number from 0 to 1, so that agents do not come all at once.
fn fraction() -> f64 {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    f64::from(nanos % 1_000_000) / 1e6
}

struct Link {
    config: Config,
    client: Client,
    speech: watch::Receiver<Speech>,
    word: watch::Sender<Word>,
    /// The certificate that was last read: the API server may be away when it is needed again.
    trust: Option<String>,
    /// Why pods' usage could not be read.
    unread: Option<String>,
}

/// When reports were sent that have not been answered yet.
#[derive(Debug, Default)]
struct Sent {
    /// The last one's.
    sequence: u64,
    times: VecDeque<(u64, Instant)>,
}

impl Sent {
    /// The next report's sequence number.
    fn next(&mut self, now: Instant) -> u64 {
        self.sequence += 1;
        self.times.push_back((self.sequence, now));
        self.sequence
    }

    /// When the report was sent that is answered; none if these orders answer none. They come in order.
    fn answered(&mut self, sequence: u64) -> Option<Instant> {
        let mut at = None;
        while let Some(&(sent, time)) = self.times.front()
            && sent <= sequence
        {
            at = Some(time);
            self.times.pop_front();
        }
        at
    }
}

/// What pods use, and when that was read.
type Used = (Instant, BTreeMap<String, Usage>);

impl Link {
    /// One stream, from its beginning to its end.
    async fn once(&mut self) -> Result<std::convert::Infallible, LinkError> {
        let address = self.leader().await?;
        let channel = self.connect(address).await?;
        let token = std::fs::read_to_string(&self.config.token)
            .map_err(|source| LinkError::Token { path: self.config.token.clone(), source })?;
        let (reports, receiver) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(receiver));
        let bearer: MetadataValue<_> = format!("Bearer {}", token.trim()).parse()?;
        request.metadata_mut().insert("authorization", bearer);
        let failed = |status| LinkError::Stream { address, status: Box::new(status) };
        let join = async { CoordinatorClient::new(channel).join(request).await };
        let mut orders =
            timeout(SILENCE, join).await.map_err(|_| LinkError::Silent { address })?.map_err(failed)?.into_inner();
        tracing::info!(%address, "following the coordinator");
        let mut clock = interval(REPORT);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut sent, mut answered, mut told) = (Sent::default(), Instant::now(), Told::default());
        loop {
            tokio::select! {
                // What is new is told at once, what is not once a second.
                Ok(()) = self.speech.changed() => clock.reset_immediately(),
                _ = clock.tick() => {
                    if answered.elapsed() >= SILENCE {
                        return Err(LinkError::Silent { address });
                    }
                    // A coordinator that takes no reports is silent soon.
                    if let Ok(room) = reports.try_reserve() {
                        let used = self.usage().await;
                        let sequence = sent.next(Instant::now());
                        room.send(self.report(sequence, &mut told, used.as_ref()));
                    }
                    if !self.word.borrow().is_fresh(Instant::now()) && sent.sequence > 1 {
                        self.check_leader(address).await?;
                    }
                }
                order = orders.next() => match order {
                    Some(Ok(order)) => {
                        let asked = sent.answered(order.sequence);
                        if asked.is_some() {
                            answered = Instant::now();
                        }
                        self.hear(&order, &told, asked);
                    }
                    Some(Err(status)) => return Err(failed(status)),
                    None => return Err(failed(Status::unavailable("the stream has ended"))),
                }
            }
        }
    }

    /// What the wanted pods use now.
    async fn usage(&mut self) -> Option<Used> {
        let wanted = Arc::clone(&self.word.borrow().measured);
        if wanted.is_empty() {
            return None;
        }
        let (at, pods) = (Instant::now(), self.config.pods.clone());
        let read = tokio::task::spawn_blocking(move || pods.look(&wanted)).await.ok()?;
        let problem = read.as_ref().err().map(ToString::to_string);
        if let Some(problem) = problem.as_ref().filter(|problem| self.unread.as_ref() != Some(problem)) {
            tracing::warn!("what pods use is not known: {problem}");
        }
        self.unread = problem;
        Some((at, read.ok()?))
    }

    fn report(&mut self, sequence: u64, told: &mut Told, used: Option<&Used>) -> Report {
        let announced = self.word.borrow().addresses.iter().flatten().map(IpAddr::to_string).collect();
        let Speech { networks, carried, knocks } = self.speech.borrow_and_update().clone();
        let networks = networks.iter().map(IpNet::to_string).collect();
        let age = |at: &Instant| at.elapsed().as_millis() as u32;
        let knocks = told_knocks(&knocks, uptime());
        let mut report = Report { sequence, networks, announced, knocks, ..Report::default() };
        if let Some((at, used)) = used {
            (report.usage, report.usage_age) = (usage::sent(used), Some(age(at)));
        }
        if let Some((at, carried)) = carried {
            let News { backends, forgotten, counts } = told.tell(&carried);
            report = Report { counts_age: Some(age(&at)), backends, forgotten, counts, ..report };
        }
        report
    }

    /// Takes in orders; `asked` is when the report was sent that they answer. Without one they say nothing of whether the
    /// coordinator hears this node.
    fn hear(&self, orders: &Orders, told: &Told, asked: Option<Instant>) {
        self.word.send_if_modified(|word| {
            word.elsewhere.retain(|id, (name, _)| told.name(*id) == Some(name));
            let named = |id| told.name(id).cloned();
            let others = orders.elsewhere.iter().filter_map(|other| Some((other.id, (named(other.id)?, other.active))));
            word.elsewhere.extend(others);
            let before = (word.addresses.take(), std::mem::take(&mut word.draining), word.problem.is_some());
            word.addresses = if orders.decided { Some(addresses(orders)) } else { before.0.clone() };
            word.draining = match &orders.draining {
                Some(draining) => socket_keys(&draining.backends),
                None => before.1.clone(),
            };
            if let Some(measured) = &orders.measured {
                let uids = measured.uids.iter().cloned().collect();
                if *word.measured != uids {
                    word.measured = Arc::new(uids);
                }
            }
            if let Some(followed) = &orders.followed {
                word.followed = Some(service_keys(followed));
            }
            if let Some(waking) = &orders.waking {
                word.waking = Some(service_keys(waking));
            }
            if orders.decided && asked.is_some() {
                (word.heard, word.problem) = (asked, None);
            }
            before != (word.addresses.clone(), word.draining.clone(), word.problem.is_some())
        });
    }

    /// Whether somebody else leads, while this coordinator gives no orders. If nobody says, it is stayed with.
    async fn check_leader(&self, address: SocketAddr) -> Result<(), LinkError> {
        match timeout(REPORT, self.leader()).await {
            Ok(Ok(leader)) if leader != address => Err(LinkError::Deposed { address }),
            _ => Ok(()),
        }
    }

    async fn leader(&self) -> Result<SocketAddr, LinkError> {
        let namespace = &self.config.namespace;
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let lease = api.get_opt(LEASE).await.map_err(|source| LinkError::Api {
            what: "get Lease weir-coordinator",
            namespace: namespace.clone(),
            source: Box::new(source),
        })?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        let address = holder.and_then(|holder| holder_address(&holder));
        address.ok_or_else(|| LinkError::NoLeader { namespace: namespace.clone() })
    }

    async fn connect(&mut self, address: SocketAddr) -> Result<Channel, LinkError> {
        let trust = self.trust().await?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trust)).domain_name(SERVER_NAME);
        let failed = |source| LinkError::Connect { address, source };
        let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(failed)?;
        let endpoint = endpoint.tls_config(tls).map_err(failed)?.connect_timeout(SILENCE);
        endpoint.connect().await.map_err(failed)
    }

    async fn trust(&mut self) -> Result<String, LinkError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.config.namespace);
        match api.get(TRUST).await {
            Ok(map) => self.trust = map.data.and_then(|mut data| data.remove(AUTHORITY)),
            Err(source) if self.trust.is_none() => {
                let namespace = self.config.namespace.clone();
                return Err(LinkError::Api {
                    what: "get ConfigMap weir-coordinator-ca",
                    namespace,
                    source: Box::new(source),
                });
            }
            Err(_) => {}
        }
        Ok(self.trust.clone().unwrap_or_default())
    }
}

fn service_keys(services: &Services) -> BTreeSet<ServiceKey> {
    services.services.iter().map(|service| (service.namespace.clone(), service.name.clone())).collect()
}

/// What is told of who was asked for in vain. An earlier coordinator may have heard of it and be gone.
fn told_knocks(knocks: &Knocks, now: Duration) -> Vec<Knock> {
    let age = |at: Duration| now.saturating_sub(at);
    let recent = knocks.iter().filter(|(_, at)| age(*at) < AWAKE);
    let knock = |((namespace, name), at): (&ServiceKey, Duration)| Knock {
        service: Some(ServiceName { namespace: namespace.clone(), name: name.clone() }),
        age: age(at).as_millis() as u32,
    };
    recent.map(knock).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::Protocol;

    use super::*;
    use crate::cluster::{
        counts::{self, Counts},
        wire::{Draining, Elsewhere, Measured},
    };

    fn link() -> (Link, watch::Receiver<Word>) {
        let (word, heard) = watch::channel(Word::default());
        let (_, speech) = watch::channel(Speech::default());
        let service = tower_service();
        let config = Config { namespace: "weir".into(), token: PathBuf::new(), pods: Place::new(None) };
        (Link { config, client: service, speech, word, trust: None, unread: None }, heard)
    }

    /// A client that nothing is asked of here.
    fn tower_service() -> Client {
        Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap()
    }

    fn addresses_of(orders: &[&str]) -> Orders {
        Orders { decided: true, addresses: orders.iter().map(ToString::to_string).collect(), ..Orders::default() }
    }

    #[tokio::test]
    async fn undecided_orders_change_nothing() {
        let (mut link, heard) = link();
        let mut told = Told::default();
        link.hear(&Orders::default(), &told, None);
        assert_eq!(heard.borrow().addresses, None);
        let socket = SocketKey::new(SocketAddr::from(([10, 0, 0, 1], 80)), Protocol::Tcp);
        let draining = Some(Draining { backends: vec![counts::socket(&socket)] });
        link.hear(&Orders { draining, ..addresses_of(&["192.0.2.1"]) }, &told, None);
        assert_eq!(heard.borrow().addresses, Some([IpAddr::from([192, 0, 2, 1])].into()));
        link.hear(&Orders::default(), &told, None);
        let word = heard.borrow().clone();
        assert_eq!(word.addresses.as_ref().map(BTreeSet::len), Some(1), "the last word stays");
        assert_eq!(word.draining, [socket].into(), "it does here too");
        link.hear(&Orders { draining: Some(Draining::default()), ..Orders::default() }, &told, None);
        assert_eq!(heard.borrow().draining, [].into());
        assert_eq!(link.report(3, &mut told, None).announced, ["192.0.2.1"]);
    }

    #[tokio::test]
    async fn what_pods_use_is_told_while_somebody_wants_it() {
        let (mut link, heard) = link();
        let mut told = Told::default();
        assert_eq!(link.usage().await, None, "nobody asks");
        let web = ServiceName { namespace: "shop".into(), name: "web".into() };
        let (followed, waking) = (Some(Services { services: vec![web] }), Some(Services::default()));
        link.hear(&Orders { followed, waking, ..Orders::default() }, &told, None);
        link.hear(&Orders::default(), &told, None);
        let web = BTreeSet::from([("shop".to_owned(), "web".to_owned())]);
        assert_eq!(heard.borrow().followed, Some(web), "the last word stays");
        assert_eq!(heard.borrow().waking, Some([].into()), "it does here too");
        link.hear(&Orders { measured: Some(Measured { uids: vec!["u".into()] }), ..Orders::default() }, &told, None);
        link.hear(&Orders::default(), &told, None);
        assert_eq!(*heard.borrow().measured, ["u".to_owned()].into(), "the last word stays");
        let used = [("u".to_owned(), Usage { cpu: Duration::from_secs(2), memory: 5 })].into();
        let report = link.report(1, &mut told, Some(&(Instant::now(), used)));
        assert_eq!((report.usage_age.is_some(), report.usage.len(), report.counts_age), (true, 1, None));
        assert_eq!(report.usage[0].cpu, 2_000_000_000);
        assert_eq!(link.report(2, &mut told, None).usage_age, None);
    }

    #[tokio::test]
    async fn what_others_carry_is_of_the_backend_that_was_named() {
        let (link, heard) = link();
        let mut told = Told::default();
        let named = |host| {
            let socket = SocketKey::new(SocketAddr::from(([10, 0, 0, host], 80)), Protocol::Tcp);
            Arc::new(BackendName { service: ("shop".into(), "web".into()), socket })
        };
        let carries = |id, host| Carried::from([(id, (named(host), Counts::default()))]);
        let others = |id, active| Orders { elsewhere: vec![Elsewhere { id, active }], ..addresses_of(&[]) };
        told.tell(&carries(4, 1));
        link.hear(&others(4, 7), &told, None);
        link.hear(&others(5, 9), &told, None);
        assert_eq!(heard.borrow().elsewhere, [(4, (named(1), 7))].into(), "5 was never named");
        told.tell(&carries(4, 2));
        link.hear(&addresses_of(&[]), &told, None);
        assert_eq!(heard.borrow().elsewhere, [].into(), "4 is another one now");
    }

    #[test]
    fn who_was_asked_for_in_vain_is_told_for_a_minute() {
        let mut knocks = Knocks::default();
        knocks.note(("shop".into(), "web".into()), Duration::from_secs(100));
        knocks.note(("shop".into(), "old".into()), Duration::from_secs(41));
        let told = told_knocks(&knocks, Duration::from_millis(101_500));
        let names: Vec<_> =
            told.iter().map(|knock| (knock.service.as_ref().unwrap().name.as_str(), knock.age)).collect();
        assert_eq!(names, [("web", 1500)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_answers_say_that_the_coordinator_hears_this_node() {
        let (link, heard) = link();
        let (mut sent, told, begin) = (Sent::default(), Told::default(), Instant::now());
        let hear = |sent: &mut Sent, sequence| {
            link.hear(&addresses_of(&["192.0.2.1"]), &told, sent.answered(sequence));
            heard.borrow().heard.map(|at| at - begin)
        };
        assert_eq!(hear(&mut sent, 0), None, "nothing was reported");
        for _ in 0..3 {
            sent.next(Instant::now());
            tokio::time::advance(REPORT).await;
        }
        assert_eq!(hear(&mut sent, 2), Some(REPORT), "when the second was sent");
        assert_eq!(hear(&mut sent, 0), Some(REPORT), "orders that answer nothing");
        tokio::time::advance(SILENCE).await;
        assert!(!heard.borrow().is_fresh(Instant::now()));
        assert_eq!(
            hear(&mut sent, 3),
            Some(2 * REPORT),
            "an answer that was long on its way is as old as the question"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_grows_stale() {
        let word = Word { heard: Some(Instant::now()), ..Word::default() };
        assert!(word.is_fresh(Instant::now()));
        tokio::time::advance(SILENCE).await;
        assert!(!word.is_fresh(Instant::now()));
    }
}
