//! Decides whether a ScalePolicy makes sense, from its text alone, and gives it the form that [`super::decide()`] works on: every
//! name resolved, every duration parsed, every default filled in, and no two fields that contradict each other.

use std::{collections::BTreeSet, fmt, time::Duration};

use kube::ResourceExt;

use super::{
    policy::{
        Behavior, ChangeKind, Mode, RuleSpec, ScalePolicy, ScalingPolicySpec, ScalingRules, SelectPolicy, TargetSpec,
    },
    signals::Signal,
};

/// A policy's place: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A ScalePolicy that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its place.
    pub id: PolicyId,
    /// The Service, in the policy's namespace, whose backends are the replicas.
    pub service: String,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// The least replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// Thresholds, names unique.
    pub rules: Vec<Rule>,
    /// Wanted loads, signals unique.
    pub targets: Vec<Target>,
    /// How fast the number may grow.
    pub up: Pace,
    /// How fast the number may shrink.
    pub down: Pace,
    /// What is run to scale, if the policy says so itself.
    pub command: Option<Vec<String>>,
}

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What it reads.
    pub signal: Signal,
    /// When it holds, and what it then does.
    pub trigger: Trigger,
    /// How long it must hold before it acts.
    pub hold: Duration,
}

/// When a rule holds, and what it then does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// The signal is greater than this: so many replicas more.
    Above(f64, u32),
    /// The signal is less than this: so many replicas fewer.
    Below(f64, u32),
}

/// The load one replica should carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// What it reads.
    pub signal: Signal,
    /// The wanted mean, greater than 0.
    pub per_replica: f64,
}

/// How fast the number may change in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The stabilisation window.
    pub window: Duration,
    /// Which of the limits counts.
    pub select: SelectPolicy,
    /// The largest changes within a period.
    pub limits: Vec<Limit>,
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

