//! Where the model comes from: a folder of manifests, or a cluster.

use std::path::{Path, PathBuf};

use super::AgentError;
use crate::{
    config::{ConfigError, RunConfig, SourceConfig, check_snat_ports},
    discovery::{
        Objects, build,
        files::{Folder, read_folder},
        kube::{Kube, store::Local},
        node_ports::NodeInfo,
        watch::Watch,
    },
    node::NodeView,
    telemetry::SourceStatus,
};

/// A source of the model.
pub(super) enum Source {
    /// A folder of manifests.
    Files(Box<Files>),
    /// A cluster.
    Kube(Box<Kube>),
}

/// A folder of manifests, and who says when it changes.
pub(super) struct Files {
    path: PathBuf,
    watch: Watch,
    pub(super) folder: Folder,
}

impl Source {
    /// Reads the folder, or finds the cluster; checks what can be checked before the kernel is touched.
    pub(super) async fn start(config: &RunConfig, view: &NodeView) -> Result<Self, AgentError> {
        match &config.source {
            SourceConfig::Files(path) => {
                // Watched before it is read, so that no change falls between.
                let watch = Watch::new(path);
                let folder = first_look(path)?;
                let objects = folder.objects();
                check_snat_ports(config.snat_ports, &objects, &config.proc)?;
                let info = NodeInfo::without_cluster(&config.node_name, view);
                let setting = super::prepare::setting(config, view, &info);
                let (model, _) = build::build(&objects, &setting, &build::Holders::new());
                super::prepare::forwarding(&model, config)?;
                Ok(Self::Files(Box::new(Files { path: path.clone(), watch, folder })))
            }
            SourceConfig::Kube(options) => {
                check_snat_ports(config.snat_ports, &Objects::default(), &config.proc)?;
                Ok(Self::Kube(Box::new(Kube::start(options, &config.node_name).await?)))
            }
        }
    }

    /// Waits until there is something new. Cancel safe.
    pub(super) async fn changed(&mut self) {
        match self {
            Self::Files(files) => files.watch.changed().await,
            Self::Kube(kube) => kube.changed().await,
        }
    }

    /// The client of the cluster's API.
    pub(super) fn client(&self) -> Option<kube::Client> {
        match self {
            Self::Kube(kube) => Some(kube.client()),
            Self::Files(_) => None,
        }
    }

    /// How it is shown.
    pub(super) fn status(&self) -> SourceStatus {
        match self {
            Self::Kube(kube) => kube.status(),
            Self::Files(files) => SourceStatus {
                kind: "files".into(),
                location: files.path.display().to_string(),
                healthy: files.folder.problems().is_empty(),
                lag_seconds: None,
            },
        }
    }
}

impl Files {
    /// Reads the folder again. Returns whether anything in it is new.
    pub(super) fn look(&mut self) -> bool {
        self.folder.update(&self.path, read_folder(&self.path))
    }
}

/// What of the agent the model of a cluster depends on.
pub(super) fn local<'a>(config: &'a RunConfig, view: &'a NodeView) -> Local<'a> {
    Local {
        name: &config.node_name,
        view,
        node_ports: &config.nodeport_addresses,
        default_algorithm: config.default_algorithm,
        snat_ports: config.snat_ports,
    }
}

fn first_look(path: &Path) -> Result<Folder, ConfigError> {
    let mut folder = Folder::default();
    let snapshot = read_folder(path);
    if let Err(cause) = &snapshot {
        return Err(ConfigError::Manifests { path: path.to_owned(), cause: cause.clone() });
    }
    folder.update(path, snapshot);
    Ok(folder)
}
