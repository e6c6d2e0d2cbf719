//! One row for each way, as Markdown; where a way had several turns, their mean and their range.

use comfy_table::{Table, presets};

use super::{Outcome, Report};

/// The table, below what was measured and on what.
pub(super) fn text(report: &Report) -> String {
    let (seconds, requests, work) = (report.seconds, report.requests, report.mean_work_seconds * 1e3);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(
        [""].into_iter().chain(COLUMNS.iter().map(|column| column.title)).map(str::to_owned).collect::<Vec<_>>(),
    );
    for (name, turns) in report.by_way() {
        let cells = COLUMNS.iter().map(|column| cell(column, &turns));
        table.add_row([name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    format!(
        "{seconds:.0} s of {}, {requests} requests of {work:.0} ms of CPU on average; pods of {} CPU; {}\n\n{table}",
        report.trace, report.pod_cpus, report.machine
    )
}

struct Column {
    title: &'static str,
    digits: usize,
    value: fn(&Outcome) -> Option<f64>,
}

const COLUMNS: &[Column] = &[
    Column { title: "p50, s", digits: 2, value: |turn| turn.p50 },
    Column { title: "p95, s", digits: 2, value: |turn| turn.p95 },
    Column { title: "p99, s", digits: 2, value: |turn| turn.p99 },
    Column { title: "requests/s", digits: 2, value: |turn| Some(turn.throughput) },
    Column { title: "failed", digits: 0, value: |turn| Some(turn.failed as f64) },
    Column { title: "utilisation, %", digits: 0, value: |turn| Some(turn.mean_utilisation * 100.0) },
    Column { title: "of the busiest, %", digits: 0, value: |turn| Some(turn.busiest_utilisation * 100.0) },
    Column { title: "replica-seconds", digits: 0, value: |turn| Some(turn.replica_seconds) },
    Column { title: "longest shortage, s", digits: 0, value: |turn| Some(turn.longest_shortage) },
    Column { title: "all shortage, s", digits: 0, value: |turn| Some(turn.shortage) },
    Column { title: "changes", digits: 0, value: |turn| Some(turn.actions as f64) },
];

fn cell(column: &Column, turns: &[&Outcome]) -> String {
    let values: Vec<f64> = turns.iter().filter_map(|turn| (column.value)(turn)).collect();
    if values.is_empty() {
        return "-".to_owned();
    }
    let digits = column.digits;
    let shown = |value: f64| format!("{value:.digits$}");
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let least = shown(values.iter().copied().fold(f64::INFINITY, f64::min));
    let most = shown(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    if least == most { shown(mean) } else { format!("{} ({least} - {most})", shown(mean)) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two ways, the first with two turns.
    pub(in super::super) fn report() -> Report {
        let outcome = |name: &str, p50: f64| {
            serde_json::json!({"name": name, "failed": 0, "p50": p50, "p95": 2.0, "p99": null, "throughput": 3.0,
                "meanUtilisation": 0.5, "busiestUtilisation": 0.755, "replicaSeconds": 1200.0, "shortage": 30.0, "longestShortage": 12.0,
                "actions": 4, "ready": [1, 1, 2, 3], "p95ByWindow": [0.5, null, 2.0]})
        };
        let outcomes = [outcome("kube-proxy", 1.0), outcome("Weir", 0.5), outcome("kube-proxy", 2.0)];
        let machine = serde_json::json!({"cpu": "C", "cpus": 2, "memoryMib": 4, "kernel": "6.18", "load": 0.5});
        let report = serde_json::json!({"machine": machine, "trace": "code", "seconds": 30.0, "requests": 90, "meanWorkSeconds": 0.095,
            "asked": [0.0, 0.2, 0.4, 0.6], "podCpus": 0.2, "outcomes": outcomes});
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn turns_are_a_mean_with_a_range() {
        let text = text(&report());
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(row("| kube-proxy").contains("1.50 (1.00 - 2.00)"), "{text}");
        assert!(row("| Weir").contains("| 0.50 "), "{text}");
        assert!(row("| Weir").contains("| - "), "a quantile of nothing: {text}");
        assert!(text.starts_with("30 s of code, 90 requests of 95 ms"), "{text}");
    }
}
