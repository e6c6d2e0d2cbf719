//! The benchmark's numbers as a table: a row for each case, the subjects beside each other, and the ratios with their targets.

use comfy_table::{Table, presets};
use serde::Deserialize;

use crate::machine::Machine;

/// What the measuring program prints.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    machine: Machine,
    pub(super) cases: Vec<Case>,
    ratios: Vec<Ratio>,
    programs: Vec<Program>,
}

/// One case of one subject.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Case {
    pub(super) case: String,
    pub(super) subject: String,
    pub(super) median_ns: f64,
    pub(super) min_ns: f64,
    pub(super) max_ns: f64,
    rounds: usize,
    /// The share of new flows that found room.
    #[serde(default)]
    served: Option<f64>,
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

/// A loaded program, as the kernel describes it.
#[derive(Debug, Deserialize)]
struct Program {
    owner: String,
    name: String,
    instructions: Option<u32>,
    verified: Option<u32>,
}

impl Report {
    /// For people.
    pub(super) fn table(&self) -> String {
        let machine = format!("{}, load {:.1}", self.machine, self.machine.load);
        [machine, self.cases().to_string(), self.ratios().to_string(), self.programs().to_string()].join("\n\n")
    }

    fn cases(&self) -> Table {
        let mut table = empty(&["CASE", "SUBJECT", "MEDIAN NS", "MIN", "MAX", "ROUNDS", "SERVED"]);
        let mut last = "";
        for case in &self.cases {
            let name = if case.case == last { "" } else { &case.case };
            let [median, min, max] = [case.median_ns, case.min_ns, case.max_ns].map(|ns| format!("{ns:.0}"));
            let served = case.served.map(|share| format!("{:.1} %", 100.0 * share)).unwrap_or_default();
            table.add_row([name, &case.subject, &median, &min, &max, &case.rounds.to_string(), &served]);
            last = &case.case;
        }
        table
    }

    fn ratios(&self) -> Table {
        let mut table = empty(&["RATIO", "MEDIAN", "MIN", "MAX", "TARGET", ""]);
        for ratio in &self.ratios {
            let [median, min, max] = [ratio.median, ratio.min, ratio.max].map(|value| format!("{value:.2}"));
            let target = format!("<= {}", ratio.target);
            table.add_row([&ratio.name, &median, &min, &max, &target, ratio.verdict()]);
        }
        table
    }

    fn programs(&self) -> Table {
        let mut table = empty(&["PROGRAMS OF", "NAME", "INSTRUCTIONS", "VERIFIED"]);
        for Program { owner, name, instructions, verified } in &self.programs {
            let [instructions, verified] =
                [instructions, verified].map(|count| count.map(|count| count.to_string()).unwrap_or_default());
            table.add_row([owner, name, &instructions, &verified]);
        }
        table
    }
}

fn empty(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

impl Ratio {
    fn verdict(&self) -> &'static str {
        if self.median <= self.target { "met" } else { "missed" }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const JSON: &str = r#"{
        "machine": {"cpu": "Z80", "cpus": 1, "memoryMib": 64, "kernel": "6.18", "load": 0.5},
        "cases": [
            {"case": "xdp: UDP", "subject": "weir", "medianNs": 200.4, "minNs": 190.0, "maxNs": 300.6, "rounds": 11},
            {"case": "xdp: UDP", "subject": "stateless-nat", "medianNs": 99.5, "minNs": 90.0, "maxNs": 101.0, "rounds": 11},
            {"case": "xdp: new", "subject": "weir", "medianNs": 1200, "minNs": 1000, "maxNs": 1300, "rounds": 11, "served": 0.75},
            {"case": "veth: bulk", "subject": "haproxy", "medianNs": 90000, "minNs": 80000, "maxNs": 130000, "rounds": 11}
        ],
        "ratios": [
            {"name": "new", "median": 1.0, "min": 0.9, "max": 1.2, "target": 1.0},
            {"name": "old", "median": 0.41, "min": 0.3, "max": 0.5, "target": 0.4}
        ],
        "programs": [{"owner": "weir", "name": "weir_xdp", "instructions": 2500, "verified": null}]
    }"#;

    pub(in super::super) fn report() -> Report {
        serde_json::from_str(JSON).unwrap()
    }

    #[test]
    fn subjects_of_one_case_stand_below_each_other() {
        let table = report().cases().to_string();
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["xdp:", "UDP", "weir", "200", "190", "301", "11"]);
        assert_eq!(words[2], ["stateless-nat", "100", "90", "101", "11"]);
        assert_eq!(words[3], ["xdp:", "new", "weir", "1200", "1000", "1300", "11", "75.0", "%"]);
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_median() {
        let table = report().ratios().to_string();
        let row = |name| table.lines().map(str::trim).find(|line| line.starts_with(name)).unwrap();
        assert!(row("new").ends_with("<= 1    met"), "{table}");
        assert!(row("old").ends_with("<= 0.4  missed"), "{table}");
    }

    #[test]
    fn the_machine_and_its_programs_are_told() {
        let text = report().table();
        assert!(text.starts_with("Z80, 1 CPUs, 64 MiB, Linux 6.18, load 0.5\n"), "{text}");
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["weir", "weir_xdp", "2500"]);
    }
}
