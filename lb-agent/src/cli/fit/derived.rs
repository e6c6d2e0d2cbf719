//! Features of a forecast that are no columns of the table: computed from its times and its load as a running policy computes them.

use crate::scaling::{
    checked::Feature,
    forecast::{
        features::with_now,
        model,
        ols::Column,
        series::{STEP, Series},
    },
};

/// Rows farther apart than so many usual intervals have a gap between them.
const GAP: f64 = 1.5;

/// The features, and what the load was at the horizon, for every sample of the history.
pub(super) fn columns(times: &[f64], load: &[f64], features: &[Feature], horizon: u64) -> (Vec<Column>, Column) {
    let series = series(times, load);
    model::rows(&series.window(0..series.end()), &with_now(features), horizon)
}

/// One sample for every 15 s: the mean of its rows, else what a line between the rows around it says, if they are not too far apart.
fn series(times: &[f64], load: &[f64]) -> Series {
    let mut series = Series::default();
    let step = STEP.as_secs_f64();
    let slot = |time: f64| (time / step) as u64;
    let widest = GAP * usual(times).max(step);
    let mut at = 0;
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return series;
    };
    for sample in slot(*first)..=slot(*last) {
        let start = at;
        while at < times.len() && slot(times[at]) <= sample {
            at += 1;
        }
        let rows = &load[start..at];
        let value = match rows.len() {
            0 => between(times, load, at, (sample as f64 + 0.5) * step, widest),
            known => Some(rows.iter().sum::<f64>() / known as f64),
        };
        series.record(sample, value);
    }
    series
}

/// The median of the intervals.
fn usual(times: &[f64]) -> f64 {
    let mut intervals: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    intervals.sort_by(f64::total_cmp);
    intervals.get(intervals.len() / 2).copied().unwrap_or_default()
}

fn between(times: &[f64], load: &[f64], next: usize, time: f64, widest: f64) -> Option<f64> {
    let before = next.checked_sub(1)?;
    let (from, to) = (times[before], *times.get(next)?);
    let part = (time - from) / (to - from);
    (to - from <= widest).then(|| load[before] + (load[next] - load[before]) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_samples() {
        // Two rows in the first sample, one in each of the next, then ten minutes of nothing.
        let times = [0.0, 10.0, 20.0, 35.0, 50.0, 650.0, 665.0];
        let load = [1.0, 3.0, 4.0, 6.0, 8.0, 5.0, 7.0];
        let series = series(&times, &load);
        let value = |slot| series.value(slot).map(|value| value.round());
        assert_eq!(
            [0, 1, 2, 3, 4, 20, 43, 44].map(value),
            [Some(2.0), Some(4.0), Some(6.0), Some(8.0), None, None, Some(5.0), Some(7.0)]
        );
    }

    #[test]
    fn rows_far_apart_are_joined_by_lines() {
        let series = series(&[0.0, 600.0, 1200.0], &[0.0, 400.0, 400.0]);
        assert_eq!(series.value(20).map(f64::round), Some(205.0));
        assert_eq!(series.value(60).map(f64::round), Some(400.0));
    }
}
