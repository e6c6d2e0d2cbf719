//! The start: everything that can fail without the kernel is tried before the kernel is touched.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{AgentError, delivery::decide, source::Source};
use crate::{
    config::RunConfig,
    discovery::{build::Setting, node_ports::NodeInfo},
    model::Model,
    node::{self, Follower, NodeState, NodeView, check_forwarding, netfilter::Netfilter},
    telemetry::http::{self, HttpError},
};

/// Everything that is checked, read and reserved before the kernel is touched.
pub struct Prepared {
    pub(super) config: RunConfig,
    pub(super) follower: Follower,
    pub(super) netfilter: Netfilter,
    pub(super) source: Source,
    pub(super) view: NodeView,
    pub(super) metrics: Option<TcpListener>,
    pub(super) healthz: Option<TcpListener>,
}

impl Prepared {
    /// Checks the configuration against the node, finds out where the model comes from, and reserves the ports of metrics and health.
    pub async fn new(config: RunConfig) -> Result<Self, AgentError> {
        let (follower, events) = Follower::start().await?;
        let view = NodeView::new(&config.node_name, &config.interfaces, NodeState::from_events(events));
        view.check_uplinks()?;
        let source = Source::start(&config, &view).await?;
        let netfilter = Netfilter::start(&config.proc).await;
        let metrics = listen("--metrics-listen", config.metrics_listen).await?;
        let healthz = listen("--healthz-listen", config.healthz_listen).await?;
        Ok(Self { config, follower, netfilter, source, view, metrics, healthz })
    }

    /// Whether packets for local backends go up the stack at first.
    pub fn stack(&self) -> bool {
        decide(self.config.delivery, self.netfilter.found().as_deref()).stack
    }
}

async fn listen(flag: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, HttpError> {
    match address {
        Some(address) => http::bind(flag, address).await.map(Some),
        None => Ok(None),
    }
}

/// What the model of files depends on besides the files.
pub(super) fn setting<'a>(config: &'a RunConfig, node: &'a NodeView, info: &'a NodeInfo) -> Setting<'a> {
    Setting {
        node,
        info,
        node_ports: &config.nodeport_addresses,
        default_algorithm: config.default_algorithm,
        pod_weight: &|_, _| None,
    }
}

/// Whether the kernel forwards the families that the model's frontends have.
pub(super) fn forwarding(model: &Model, config: &RunConfig) -> Result<(), node::Error> {
    let has = |v4: bool| model.services.values().any(|port| port.frontends.keys().any(|key| key.addr.is_v4() == v4));
    check_forwarding(&config.proc, has(true), has(false))
}
