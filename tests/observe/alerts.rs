//! The alerts: Prometheus understands and evaluates them, promtool sees them fire and keep still, and what they read exists.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{alerts, grafana, process::wait_until};

use crate::stage;

/// How long alerts that began before the first scrape may take to end; not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn promtool_finds_no_fault() -> Result<()> {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", &alerts::file().display().to_string()])
}

#[test]
fn they_fire_when_they_should_and_not_else() -> Result<()> {
    promtool(&["test", "rules", &stage::file("tests/observe/alerts.yaml").display().to_string()])
}

#[test]
fn each_is_tested() -> Result<()> {
    let tests = std::fs::read_to_string(stage::file("tests/observe/alerts.yaml"))?;
    for alert in alerts::alerts(&stage::shared()?.prometheus)? {
        let cases = tests.matches(&format!("alertname: {}\n", alert.name)).count();
        assert!(cases >= 2, "{}: a case in which it fires and one in which it does not", alert.name);
    }
    Ok(())
}

#[test]
fn of_a_healthy_node_none_fires() -> Result<()> {
    let stage = stage::shared()?;
    let mut active = Vec::new();
    wait_until(PATIENCE, || {
        active = alerts::alerts(&stage.prometheus)?;
        active.retain(|alert| alert.json["state"] != "inactive");
        Ok(active.is_empty())
    })
    .with_context(|| format!("active: {active:?}"))
}

#[test]
fn prometheus_evaluates_them_and_what_they_read_exists() -> Result<()> {
    let stage = stage::shared()?;
    let metrics = stage.metrics()?;
    let alerts = alerts::alerts(&stage.prometheus)?;
    ensure!(alerts.len() > 5, "only {} alerts", alerts.len());
    for alert in alerts {
        alert.check(&stage.prometheus)?;
        let read = grafana::metrics(&alert.expression);
        assert!(read.is_subset(&metrics), "{}: {read:?}", alert.name);
        for annotation in ["summary", "description"] {
            assert!(alert.json["annotations"][annotation].is_string(), "{}: no {annotation}", alert.name);
        }
    }
    Ok(())
}

fn promtool(arguments: &[&str]) -> Result<()> {
    let output =
        Command::new("promtool").args(arguments).output().context("start promtool; install the package prometheus")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
