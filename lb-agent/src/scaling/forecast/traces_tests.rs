//! The forecast on real load. What docs/scaling.md says of it is what these tests print.

use std::{io::Read, path::Path, time::Duration};

use flate2::read::GzDecoder;

use super::{
    engine::{Forecaster, Settings},
    series::{DAY, STEP, slots},
    testing,
    traces_figure::{self, Panel},
};
use crate::scaling::checked::{FEATURES, ForecastPolicy};

const MINUTE: Duration = Duration::from_secs(60);

/// Monday, the 29th of September 2025, 0:00 UTC.
const MONDAY: u64 = 20_360 * DAY;

fn rows(name: &str) -> Vec<csv::StringRecord> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces").join(name);
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    csv::Reader::from_reader(text.as_bytes()).records().map(Result::unwrap).collect()
}

fn number(row: &csv::StringRecord, column: usize) -> f64 {
    row[column].trim().parse().unwrap()
}

/// Requests in a second, over each 15 s, and requests in flight where each takes as long as its tokens.
fn azure(name: &str) -> [Vec<f64>; 2] {
    let step = STEP.as_secs_f64();
    let time = |row: &csv::StringRecord| {
        let clock: Vec<f64> = row[0][11..].split(':').map(|part| part.parse().unwrap()).collect();
        clock[0] * 3600.0 + clock[1] * 60.0 + clock[2]
    };
    let rows = rows(name);
    let start = time(&rows[0]);
    let samples = ((time(rows.last().unwrap()) - start) / step) as usize;
    let (mut rate, mut in_flight) = (vec![0.0; samples], vec![0.0; samples]);
    for row in &rows {
        let from = time(row) - start;
        let to = from + number(row, 1) * 0.00025 + number(row, 2) * 0.025;
        let (first, last) = ((from / step) as usize, (to / step) as usize);
        for (slot, in_flight) in in_flight.iter_mut().enumerate().take(last + 1).skip(first) {
            let begin = slot as f64 * step;
            *in_flight += (to.min(begin + step) - from.max(begin)) / step;
        }
        if let Some(rate) = rate.get_mut((from / step) as usize) {
            *rate += 1.0 / step;
        }
    }
    [rate, in_flight]
}

/// Requests in a second, over each 15 s: the published rates, scaled, as Poisson arrivals.
fn servegen(scale: f64, days: u64) -> Vec<f64> {
    let rows = rows("servegen-m-large-rps.csv.gz");
    let samples_of_row = 600.0 / STEP.as_secs_f64();
    let mut random = fastrand::Rng::with_seed(7);
    let sample = |slot: u64| {
        let at = slot as f64 / samples_of_row;
        let (before, part) = (at as usize, at.fract());
        let rate = number(&rows[before], 1) * (1.0 - part) + number(&rows[before + 1], 1) * part;
        poisson(&mut random, rate * scale * STEP.as_secs_f64()) / STEP.as_secs_f64()
    };
    (0..days * DAY).map(sample).collect()
}

fn poisson(random: &mut fastrand::Rng, mean: f64) -> f64 {
    let (mut count, mut left) = (0.0, mean);
    loop {
        left += (1.0 - random.f64()).ln();
        if left < 0.0 {
            return count;
        }
        count += 1.0;
    }
}

/// How a forecast did over a whole trace.
struct Scores {
    scored: usize,
    held: usize,
    on: usize,
    /// For each sample the bound that was issued for it, and whether it was in force.
    bounds: Vec<Option<(f64, bool)>>,
    /// Mean pinball loss of the regression's bound, of the last value's, and of what is in force: the last value's while it is off.
    ours: f64,
    last: f64,
    in_force: f64,
}