/// What is wrong with a policy, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}; {remedy}")]
pub struct PolicyError {
    /// The field, from the object's root: `spec.rules[0].for`.
    pub path: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

type Checked<T> = Result<T, PolicyError>;

fn wrong<T>(path: impl fmt::Display, problem: impl fmt::Display, remedy: &str) -> Checked<T> {
    Err(PolicyError { path: path.to_string(), problem: problem.to_string(), remedy: remedy.to_owned() })
}

/// Checks a policy.
pub fn validate(policy: &ScalePolicy) -> Checked<Policy> {
    let spec = &policy.spec;
    refuse_later_fields(policy)?;
    let (min, max) = bounds(spec.replicas.min, spec.replicas.max)?;
    let behavior = spec.behavior.clone().unwrap_or_default();
    let Behavior { scale_up, scale_down } = behavior;
    let checked = Policy {
        id: identity(policy)?,
        service: filled("spec.serviceRef.name", &spec.service_ref.name)?,
        mode: spec.mode,
        min,
        max,
        rules: rules(&spec.rules)?,
        targets: targets(&spec.targets)?,
        up: pace("spec.behavior.scaleUp", scale_up.unwrap_or_default(), default_up())?,
        down: pace("spec.behavior.scaleDown", scale_down.unwrap_or_default(), default_down())?,
        command: command(spec.command.as_deref())?,
    };
    if checked.rules.is_empty() && checked.targets.is_empty() {
        return wrong("spec", "neither rules nor targets are given", "give at least one of them");
    }
    Ok(checked)
}

fn identity(policy: &ScalePolicy) -> Checked<PolicyId> {
    Ok(PolicyId {
        namespace: policy.namespace().unwrap_or_else(|| "default".to_owned()),
        name: filled("metadata.name", policy.metadata.name.as_deref().unwrap_or(""))?,
    })
}

fn refuse_later_fields(policy: &ScalePolicy) -> Checked<()> {
    let spec = &policy.spec;
    for (field, value) in [("forecast", &spec.forecast), ("vertical", &spec.vertical)] {
        if value.is_some() {
            let problem = format!("{field} is not supported by this version");
            return wrong(format!("spec.{field}"), problem, "remove the field");
        }
    }
    match spec.actuator.as_deref() {
        None | Some("Command") => {}
        Some(name @ ("Scale" | "Keda" | "Metric")) => {
            let problem = format!("actuator {name} is not supported by this version");
            return wrong("spec.actuator", problem, "use Command, or leave the field out");
        }
        Some(other) => {
            let problem = format!("{other:?} is not an actuator");
            return wrong("spec.actuator", problem, "use Command, or leave the field out");
        }
    }
    Ok(())
}

fn filled(path: &str, text: &str) -> Checked<String> {
    if text.trim().is_empty() {
        return wrong(path, "it is empty", "give a name");
    }
    Ok(text.to_owned())
}

fn command(argv: Option<&[String]>) -> Checked<Option<Vec<String>>> {
    let remedy = "write the program and its arguments, as in [\"/usr/local/bin/scale\"]";
    match argv {
        None => Ok(None),
        Some([]) => wrong("spec.command", "it is empty", remedy),
        Some([program, ..]) if program.trim().is_empty() => wrong("spec.command[0]", "it is empty", remedy),
        Some(argv) => {
            if let Some(index) = argv.iter().position(|word| word.contains('\0')) {
                return wrong(format!("spec.command[{index}]"), "it contains a zero byte", remedy);
            }
            Ok(Some(argv.to_vec()))
        }
    }
}

fn bounds(min: i32, max: i32) -> Checked<(u32, u32)> {
    if min == 0 {
        let problem = "0: scaling to zero is not supported by this version";
        return wrong("spec.replicas.min", problem, "use 1 or more");
    }
    let Some(low) = u32::try_from(min).ok() else {
        return wrong("spec.replicas.min", format!("{min} is negative"), "use 1 or more");
    };
    match u32::try_from(max) {
        Ok(high) if high >= low => Ok((low, high)),
        _ => {
            let problem = format!("{max} is less than spec.replicas.min, {min}");
            wrong("spec.replicas.max", problem, "use a number that is not less than min")
        }
    }
}

fn signal(path: &str, name: &str) -> Checked<Signal> {
    const LATER: [&str; 10] = [
        "cpu",
        "memory",
        "cpuCores",
        "memoryBytes",
        "inFlight",
        "requestsPerSecond",
        "ttfb",
        "skew",
        "prometheus",
        "podMetric",
    ];
    if let Some(signal) = Signal::from_name(name) {
        return Ok(signal);
    }
    let problem = if LATER.contains(&name) {
        format!("signal {name} is not supported by this version")
    } else {
        format!("{name:?} is not a signal")
    };
    let names = Signal::ALL.map(Signal::name).join(", ");
    wrong(format!("{path}.signal"), problem, &format!("use one of {names}"))
}

fn rules(specs: &[RuleSpec]) -> Checked<Vec<Rule>> {
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let checked = rule(&path, spec)?;
        if !names.insert(spec.name.as_str()) {
            let problem = format!("two rules are named {:?}", spec.name);
            return wrong(format!("{path}.name"), problem, "give each rule a name of its own");
        }
        contradiction(&path, &rules, &checked)?;
        rules.push(checked);
    }
    Ok(rules)
}

fn rule(path: &str, spec: &RuleSpec) -> Checked<Rule> {
    Ok(Rule {
        name: filled(&format!("{path}.name"), &spec.name)?,
        signal: signal(path, &spec.signal)?,
        trigger: trigger(path, spec)?,
        hold: hold(path, spec.hold.as_deref())?,
    })
}

fn trigger(path: &str, spec: &RuleSpec) -> Checked<Trigger> {
    let pairs = "use above with add, or below with remove";
    match (spec.above, spec.below, spec.add, spec.remove) {
        (Some(above), None, Some(add), None) => {
            let above = threshold(&format!("{path}.above"), above)?;
            Ok(Trigger::Above(above, change(&format!("{path}.add"), add)?))
        }
        (None, Some(below), None, Some(remove)) => {
            let below = threshold(&format!("{path}.below"), below)?;
            Ok(Trigger::Below(below, change(&format!("{path}.remove"), remove)?))
        }
        (None, None, ..) => wrong(path, "neither above nor below is given", pairs),
        (Some(_), Some(_), ..) => wrong(path, "above and below are both given", pairs),
        (.., None, None) => wrong(path, "neither add nor remove is given", pairs),
        (.., Some(_), Some(_)) => wrong(path, "add and remove are both given", pairs),
        (Some(_), None, None, Some(_)) => {
            wrong(format!("{path}.remove"), "remove goes with below, not with above", pairs)
        }
        (None, Some(_), Some(_), None) => wrong(format!("{path}.add"), "add goes with above, not with below", pairs),
    }
}

fn threshold(path: &str, value: f64) -> Checked<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    wrong(path, format!("{value} is not a load"), "use a number that is not negative")
}

