//! How fast the number may change, with autoscaling/v2's defaults.

use std::time::Duration;

use super::{
    error::{Checked, at_most, count, seconds, within, wrong},
    text::duration_within,
};
use crate::scaling::policy::{Behavior, ChangeKind, PanicSpec, ScalingPolicySpec, ScalingRules, SelectPolicy};

/// As in autoscaling: a mean within 10 % of its target is on target.
pub const TOLERANCE: f64 = 0.1;

/// How fast the number may change in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// The stabilisation window.
    pub window: Duration,
    /// Which of the limits counts.
    pub select: SelectPolicy,
    /// The largest changes within a period.
    pub limits: Vec<Limit>,
    /// How far a mean may be from its target, as a part of it.
    pub tolerance: f64,
}

/// The largest change within a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What `value` counts.
    pub kind: ChangeKind,
    /// The change.
    pub value: u32,
    /// The period.
    pub period: Duration,
}

/// What is done about bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Panic {
    /// The window in which a burst shows.
    pub short: Duration,
    /// The window of calm times.
    pub long: Duration,
    /// How many times the ready replicas the short window asks for in a burst.
    pub threshold: f64,
}

/// Going up and going down.
pub(super) fn paces(spec: Option<&Behavior>) -> Checked<(Pace, Pace)> {
    let of = |rules: Option<&ScalingRules>| rules.cloned().unwrap_or_default();
    let up = of(spec.and_then(|spec| spec.scale_up.as_ref()));
    let down = of(spec.and_then(|spec| spec.scale_down.as_ref()));
    Ok((pace("spec.behavior.scaleUp", &up, default_up())?, pace("spec.behavior.scaleDown", &down, default_down())?))
}

/// Going up, as autoscaling/v2: at once, by the larger of doubling and 4 replicas in 15 s.
pub(super) fn default_up() -> Pace {
    let period = Duration::from_secs(15);
    Pace {
        window: Duration::ZERO,
        select: SelectPolicy::Max,
        limits: vec![
            Limit { kind: ChangeKind::Pods, value: 4, period },
            Limit { kind: ChangeKind::Percent, value: 100, period },
        ],
        tolerance: TOLERANCE,
    }
}

/// Going down, as autoscaling/v2: to the highest recommendation of the last 300 s.
pub(super) fn default_down() -> Pace {
    Pace {
        window: Duration::from_secs(300),
        select: SelectPolicy::Max,
        limits: vec![Limit { kind: ChangeKind::Percent, value: 100, period: Duration::from_secs(15) }],
        tolerance: TOLERANCE,
    }
}

fn pace(path: &str, spec: &ScalingRules, default: Pace) -> Checked<Pace> {
    let window = match spec.stabilization_window_seconds {
        None => default.window,
        Some(value) => seconds(&format!("{path}.stabilizationWindowSeconds"), value, 0, 3600)?,
    };
    let limits = match spec.policies.as_deref() {
        None => default.limits,
        Some(policies) => limits(&format!("{path}.policies"), policies)?,
    };
    let tolerance = match spec.tolerance {
        None => default.tolerance,
        Some(value) => within(&format!("{path}.tolerance"), value, 0.0, 1.0)?,
    };
    Ok(Pace { window, select: spec.select_policy.unwrap_or_default(), limits, tolerance })
}

fn limits(path: &str, policies: &[ScalingPolicySpec]) -> Checked<Vec<Limit>> {
    if policies.is_empty() {
        return wrong(path, "it is empty", "leave the field out");
    }
    at_most(path, policies, 16)?;
    let limit = |(index, spec): (usize, &ScalingPolicySpec)| {
        Ok(Limit {
            kind: spec.kind,
            value: count(&format!("{path}[{index}].value"), spec.value, 1, i32::MAX)?,
            period: seconds(&format!("{path}[{index}].periodSeconds"), spec.period_seconds, 1, 1800)?,
        })
    };
    policies.iter().enumerate().map(limit).collect()
}

/// What is done about bursts.
pub(super) fn panic(spec: Option<&PanicSpec>) -> Checked<Option<Panic>> {
    let Some(spec) = spec else {
        return Ok(None);
    };
    let window = |field: &str, text: &Option<String>, default: u64| {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let default = Duration::from_secs(default);
        duration_within(&format!("spec.panic.{field}"), text.as_deref(), default, second, hour)
    };
    let panic = Panic {
        short: window("shortWindow", &spec.short_window, 6)?,
        long: window("longWindow", &spec.long_window, 60)?,
        threshold: within("spec.panic.threshold", spec.threshold.unwrap_or(2.0), 1.1, 10.0)?,
    };
    if panic.short >= panic.long {
        let problem = format!("{:?} is not shorter than spec.panic.longWindow, {:?}", panic.short, panic.long);
        return wrong("spec.panic.shortWindow", problem, "use a shorter one");
    }
    Ok(Some(panic))
}
