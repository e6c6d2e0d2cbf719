//! The way to the API server, and whether it knows this node.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::explain;

/// The API server has to answer a connection so soon,
const CONNECT: Duration = Duration::from_secs(5);
/// and to say something on one at least so often: it sends bookmarks every minute or a little more.
const SILENCE: Duration = Duration::from_secs(90);
/// At start it is waited for so long: without it the agent starts all the same.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many nodes are named to a user who has named none of them.
const NAMED: u32 = 5;

/// Why the agent cannot be on this cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path}: {source}; name a file that kubectl can use")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: KubeconfigError,
    },
    /// There is no kubeconfig, and this is no Pod.
    #[error("--kube: {source}; run in a Pod with a service account, or give --kubeconfig FILE")]
    InCluster {
        /// What is missing.
        source: InClusterError,
    },
    /// The client cannot be made.
    #[error("--kube: {source}; correct the kubeconfig")]
    Client {
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The cluster does not know this node.
    #[error("there is no Node {name}; --node-name must be the name of this machine's Node{known}")]
    NoNode {
        /// `--node-name`.
        name: String,
        /// The nodes that there are.
        known: String,
    },
}

/// How to reach the API server: by the kubeconfig, which may be several files as in KUBECONFIG, else as Pods do.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(|source| ConnectError::InCluster { source })?,
        Some(path) => {
            let failed = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            Config::from_custom_kubeconfig(read(path).map_err(failed)?, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // An idle connection's silence is not the server's.
    config.reset_reader_on_write = true;
    Ok(config)
}

fn read(paths: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let mut files = env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()).map(Kubeconfig::read_from);
    let first = files.next().unwrap_or_else(|| Kubeconfig::read_from(paths))?;
    files.try_fold(first, |merged, next| merged.merge(next?))
}

/// Whether the cluster has a Node of this name. An API server that does not answer is no reason not to start.
pub async fn check_node(client: &Client, name: &str) -> Result<(), ConnectError> {
    let api: Api<Node> = Api::all(client.clone());
    match tokio::time::timeout(PATIENCE, api.get_metadata_opt(name)).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err(ConnectError::NoNode { name: name.to_owned(), known: known(&api).await }),
        Ok(Err(error)) => {
            tracing::warn!("{}", explain::api_error(&error, "get", "nodes"));
            Ok(())
        }
        Err(_) => {
            tracing::warn!("the API server has not answered within {PATIENCE:?}; what the kernel holds stays in force");
            Ok(())
        }
    }
}

/// `: a, b, ...`, if we may know.
async fn known(api: &Api<Node>) -> String {
    let Ok(list) = api.list_metadata(&ListParams::default().limit(NAMED)).await else { return String::new() };
    let mut names: Vec<String> = list.items.into_iter().filter_map(|node| node.metadata.name).collect();
    if list.metadata.continue_.is_some_and(|token| !token.is_empty()) {
        names.push("...".into());
    }
    if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{server: '{server}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        )
    }

    #[tokio::test]
    async fn kubeconfigs_are_read_as_kubectl_does() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, kubeconfig("http://192.0.2.1:6443")).unwrap();
        std::fs::write(&b, kubeconfig("http://192.0.2.2:6443")).unwrap();
        let both = env::join_paths([&a, &b]).unwrap();
        let config = configuration(Some(Path::new(&both))).await.unwrap();
        assert_eq!(config.cluster_url.host(), Some("192.0.2.1"), "the first one counts");
        assert_eq!(config.read_timeout, Some(SILENCE));
        let error = configuration(Some(&dir.path().join("none"))).await.unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig ") && error.contains("; name a file"), "{error}");
    }
}
