//! The forecast a policy asks for.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Target,
    error::{Checked, at_most, share, within, wrong},
    text::{FEATURE, duration_within, of_form, parse_duration},
};
use crate::scaling::{
    policy::{ForecastSpec, Model, SignalName},
    signal::Signal,
};

/// The forecast a policy asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ForecastPolicy {
    /// The model.
    pub model: Model,
    /// The load that is foreseen.
    pub signal: Signal,
    /// The load that one replica carries, where it is said.
    pub per_replica: Option<f64>,
    /// What the load is foreseen from, each once.
    pub features: Vec<Feature>,
    /// How far ahead.
    pub horizon: Duration,
    /// Which part of what comes is to be within the forecast.
    pub quantile: f64,
    /// A model that is fitted already: coefficients by feature, and `intercept`.
    pub coefficients: Option<BTreeMap<String, f64>>,
}

/// What a load is foreseen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// The load so long ago.
    Lag(Duration),
    /// The mean of so long.
    Mean(Duration),
    /// The most of so long.
    Max(Duration),
    /// The change in a second, over so long.
    Rate(Duration),
    /// The hour of the day.
    HourOfDay,
    /// The day of the week.
    DayOfWeek,
}

/// Over which `rate` is taken where it does not say.
pub const RATE: Duration = Duration::from_secs(60);

/// What a policy that names no features foresees from; docs/scaling.md says why these.
pub const FEATURES: [Feature; 5] = [
    Feature::Mean(Duration::from_secs(60)),
    Feature::Mean(Duration::from_secs(300)),
    Feature::Mean(Duration::from_secs(900)),
    Feature::HourOfDay,
    Feature::DayOfWeek,
];

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lag(time) => write!(f, "lag:{}", compact(*time)),
            Self::Mean(time) => write!(f, "mean:{}", compact(*time)),
            Self::Max(time) => write!(f, "max:{}", compact(*time)),
            Self::Rate(time) if *time == RATE => f.write_str("rate"),
            Self::Rate(time) => write!(f, "rate:{}", compact(*time)),
            Self::HourOfDay => f.write_str("hourOfDay"),
            Self::DayOfWeek => f.write_str("dayOfWeek"),
        }
    }
}

/// A time as policies write it: in hours, minutes, seconds and thousandths.
fn compact(time: Duration) -> String {
    let (seconds, thousandths) = (time.as_secs(), u64::from(time.subsec_millis()));
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (thousandths, "ms")];
    let parts: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts }
}

pub(super) fn forecast(spec: Option<&ForecastSpec>, targets: &[Target]) -> Checked<Option<ForecastPolicy>> {
    let Some(spec) = spec else {
        return Ok(None);
    };
    let signal = signal(spec.signal, targets)?;
    let told = spec.per_replica.map(|value| share("spec.forecast.perReplica", value)).transpose()?;
    let of_target = targets.iter().find(|target| target.signal == signal).map(|target| target.per_replica);
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let horizon = spec.horizon.as_deref();
    Ok(Some(ForecastPolicy {
        model: spec.model,
        signal,
        per_replica: told.or(of_target),
        features: features(spec.features.as_deref())?,
        horizon: duration_within("spec.forecast.horizon", horizon, 5 * minute, 15 * second, 1440 * minute)?,
        quantile: within("spec.forecast.quantile", spec.quantile.unwrap_or(0.9), 0.5, 0.999)?,
        coefficients: coefficients(spec)?,
    }))
}

fn signal(name: Option<SignalName>, targets: &[Target]) -> Checked<Signal> {
    let path = "spec.forecast.signal";
    match (name, targets.first()) {
        (Some(SignalName::Ttfb | SignalName::Skew | SignalName::Cpu | SignalName::Memory), _) => {
            wrong(path, "this signal is no load that replicas share", "use one such as inFlight or requestsPerSecond")
        }
        (Some(name), _) => Ok(name.into()),
        (None, Some(target)) => Ok(target.signal.clone()),
        (None, None) => wrong(
            path,
            "the forecast has no load to foresee",
            "give a target, or forecast.signal with forecast.perReplica",
        ),
    }
}

fn features(texts: Option<&[String]>) -> Checked<Vec<Feature>> {
    let path = "spec.forecast.features";
    let Some(texts) = texts else {
        return Ok(FEATURES.to_vec());
    };
    if texts.is_empty() {
        return wrong(path, "it is empty", "leave the field out");
    }
    at_most(path, texts, 16)?;
    let mut features = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if texts[..index].contains(text) {
            return wrong(path, format!("{text} is given twice"), "keep one of them");
        }
        let feature = feature(&path, text)?;
        // 60s is 1m.
        if !features.contains(&feature) {
            features.push(feature);
        }
    }
    Ok(features)
}

/// A feature as policies and data name it.
pub fn feature(path: &str, text: &str) -> Checked<Feature> {
    let remedy = "use lag:1m, mean:5m, max:5m, rate, hourOfDay or dayOfWeek";
    of_form(path, text, &FEATURE, 32, remedy)?;
    let (kind, time) = text.split_once(':').map_or((text, None), |(kind, time)| (kind, Some(time)));
    let time = time.map(|time| parse_duration(path, time)).transpose()?;
    match (kind, time) {
        ("lag", Some(time)) => Ok(Feature::Lag(time)),
        ("mean", Some(time)) => Ok(Feature::Mean(time)),
        ("max", Some(time)) => Ok(Feature::Max(time)),
        ("rate", time) => Ok(Feature::Rate(time.unwrap_or(RATE))),
        ("hourOfDay", None) => Ok(Feature::HourOfDay),
        ("dayOfWeek", None) => Ok(Feature::DayOfWeek),
        _ => wrong(path, format!("{text:?} is not a feature"), remedy),
    }
}

fn coefficients(spec: &ForecastSpec) -> Checked<Option<BTreeMap<String, f64>>> {
    let path = "spec.forecast.coefficients";
    let Some(coefficients) = &spec.coefficients else {
        return Ok(None);
    };
    let features = spec.features.as_deref().unwrap_or_default();
    let known = |name: &str| name == "intercept" || features.iter().any(|feature| is_of(name, feature));
    if coefficients.len() > 64 {
        return wrong(path, format!("{} entries are too many", coefficients.len()), "give 64 or fewer");
    }
    if let Some(name) = coefficients.keys().find(|name| !known(name)) {
        return wrong(
            format!("{path}.{name}"),
            "it is not a coefficient of a feature",
            "name it as one of features, or intercept",
        );
    }
    if !coefficients.contains_key("intercept") {
        return wrong(path, "they have no intercept", "give it, with 0 where the model has none");
    }
    if let Some((name, value)) = coefficients.iter().find(|(_, value)| !value.is_finite()) {
        return wrong(format!("{path}.{name}"), format!("{value} is not a number"), "use a finite number");
    }
    Ok(Some(coefficients.iter().map(|(name, value)| (canonical(name), *value)).collect()))
}

/// A coefficient's name as the model writes it: `lag:60s` is `lag:1m`.
fn canonical(name: &str) -> String {
    let (of, part) = name.split_once('.').map_or((name, None), |(of, part)| (of, Some(part)));
    let of = feature("", of).map_or_else(|_| of.to_owned(), |feature| feature.to_string());
    part.map_or_else(|| of.clone(), |part| format!("{of}.{part}"))
}

/// A feature of the calendar has several coefficients, as `hourOfDay.sin`.
fn is_of(name: &str, feature: &str) -> bool {
    name.strip_prefix(feature).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
