//! The regression of a load at a horizon on what was known before: fitted to a history, or given by the policy.

use std::collections::BTreeMap;

use super::{
    features::Regressor,
    ols::{self, Column, Dropped, OlsError, Regression},
    series::{STEP, Series, Window},
};

/// Rows that a fit uses at most, evenly spread: rows side by side hold almost the same.
const ROWS: u64 = 4096;

/// Rows for each coefficient below which a fit is chance.
const ROWS_EACH: usize = 4;

/// Rows below which a fit is chance, however few coefficients there are.
const ROWS_LEAST: usize = 20;

/// How to get from what is known to what is foreseen.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    intercept: f64,
    weights: Vec<(Regressor, f64)>,
    /// How it was fitted; none for coefficients that were given.
    pub regression: Option<Regression>,
}

/// Why a history has no model yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Too few rows.
    #[error("too little history: {found} of {wanted} rows")]
    TooFew {
        /// Rows there are, of features and what came after them.
        found: usize,
        /// Rows it takes.
        wanted: usize,
    },
    /// The load does not vary, or is no number.
    #[error("no regression: {0}")]
    Ols(#[from] OlsError),
}

impl Model {
    /// The model with these coefficients, by the regressors' names, and `intercept`; what is not named counts nothing.
    pub fn given(coefficients: &BTreeMap<String, f64>, regressors: &[Regressor]) -> Self {
        let weight = |one: &Regressor| Some((one.clone(), *coefficients.get(&one.name)?));
        Self {
            intercept: coefficients.get("intercept").copied().unwrap_or_default(),
            weights: regressors.iter().filter_map(weight).collect(),
            regression: None,
        }
    }

    /// Fits a model to a window of a history.
    pub fn fit(window: &Window, regressors: &[Regressor], horizon: u64) -> Result<Self, Unfit> {
        let samples = window.slots().end - window.slots().start;
        let (used, early): (Vec<_>, Vec<_>) = regressors.iter().cloned().partition(|one| one.needs(horizon) <= samples);
        let (columns, target) = rows(window, &used, horizon);
        let (found, wanted) = (target.values.len(), (ROWS_EACH * (used.len() + 1)).max(ROWS_LEAST));
        if found < wanted {
            return Err(Unfit::TooFew { found, wanted });
        }
        let mut regression = ols::fit(&columns, &target)?;
        regression.dropped.extend(early.iter().map(|one| too_early(one, samples, horizon)));
        let weight = |one: Regressor| {
            let term = regression.terms.iter().find(|term| term.name == one.name)?;
            Some((one, term.estimate))
        };
        let weights = used.into_iter().filter_map(weight).collect();
        Ok(Self { intercept: regression.intercept.estimate, weights, regression: Some(regression) })
    }

    /// The intercept and every other coefficient, by name.
    pub fn coefficients(&self) -> impl Iterator<Item = (&str, f64)> {
        let weights = self.weights.iter().map(|(one, weight)| (one.name.as_str(), *weight));
        std::iter::once(("intercept", self.intercept)).chain(weights)
    }

    /// What is foreseen `horizon` samples after sample `last`; never less than nothing.
    pub fn foresee(&self, series: &Series, last: u64, horizon: u64) -> Option<f64> {
        let reach = self.weights.iter().map(|(one, _)| one.reach()).max().unwrap_or(0);
        let window = series.window(last.saturating_sub(reach)..last + 1);
        let mut sum = self.intercept;
        for (one, weight) in &self.weights {
            sum += weight * one.value(&window, last, horizon)?;
        }
        sum.is_finite().then_some(sum.max(0.0))
    }
}

