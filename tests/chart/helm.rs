//! Helm, and the objects that it makes.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::cluster::programs::{KUBERNETES, Programs};

/// The chart.
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/weir");

/// Runs Helm.
pub(crate) fn helm(arguments: &[&str]) -> Result<Output> {
    let program = Programs::expected_folder()?.join("helm");
    ensure!(program.is_file(), "{} is missing: `cargo xtask test chart` builds it", program.display());
    Command::new(&program).args(arguments).output().with_context(|| program.display().to_string())
}

/// `helm template` with values set.
pub(crate) fn template(values: &[&str]) -> Result<Output> {
    let version = format!("--kube-version={KUBERNETES}");
    let set: Vec<_> = values.iter().map(|value| format!("--set-json={value}")).collect();
    let arguments: Vec<_> = ["template", "weir", CHART, "--namespace=kube-system", &version]
        .into_iter()
        .chain(set.iter().map(String::as_str))
        .collect();
    helm(&arguments)
}

/// The objects that the chart makes.
pub(crate) fn objects(values: &[&str]) -> Result<Vec<Value>> {
    let output = template(values)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("Helm's output")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// The only object of a kind and a name.
pub(crate) fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let first = found.next().with_context(|| format!("no {kind} {name}"))?;
    ensure!(found.next().is_none(), "two of {kind} {name}");
    Ok(first)
}

/// A list of texts.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str()).map(str::to_owned).collect()
}
