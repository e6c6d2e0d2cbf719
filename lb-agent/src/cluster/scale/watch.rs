//! What the leader watches: policies, EndpointSlices, and who else scales. An API that a cluster does not have is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{autoscaling::v2::HorizontalPodAutoscaler, discovery::v1::EndpointSlice},
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::{
    claims::{self, Autoscaler, VerticalPodAutoscaler, autoscaler},
    replicas::{Replica, Slice, replicas, slice},
};
use crate::{
    cluster::{allocate::ServiceKey, coordinator::events, observe::Objects},
    discovery::kube::explain,
    scaling::ScalePolicy,
};

enum News {
    Policy(Box<Event<ScalePolicy>>),
    Slice(Box<Event<EndpointSlice>>),
    Autoscaler(Box<Event<HorizontalPodAutoscaler>>),
    Vertical(Box<Event<VerticalPodAutoscaler>>),
    /// The API server does not know VerticalPodAutoscalers.
    NoVertical,
}

/// The watches, and what they have told.
pub struct Watches {
    news: BoxStream<'static, (usize, News)>,
    /// What they have told.
    pub seen: Seen,
}

/// The API's objects.
pub struct Seen {
    /// Of each namespace that is watched; one for all of them together.
    spaces: Vec<Space>,
}

#[derive(Default)]
struct Space {
    policies: Objects<ScalePolicy>,
    slices: Objects<Slice>,
    autoscalers: Objects<Autoscaler>,
    verticals: Objects<Autoscaler>,
    /// The API server does not know them.
    no_verticals: bool,
}

impl Watches {
    /// Begins to watch these namespaces; none: all.
    pub fn new(client: &Client, namespaces: &[String]) -> Self {
        let spaces: Vec<Option<&str>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().map(|name| Some(name.as_str())).collect()
        };
        let news = spaces.iter().enumerate().flat_map(|(index, space)| {
            let tag = move |news| (index, news);
            [
                watch(client, *space, News::Policy).map(tag).boxed(),
                watch(client, *space, News::Slice).map(tag).boxed(),
                watch(client, *space, News::Autoscaler).map(tag).boxed(),
                verticals(client, *space).map(tag).boxed(),
            ]
        });
        let news = futures::stream::select_all(news.collect::<Vec<_>>()).boxed();
        Self { news, seen: Seen { spaces: spaces.iter().map(|_| Space::default()).collect() } }
    }

    /// Waits for news, and takes in all that have come.
    pub async fn changed(&mut self) {
        let mut next = self.news.next().await;
        while let Some((index, news)) = next {
            self.seen.spaces[index].take(news);
            next = self.news.next().now_or_never().flatten();
        }
    }
}

impl Seen {
    /// Whether all there is was listed once.
    pub fn is_complete(&self) -> bool {
        let complete = |space: &Space| {
            let verticals = space.no_verticals || space.verticals.is_complete();
            space.policies.is_complete() && space.slices.is_complete() && space.autoscalers.is_complete() && verticals
        };
        self.spaces.iter().all(complete)
    }

    /// The policies.
    pub fn policies(&self) -> impl Iterator<Item = (&ServiceKey, &ScalePolicy)> {
        self.spaces.iter().flat_map(|space| space.policies.all())
    }

    /// The replicas of each of these Services.
    pub fn replicas(&self, services: &BTreeSet<ServiceKey>) -> BTreeMap<ServiceKey, Vec<Replica>> {
        replicas(self.spaces.iter().flat_map(|space| space.slices.all().values()), services)
    }

    /// Who else sizes.
    pub fn verticals(&self) -> impl Iterator<Item = (&ServiceKey, &Autoscaler)> {
        self.spaces.iter().flat_map(|space| space.verticals.all())
    }

    /// Who else scales.
    pub fn autoscalers(&self) -> impl Iterator<Item = (&ServiceKey, &Autoscaler)> {
        self.spaces.iter().flat_map(|space| space.autoscalers.all())
    }
}

impl Space {
    fn take(&mut self, news: News) {
        match news {
            News::Policy(event) => self.policies.take(*event, |policy| Some(policy.clone())),
            News::Slice(event) => self.slices.take(*event, slice),
            News::Autoscaler(event) => self.autoscalers.take(*event, autoscaler),
            News::Vertical(event) => self.verticals.take(*event, claims::vertical),
            News::NoVertical => (self.verticals, self.no_verticals) = (Objects::default(), true),
        }
    }
}

fn watch<K>(client: &Client, namespace: Option<&str>, news: fn(Box<Event<K>>) -> News) -> BoxStream<'static, News>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    events(api(client, namespace), watcher::Config::default()).map(Box::new).map(news).boxed()
}

/// VerticalPodAutoscalers, whose definition a cluster need not have, and may get or lose at any time.
fn verticals(client: &Client, namespace: Option<&str>) -> BoxStream<'static, News> {
    let api: Api<VerticalPodAutoscaler> = api(client, namespace);
    let told = watcher(api, watcher::Config::default()).default_backoff().filter_map(|event| async {
        match event {
            Ok(event) => Some(News::Vertical(Box::new(event))),
            Err(error) if is_unknown(&error) => Some(News::NoVertical),
            Err(error) => {
                tracing::warn!("{}", explain::watch_error(&error, "verticalpodautoscalers"));
                None
            }
        }
    });
    told.boxed()
}

const fn is_unknown(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
