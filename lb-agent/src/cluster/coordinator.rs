//! `weir coordinator`: one of two replicas leads, gives addresses to Services, tells the agents who announces them, and scales.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};

use super::{
    LEASE,
    allocate::{Allocation, ServiceKey, allocate},
    holder, lease,
    observe::{self, Balanced, Choice, Objects, Returning},
    owner::{self, Claim, owners},
    pool::{AddressPool, Pool, usable},
    scale::{
        keda::{Keda, proto::external_scaler_server::ExternalScalerServer},
        leader::{Leader, Nodes, Shown},
    },
    serve::{Agents, Server},
    tls::{self, TlsError},
    wire::coordinator_server::CoordinatorServer,
    write::{Wanted, Writer, wanted},
};
use crate::discovery::kube::explain;

/// So often owners are looked at again: death is silence, of which nobody tells.
const TICK: Duration = Duration::from_millis(250);
/// A new leader waits so long for the agents before it moves an address.
pub const TAKEOVER: Duration = Duration::from_secs(3);
/// And so long for those that are being replaced or started again, or about to join: their nodes' kernels answer meanwhile, and connections would break.
pub const HOMECOMING: Duration = Duration::from_secs(20);
/// A write that failed is tried again after so long.
const REWRITE: Duration = Duration::from_secs(2);

/// How the coordinator is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica's name.
    pub name: String,
    /// Its namespace: where Lease, Secret and ConfigMap are.
    pub namespace: String,
    /// Where it listens for agents.
    pub listen: SocketAddr,
    /// Where agents reach it.
    pub advertise: SocketAddr,
    /// The agents' service account, in the same namespace.
    pub agent_account: String,
    /// Which Services get addresses.
    pub choice: Choice,
    /// The namespaces that it scales in; none: all.
    pub namespaces: Vec<String>,
    /// Where it listens for KEDA.
    pub keda: Option<SocketAddr>,
}

/// Why the coordinator cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The address cannot be listened at.
    #[error("{option} {address}: {source}; stop what listens there, or choose another address")]
    Listen {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be set up, or ended.
    #[error("gRPC: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What others may see of a coordinator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Whether it leads.
    pub leads: bool,
    /// Addresses of each pool: all, and those given away.
    pub pools: BTreeMap<String, (u128, u32)>,
    /// Who announces what.
    pub owners: BTreeMap<IpAddr, String>,
    /// Agents that are alive.
    pub agents: usize,
    /// The policies.
    pub policies: Vec<Shown>,
}