fn run(load: &[f64], horizon: Duration) -> Scores {
    let features = FEATURES;
    let policy = ForecastPolicy { per_replica: Some(1.0), ..testing::policy(&features, horizon) };
    let mut forecaster = Forecaster::new(Settings::new(&policy, None));
    let ahead = slots(horizon) as usize;
    let mut scores =
        Scores { scored: 0, held: 0, on: 0, bounds: vec![None; load.len()], ours: 0.0, last: 0.0, in_force: 0.0 };
    let pinball = |upper: f64, came: f64| if came <= upper { 0.1 * (upper - came) } else { 0.9 * (came - upper) };
    for (slot, value) in load.iter().enumerate() {
        forecaster.sample(MONDAY + slot as u64, Some(*value));
        let issued = forecaster.pending.back().unwrap();
        let bounds = issued.ours.and_then(|ours| ours.upper).zip(issued.last.upper);
        let (Some((ours, last)), Some(came)) = (bounds, load.get(slot + ahead)) else {
            continue;
        };
        let on = forecaster.outlook().is_ok();
        scores.bounds[slot + ahead] = Some((ours, on));
        scores.scored += 1;
        scores.held += usize::from(*came <= ours);
        scores.on += usize::from(on);
        scores.ours += pinball(ours, *came);
        scores.last += pinball(last, *came);
        scores.in_force += pinball(if on { ours } else { last }, *came);
    }
    for sum in [&mut scores.ours, &mut scores.last, &mut scores.in_force] {
        *sum /= scores.scored as f64;
    }
    scores
}

/// The 95 % interval of a probability of which `held` of `scored` were seen (Wilson, JASA 22, 1927).
fn interval(held: usize, scored: usize) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    let (held, scored) = (held as f64, scored as f64);
    let share = held / scored;
    let centre = (share + Z * Z / (2.0 * scored)) / (1.0 + Z * Z / scored);
    let reach = Z / (1.0 + Z * Z / scored) * (share * (1.0 - share) / scored + Z * Z / (4.0 * scored * scored)).sqrt();
    (centre - reach, centre + reach)
}

/// With 500 forecasts, 85 to 95 % of what comes is below the bound of 0.9; with fewer, 0.9 is possible. And whatever is in force,
/// the forecast or nothing but the last value, loses no more than the last value alone: less where there is a shape, the same where
/// there is none. Prints the table of docs/scaling.md, and draws its
/// picture into the folder WEIR_FIGURES.
#[test]
fn the_bound_holds_on_real_load_and_is_no_worse_than_the_last_value() {
    let [code, code_in_flight] = azure("AzureLLMInferenceTrace_code.csv.gz");
    let [conv, conv_in_flight] = azure("AzureLLMInferenceTrace_conv.csv.gz");
    println!(
        "| trace | horizon | forecasts | within 0.9 (95 % interval) | in force | pinball: regression | last value | in force / last value |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut panels = Vec::new();
    for (name, load, shape) in [
        ("code, requests/s", code, false),
        ("code, in flight", code_in_flight, false),
        ("conversation, requests/s", conv, false),
        ("conversation, in flight", conv_in_flight, true),
        ("ServeGen x 0.02, requests/s, a day", servegen(0.02, 1), true),
    ] {
        for minutes in [1, 5] {
            let Scores { scored, held, on, bounds, ours, last, in_force } = run(&load, minutes * MINUTE);
            let (coverage, (low, high)) = (held as f64 / scored as f64, interval(held, scored));
            println!(
                "| {name} | {minutes} min | {scored} | {coverage:.3} ({low:.3} to {high:.3}) | {:.0} % | {ours:.3} | {last:.3} | {:.2} |",
                100.0 * on as f64 / scored as f64,
                in_force / last
            );
            match scored >= 500 {
                true => assert!((0.85..=0.95).contains(&coverage), "{name}, {minutes} min: {coverage}"),
                false => assert!(low <= 0.9 && 0.9 <= high, "{name}, {minutes} min: {low} to {high}"),
            }
            if minutes == 1 && name.contains("in flight") || minutes == 5 && name.contains("ServeGen") {
                let title = format!("{name}: load, and the bound of 0.9 for it from {minutes} min before");
                panels.push(Panel { title, load: load.clone(), bounds });
            }
            assert!(in_force <= 1.005 * last, "{name}, {minutes} min: {in_force} against {last}");
            assert!(!shape || in_force <= 0.95 * last, "{name}, {minutes} min: {in_force} against {last}");
        }
    }
    if let Some(folder) = std::env::var_os("WEIR_FIGURES") {
        traces_figure::draw(&Path::new(&folder).join("forecast.svg"), &panels).unwrap();
    }
}
