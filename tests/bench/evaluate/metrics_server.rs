//! The real metrics server, as its own manifest installs it, behind the real aggregation of the API server.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use weir_tests::{
    cluster::{
        Cluster,
        layout::{API_PORT, FABRIC4},
    },
    image::Image,
};

/// Names the program.
const VARIABLE: &str = "METRICS_SERVER";
const IMAGE: &str = "weir.dev/metrics-server:1";

/// Its image.
pub(crate) fn image() -> Result<Image> {
    let program: PathBuf = env::var_os(VARIABLE).with_context(|| format!("{VARIABLE} is not set"))?.into();
    Image::new(IMAGE, &["/metrics-server"]).users().program("/metrics-server", &program)
}

/// Installs it and waits until the API server takes its answers.
pub(crate) fn install(cluster: &Cluster) -> Result<()> {
    let manifest = [("IMAGE", IMAGE), ("API_ADDRESS", FABRIC4), ("API_PORT", &API_PORT.to_string())]
        .iter()
        .fold(include_str!("metrics-server.yaml").to_owned(), |text, (name, value)| {
            text.replace(&format!("\"{name}\""), &format!("\"{value}\""))
        });
    cluster.apply(&manifest)?;
    let available = ["wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=120s"];
    cluster.kubectl_ok(&available).map(drop).with_context(|| {
        let logs = ["--namespace=kube-system", "logs", "--selector=k8s-app=metrics-server", "--tail=20"];
        cluster.kubectl_ok(&logs).unwrap_or_else(|error| error.to_string())
    })
}
