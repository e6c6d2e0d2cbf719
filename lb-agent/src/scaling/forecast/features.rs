//! What a load is foreseen from: each feature of a policy as one or more numbers, known at one moment, about a later one.

use std::{f64::consts::TAU, time::Duration};

use super::series::{DAY, STEP, Window, slots};
use crate::scaling::checked::Feature;

/// A number that the regression has a coefficient for.
#[derive(Clone, Debug, PartialEq)]
pub struct Regressor {
    /// Its name in coefficients: the feature's, and for a feature of the calendar a part of it, as `hourOfDay.sin1`.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Lag(u64),
    Mean(u64),
    Max(u64),
    Rate(u64),
    /// A wave over a cycle of so many samples.
    Wave {
        cycle: u64,
        harmonic: u8,
        cosine: bool,
    },
}

/// Waves of a cycle: the cycle itself, and one of half its length, for two peaks or a steep side.
const HARMONICS: u8 = 2;

/// The numbers of these features, and the load now, which is always among them: without it a forecast cannot be as good as none.
pub fn with_now(features: &[Feature]) -> Vec<Regressor> {
    const NOW: Feature = Feature::Lag(Duration::ZERO);
    let now = (!features.contains(&NOW)).then_some(NOW);
    regressors(&now.into_iter().chain(features.iter().copied()).collect::<Vec<_>>())
}

/// The numbers of these features.
pub fn regressors(features: &[Feature]) -> Vec<Regressor> {
    features.iter().flat_map(of_feature).collect()
}

fn of_feature(feature: &Feature) -> Vec<Regressor> {
    let one = |kind| vec![Regressor { name: feature.to_string(), kind }];
    match feature {
        Feature::Lag(time) => one(Kind::Lag(slots(*time))),
        Feature::Mean(time) => one(Kind::Mean(slots(*time).max(1))),
        Feature::Max(time) => one(Kind::Max(slots(*time).max(1))),
        Feature::Rate(time) => one(Kind::Rate(slots(*time).max(1))),
        Feature::HourOfDay => waves(feature, DAY),
        Feature::DayOfWeek => waves(feature, 7 * DAY),
    }
}

fn waves(feature: &Feature, cycle: u64) -> Vec<Regressor> {
    let wave = |harmonic, cosine| {
        let part = if cosine { "cos" } else { "sin" };
        Regressor { name: format!("{feature}.{part}{harmonic}"), kind: Kind::Wave { cycle, harmonic, cosine } }
    };
    (1..=HARMONICS).flat_map(|harmonic| [wave(harmonic, false), wave(harmonic, true)]).collect()
}

impl Regressor {
    /// How many samples before the last one it looks at.
    pub fn reach(&self) -> u64 {
        match self.kind {
            Kind::Lag(back) | Kind::Rate(back) => back,
            Kind::Mean(samples) | Kind::Max(samples) => samples - 1,
            Kind::Wave { .. } => 0,
        }
    }

    /// How many samples there must have been before it tells more than chance: four times what it looks back, beside the horizon,
    /// and two rounds of a cycle.
    pub fn needs(&self, horizon: u64) -> u64 {
        match self.kind {
            Kind::Lag(back) | Kind::Rate(back) | Kind::Mean(back) | Kind::Max(back) => 4 * back + horizon,
            Kind::Wave { cycle, .. } => 2 * cycle,
        }
    }

    /// Its value at the end of sample `last`, for what is to be foreseen `horizon` samples later.
    pub fn value(&self, window: &Window, last: u64, horizon: u64) -> Option<f64> {
        match self.kind {
            Kind::Lag(back) => window.value(last.checked_sub(back)?),
            Kind::Mean(samples) => window.mean(last, samples),
            Kind::Max(samples) => window.max(last, samples),
            Kind::Rate(back) => {
                let before = window.value(last.checked_sub(back)?)?;
                Some((window.value(last)? - before) / (back as f64 * STEP.as_secs_f64()))
            }
            Kind::Wave { cycle, harmonic, cosine } => {
                // Whole cycles are taken off first, so that the angle is exact. The epoch was a Thursday, 0:00 UTC.
                let angle = TAU * f64::from(harmonic) * (((last + horizon) % cycle) as f64 / cycle as f64);
                Some(if cosine { angle.cos() } else { angle.sin() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::forecast::series::Series;

    const MINUTE: Duration = Duration::from_secs(60);

    fn value(feature: Feature, last: u64) -> Vec<(String, Option<f64>)> {
        let mut series = Series::default();
        for slot in 0..40 {
            series.record(slot, Some((slot * slot) as f64));
        }
        let window = series.window(0..40);
        let rounded = |value: f64| (value * 10.0).round() / 10.0;
        let all = of_feature(&feature).into_iter();
        all.map(|one| (one.name.clone(), one.value(&window, last, 4).map(rounded))).collect()
    }

    #[test]
    fn features_are_numbers_with_names() {
        for (feature, name, expected) in [
            (Feature::Lag(Duration::ZERO), "lag:0s", Some(100.0)),
            (Feature::Lag(MINUTE), "lag:1m", Some(36.0)),
            (Feature::Lag(5 * MINUTE), "lag:5m", None),
            (Feature::Mean(MINUTE), "mean:1m", Some((100.0 + 81.0 + 64.0 + 49.0) / 4.0)),
            (Feature::Max(MINUTE), "max:1m", Some(100.0)),
            (Feature::Rate(MINUTE), "rate", Some(1.1)),
            (Feature::Rate(2 * MINUTE), "rate:2m", Some(0.8)),
        ] {
            assert_eq!(value(feature, 10), [(name.to_owned(), expected)]);
        }
    }

    #[test]
    fn the_calendar_is_round() {
        let names: Vec<_> = of_feature(&Feature::HourOfDay).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["hourOfDay.sin1", "hourOfDay.cos1", "hourOfDay.sin2", "hourOfDay.cos2"]);
        let window = Series::default().window(0..0);
        let wave = |feature: &Feature, slot: u64| -> Vec<f64> {
            of_feature(feature).iter().map(|one| one.value(&window, slot, 0).unwrap().round()).collect()
        };
        assert_eq!(wave(&Feature::HourOfDay, DAY / 4), [1.0, 0.0, 0.0, -1.0], "six in the morning");
        assert_eq!(wave(&Feature::HourOfDay, 20_000 * DAY), [0.0, 1.0, 0.0, 1.0], "midnight");
        assert_eq!(wave(&Feature::DayOfWeek, 7 * DAY * 2_000), [0.0, 1.0, 0.0, 1.0], "Thursday");
    }

    #[test]
    fn the_load_now_is_always_among_them() {
        let names = |features: &[Feature]| with_now(features).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(&[Feature::Mean(MINUTE)]), ["lag:0s", "mean:1m"]);
        assert_eq!(names(&[Feature::Mean(MINUTE), Feature::Lag(Duration::ZERO)]), ["mean:1m", "lag:0s"]);
    }
}
