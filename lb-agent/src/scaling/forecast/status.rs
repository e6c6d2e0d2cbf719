//! What there is to show of a forecast: in `weir get policies` and `weir explain policy`.

use serde::Serialize;

use super::{
    engine::{Backtest, Forecaster},
    ols::{Dropped, Term},
};

/// A forecast and what it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForecastReport {
    /// Whether it is in force.
    pub on: bool,
    /// From what it says so many replicas, or why it says nothing.
    pub why: String,
    /// How far ahead it looks.
    pub horizon_seconds: u64,
    /// The probability with which the load stays below `upper`.
    pub quantile: f64,
    /// The load that is expected at the horizon, in force or not.
    pub expected: Option<f64>,
    /// The load that is not exceeded then.
    pub upper: Option<f64>,
    /// The load that one replica carries.
    pub per_replica: Option<f64>,
    /// The replicas that are kept at least.
    pub replicas: Option<u32>,
    /// Samples of 15 s in the history, gaps included.
    pub samples: u64,
    /// The coefficients, `intercept` first.
    pub coefficients: Vec<CoefficientReport>,
    /// The fit; none where the policy gives the coefficients.
    pub fit: Option<FitReport>,
    /// How good the last forecasts were.
    pub backtest: Backtest,
    /// The regression behind `perReplica`, where it is measured.
    pub capacity: Option<FitReport>,
}

/// A coefficient.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CoefficientReport {
    /// Of what.
    pub name: String,
    /// Its value.
    pub estimate: f64,
    /// Its standard error, where it was fitted.
    pub standard_error: Option<f64>,
}

/// How good a fit is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitReport {
    /// Rows.
    pub observations: usize,
    /// Coefficient of determination.
    pub r_squared: f64,
    /// Residual standard deviation.
    pub residual_deviation: f64,
    /// Condition number; none if it is infinite.
    pub condition: Option<f64>,
    /// The ridge, 0 for plain least squares.
    pub ridge: f64,
    /// Features that are not used, and why.
    pub dropped: Vec<Dropped>,
}

impl From<&super::ols::Regression> for FitReport {
    fn from(regression: &super::ols::Regression) -> Self {
        Self {
            observations: regression.observations,
            r_squared: regression.r_squared,
            residual_deviation: regression.residual_deviation,
            condition: regression.condition.is_finite().then_some(regression.condition),
            ridge: regression.ridge,
            dropped: regression.dropped.clone(),
        }
    }
}

impl ForecastReport {
    /// What there is to show; `signal` is the load's name.
    pub fn new(forecaster: &Forecaster, signal: &str) -> Self {
        let (latest, model) = (forecaster.latest(), forecaster.model().ok());
        let regression = model.and_then(|model| model.regression.as_ref());
        let errors = regression.into_iter().flat_map(|fit| std::iter::once(&fit.intercept).chain(&fit.terms));
        let errors: Vec<&Term> = errors.collect();
        let coefficient = |(name, estimate): (&str, f64)| CoefficientReport {
            name: name.to_owned(),
            estimate,
            standard_error: errors.iter().find(|term| term.name == name).map(|term| term.standard_error),
        };
        let capacity = forecaster.capacity().ok();
        Self {
            on: forecaster.outlook().is_ok(),
            why: forecaster.why(signal),
            horizon_seconds: forecaster.settings().horizon().as_secs(),
            quantile: forecaster.settings().quantile(),
            expected: latest.map(|latest| latest.point),
            upper: latest.and_then(|latest| latest.upper),
            per_replica: capacity.map(|capacity| capacity.per_replica),
            replicas: forecaster.outlook().ok().map(|outlook| outlook.replicas),
            samples: forecaster.samples(),
            coefficients: model.into_iter().flat_map(|model| model.coefficients().map(coefficient)).collect(),
            fit: regression.map(FitReport::from),
            backtest: forecaster.backtest(),
            capacity: capacity.and_then(|capacity| capacity.regression.as_ref()).map(FitReport::from),
        }
    }
}
