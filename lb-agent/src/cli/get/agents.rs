//! `weir get policies` and `weir get nodes`: what the running agent answers. Its items are passed on as they are in JSON and YAML.

use serde_json::Value;

use crate::cli::{
    agent::{brief, list, text},
    forecast,
    output::{Cell, Table, Tone},
    size,
};

/// Items of one namespace or of all, in the order of their names.
pub fn sorted(mut items: Vec<Value>, namespace: Option<&str>) -> Vec<Value> {
    items.retain(|item| namespace.is_none_or(|wanted| text(item, "namespace") == wanted));
    items.sort_by_cached_key(|item| (text(item, "namespace").to_owned(), text(item, "name").to_owned()));
    items
}

/// The table of policies.
pub fn policies(items: &[Value], wide: bool) -> Table {
    let mut header = vec!["NAMESPACE", "NAME", "SERVICE", "MODE", "MIN", "MAX", "CURRENT", "DESIRED", "STATE"];
    if wide {
        header.extend(["SIZE", "FORECAST", "COEFFICIENTS", "DECIDED", "REASON"]);
    }
    let mut table = Table::new(&header);
    table.rows = items.iter().map(|item| policy(item, wide)).collect();
    table
}

fn policy(item: &Value, wide: bool) -> Vec<Cell> {
    let fields =
        ["namespace", "name", "service", "mode", "minReplicas", "maxReplicas", "currentReplicas", "desiredReplicas"];
    let mut row: Vec<Cell> = fields.iter().map(|field| Cell::or_dash(&brief(item, field))).collect();
    row.push(policy_state(item));
    if wide {
        let decision = &item["lastDecision"];
        row.extend([
            Cell::or_dash(&size::in_short(item)),
            Cell::or_dash(&forecast::in_short(item)),
            Cell::or_dash(&forecast::coefficients(item)),
            Cell::or_dash(text(decision, "at")),
            Cell::or_dash(text(decision, "reason")),
        ]);
    }
    row
}

/// One word on whether a policy works.
fn policy_state(item: &Value) -> Cell {
    let failing = item["actuator"].get("lastError").is_some_and(|error| !error.is_null());
    match (item.get("problem").is_some_and(|problem| !problem.is_null()), failing) {
        (true, _) => Cell::toned("problem", Tone::Bad),
        (false, true) => Cell::toned("failing", Tone::Bad),
        (false, false) => Cell::toned("ok", Tone::Good),
    }
}

/// The table of nodes.
pub fn nodes(items: &[Value], wide: bool) -> Table {
    let mut header = vec!["NAME", "VERSION", "STARTED", "LAST-SYNC", "PROBLEMS"];
    if wide {
        header.extend(["INTERFACES", "SOURCES"]);
    }
    let mut table = Table::new(&header);
    table.rows = items.iter().map(|item| node(item, wide)).collect();
    table
}

fn node(item: &Value, wide: bool) -> Vec<Cell> {
    let fields = ["name", "version", "started", "lastSync"];
    let mut row: Vec<Cell> = fields.iter().map(|field| Cell::or_dash(text(item, field))).collect();
    let problems = list(item, "problems").len();
    row.push(Cell::toned(problems.to_string(), if problems == 0 { Tone::Good } else { Tone::Bad }));
    if wide {
        let joined = |field, a: &str, b: &str| {
            let pairs = list(item, field).iter().map(|part| format!("{}={}", text(part, a), text(part, b)));
            Cell::or_dash(&pairs.collect::<Vec<_>>().join(","))
        };
        let sources = list(item, "sources").iter().map(source).collect::<Vec<_>>().join(",");
        row.extend([joined("datapath", "interface", "mode"), Cell::or_dash(&sources)]);
    }
    row
}

