//! Reports of several runs as one: ninety minutes in which a machine does nothing else are had more easily in pieces.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What runs must have in common.
const SAME: [&str; 6] = ["trace", "seconds", "requests", "meanWorkSeconds", "asked", "podCpus"];

/// The first report with the turns of all of them, in the order of the files; as JSON.
pub(super) fn together(files: &[PathBuf]) -> Result<String> {
    let mut reports = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let report = serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))?;
        reports.push((file.display().to_string(), report));
    }
    Ok(serde_json::to_string_pretty(&join(reports)?)?)
}

/// The same of reports with their names.
fn join(reports: Vec<(String, Value)>) -> Result<Value> {
    let mut reports = reports.into_iter();
    let (first, mut all) = reports.next().context("no report")?;
    for (name, mut report) in reports {
        for key in SAME {
            ensure!(report[key] == all[key], "{name} has another `{key}` than {first}: they do not go together");
        }
        let more = report["outcomes"].as_array_mut().with_context(|| format!("{name} has no `outcomes`"))?;
        all["outcomes"].as_array_mut().with_context(|| format!("{first} has no `outcomes`"))?.append(more);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(trace: &str, outcome: &str) -> Value {
        json!({"trace": trace, "seconds": 600.0, "outcomes": [outcome]})
    }

    #[test]
    fn turns_of_the_same_load_are_put_together() {
        let one = ("one.json".to_owned(), report("code", "a"));
        let two = |trace| ("two.json".to_owned(), report(trace, "b"));
        assert_eq!(join(vec![one.clone(), two("code")]).unwrap()["outcomes"], json!(["a", "b"]));
        let error = join(vec![one.clone(), two("conversation")]).unwrap_err().to_string();
        assert_eq!(error, "two.json has another `trace` than one.json: they do not go together");
        let error = join(vec![one, ("three.json".to_owned(), json!({"trace": "code", "seconds": 600.0}))]).unwrap_err();
        assert_eq!(error.to_string(), "three.json has no `outcomes`");
    }
}
