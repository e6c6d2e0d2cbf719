//! The cluster as a source of the agent: its watches at work, what they have told, and how it is shown.

use std::{collections::BTreeSet, fmt::Debug, path::PathBuf, time::Instant};

use k8s_openapi::api::core::v1::Service;
use kube::{Client, Config, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    connect::{self, ConnectError},
    events::{self, Complaint},
    explain::Kind,
    link::{Link, State, down_since},
    slim,
    store::{Local, News, Store},
    watch::{Event, Watch},
};
use crate::{
    agent::pods::ExcludedPod,
    cluster,
    discovery::{
        annotations,
        node_ports::NodeInfo,
        select::{HEADLESS, OUR_NAME, PROXY_NAME, Services},
    },
    model::Change,
    telemetry::SourceStatus,
};

/// So many changes may wait: more are left with the API server.
const WAITING: usize = 256;
/// So many are taken in at a time.
const BATCH: usize = 4096;
/// So many problems are told one by one.
const TOLD: usize = 100;

/// Which cluster, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--kubeconfig`; none: as Pods do.
    pub kubeconfig: Option<PathBuf>,
    /// `--services`.
    pub services: Services,
}

/// News and when it came.
type Heard = (Instant, News);

/// The cluster as a source.
pub struct Kube {
    client: Client,
    server: String,
    node: String,
    news: mpsc::Receiver<Heard>,
    /// When the first of the news came that nobody has asked about.
    heard: Option<Instant>,
    store: Store,
    /// Those that the model is made of.
    links: Vec<Link>,
    /// That of the Events.
    telling: Link,
    complaints: mpsc::UnboundedSender<Complaint>,
    /// They end with this.
    tasks: JoinSet<()>,
}

impl Kube {
    /// Finds the cluster, looks for this node in it, and begins to watch. An API server that is away is waited for in the background.
    pub async fn start(options: &Options, node: &str) -> Result<Self, ConnectError> {
        let config = connect::configuration(options.kubeconfig.as_deref()).await?;
        Self::watch(config, options.services, node).await
    }

    /// As [`Kube::start`], with a configuration that is there already.
    pub async fn watch(config: Config, services: Services, node: &str) -> Result<Self, ConnectError> {
        let client = client(&config)?;
        connect::check_node(&client, node).await?;
        let telling = Link::new("events");
        let events = telling.client(config.clone()).map_err(refused)?;
        let server = config.cluster_url.to_string();
        let mut watches = Watches::new(config);
        watches.follow(services, node)?;
        let Watches { news, links, mut tasks, .. } = watches;
        let (complaints, told) = mpsc::unbounded_channel();
        tasks.spawn(events::report(events, node.to_owned(), told, telling.clone()));
        let (store, node) = (Store::default(), node.to_owned());
        Ok(Self { client, server, node, news, heard: None, store, links, telling, complaints, tasks })
    }

    /// A client of its API.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Follows the coordinator: takes what this node says, and gives its word.
    pub fn follow_coordinator(
        &mut self,
        config: cluster::agent::Config,
    ) -> (watch::Sender<cluster::agent::Speech>, watch::Receiver<cluster::agent::Word>) {
        let (speech, ours) = watch::channel(cluster::agent::Speech::default());
        let (word, heard) = watch::channel(cluster::agent::Word::default());
        self.tasks.spawn(cluster::agent::follow(config, self.client.clone(), ours, word));
        (speech, heard)
    }

    /// Waits for news and takes in all that have come. Cancel safe.
    pub async fn changed(&mut self) {
        match self.news.recv().await {
            Some(news) => self.take(news),
            // The watches never end by themselves.
            None => std::future::pending().await,
        }
        for _ in 1..BATCH {
            let Ok(news) = self.news.try_recv() else { break };
            self.take(news);
        }
    }

    fn take(&mut self, (at, news): Heard) {
        self.heard.get_or_insert(at);
        self.store.take(news);
    }

    /// When the first of what has come since this was last asked was read.
    pub fn heard(&mut self) -> Option<Instant> {
        self.heard.take()
    }

    /// What of the model is other than when this was last asked.
    pub fn changes(&mut self, local: &Local<'_>) -> Vec<Change> {
        let changes = self.store.changes(local);
        for complaint in self.store.complaints() {
            // Nobody hears it when the agent ends.
            let _ = self.complaints.send(complaint);
        }
        changes
    }

    /// What is known of the cluster.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The Pods of this node whose sockets are left alone.
    pub fn excluded(&self) -> BTreeSet<ExcludedPod> {
        let marked = self.store.pods().values().filter(|marks| marks.socket_lb_off);
        marked.map(|marks| ExcludedPod { uid: marks.uid.clone(), addresses: marks.addresses.clone() }).collect()
    }

