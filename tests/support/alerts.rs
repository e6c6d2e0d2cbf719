//! The alerts of the chart, and whether what they read exists.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{process::wait_until, prometheus::Prometheus};

/// How long Prometheus may take to evaluate all rules once; not a measurement.
const PATIENCE: Duration = Duration::from_secs(30);
/// Comparisons as they stand in the alerts, the longer ones first.
const COMPARISONS: [&str; 3] = [" >= ", " == ", " > "];

/// The file of rules that has them.
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/weir/files/alerts.yaml")
}

/// An alert as Prometheus has it.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub expression: String,
    /// As Prometheus tells it.
    pub json: Value,
}

/// The alerts that a Prometheus has, after it evaluated each.
pub fn alerts(prometheus: &Prometheus) -> Result<Vec<Alert>> {
    let mut rules = Vec::new();
    wait_until(PATIENCE, || {
        let groups = prometheus.api("rules", &[])?["groups"].as_array().cloned().unwrap_or_default();
        rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect();
        Ok(!rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown"))
    })
    .context("Prometheus evaluates no rules")?;
    Ok(rules.into_iter().map(Alert::read).collect())
}

impl Alert {
    fn read(json: Value) -> Self {
        let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
        Self { name: text("name"), expression: text("query"), json }
    }

    /// Whether Prometheus evaluates it, its inputs exist and have the labels that its texts name, and it does not fire if that would be
    /// critical (others may, on a busy machine).
    pub fn check(&self, prometheus: &Prometheus) -> Result<()> {
        let (health, error) = (&self.json["health"], &self.json["lastError"]);
        ensure!(health == "ok" && error.is_null(), "{}: {error}", self.name);
        let inputs = as_bool(&self.expression);
        let series = prometheus.query(&inputs).with_context(|| self.name.clone())?;
        ensure!(!series.is_empty(), "{}: {inputs} has no series to judge", self.name);
        let wanted = self.labels();
        for one in &series {
            let found: BTreeSet<_> = one.label_names().into_iter().map(str::to_owned).collect();
            ensure!(wanted.is_subset(&found), "{}: needs the labels {wanted:?}, {inputs} has {found:?}", self.name);
        }
        let critical = self.json["labels"]["severity"] == "critical";
        let fires = series.iter().any(|one| one.value != 0.0);
        ensure!(!(critical && fires), "{} fires: {series:?}", self.name);
        Ok(())
    }

    /// The labels that its summary and description name.
    fn labels(&self) -> BTreeSet<String> {
        let texts = self.json["annotations"].as_object().into_iter().flatten();
        let texts = texts.filter_map(|(_, text)| text.as_str());
        let of_text = |text: &str| -> Vec<String> {
            let words = text.split("$labels.").skip(1);
            words
                .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned))
                .collect()
        };
        texts.flat_map(of_text).collect()
    }
}

/// An alert's expression that gives 0 where the alert would give nothing.
fn as_bool(expression: &str) -> String {
    COMPARISONS
        .iter()
        .fold(expression.to_owned(), |text, comparison| text.replace(comparison, &format!("{comparison}bool ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fire_is_seen_too() {
        let cases = [
            ("up == 0", "up == bool 0"),
            ("sum(a) == 0 or absent(a)", "sum(a) == bool 0 or absent(a)"),
            ("max(a) >= max(b)", "max(a) >= bool max(b)"),
        ];
        for (expression, wanted) in cases {
            assert_eq!(as_bool(expression), wanted);
        }
    }

    #[test]
    fn labels_of_texts() {
        let json = serde_json::json!({"annotations": {"summary": "{{ $labels.instance }}: {{ $labels.reason }}"}});
        assert_eq!(Alert::read(json).labels(), ["instance".to_owned(), "reason".to_owned()].into());
    }
}
