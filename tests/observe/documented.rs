//! docs/metrics.md and the metrics are the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::stage;

/// Type, unit, labels of each documented metric: `| \`name\` | type | unit | labels | meaning |`.
fn documented() -> Result<BTreeMap<String, [String; 3]>> {
    let text = std::fs::read_to_string(stage::file("docs/metrics.md")).context("docs/metrics.md")?;
    let row = |line: &str| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let name = cells.first()?.strip_suffix('`')?.to_owned();
        Some((name, [cells.get(1)?.clone(), cells.get(2)?.clone(), cells.get(3)?.clone()]))
    };
    Ok(text.lines().filter_map(row).filter(|(name, _)| name.starts_with("weir_")).collect())
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() -> Result<()> {
    let documented: BTreeSet<_> = documented()?.into_keys().collect();
    assert_eq!(documented, stage::shared()?.metrics()?);
    Ok(())
}

#[test]
fn labels_and_types_are_as_documented() -> Result<()> {
    let prometheus = &stage::shared()?.prometheus;
    for (name, [kind, _, labels]) in documented()? {
        let suffix = if kind == "histogram" { "_count" } else { "" };
        let series = prometheus.query(&format!("{name}{suffix}"))?;
        let series = series.first().with_context(|| name.clone())?;
        let found: BTreeSet<_> =
            series.label_names().into_iter().filter(|label| !["job", "instance"].contains(label)).collect();
        let expected: BTreeSet<_> = labels.split([',', ' ', '`', '-']).filter(|label| !label.is_empty()).collect();
        assert_eq!(found, expected, "{name}");
        // The OpenMetrics form describes families: without the end of counters and of infos.
        let family = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(&name);
        let metadata = prometheus.api("metadata", &[("metric", family)])?;
        let told = metadata[family][0]["type"].as_str().unwrap_or_default().to_owned();
        assert_eq!(told, kind, "{name}: {metadata}");
    }
    Ok(())
}
