//! A client of the cluster's API server, for the benchmarks that need more of it than kubectl.

use std::future::Future;

use anyhow::Result;
use kube::Client;
use lb_agent::discovery::kube::connect;
use weir_tests::cluster::Cluster;

/// Does something with the API server, from where it is.
pub(crate) fn talk<T: Send, F>(cluster: &Cluster, work: impl FnOnce(Client) -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let kubeconfig = cluster.name().kubeconfig();
    cluster.fabric().enter(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let config = connect::configuration(Some(&kubeconfig)).await?;
            work(Client::try_from(config)?).await
        })
    })?
}
