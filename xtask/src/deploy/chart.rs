//! The chart as one plain manifest, for those who have no Helm.

use anyhow::Result;
use weir_tests::cluster::programs::KUBERNETES;
use xshell::cmd;

use super::Made;
use crate::{cluster, shell};

const HEADER: &str = "\
# Weir without Helm: kubectl apply -f weir.yaml
#
# Made from deploy/helm/weir with its default values by `cargo xtask deploy render`. docs/install.md says what to change for what, and
# how to uninstall.
";

/// Where it is installed: a namespace that every cluster has, and that may have pods of the host's network.
const NAMESPACE: &str = "kube-system";

/// `deploy/weir.yaml`.
pub(super) fn manifest() -> Result<Made> {
    let shell = shell::in_root()?;
    let helm = cluster::installed("helm")?;
    let rendered = cmd!(
        shell,
        "{helm} template weir deploy/helm/weir --namespace {NAMESPACE} --kube-version {KUBERNETES} --no-hooks"
    );
    Ok(Made::new("deploy/weir.yaml", format!("{HEADER}{}\n", rendered.quiet().read()?)))
}
