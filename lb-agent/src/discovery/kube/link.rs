//! How a watch is doing: whether the API server answers it, when it was last heard, and what is wrong.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, DynBody},
};
use tokio::time::Instant;
use tower::{ServiceExt, layer::layer_fn, util::BoxService};

use super::explain::Trouble;

/// How a watch is doing. What it says is logged where it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Since when the API server answers it; none while it does not.
    pub up: Option<Instant>,
    /// When it last said anything, bookmarks among it.
    pub heard: Option<Instant>,
    /// Since when it does not answer.
    pub down: Option<Instant>,
    /// What is wrong.
    pub trouble: Option<Trouble>,
}

/// The link of one watch. Its clones are the same link.
#[derive(Clone, Debug)]
pub struct Link {
    name: &'static str,
    state: Arc<Mutex<State>>,
}

impl Link {
    /// A link that has not been heard of yet.
    pub fn new(name: &'static str) -> Self {
        let state = State { down: Some(Instant::now()), ..State::default() };
        Self { name, state: Arc::new(Mutex::new(state)) }
    }

    /// What it watches.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How it is doing.
    pub fn state(&self) -> State {
        self.with(|state| state.clone())
    }

    fn with<T>(&self, then: impl FnOnce(&mut State) -> T) -> T {
        then(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The API server has answered a request.
    pub(super) fn answered(&self) {
        self.with(|state| {
            let now = Instant::now();
            *state = State { up: state.up.or(Some(now)), heard: Some(now), down: None, trouble: None };
        });
    }

    fn heard(&self) {
        self.with(|state| state.heard = Some(Instant::now()));
    }

    /// The watch has failed. Returns how long it was up.
    pub(super) fn failed(&self, trouble: Trouble) -> Duration {
        self.with(|state| {
            state.trouble = Some(trouble);
            state.down.get_or_insert_with(Instant::now);
            state.up.take().map(|since| since.elapsed()).unwrap_or_default()
        })
    }

    /// A client whose answers this link hears of.
    pub fn client(&self, config: Config) -> Result<Client, kube::Error> {
        type Service = BoxService<Request<Body>, Response<Box<DynBody>>, tower::BoxError>;
        let link = self.clone();
        let layer = layer_fn(move |inner: Service| {
            let link = link.clone();
            inner.map_response(move |response| {
                if response.status().is_success() {
                    link.answered();
                }
                let (parts, body) = response.into_parts();
                let link = link.clone();
                let body = body.map_frame(move |frame: hyper::body::Frame<Bytes>| {
                    link.heard();
                    frame
                });
                Response::from_parts(parts, body)
            })
        });
        Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
    }
}

/// Since when at least one of these is down; none if all are up.
pub fn down_since<'a>(states: impl IntoIterator<Item = &'a State>) -> Option<Instant> {
    states.into_iter().filter_map(|state| state.down).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_knows_since_when() {
        let link = Link::new("services");
        let start = Instant::now();
        assert_eq!(down_since([&link.state()]), Some(start), "nobody has answered yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        link.answered();
        assert_eq!(down_since([&link.state()]), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(link.failed(Trouble::other("gone")), Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(link.failed(Trouble::other("still gone")), Duration::ZERO);
        assert_eq!(down_since([&link.state()]), Some(start + Duration::from_secs(4)), "since it first failed");
        link.answered();
        assert_eq!(link.state().trouble, None);
    }
}
