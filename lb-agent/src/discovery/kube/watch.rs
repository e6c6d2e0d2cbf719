//! Watches: a task for each kind of object that lists, watches, resumes where it was, and passes on what has become of objects.
//!
//! An object is made into what is kept of it in the watch's own task, so that whole objects never pile up.

use std::{fmt::Debug, pin::pin, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::watcher::{self, Config, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{
    explain::{self, Kind},
    link::Link,
};
use crate::discovery::owners::ServiceName;

/// An object's namespace, which may be empty, and name.
pub type Name = ServiceName;

/// What has become of the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// All are listed from here on; those that do not come until [`Event::Listed`] are gone.
    Listing,
    /// This is what an object is now; none: it is not for us.
    Set(Name, Option<Box<T>>),
    /// An object is gone.
    Gone(Name),
    /// All that there are have been told.
    Listed,
    /// We may not know.
    Denied,
}

/// The first pause after a failure,
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// and the longest. Random times up to as long again are added, so that not all agents come at once.
const MAX_PAUSE: Duration = Duration::from_secs(5);

fn pauses() -> impl Iterator<Item = Duration> {
    let builder = ExponentialBuilder::default().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE);
    builder.with_factor(2.0).with_jitter().without_max_times().build()
}

/// A watch: what it asks for, and what it keeps of what comes.
pub struct Watch<F> {
    /// How it is doing; its name is the resource's, in the plural.
    pub link: Link,
    /// Labels and fields.
    pub config: Config,
    /// What is kept of an object.
    pub slim: F,
}

impl<F> Watch<F> {
    /// Follows the objects until nobody listens any more.
    pub async fn run<K, T, N>(self, client: Client, news: mpsc::Sender<N>, wrap: impl Fn(Event<T>) -> N)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        F: Fn(&K) -> Option<T>,
    {
        let api: Api<K> = Api::all(client);
        let mut config = self.config.clone().streaming_lists();
        let mut pause = pauses();
        'anew: loop {
            let mut stream = pin!(watcher(api.clone(), config.clone()));
            while let Some(next) = stream.next().await {
                let error = match next {
                    Ok(event) => {
                        if news.send(wrap(event_of(event, &self.slim))).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    Err(error) => error,
                };
                let trouble = explain::watch_error(&error, self.link.name());
                let kind = trouble.kind;
                if self.link.failed(trouble) > MAX_PAUSE {
                    pause = pauses();
                }
                if kind == Kind::Denied && news.send(wrap(Event::Denied)).await.is_err() {
                    return;
                }
                if kind == Kind::NoStreaming {
                    config = self.config.clone().any_semantic();
                    continue 'anew;
                }
                tokio::time::sleep(pause.next().unwrap_or(MAX_PAUSE)).await;
                // The watcher starts over by itself only if it is told so within a watch.
                if kind == Kind::Gone && !matches!(error, watcher::Error::WatchError(_)) {
                    continue 'anew;
                }
            }
            return;
        }
    }
}

fn event_of<K: Resource, T>(event: watcher::Event<K>, slim: &impl Fn(&K) -> Option<T>) -> Event<T> {
    let name = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    match event {
        watcher::Event::Init => Event::Listing,
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            Event::Set(name(&object), slim(&object).map(Box::new))
        }
        watcher::Event::Delete(object) => Event::Gone(name(&object)),
        watcher::Event::InitDone => Event::Listed,
    }
}
