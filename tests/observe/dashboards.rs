//! Every query of every dashboard gives series, with the labels that its legend names.

use std::collections::BTreeSet;

use anyhow::Result;
use weir_tests::grafana::{self, Chosen, dashboards};

use crate::stage;

const CHOSEN: &Chosen<'_> =
    &[("$namespace", "shop"), ("$service", "dns"), ("$instance", ".*"), ("$__rate_interval", "4s")];

#[test]
fn every_query_gives_what_its_panel_shows() -> Result<()> {
    grafana::check(&dashboards()?, &stage::shared()?.prometheus, CHOSEN)
}

#[test]
fn dashboards_are_well_formed() -> Result<()> {
    let mut uids = BTreeSet::new();
    for dashboard in dashboards()? {
        let (file, json) = (&dashboard.file, &dashboard.json);
        assert!(uids.insert(json["uid"].to_string()), "{file}: another dashboard has this uid");
        let panels = json["panels"].as_array().cloned().unwrap_or_default();
        assert!(panels.len() > 8, "{file}");
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].to_string()).collect();
        assert_eq!(ids.len(), panels.len(), "{file}: panels of one id");
        for panel in &panels {
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{file}: {panel}");
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{file}: {panel}");
            let (x, width) = (&panel["gridPos"]["x"], &panel["gridPos"]["w"]);
            assert!(x.as_u64().zip(width.as_u64()).is_some_and(|(x, width)| x + width <= 24), "{file}: {panel}");
        }
        let defined: BTreeSet<_> = dashboard.variables().into_iter().map(|(_, label)| label).collect();
        for query in dashboard.queries() {
            let words = query.expression.split('$').skip(1);
            for used in
                words.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
            {
                assert!(used == "__rate_interval" || defined.contains(used), "{}: ${used} is not defined", query.place);
            }
        }
    }
    Ok(())
}

#[test]
fn every_metric_is_shown_or_known_not_to_be() -> Result<()> {
    /// Of one policy each, for which there is no dashboard; and what others are made of.
    const NOT_SHOWN: &[&str] = &[
        "weir_backend_packets_total",
        "weir_coordinator_agents",
        "weir_policy_desired_replicas",
        "weir_policy_forecast",
        "weir_policy_replicas",
        "weir_signal",
    ];
    let dashboards = dashboards()?;
    let queries = dashboards.iter().flat_map(|dashboard| dashboard.queries());
    let shown: BTreeSet<_> = queries.flat_map(|query| grafana::metrics(&query.expression)).collect();
    let mut metrics = stage::shared()?.metrics()?;
    metrics.retain(|metric| !NOT_SHOWN.contains(&metric.as_str()));
    assert_eq!(shown, metrics);
    Ok(())
}
