//! The benchmark's numbers as a table: a row for each case, the subjects beside each other, and the ratios with their targets.

use comfy_table::{Table, presets};
use serde::Deserialize;

/// What the measuring program prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    cases: Vec<Case>,
    ratios: Vec<Ratio>,
}

/// One case of one subject.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    case: String,
    subject: String,
    median_ns: f64,
    min_ns: f64,
    max_ns: f64,
    rounds: usize,
}

/// A ratio with the most it should be.
#[derive(Debug, Deserialize)]
struct Ratio {
    name: String,
    median: f64,
    min: f64,
    max: f64,
    target: f64,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut cases = Table::new();
        cases.load_style(presets::NOTHING).set_header(["CASE", "SUBJECT", "MEDIAN NS", "MIN", "MAX", "ROUNDS"]);
        let mut last = "";
        for case in &self.cases {
            let name = if case.case == last { "" } else { &case.case };
            let [median, min, max] = [case.median_ns, case.min_ns, case.max_ns].map(|ns| format!("{ns:.0}"));
            cases.add_row([name, &case.subject, &median, &min, &max, &case.rounds.to_string()]);
            last = &case.case;
        }
        let mut ratios = Table::new();
        ratios.load_style(presets::NOTHING).set_header(["RATIO", "MEDIAN", "MIN", "MAX", "TARGET", ""]);
        for ratio in &self.ratios {
            let [median, min, max] = [ratio.median, ratio.min, ratio.max].map(|value| format!("{value:.2}"));
            let target = format!("<= {}", ratio.target);
            ratios.add_row([&ratio.name, &median, &min, &max, &target, ratio.verdict()]);
        }
        format!("{cases}\n\n{ratios}")
    }
}

impl Ratio {
    fn verdict(&self) -> &'static str {
        if self.median <= self.target { "met" } else { "missed" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{
        "cases": [
            {"case": "xdp: UDP", "subject": "weir", "medianNs": 200.4, "minNs": 190.0, "maxNs": 300.6, "rounds": 11},
            {"case": "xdp: UDP", "subject": "stateless-nat", "medianNs": 99.5, "minNs": 90.0, "maxNs": 101.0, "rounds": 11}
        ],
        "ratios": [
            {"name": "new", "median": 1.0, "min": 0.9, "max": 1.2, "target": 1.0},
            {"name": "old", "median": 0.41, "min": 0.3, "max": 0.5, "target": 0.4}
        ]
    }"#;

    #[test]
    fn subjects_of_one_case_stand_below_each_other() {
        let table = serde_json::from_str::<Report>(JSON).unwrap().table();
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["xdp:", "UDP", "weir", "200", "190", "301", "11"]);
        assert_eq!(words[2], ["stateless-nat", "100", "90", "101", "11"]);
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_median() {
        let table = serde_json::from_str::<Report>(JSON).unwrap().table();
        let row = |name| table.lines().map(str::trim).find(|line| line.starts_with(name)).unwrap();
        assert!(row("new").ends_with("<= 1    met"), "{table}");
        assert!(row("old").ends_with("<= 0.4  missed"), "{table}");
    }
}
