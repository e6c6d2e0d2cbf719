//! Grace periods that are waited for beside everything else: a change must not wait for the end of the one before.

use tokio::task::{JoinHandle, spawn_blocking};

use crate::dataplane::Error;

/// The grace period that runs, if one does.
#[derive(Debug, Default)]
pub(super) struct Grace {
    running: Option<JoinHandle<Result<(), Error>>>,
}

impl Grace {
    /// Whether one runs.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins one.
    pub(super) fn begin(&mut self, wait: impl FnOnce() -> Result<(), Error> + Send + 'static) {
        self.running = Some(spawn_blocking(wait));
    }

    /// Waits for the end of the one that runs; for ever if none does.
    pub(super) async fn over(&mut self) -> Result<(), Error> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = running.await;
        self.running = None;
        result.map_err(|error| Error::Kernel { what: "wait for a grace period".into(), source: Box::new(error) })?
    }
}
