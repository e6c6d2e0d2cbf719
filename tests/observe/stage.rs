//! A Prometheus that scrapes an agent and a coordinator whose numbers grow, with the alerts: one for all tests. The end of the program ends it.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Once, OnceLock},
    time::Duration,
};

use anyhow::{Result, anyhow};
use tokio::runtime::Runtime;
use weir_tests::{
    alerts, grafana,
    process::wait_until,
    prometheus::{Job, Prometheus},
};

use crate::sample;

/// How long rates may take to have a value.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) prometheus: Prometheus,
    _runtime: Runtime,
    folder: tempfile::TempDir,
}

static STAGE: OnceLock<Result<Stage, String>> = OnceLock::new();
static FIRST: Once = Once::new();

/// Nothing static is dropped.
extern "C" fn leave() {
    if let Some(Ok(stage)) = STAGE.get() {
        drop(stage.prometheus.kill());
        drop(fs::remove_dir_all(stage.folder.path()));
    }
}

/// Started by the first test.
pub(crate) fn shared() -> Result<&'static Stage> {
    // SAFETY: the function is safe to call when the program ends: it uses no value of a thread.
    FIRST.call_once(|| _ = unsafe { libc::atexit(leave) });
    let start = || Stage::start().map_err(|error| format!("{error:#}"));
    STAGE.get_or_init(start).as_ref().map_err(|error| anyhow!("{error}"))
}

impl Stage {
    fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let folder = tempfile::tempdir()?;
        let agent = sample::serve_agent(&runtime, true)?.to_string();
        let coordinator = sample::serve_coordinator(&runtime)?.to_string();
        let jobs = [
            Job { name: "weir-agent", targets: vec![(agent, "node-1".to_owned())] },
            Job { name: "weir-coordinator", targets: vec![(coordinator, "coordinator-1".to_owned())] },
        ];
        let prometheus = Prometheus::start(folder.path(), &jobs, &[&alerts::file()], None)?;
        prometheus.wait_for_targets()?;
        wait_until(PATIENCE, || {
            let rates = prometheus.query("rate(weir_backend_connections_total[4s])")?;
            Ok(rates.iter().any(|series| series.value > 0.0))
        })?;
        Ok(Self { prometheus, _runtime: runtime, folder })
    }

    /// The names of all series, with the ends that Prometheus adds to histograms cut off.
    pub(crate) fn metrics(&self) -> Result<BTreeSet<String>> {
        let names = self.prometheus.api("label/__name__/values", &[])?;
        let names = names.as_array().cloned().unwrap_or_default();
        let names = names.iter().filter_map(|name| name.as_str()).filter(|name| name.starts_with("weir_"));
        Ok(names.map(|name| grafana::plain(name).to_owned()).collect())
    }
}

/// A file of the clone.
pub(crate) fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
