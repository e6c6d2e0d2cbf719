//! What the demo found: pure functions from its requests and observations to the table and to the numbers of each second.

use std::time::Duration;

use comfy_table::{Table, presets};

use super::{
    load::Sample,
    stage::{SERVERS_MAX, SLOW},
};

/// A part of the demo.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// What was different in it.
    pub name: &'static str,
    /// Working clients.
    pub clients: usize,
    /// When it began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

/// Something that happened, for the picture.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub text: &'static str,
}

/// What `weir get backends` said at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    /// When.
    pub at: Duration,
    /// Active connections by the server's index; none for one that is no backend.
    pub active: [Option<u64>; SERVERS_MAX],
}

impl Observation {
    /// How many backends there are.
    pub(crate) fn replicas(&self) -> usize {
        self.active.iter().flatten().count()
    }
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// The events in order.
    pub events: Vec<Event>,
    /// All requests.
    pub samples: Vec<Sample>,
    /// The observations in order.
    pub observations: Vec<Observation>,
}

/// Numbers over some requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    /// Answered requests.
    pub answered: usize,
    /// Failed requests.
    pub errors: usize,
    /// Median time of an answered request.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// Answered requests by server.
    pub by_server: [usize; SERVERS_MAX],
}

/// Sums requests up.
pub(crate) fn summarise<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Summary {
    let mut summary = Summary::default();
    let mut times = Vec::new();
    for sample in samples {
        match &sample.result {
            Ok(server) => {
                times.push(sample.took);
                if let Some(count) = summary.by_server.get_mut(*server) {
                    *count += 1;
                }
            }
            Err(_) => summary.errors += 1,
        }
    }
    times.sort_unstable();
    summary.answered = times.len();
    summary.p50 = quantile(&times, 50);
    summary.p99 = quantile(&times, 99);
    summary
}

/// The smallest value that so many percent of the sorted values do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The requests that were begun in a phase.
pub(crate) fn of_phase(record: &Record, phase: &Phase) -> Summary {
    summarise(record.samples.iter().filter(|sample| (phase.from..phase.to).contains(&sample.begun)))
}

/// The requests that ended in each whole second of the phases.
pub(crate) fn by_second(record: &Record) -> Vec<Summary> {
    let ended = |sample: &Sample| (sample.begun + sample.took).as_secs();
    let end = record.phases.last().map_or(0, |phase| phase.to.as_secs());
    (0..end).map(|second| summarise(record.samples.iter().filter(|sample| ended(sample) == second))).collect()
}

/// One row for each phase.
pub(crate) fn table(record: &Record) -> Table {
    let mut table = Table::new();
    let servers =
        (0..SERVERS_MAX).map(|index| if index == SLOW { format!("{index} (slow)") } else { index.to_string() });
    let header = ["phase", "clients", "requests/s", "p50", "p99", "errors"].map(str::to_owned);
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.into_iter().chain(servers));
    for phase in &record.phases {
        let summary = of_phase(record, phase);
        let rate = summary.answered as f64 / (phase.to - phase.from).as_secs_f64();
        let row = [
            phase.name.to_owned(),
            phase.clients.to_string(),
            format!("{rate:.0}"),
            milliseconds(summary.p50),
            milliseconds(summary.p99),
            summary.errors.to_string(),
        ];
        let shares = summary.by_server.map(|count| match count {
            0 => "-".to_owned(),
            _ => format!("{:.0} %", 100.0 * count as f64 / summary.answered as f64),
        });
        table.add_row(row.into_iter().chain(shares));
    }
    table
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(begun: u64, took: u64, result: Result<usize, String>) -> Sample {
        Sample { begun: Duration::from_millis(begun), took: Duration::from_millis(took), result }
    }

    #[test]
    fn a_request_counts_where_it_began_and_is_drawn_where_it_ended() {
        let (from, to) = (Duration::ZERO, Duration::from_secs(1));
        let phase = Phase { name: "x", clients: 1, from, to };
        let record = Record {
            phases: vec![phase.clone(), Phase { from: to, to: Duration::from_millis(2500), ..phase.clone() }],
            samples: vec![
                sample(10, 20, Ok(0)),
                sample(900, 400, Ok(1)),
                sample(1000, 1, Ok(1)),
                sample(500, 1, Err("no".into())),
            ],
            ..Record::default()
        };
        let summary = of_phase(&record, &phase);
        assert_eq!((summary.answered, summary.errors, summary.by_server[0], summary.by_server[1]), (2, 1, 1, 1));
        let seconds = by_second(&record);
        assert_eq!(seconds.iter().map(|second| second.answered).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let hundred: Vec<_> = (1..=100).map(|n| sample(0, n, Ok(0))).collect();
        let summary = summarise(&hundred);
        assert_eq!((summary.p50.as_millis(), summary.p99.as_millis()), (50, 99));
        assert_eq!(summarise(&hundred[..1]).p99.as_millis(), 1);
        assert_eq!(summarise(&[]), Summary::default());
    }
}