    /// This node as its Node says, if there is one.
    pub fn info(&self) -> Option<&NodeInfo> {
        self.store.node()
    }

    /// Whether all was heard once: only then something that is not there is known to be gone.
    pub fn is_complete(&self) -> bool {
        self.store.is_complete()
    }

    fn states(&self) -> Vec<State> {
        self.links.iter().map(Link::state).collect()
    }

    /// How it is shown.
    pub fn status(&self) -> SourceStatus {
        let down = down_since(&self.states());
        SourceStatus {
            kind: "kubernetes".into(),
            location: self.server.clone(),
            healthy: down.is_none() && self.is_complete(),
            lag_seconds: Some(down.map(|since| since.elapsed()).unwrap_or_default().as_secs_f64()),
        }
    }

    /// What is wrong, each with what to do.
    pub fn problems(&self) -> Vec<String> {
        let states = self.states();
        let mut problems = troubles(states.iter().chain([&self.telling.state()]));
        if !self.is_complete() {
            problems.push(
                "not all of the cluster's objects are known yet: what the kernel holds stays in force; look at the API server".into(),
            );
        }
        if self.store.has_no_node() {
            let name = &self.node;
            problems.push(format!("there is no Node {name}; --node-name must be the name of this machine's Node"));
        }
        let mut objects = self.store.problems();
        problems.extend(objects.by_ref().take(TOLD).map(ToString::to_string));
        let more = objects.count();
        if more > 0 {
            problems
                .push(format!("{more} more problems of objects are not listed; look at the Events of the Services"));
        }
        problems
    }
}

fn refused(source: kube::Error) -> ConnectError {
    ConnectError::Client { source: Box::new(source) }
}

fn client(config: &Config) -> Result<Client, ConnectError> {
    Client::try_from(config.clone()).map_err(refused)
}

/// The watches, while they are begun.
struct Watches {
    config: Config,
    sender: mpsc::Sender<Heard>,
    news: mpsc::Receiver<Heard>,
    links: Vec<Link>,
    tasks: JoinSet<()>,
}

impl Watches {
    fn new(config: Config) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        Self { config, sender, news, links: Vec::new(), tasks: JoinSet::new() }
    }

    /// Begins to watch all that the model of this node is made of.
    fn follow(&mut self, services: Services, node: &str) -> Result<(), ConnectError> {
        let labels = |text: &str| watcher::Config::default().labels(text);
        let fields = |text: &str| watcher::Config::default().fields(text);
        let service = move |service: &Service| slim::service(service, services);
        self.begin("services", labels(&service_labels(services)), service, News::Service)?;
        let of_services = format!("kubernetes.io/service-name,!{HEADLESS}");
        self.begin("endpointslices", labels(&of_services), slim::slice, News::Slice)?;
        self.begin("nodes", fields(&format!("metadata.name={node}")), slim::node, News::Node)?;
        self.begin("pods", fields(&format!("spec.nodeName={node}")), slim::pod, News::Pod)?;
        self.begin("pods", labels(annotations::WEIGHT), slim::pod_weight, News::Weight)
    }

    fn begin<K, T>(
        &mut self,
        resource: &'static str,
        config: watcher::Config,
        slim: impl Fn(&K) -> Option<T> + Send + Sync + 'static,
        wrap: impl Fn(Event<T>) -> News + Send + Sync + 'static,
    ) -> Result<(), ConnectError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        T: Send + 'static,
    {
        let link = Link::new(resource);
        let client = link.client(self.config.clone()).map_err(refused)?;
        self.links.push(link.clone());
        let heard = move |event| (Instant::now(), wrap(event));
        self.tasks.spawn(Watch { link, config, slim }.run(client, self.sender.clone(), heard));
        Ok(())
    }
}

/// Verbs that are missing one by one; when the API server is away, once.
fn troubles<'a>(states: impl Iterator<Item = &'a State>) -> Vec<String> {
    let troubles: Vec<_> = states.filter_map(|state| state.trouble.as_ref()).collect();
    let (denied, other): (Vec<_>, Vec<_>) = troubles.into_iter().partition(|trouble| trouble.kind == Kind::Denied);
    denied.into_iter().chain(other.into_iter().take(1)).map(ToString::to_string).collect()
}

/// The Services that may be ours, so that the API server need not send the others.
fn service_labels(services: Services) -> String {
    match services {
        Services::All => format!("!{HEADLESS}"),
        Services::Labelled => format!("!{HEADLESS},{PROXY_NAME}={OUR_NAME}"),
    }
}
