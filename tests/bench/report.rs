//! Numbers of rounds, as median, least and most.

use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    cases: Vec<Case>,
    ratios: Vec<Ratio>,
    programs: Vec<Program>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    case: String,
    subject: &'static str,
    median_ns: f64,
    min_ns: f64,
    max_ns: f64,
    rounds: usize,
    /// The share of new flows that found room.
    #[serde(skip_serializing_if = "Option::is_none")]
    served: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Ratio {
    name: String,
    median: f64,
    min: f64,
    max: f64,
    target: f64,
}

/// A loaded program, as the kernel describes it.
#[derive(Debug, Serialize)]
struct Program {
    owner: &'static str,
    name: String,
    /// As they are after the verifier's changes.
    instructions: Option<u32>,
    /// Instructions that the verifier looked at, on all ways together.
    verified: Option<u32>,
}

impl Report {
    /// Adds a case's nanoseconds of each round, and the share of new flows that found room.
    pub(crate) fn case(&mut self, case: &str, subject: &'static str, rounds: &[f64], served: Option<f64>) {
        let [min_ns, median_ns, max_ns] = spread(rounds).map(|ns| (ns * 10.0).round() / 10.0);
        let case = case.to_owned();
        self.cases.push(Case { case, subject, median_ns, min_ns, max_ns, rounds: rounds.len(), served });
    }

    /// Adds a loaded program.
    pub(crate) fn program(
        &mut self,
        owner: &'static str,
        name: &str,
        instructions: Option<u32>,
        verified: Option<u32>,
    ) {
        self.programs.push(Program { owner, name: name.to_owned(), instructions, verified });
    }

    /// Adds a ratio's value of each round, and the most its median should be.
    pub(crate) fn ratio(&mut self, name: &str, rounds: &[f64], target: f64) {
        let [min, median, max] = spread(rounds).map(|ratio| (ratio * 1000.0).round() / 1000.0);
        self.ratios.push(Ratio { name: name.to_owned(), median, min, max, target });
    }
}

/// The least, the median, the most.
fn spread(rounds: &[f64]) -> [f64; 3] {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
    [at(0), median, at(sorted.len().wrapping_sub(1))]
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    spread(values)[1]
}
