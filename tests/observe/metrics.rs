//! The metrics as Prometheus' own tools see them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;
use weir_tests::prometheus::{self, Job, Prometheus};

use crate::sample;

#[test]
fn promtool_has_nothing_to_say_about_the_classic_form() -> Result<()> {
    let runtime = Runtime::new()?;
    let text = prometheus::get(sample::serve_agent(&runtime, false)?, "/metrics")?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool; install the package prometheus")?;
    promtool.stdin.take().context("promtool has no input")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    Ok(())
}

#[test]
fn a_real_prometheus_scrapes_the_open_metrics_form() -> Result<()> {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let target = sample::serve_agent(&runtime, false)?.to_string();
    let jobs = [Job { name: "weir-agent", targets: vec![(target, "node-1".to_owned())] }];
    let prometheus = Prometheus::start(folder.path(), &jobs, &[], None)?;
    prometheus.wait_for_targets()?;
    for (query, expected) in [
        ("weir_build_info", 1.0),
        ("sum(weir_backend_active_connections)", 9.0),
        ("sum(weir_backend_bytes_total)", 26100.0),
        ("count(weir_backend_packets_total)", 6.0),
        ("sum(weir_dropped_packets_total)", 9.0),
        ("weir_flow_table_capacity", 4096.0),
        ("weir_counter_repairs_total", 0.0),
        ("weir_sync_duration_seconds_count", 1.0),
        ("weir_policy_desired_replicas", 3.0),
        ("weir_signal", 1500.5),
    ] {
        let series = prometheus.query(query)?;
        assert_eq!(series.first().map(|series| series.value), Some(expected), "{query}: {series:?}");
    }
    let metadata = prometheus.api("metadata", &[("metric", "weir_sync_duration_seconds")])?;
    let unit = &metadata["weir_sync_duration_seconds"][0]["unit"];
    assert_eq!(unit, "seconds", "only the OpenMetrics form tells units: {metadata}");
    Ok(())
}