/// What was known at each time, and what came `horizon` samples later.
pub fn rows(window: &Window, regressors: &[Regressor], horizon: u64) -> (Vec<Column>, Column) {
    let reach = regressors.iter().map(Regressor::reach).max().unwrap_or(0);
    let origins = window.slots().start + reach..window.slots().end.saturating_sub(horizon);
    let stride = (origins.end.saturating_sub(origins.start)).div_ceil(ROWS).max(1);
    let named = |name: &str| Column { name: name.to_owned(), values: Vec::new() };
    let mut columns: Vec<_> = regressors.iter().map(|one| named(&one.name)).collect();
    let mut target = named("load");
    // From the newest back, so that it is among them.
    for last in origins.rev().step_by(stride as usize) {
        let values: Option<Vec<f64>> = regressors.iter().map(|one| one.value(window, last, horizon)).collect();
        if let (Some(values), Some(load)) = (values, window.value(last + horizon)) {
            columns.iter_mut().zip(values).for_each(|(column, value)| column.values.push(value));
            target.values.push(load);
        }
    }
    (columns, target)
}

fn too_early(one: &Regressor, samples: u64, horizon: u64) -> Dropped {
    let time = |samples: u64| {
        let seconds = samples * STEP.as_secs();
        // To the minute, for people.
        humantime::format_duration(std::time::Duration::from_secs(seconds / 60 * 60)).to_string()
    };
    let why = format!("it needs {} of history, there are {}", time(one.needs(horizon)), time(samples));
    Dropped { name: one.name.clone(), why }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scaling::{checked::Feature, forecast::features::with_now};

    const MINUTE: Duration = Duration::from_secs(60);

    fn series(samples: u64, load: impl Fn(u64) -> f64) -> Series {
        let mut series = Series::default();
        for slot in 1000..1000 + samples {
            series.record(slot, Some(load(slot)));
        }
        series
    }

    fn all(series: &Series) -> Window {
        series.window(series.first()..series.end())
    }

    #[test]
    fn a_line_is_foreseen() {
        let series = series(200, |slot| slot as f64);
        let model = Model::fit(&all(&series), &with_now(&[Feature::Rate(MINUTE)]), 4).unwrap();
        let foreseen = model.foresee(&series, 1199, 4).unwrap();
        assert!((foreseen - 1203.0).abs() < 1.0, "{foreseen}");
        assert_eq!(model.foresee(&series, 1200, 4), None, "a sample that is not there");
        let before = Model::given(
            &model.coefficients().map(|(name, value)| (name.to_owned(), value)).collect(),
            &with_now(&[Feature::Rate(MINUTE)]),
        );
        assert_eq!(before.foresee(&series, 1199, 4), Some(foreseen), "the same coefficients foresee the same");
    }

    #[test]
    fn what_comes_too_early_is_named() {
        let series = series(100, |slot| (slot % 7) as f64);
        let features = [Feature::Mean(15 * MINUTE), Feature::HourOfDay];
        let regression = Model::fit(&all(&series), &with_now(&features), 4).unwrap().regression.unwrap();
        let dropped: Vec<_> = regression.dropped.iter().map(|one| (one.name.as_str(), one.why.as_str())).collect();
        assert_eq!(dropped[0], ("mean:15m", "it needs 1h 1m of history, there are 25m"));
        assert_eq!(dropped[1], ("hourOfDay.sin1", "it needs 2days of history, there are 25m"));
        assert_eq!(dropped.len(), 5);
    }

    #[test]
    fn a_short_history_has_none() {
        let error = Model::fit(&all(&series(20, |slot| slot as f64)), &with_now(&[]), 4).unwrap_err();
        assert_eq!(error.to_string(), "too little history: 16 of 20 rows");
    }

    #[test]
    fn a_flat_load_is_its_mean() {
        let series = series(60, |_| 5.0);
        let model = Model::fit(&all(&series), &with_now(&[]), 4).unwrap();
        assert!((model.foresee(&series, 1059, 4).unwrap() - 5.0).abs() < 0.01);
    }

    #[test]
    fn many_samples_are_thinned() {
        let series = series(20_000, |slot| (slot % 11) as f64);
        let (columns, target) = rows(&series.window(0..30_000), &with_now(&[]), 4);
        assert_eq!((columns[0].values.len(), target.values.len()), (4000, 4000));
    }
}