/// `KIND=LOCATION`, and for how long it has said nothing new if it cannot.
fn source(item: &Value) -> String {
    let lag = item["lagSeconds"].as_f64().filter(|seconds| *seconds > 0.0);
    let lag = lag.map(|seconds| format!(" ({seconds:.0} s behind)")).unwrap_or_default();
    format!("{}={}{lag}", text(item, "kind"), text(item, "location"))
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_source_that_is_away_says_since_when() {
        let item = |lag: f64| json!({"kind": "kubernetes", "location": "https://a:6443/", "lagSeconds": lag});
        assert_eq!(source(&item(0.0)), "kubernetes=https://a:6443/");
        assert_eq!(source(&item(12.4)), "kubernetes=https://a:6443/ (12 s behind)");
    }

    pub(in crate::cli) fn answer() -> Vec<Value> {
        vec![
            json!({
                "namespace": "shop", "name": "web", "service": "web", "mode": "Apply", "currentReplicas": 3,
                "desiredReplicas": 4, "minReplicas": 1, "maxReplicas": 20, "problem": null,
                "actuator": {"lastError": null},
                "recommendation": {"container": "app", "cpu": "480m", "memory": "64Mi", "applied": true, "pods": 3, "resizedPods": 2,
                                   "message": "cpu: 9 of 10 samples", "lastChange": "cpu 250m -> 480m: rule grow"},
                "conditions": [{"type": "Sized", "status": "False", "reason": "Resizing", "message": "one pod after the other"}],
                "forecast": {"on": false, "why": "off: it is early", "coefficients": [{"name": "intercept", "estimate": 1.5, "standardError": 0.25}]},
                "lastDecision": {
                    "at": "2026-01-02T03:04:05Z", "reason": "busy asks for 4",
                    "inputs": [{"signal": "activeConnections", "value": 81.5, "ageSeconds": 0.4}],
                    "answers": [{"from": "rule busy", "replicas": 4, "blind": false, "why": "81.5 is above 80 for 30s"}],
                    "rejected": [{"what": "target asks for 5", "why": "not within its window"}],
                    "limitedBy": [{"field": "replicas.max", "why": "at most 20"}]
                }
            }),
            json!({"namespace": "default", "name": "web", "service": "api", "mode": "Recommend", "currentReplicas": null,
                   "desiredReplicas": null, "minReplicas": 0, "maxReplicas": 3, "problem": "no such Service"}),
        ]
    }

    #[test]
    fn policies_are_a_table() {
        let items = sorted(answer(), None);
        let expected = "\
NAMESPACE   NAME   SERVICE   MODE        MIN   MAX   CURRENT   DESIRED   STATE     SIZE                                      FORECAST           COEFFICIENTS         DECIDED                REASON
default     web    api       Recommend   0     3     -         -         problem   -                                         -                  -                    -                      -
shop        web    web       Apply       1     20    3         4         ok        app: cpu 480m, memory 64Mi, 2 of 3 pods   off: it is early   intercept=1.5±0.25   2026-01-02T03:04:05Z   busy asks for 4
";
        assert_eq!(policies(&items, true).render(false), expected);
        assert_eq!(sorted(answer(), Some("shop")).len(), 1);
    }

    #[test]
    fn a_failing_actuator_shows() {
        let item = json!({"problem": null, "actuator": {"lastError": "exit status 1"}});
        assert_eq!(policy_state(&item), Cell::toned("failing", Tone::Bad));
    }

    #[test]
    fn nodes_are_a_table() {
        let items = [json!({
            "name": "n1", "version": "0.1.0", "started": "2026-01-02T03:04:05Z", "lastSync": null, "problems": ["web.yaml: bad"],
            "datapath": [{"interface": "eth1", "mode": "tc", "why": "veth"}], "sources": [{"kind": "files", "location": "/etc/weir"}]
        })];
        let expected = "\
NAME   VERSION   STARTED                LAST-SYNC   PROBLEMS   INTERFACES   SOURCES
n1     0.1.0     2026-01-02T03:04:05Z   -           1          eth1=tc      files=/etc/weir
";
        assert_eq!(nodes(&items, true).render(false), expected);
    }
}