/// A coordinator at work.
pub struct Coordinator {
    config: Config,
    client: Client,
    agents: Agents,
    leads: watch::Receiver<bool>,
    status: watch::Sender<Status>,
    /// Which nodes are ready, for who scales.
    nodes: watch::Sender<Option<Nodes>>,
    /// What that has to show.
    policies: watch::Receiver<Vec<Shown>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Coordinator {
    /// Takes the address, finds or makes the certificate, and joins the election.
    pub async fn start(
        config: Config,
        client: Client,
        status: watch::Sender<Status>,
    ) -> Result<Self, CoordinatorError> {
        let listener = listen("--listen", config.listen).await?;
        let keda = match config.keda {
            Some(address) => Some(listen("--keda-listen", address).await?),
            None => None,
        };
        let identity = tls::identity(&client, &config.namespace).await?;
        tls::publish(&client, &config.namespace, &identity).await?;
        let (sender, leads) = watch::channel(false);
        let agents = Agents::default();
        let server = Server {
            agents: agents.clone(),
            leads: leads.clone(),
            client: client.clone(),
            account: format!("system:serviceaccount:{}:{}", config.namespace, config.agent_account),
        };
        let identity = Identity::from_pem(&identity.certificate, &identity.key);
        let mut builder = tonic::transport::Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .http2_keepalive_interval(Some(Duration::from_secs(5)));
        let router = builder.add_service(CoordinatorServer::new(server));
        let serve = tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming(TcpListenerStream::new(listener)).await {
                tracing::error!(%error, "the server of the agents' streams has ended");
            }
        });
        let api: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
        let me = holder(&config.name, config.advertise);
        let campaign = tokio::spawn(async move { lease::campaign(api, LEASE, &me, sender).await });
        let (nodes, known) = watch::channel(None);
        let (wants, wanted) = watch::channel(None);
        let (shown, policies) = watch::channel(Vec::new());
        let leader = Leader {
            client: client.clone(),
            name: config.name.clone(),
            agents: agents.clone(),
            leads: leads.clone(),
            nodes: known,
            namespaces: config.namespaces.clone(),
            wants,
            shown,
        };
        let mut tasks = vec![serve, campaign, tokio::spawn(leader.run())];
        tasks.extend(keda.map(|listener| tokio::spawn(serve_keda(listener, Keda::new(wanted)))));
        Ok(Self { config, client, agents, leads, status, nodes, policies, tasks })
    }

    /// Works until the future is dropped.
    pub async fn run(&mut self) {
        let (wanted, receiver) = watch::channel(Wanted::default());
        self.tasks.push(tokio::spawn(write(Writer::new(self.client.clone(), &self.config.name), receiver)));
        let mut world = World::new(&self.client, &self.config);
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut leading_since: Option<Instant> = None;
        loop {
            let changed = tokio::select! {
                () = world.changed() => true,
                _ = clock.tick() => false,
                Ok(()) = self.leads.changed() => true,
            };
            let leads = *self.leads.borrow_and_update();
            match (leads, leading_since) {
                (true, None) => leading_since = Some(Instant::now()),
                (false, Some(_)) => {
                    leading_since = None;
                    self.agents.suspend();
                    wanted.send_replace(Wanted::default());
                }
                _ => {}
            }
            if changed && world.is_complete() {
                self.nodes.send_replace(Some(Arc::new(world.ready_nodes())));
            }
            let Some(since) = leading_since else {
                self.status.send_if_modified(|status| std::mem::take(status) != Status::default());
                continue;
            };
            if changed && world.is_complete() {
                world.decide();
                wanted.send_replace(world.wanted(Timestamp::now()));
            }
            let alive = self.agents.alive();
            let owners = world.owners(&alive);
            if world.is_complete() && world.may_move(&alive, since.elapsed(), Timestamp::now()) {
                self.agents.order(owners.clone());
            }
            self.publish(&world, owners);
        }
    }

    fn publish(&self, world: &World, owners: BTreeMap<IpAddr, String>) {
        let status = Status {
            leads: true,
            pools: world.usage(),
            owners,
            agents: self.agents.alive().len(),
            policies: self.policies.borrow().clone(),
        };
        self.status.send_if_modified(|old| std::mem::replace(old, status.clone()) != status);
    }

    /// Gives up the lead, so that the other replica takes over at once.
    pub async fn resign(self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.config.namespace);
        // First no more renewals.
        self.tasks.iter().for_each(JoinHandle::abort);
        let me = holder(&self.config.name, self.config.advertise);
        if let Err(error) = lease::release(&api, LEASE, &me).await {
            tracing::warn!(%error, "the Lease cannot be given up: the other replica waits until it is over");
        }
    }
}

async fn listen(option: &'static str, address: SocketAddr) -> Result<TcpListener, CoordinatorError> {
    TcpListener::bind(address).await.map_err(|source| CoordinatorError::Listen { option, address, source })
}

/// Answers KEDA until the future is dropped.
async fn serve_keda(listener: TcpListener, keda: Keda) {
    let router = tonic::transport::Server::builder().add_service(ExternalScalerServer::new(keda));
    if let Err(error) = router.serve_with_incoming(TcpListenerStream::new(listener)).await {
        tracing::error!(%error, "the external scaler has ended");
    }
}

/// Writes what is wanted, newest first; what failed is tried again.
async fn write(mut writer: Writer, mut wanted: watch::Receiver<Wanted>) {
    let mut failures = 0;
    loop {
        let again = tokio::time::sleep(REWRITE);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = again, if failures > 0 => {}
        }
        let now = wanted.borrow_and_update().clone();
        failures = writer.write(&now).await;
    }
}

/// An event of one of the watches.
enum News {
    Service(Box<Event<Service>>),
    Node(Box<Event<Node>>),
    Slice(Box<Event<EndpointSlice>>),
    Pool(Box<Event<AddressPool>>),
    Agent(Box<Event<Pod>>),
}

/// The networks of the nodes that are alive.
type Alive = BTreeMap<String, Vec<IpNet>>;

/// The API's objects, and what was decided from them.
struct World {
    choice: Choice,
    news: BoxStream<'static, News>,
    services: Objects<Balanced>,
    /// Whether each may announce, and is ready.
    nodes: Objects<(bool, bool)>,
    slices: Objects<(ServiceKey, std::collections::BTreeSet<String>)>,
    pools: Objects<AddressPool>,
    /// When the agents of pods are to be heard of.
    returning: Objects<Returning>,
    usable: Vec<Pool>,
    broken: BTreeMap<String, super::pool::PoolError>,
    allocation: Allocation,
    claims: BTreeMap<IpAddr, Claim>,
}

