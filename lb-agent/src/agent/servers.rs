//! Who answers others while the agent runs: the control socket, metrics, and the proxy's health.

use tokio::{net::TcpListener, task::JoinHandle};

use crate::telemetry::{Subscriber, control::Control, http, proxy_health};

/// The tasks that answer others; they end with this.
pub(super) struct Servers(Vec<JoinHandle<()>>);

impl Servers {
    /// Starts them.
    pub(super) fn start(
        (control, cluster): (Control, Option<kube::Client>),
        metrics: Option<TcpListener>,
        healthz: Option<TcpListener>,
        snapshots: &Subscriber,
    ) -> Self {
        let subscriber = snapshots.clone();
        let mut tasks = vec![tokio::spawn(async move {
            if let Err(error) = control.serve(subscriber, cluster).await {
                tracing::error!(%error, "the control socket has ended");
            }
        })];
        if let Some(listener) = metrics {
            let subscriber = snapshots.clone();
            tasks.push(tokio::spawn(async move {
                if let Err(error) = http::serve(listener, subscriber).await {
                    tracing::error!("{error}");
                }
            }));
        }
        if let Some(listener) = healthz {
            let subscriber = snapshots.clone();
            tasks.push(tokio::spawn(async move {
                if let Err(error) = proxy_health::serve(listener, subscriber).await {
                    tracing::error!("{error}");
                }
            }));
        }
        Self(tasks)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}