fn change(path: &str, value: i32) -> Checked<u32> {
    match u32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => wrong(path, format!("{value} is not a number of replicas"), "use 1 or more"),
    }
}

fn hold(path: &str, text: Option<&str>) -> Checked<Duration> {
    let Some(text) = text else {
        return Ok(Duration::ZERO);
    };
    let path = format!("{path}.for");
    match humantime::parse_duration(text) {
        Ok(hold) if hold <= Duration::from_secs(86_400) => Ok(hold),
        Ok(_) => wrong(path, format!("{text:?} is more than a day"), "use a day or less"),
        Err(error) => {
            let problem = format!("{text:?} is not a duration ({error})");
            wrong(path, problem, "write it like 30s or 5m")
        }
    }
}

/// A rule that removes where another one adds would make the number swing for ever.
fn contradiction(path: &str, earlier: &[Rule], rule: &Rule) -> Checked<()> {
    for other in earlier.iter().filter(|other| other.signal == rule.signal) {
        let (above, below) = match (other.trigger, rule.trigger) {
            (Trigger::Above(above, _), Trigger::Below(below, _))
            | (Trigger::Below(below, _), Trigger::Above(above, _)) => (above, below),
            _ => continue,
        };
        if below > above {
            let problem = format!("rules {:?} and {:?} both hold between {above} and {below}", other.name, rule.name);
            return wrong(path, problem, "let the threshold of above be the higher one");
        }
    }
    Ok(())
}

fn targets(specs: &[TargetSpec]) -> Checked<Vec<Target>> {
    let mut signals = BTreeSet::new();
    let mut targets = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let path = format!("spec.targets[{index}]");
        let signal = signal(&path, &spec.signal)?;
        if !signals.insert(signal) {
            let problem = format!("two targets read {signal}");
            return wrong(format!("{path}.signal"), problem, "keep one of them");
        }
        if !(spec.per_replica.is_finite() && spec.per_replica > 0.0) {
            let problem = format!("{} is not a load", spec.per_replica);
            return wrong(format!("{path}.perReplica"), problem, "use a number greater than 0");
        }
        targets.push(Target { signal, per_replica: spec.per_replica });
    }
    Ok(targets)
}

/// Going up, as autoscaling/v2: at once, by the larger of doubling and 4 replicas in 15 s.
fn default_up() -> Pace {
    let period = Duration::from_secs(15);
    Pace {
        window: Duration::ZERO,
        select: SelectPolicy::Max,
        limits: vec![
            Limit { kind: ChangeKind::Pods, value: 4, period },
            Limit { kind: ChangeKind::Percent, value: 100, period },
        ],
    }
}

/// Going down, as autoscaling/v2: to the highest recommendation of the last 300 s.
fn default_down() -> Pace {
    Pace {
        window: Duration::from_secs(300),
        select: SelectPolicy::Max,
        limits: vec![Limit { kind: ChangeKind::Percent, value: 100, period: Duration::from_secs(15) }],
    }
}

fn pace(path: &str, spec: ScalingRules, default: Pace) -> Checked<Pace> {
    let window = match spec.stabilization_window_seconds {
        None => default.window,
        Some(seconds) => seconds_within(&format!("{path}.stabilizationWindowSeconds"), seconds, 0, 3600)?,
    };
    let limits = match spec.policies {
        None => default.limits,
        Some(policies) if policies.is_empty() => {
            return wrong(format!("{path}.policies"), "it is empty", "leave the field out");
        }
        Some(policies) => policies
            .iter()
            .enumerate()
            .map(|(index, policy)| limit(&format!("{path}.policies[{index}]"), policy))
            .collect::<Checked<_>>()?,
    };
    Ok(Pace { window, select: spec.select_policy.unwrap_or_default(), limits })
}

fn limit(path: &str, spec: &ScalingPolicySpec) -> Checked<Limit> {
    Ok(Limit {
        kind: spec.kind,
        value: change(&format!("{path}.value"), spec.value)?,
        period: seconds_within(&format!("{path}.periodSeconds"), spec.period_seconds, 1, 1800)?,
    })
}

fn seconds_within(path: &str, seconds: i32, low: i32, high: i32) -> Checked<Duration> {
    match u64::try_from(seconds) {
        Ok(value) if (low..=high).contains(&seconds) => Ok(Duration::from_secs(value)),
        _ => {
            let remedy = format!("use {low} to {high}");
            wrong(path, format!("{seconds} is out of range"), &remedy)
        }
    }
}

#[cfg(test)]
#[path = "checked_tests.rs"]
mod tests;
