//! What tests of the forecast share.

use std::time::Duration;

use crate::scaling::{
    SignalName,
    checked::{Feature, ForecastPolicy},
    policy::Model,
};

/// A policy's forecast with these features.
pub(super) fn policy(features: &[Feature], horizon: Duration) -> ForecastPolicy {
    ForecastPolicy {
        model: Model::Ols,
        signal: SignalName::InFlight.into(),
        per_replica: None,
        features: features.to_vec(),
        horizon,
        quantile: 0.9,
        coefficients: None,
    }
}
