//! From a trace to a workload: the part that is asked for, scaled, rates as Poisson arrivals, each request with its service time.

use fastrand::Rng;

use super::{Load, Place, Rate, Spot, Tokens, Trace, TraceError};
use crate::backtest::workload::{Request, Workload, from_seconds};

/// How long a request occupies a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTime {
    /// Seconds of every request, where they are given or the trace has no tokens.
    pub constant: Option<f64>,
    /// Seconds per token that a request brings.
    pub prefill: f64,
    /// Seconds per token that it is answered with.
    pub decode: f64,
}

impl ServiceTime {
    /// Seconds of a request without tokens.
    const PLAIN: f64 = 1.0;

    fn of(&self, tokens: &Tokens) -> f64 {
        self.constant.unwrap_or(tokens.context * self.prefill + tokens.generated * self.decode)
    }
}

/// Which part of a trace is replayed, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replay {
    /// Where it begins; the trace's start if not given.
    pub from: Option<Place>,
    /// Where it ends; the trace's end if not given.
    pub to: Option<Place>,
    /// How many requests come of each.
    pub scale: f64,
    /// How long a request takes.
    pub service: ServiceTime,
    /// Makes the same arrivals of the same rates.
    pub seed: u64,
}

/// Copies of a request come within this time after it.
const SPREAD: f64 = 1.0;

/// The workload of a part of a trace.
pub fn workload(trace: &Trace, replay: &Replay) -> Result<Workload, TraceError> {
    let last = match &trace.load {
        Load::Requests(requests) => requests.last().map_or(0.0, |request| request.at),
        Load::Rates(rates) => rates.last().map_or(0.0, |rate| rate.at),
    };
    let from = cut(trace, replay.from, 0.0)?;
    let to = cut(trace, replay.to, last)?.min(last);
    let mut rng = Rng::with_seed(replay.seed);
    let mut requests = match &trace.load {
        Load::Requests(rows) => scaled(rows, from, to, replay, &mut rng),
        Load::Rates(rates) => poisson(rates, from, to, replay, &mut rng),
    };
    requests.sort_by_key(|request| request.at);
    if requests.is_empty() {
        let problem = format!("there is no request between {from} and {to} s");
        return Err(wrong(trace, problem, "choose another --from and --to, or a larger --rate-scale"));
    }
    let epoch = trace.epoch.map(|epoch| (epoch + from).floor() as i64);
    Ok(Workload { requests, length: from_seconds(to - from), epoch })
}

fn cut(trace: &Trace, place: Option<Place>, otherwise: f64) -> Result<f64, TraceError> {
    let Some(place) = place else {
        return Ok(otherwise);
    };
    place.offset(trace.epoch).ok_or_else(|| {
        let problem = "its times are no dates, --from or --to is one".to_owned();
        wrong(trace, problem, "give --from and --to in seconds or as a duration such as 90m")
    })
}

fn wrong(trace: &Trace, problem: String, remedy: &'static str) -> TraceError {
    TraceError::Text { file: trace.file.clone(), place: Spot::default(), problem, remedy }
}

/// Requests as they are, thinned out or with copies shortly after each.
fn scaled(rows: &[Tokens], from: f64, to: f64, replay: &Replay, rng: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::with_capacity(rows.len());
    for row in rows.iter().filter(|row| row.at >= from && row.at <= to) {
        let copies = replay.scale.floor() + f64::from(u8::from(rng.f64() < replay.scale.fract()));
        for copy in 0..copies as u64 {
            let late = if copy == 0 { 0.0 } else { rng.f64() * SPREAD };
            let at = (row.at - from + late).min(to - from);
            requests.push(Request { at: from_seconds(at), service: from_seconds(replay.service.of(row)) });
        }
    }
    requests
}

/// Arrivals of a Poisson process whose rate goes in straight lines from one point to the next, by thinning.
fn poisson(rates: &[Rate], from: f64, to: f64, replay: &Replay, rng: &mut Rng) -> Vec<Request> {
    let service = from_seconds(replay.service.constant.unwrap_or(ServiceTime::PLAIN));
    let mut requests = Vec::new();
    let mut chance = rng.fork();
    for (index, right) in rates.iter().enumerate() {
        // Before the first point the rate is that of the first point.
        let left = index.checked_sub(1).map_or(Rate { at: 0.0, ..*right }, |before| rates[before]);
        let (start, end) = (left.at.max(from), right.at.min(to));
        let most = left.rate.max(right.rate) * replay.scale;
        if most <= 0.0 {
            continue;
        }
        let mut later = || -(1.0 - rng.f64()).ln() / most;
        let mut at = start + later();
        while at < end {
            let rate = left.rate + (right.rate - left.rate) * (at - left.at) / (right.at - left.at);
            if chance.f64() * most < rate * replay.scale {
                requests.push(Request { at: from_seconds(at - from), service });
            }
            at += later();
        }
    }
    requests
}
