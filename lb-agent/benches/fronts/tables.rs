//! What came of it, as Markdown.

use std::fmt::Write as _;

use lb_agent::backtest::{fronts::Comparison, run::Peer, score::Score};

use crate::cells::Cell;

/// What came of a cell.
pub(crate) struct Outcome {
    /// Which one.
    pub(crate) cell: Cell,
    /// Our front against each peer's.
    pub(crate) fronts: [Comparison; 3],
    /// The one default beside the others, in the order of `weir backtest`.
    pub(crate) default: Vec<Score>,
    /// The same default with a forecast.
    pub(crate) forecast: Score,
}

/// What is wanted of each peer: the mean of all cells, and of each.
const WANTED: [(Peer, f64, f64); 3] = [(Peer::Hpa, 0.5, 0.8), (Peer::HpaMinute, 0.8, 1.1), (Peer::Kpa, 0.3, 0.5)];

/// Everything.
pub(crate) fn all(results: &[Outcome]) -> String {
    [means(results), fronts(results), defaults(results), fixed(results), forecast(results)].join("\n")
}

fn table(columns: &[String], rows: impl Iterator<Item = String>) -> String {
    let lines = "---|".repeat(columns.len());
    format!("| {} |\n|{lines}\n{}", columns.join(" | "), rows.map(|row| row + "\n").collect::<String>())
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn geometric(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len().max(1) as f64).exp()
}

fn means(results: &[Outcome]) -> String {
    let columns = ["against", "geometric mean", "wanted", "cells", "worst cell", "wanted", "cells above it"];
    let row = |(peer, mean, worst): (Peer, f64, f64)| {
        let index = Peer::ALL.iter().position(|other| *other == peer).unwrap_or(0);
        let ratios = results.iter().filter_map(|result| Some((result.fronts[index].ratio?, result.cell)));
        let mut ratios: Vec<_> = ratios.collect();
        ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
        let reached = geometric(&ratios.iter().map(|(ratio, _)| *ratio).collect::<Vec<_>>());
        let above = ratios.iter().filter(|(ratio, _)| *ratio > worst).count();
        let most = ratios.first().map_or_else(String::new, |(ratio, cell)| format!("{ratio:.2} ({cell})"));
        format!("| {} | {reached:.2} | {mean} | {} | {most} | {worst} | {above} |", peer.name(), ratios.len())
    };
    table(&columns.map(str::to_owned), WANTED.into_iter().map(row))
}

fn fronts(results: &[Outcome]) -> String {
    let peers = Peer::ALL.into_iter().flat_map(|peer| [peer.name(), "points", "cost"]).map(str::to_owned);
    let columns: Vec<_> = std::iter::once("cell".to_owned()).chain(peers).collect();
    table(&columns, results.iter().map(fronts_row))
}

/// A cell's row: for each peer the ratio of violations, how many points were compared, were cheaper than any of the peer's, and were met by
/// one without violations, and the ratio of costs.
pub(crate) fn fronts_row(result: &Outcome) -> String {
    let mut row = format!("| {} |", result.cell);
    for Comparison { ratio, points, cheaper, beaten, cost } in &result.fronts {
        let _ = write!(row, " {} | {points}/{cheaper}/{beaten} | {} |", number(*ratio), number(*cost));
    }
    row
}

fn short(score: &Score) -> String {
    format!("{:.2} % at {:.1} h", score.slo_violation_ratio * 100.0, score.replica_seconds / 3600.0)
}

fn of<'a>(result: &'a Outcome, name: &str) -> Option<&'a Score> {
    result.default.iter().find(|score| score.scaler == name)
}

const BESIDE: [&str; 6] = ["weir", "hpa", "hpa-60s", "kpa", "fixed", "oracle"];

fn defaults(results: &[Outcome]) -> String {
    let columns: Vec<_> = std::iter::once("cell").chain(BESIDE).map(str::to_owned).collect();
    let row = |result: &Outcome| {
        let cells = BESIDE.map(|name| of(result, name).map_or_else(String::new, short));
        format!("| {} | {} |", result.cell, cells.join(" | "))
    };
    table(&columns, results.iter().map(row))
}

/// Where the fixed fleet of nearest cost has fewer violations.
fn fixed(results: &[Outcome]) -> String {
    let wins = results.iter().filter_map(|result| {
        let (ours, fixed) = (of(result, "weir")?, of(result, "fixed")?);
        (fixed.slo_violation_ratio < ours.slo_violation_ratio)
            .then(|| format!("- {}: fixed {}, weir {}\n", result.cell, short(fixed), short(ours)))
    });
    let wins: Vec<_> = wins.collect();
    format!("The fixed fleet wins in {} of {} cells:\n\n{}", wins.len(), results.len(), wins.concat())
}

fn forecast(results: &[Outcome]) -> String {
    let columns = ["cell", "without", "with", "replica-seconds"].map(str::to_owned);
    let pairs = || results.iter().filter_map(|result| Some((result.cell, of(result, "weir")?, &result.forecast)));
    let row = |(cell, without, with): (Cell, &Score, &Score)| {
        let change = (with.replica_seconds / without.replica_seconds - 1.0) * 100.0;
        format!("| {cell} | {} | {} | {change:+.1} % |", short(without), short(with))
    };
    let costs: Vec<f64> = pairs().map(|(_, without, with)| with.replica_seconds / without.replica_seconds).collect();
    let worse = pairs().filter(|(_, without, with)| with.slo_violation_ratio > without.slo_violation_ratio).count();
    format!(
        "{}\nWith a forecast, violations are higher in {worse} of {} cells; replica-seconds: {:+.1} % on (geometric) average.\n",
        table(&columns, pairs().map(row)),
        results.len(),
        (geometric(&costs) - 1.0) * 100.0,
    )
}
