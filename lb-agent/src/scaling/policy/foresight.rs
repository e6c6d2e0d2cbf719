//! What is known of the load before it comes: from the calendar, and from a forecast.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    rule::SignalName,
    text::{CRON, DURATION, FEATURE, TIMEZONE},
};

/// The least replicas from a time on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleSpec {
    /// When it begins: minute, hour, day of the month, month, day of the week (0 is Sunday), as `0 8 * * 1-5`.
    #[schemars(regex(pattern = CRON), length(max = 100))]
    #[x_kube(validation = Rule::new("self.findAll('[0-9]+-[0-9]+').all(r, int(r.split('-')[0]) <= int(r.split('-')[1]))")
        .message("a range ends before it begins; write it as two, as in 22-23,0-6"))]
    pub cron: String,
    /// How long it lasts: `10h`. Without it, until an entry of the schedule begins the next time.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s') && duration(self) <= duration('168h')").message("out of range; use more than 0 and a week or less"))]
    pub lasts: Option<String>,
    /// The least replicas.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_replicas: i32,
    /// The time zone: `Europe/Berlin`; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIMEZONE), length(max = 64))]
    #[x_kube(validation = Rule::new("timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0").message("not a time zone; use a name such as Europe/Berlin"))]
    pub timezone: Option<String>,
}

/// Foresees the load, and keeps as many replicas as it needs at least.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.coefficients) || has(self.features) && self.coefficients.all(c, c == 'intercept' || self.features.exists(f, c == f || c.startsWith(f + '.')))")
        .message("a coefficient is not of a feature; name it as one of features, or intercept"),
    validation = Rule::new("!has(self.coefficients) || 'intercept' in self.coefficients")
        .message("coefficients have no intercept; give it, with 0 where the model has none"),
    validation = Rule::new("!has(self.perReplica) || self.perReplica > 0.0").message("perReplica is not a load; use a number greater than 0"),
    validation = Rule::new("!has(self.signal) || !(self.signal in ['ttfb', 'skew', 'cpu', 'memory'])")
        .message("this signal is no load that replicas share; use one such as inFlight or requestsPerSecond"),
)]
pub struct ForecastSpec {
    /// The model.
    #[serde(default)]
    pub model: Model,
    /// The load that is foreseen; by default the first target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// The load that one replica carries; by default what is measured, or a target of the same signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_replica: Option<f64>,
    /// What the load is foreseen from: `lag:1m`, `mean:5m`, `max:5m`, `rate`, `hourOfDay`, `dayOfWeek`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(regex(pattern = FEATURE), length(max = 32)))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a == b))").message("a feature is given twice; keep one of them"))]
    pub features: Option<Vec<String>>,
    /// How far ahead: `5m` by default; 15 s to a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('15s') && duration(self) <= duration('24h')").message("out of range; use 15s to 24h"))]
    pub horizon: Option<String>,
    /// Which part of what comes is to be within the forecast: 0.9 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 0.999))]
    #[x_kube(validation = Rule::new("self >= 0.5").message("out of range; use 0.5 to 0.999"))]
    pub quantile: Option<f64>,
    /// A model that is fitted already, as `weir fit` prints it; it is not fitted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    pub coefficients: Option<BTreeMap<String, f64>>,
}

/// How the load is foreseen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Model {
    /// Multiple linear regression by ordinary least squares.
    #[default]
    Ols,
}
