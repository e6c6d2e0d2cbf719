//! The numbers as they are printed.

use std::time::Duration;

use serde::Serialize;

use weir_tests::machine::Machine;

/// What was measured, on what.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    pub(crate) machine: Machine,
    pub(crate) measurements: Vec<Measurement>,
}

/// A number of one subject.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measurement {
    /// What.
    pub(crate) what: &'static str,
    /// Of whom.
    pub(crate) subject: &'static str,
    /// `ms`, `MiB` or `%`.
    pub(crate) unit: &'static str,
    /// Of an even number the greater one in the middle.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How often it was measured.
    pub(crate) rounds: usize,
    /// The most that it should be for 10,000 Services with 100,000 endpoints.
    pub(crate) at_most: Option<f64>,
}

impl Measurement {
    /// What was measured several times.
    pub(crate) fn of(what: &'static str, subject: &'static str, unit: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        let (median, min, max) = (at(values.len() / 2), at(0), at(last));
        Self { what, subject, unit, median, min, max, rounds: values.len(), at_most: None }
    }

    /// With the most that it should be.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { at_most: Some(most), ..self }
    }
}

/// A time in milliseconds, to a microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