impl World {
    fn new(client: &Client, config: &Config) -> Self {
        let all = watcher::Config::default;
        let agents = all().fields(&format!("spec.serviceAccountName={}", config.agent_account));
        let news = futures::stream::select_all([
            watch(Api::all(client.clone()), all(), News::Service),
            watch(Api::all(client.clone()), all(), News::Node),
            watch(Api::all(client.clone()), all(), News::Slice),
            watch(Api::all(client.clone()), all(), News::Pool),
            watch(Api::namespaced(client.clone(), &config.namespace), agents, News::Agent),
        ]);
        Self {
            choice: config.choice.clone(),
            news: news.boxed(),
            services: Objects::default(),
            nodes: Objects::default(),
            slices: Objects::default(),
            pools: Objects::default(),
            returning: Objects::default(),
            usable: Vec::new(),
            broken: BTreeMap::new(),
            allocation: Allocation::default(),
            claims: BTreeMap::new(),
        }
    }

    /// Waits for news, and takes in all that have come.
    async fn changed(&mut self) {
        let first = self.news.next().await;
        let mut next = first;
        while let Some(news) = next {
            self.take(news);
            next = futures::FutureExt::now_or_never(self.news.next()).flatten();
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Service(event) => {
                let choice = &self.choice;
                self.services.take(*event, |service| choice.request(service));
            }
            News::Node(event) => self.nodes.take(*event, |node| Some((observe::eligible(node), observe::ready(node)))),
            News::Slice(event) => self.slices.take(*event, observe::nodes),
            News::Pool(event) => self.pools.take(*event, |pool| Some(pool.clone())),
            News::Agent(event) => self.returning.take(*event, observe::returning),
        }
    }

    fn is_complete(&self) -> bool {
        self.services.is_complete() && self.nodes.is_complete() && self.slices.is_complete() && self.pools.is_complete()
    }

    fn decide(&mut self) {
        let pools: Vec<AddressPool> = self.pools.all().values().cloned().collect();
        (self.usable, self.broken) = usable(&pools);
        let requests: Vec<_> = self.services.all().values().map(|service| service.request.clone()).collect();
        self.allocation = allocate(&self.usable, &requests);
        let service = |key: &ServiceKey| self.services.all().get(key);
        self.claims = observe::claims(&self.allocation.addresses, service, self.slices.all());
    }

    fn wanted(&self, now: Timestamp) -> Wanted {
        let pools = (self.usable.as_slice(), &self.broken);
        wanted(self.services.all(), self.pools.all(), pools, &self.allocation, now)
    }

    fn owners(&self, alive: &Alive) -> BTreeMap<IpAddr, String> {
        let eligible = |name: &str| self.node(name).is_some_and(|(eligible, _)| *eligible);
        let alive = alive.iter().map(|(name, networks)| {
            let node = owner::Node { networks: networks.clone(), eligible: eligible(name) };
            (name.clone(), node)
        });
        owners(&self.claims, &alive.collect())
    }

    /// Whether who has led for so long may move addresses. Who is away for long does not hold up the others.
    fn may_move(&self, alive: &Alive, leading: Duration, now: Timestamp) -> bool {
        leading >= HOMECOMING || (leading >= TAKEOVER && !self.expects_agents(alive, now))
    }

    fn expects_agents(&self, alive: &Alive, now: Timestamp) -> bool {
        self.returning.all().values().any(|agent| {
            let is_ready = self.node(&agent.node).is_some_and(|(_, ready)| *ready);
            agent.is_expected(now) && is_ready && !alive.contains_key(&agent.node)
        })
    }

    /// Whether a node may announce, and is ready.
    fn node(&self, name: &str) -> Option<&(bool, bool)> {
        self.nodes.all().get(&(String::new(), name.to_owned()))
    }

    /// Whether each node is ready.
    fn ready_nodes(&self) -> BTreeMap<String, bool> {
        self.nodes.all().iter().map(|((_, name), (_, ready))| (name.clone(), *ready)).collect()
    }

    fn usage(&self) -> BTreeMap<String, (u128, u32)> {
        let used = |pool: &Pool| {
            let given: std::collections::BTreeSet<_> = self.allocation.addresses.values().flatten().collect();
            given.into_iter().filter(|address| pool.contains(**address)).count() as u32
        };
        self.usable.iter().map(|pool| (pool.name.clone(), (pool.total(), used(pool)))).collect()
    }
}

/// The objects of a kind that are selected.
fn watch<K>(api: Api<K>, which: watcher::Config, news: fn(Box<Event<K>>) -> News) -> BoxStream<'static, News>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    events(api, which).map(Box::new).map(news).boxed()
}

/// What a watch tells; errors are logged and waited out, with jitter.
pub(super) fn events<K>(api: Api<K>, which: watcher::Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, which).default_backoff().filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!("{}", explain::watch_error(error, &K::plural(&())))).ok()
    })
}
