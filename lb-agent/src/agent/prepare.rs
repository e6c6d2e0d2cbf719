//! The start: everything that can fail without the kernel is tried before the kernel is touched.

use std::collections::BTreeSet;

use tokio::net::TcpListener;

use super::AgentError;
use crate::{
    config::{ConfigError, RunConfig, check_snat_ports},
    discovery::{
        build,
        files::{Folder, read_folder},
        watch::Watch,
    },
    model::Model,
    node::{self, Netlink, NodeView, check_forwarding, check_interfaces},
    telemetry::http,
};

/// Everything that is checked, read and reserved before the kernel is touched.
pub struct Prepared {
    pub(super) config: RunConfig,
    pub(super) netlink: Netlink,
    pub(super) watch: Watch,
    pub(super) folder: Folder,
    pub(super) view: NodeView,
    pub(super) metrics: Option<TcpListener>,
}

impl Prepared {
    /// Checks the configuration against the node, reads the manifests, and reserves the port of the metrics.
    pub async fn new(mut config: RunConfig) -> Result<Self, AgentError> {
        let netlink = Netlink::open()?;
        if config.interfaces.is_empty() {
            config.interfaces = netlink.default_interfaces().await?;
        }
        check_interfaces(&config.interfaces, &netlink.interfaces().await?)?;
        // Watched before it is read, so that no change falls between.
        let watch = Watch::new(&config.manifests);
        let folder = first_look(&config)?;
        let objects = folder.objects();
        check_snat_ports(config.snat_ports, &objects, &config.proc)?;
        let backends = build::backend_addresses(&objects);
        let view = netlink.view(&config.node_name, &config.interfaces, &backends).await?;
        let (model, _) = build::build(&objects, &view, config.default_algorithm, &build::Holders::new());
        forwarding(&model, &config)?;
        let metrics = match config.metrics_listen {
            Some(address) => Some(http::bind(address).await?),
            None => None,
        };
        Ok(Self { config, netlink, watch, folder, view, metrics })
    }

    /// The interfaces clients come in by.
    pub fn uplinks(&self) -> &BTreeSet<String> {
        &self.config.interfaces
    }
}

fn first_look(config: &RunConfig) -> Result<Folder, ConfigError> {
    let mut folder = Folder::default();
    let snapshot = read_folder(&config.manifests);
    if let Err(cause) = &snapshot {
        return Err(ConfigError::Manifests { path: config.manifests.clone(), cause: cause.clone() });
    }
    folder.update(&config.manifests, snapshot);
    Ok(folder)
}

/// Whether the kernel forwards the families that the model's frontends have.
pub(super) fn forwarding(model: &Model, config: &RunConfig) -> Result<(), node::Error> {
    let has = |v4: bool| model.services.values().any(|port| port.frontends.iter().any(|key| key.addr.is_v4() == v4));
    check_forwarding(&config.proc, has(true), has(false))
}
