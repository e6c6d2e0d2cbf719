//! The dashboards of the chart, and whether their queries give what their panels show.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::prometheus::Prometheus;

/// What a user has chosen: the values of a dashboard's variables, and of Grafana's own `$__rate_interval`.
pub type Chosen<'a> = [(&'a str, &'a str)];

/// A query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// Dashboard and panel, for messages.
    pub place: String,
    /// The query, with variables.
    pub expression: String,
    /// How its series are named.
    pub legend: String,
}

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Its file's name.
    pub file: String,
    /// As Grafana reads it.
    pub json: Value,
}

/// All dashboards.
pub fn dashboards() -> Result<Vec<Dashboard>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/weir/files/dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let json = serde_json::from_slice(&fs::read(&path)?).with_context(|| file.clone())?;
        found.push(Dashboard { file, json });
    }
    ensure!(!found.is_empty(), "no dashboards in {}", folder.display());
    Ok(found)
}

/// Whether every variable has values and every query gives what its panel shows; says all that do not.
pub fn check(dashboards: &[Dashboard], prometheus: &Prometheus, chosen: &Chosen<'_>) -> Result<()> {
    let variables = dashboards.iter().map(|dashboard| dashboard.check_variables(prometheus, chosen));
    let queries = dashboards.iter().flat_map(Dashboard::queries).map(|query| query.check(prometheus, chosen));
    let wrong = variables.chain(queries).filter_map(|result| result.err().map(|error| format!("{error:#}")));
    let wrong: Vec<_> = wrong.collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

impl Dashboard {
    /// All queries of its panels.
    pub fn queries(&self) -> Vec<Query> {
        let panels = self.json["panels"].as_array().into_iter().flatten();
        let of_panel = |panel: &Value| -> Vec<Query> {
            let targets = panel["targets"].as_array().into_iter().flatten();
            let query = |target: &Value| Query {
                place: format!("{}: {}", self.file, text(&panel["title"])),
                expression: text(&target["expr"]),
                legend: text(&target["legendFormat"]),
            };
            targets.map(query).collect()
        };
        panels.flat_map(of_panel).collect()
    }

    /// The selector and the label of each variable that is read from Prometheus.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = self.json["templating"]["list"].as_array().into_iter().flatten();
        let read = |variable: &Value| {
            let query = variable["query"]["query"].as_str()?.strip_prefix("label_values(")?.strip_suffix(')')?;
            let (selector, label) = query.rsplit_once(", ")?;
            Some((selector.to_owned(), label.to_owned()))
        };
        variables.filter_map(read).collect()
    }

    /// Whether each variable has the chosen value among its values.
    pub fn check_variables(&self, prometheus: &Prometheus, chosen: &Chosen<'_>) -> Result<()> {
        for (selector, label) in self.variables() {
            let selector = substitute(&selector, chosen);
            let values = prometheus.api(&format!("label/{label}/values"), &[("match[]", &selector)])?;
            ensure!(
                values.as_array().is_some_and(|values| !values.is_empty()),
                "{}: ${label} has no values",
                self.file
            );
        }
        Ok(())
    }
}

impl Query {
    /// The query with what was chosen.
    pub fn with(&self, chosen: &Chosen<'_>) -> String {
        substitute(&self.expression, chosen)
    }

    /// Whether it gives series with a number, and exactly the labels that its legend names.
    pub fn check(&self, prometheus: &Prometheus, chosen: &Chosen<'_>) -> Result<()> {
        let query = self.with(chosen);
        ensure!(!query.contains('$'), "{}: a variable has no value in {query}", self.place);
        let series = prometheus.query(&query).with_context(|| self.place.clone())?;
        ensure!(!series.is_empty(), "{}: {query} gives nothing", self.place);
        let expected = legend_labels(&self.legend);
        for one in &series {
            let found: BTreeSet<_> = one.label_names().into_iter().collect();
            if found != expected {
                bail!(
                    "{}: {query} gives labels {found:?}, the legend {:?} needs {expected:?}",
                    self.place,
                    self.legend
                );
            }
        }
        ensure!(series.iter().any(|one| one.value.is_finite()), "{}: {query} gives no number: {series:?}", self.place);
        Ok(())
    }
}

fn substitute(text: &str, chosen: &Chosen<'_>) -> String {
    chosen.iter().fold(text.to_owned(), |text, (variable, value)| text.replace(variable, value))
}

/// The labels that a legend names, in `{{}}`.
fn legend_labels(legend: &str) -> BTreeSet<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(label, _)| label).collect()
}

/// The names of Weir's metrics in a query, without what Prometheus adds to histograms.
pub fn metrics(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("weir_")).map(|word| plain(word).to_owned()).collect()
}

/// A metric's name without what Prometheus adds to histograms.
pub fn plain(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].into_iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_metrics_are_found() {
        assert_eq!(legend_labels("{{namespace}}/{{service}}"), ["namespace", "service"].into());
        assert!(legend_labels("new connections").is_empty());
        let query = r#"rate(weir_sync_duration_seconds_bucket{instance=~"$instance"}[5m]) / weir_problems"#;
        assert_eq!(metrics(query), ["weir_sync_duration_seconds".to_owned(), "weir_problems".to_owned()].into());
    }
}
