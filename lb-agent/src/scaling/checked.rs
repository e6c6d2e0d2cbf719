//! Decides whether a ScalePolicy makes sense, from its text alone, and gives it the form that [`super::decide`] works on: every
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resource(spec: Value) -> Result<ScalePolicy, serde_json::Error> {
        serde_json::from_value(json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ScalePolicy",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": spec,
        }))
    }

    fn base() -> Value {
        json!({
            "command": ["/bin/scale", "--fast"],
            "serviceRef": {"name": "web"},
            "replicas": {"min": 2, "max": 9},
            "rules": [
                {"name": "busy", "signal": "activeConnections", "above": 80, "for": "30s", "add": 2},
                {"name": "idle", "signal": "activeConnections", "below": 30.5, "for": "5m", "remove": 1},
            ],
            "targets": [{"signal": "bytesPerSecond", "perReplica": 1e6}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        })
    }

    /// `base` with the value at a JSON pointer replaced, or removed where it is null.
    fn with(pointer: &str, value: Value) -> Value {
        let mut spec = base();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
            Value::Object(fields) if value.is_null() => drop(fields.remove(last)),
            Value::Object(fields) => drop(fields.insert(last.to_owned(), value)),
            other => panic!("{pointer} leads to {other}"),
        }
        spec
    }

    #[test]
    fn a_whole_policy_is_checked_and_completed() {
        let policy = validate(&resource(base()).unwrap()).unwrap();
        assert_eq!(policy.id.to_string(), "shop/web");
        assert_eq!(policy.service, "web");
        assert_eq!((policy.min, policy.max, policy.mode), (2, 9, Mode::Apply));
        assert_eq!(policy.rules[0].trigger, Trigger::Above(80.0, 2));
        assert_eq!(policy.rules[0].hold, Duration::from_secs(30));
        assert_eq!(policy.rules[1].trigger, Trigger::Below(30.5, 1));
        assert_eq!(policy.rules[1].hold, Duration::from_secs(300));
        assert_eq!(policy.targets, [Target { signal: Signal::BytesPerSecond, per_replica: 1e6 }]);
        assert_eq!(policy.up, default_up());
        assert_eq!(policy.down, Pace { window: Duration::from_secs(60), ..default_down() });
        assert_eq!(policy.command.as_deref(), Some(["/bin/scale".to_owned(), "--fast".to_owned()].as_slice()));
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let spec = json!({
            "serviceRef": {"name": "web"},
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "replicas": {"max": 3},
            "rules": [{"name": "busy", "signal": "activeConnections", "above": 1, "add": 1}],
        });
        let policy = validate(&resource(spec).unwrap()).unwrap();
        assert_eq!((policy.min, policy.rules[0].hold), (1, Duration::ZERO));
        assert_eq!(policy.up.window, Duration::ZERO);
        assert_eq!(policy.down.window, Duration::from_secs(300));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field_value_and_remedy() {
        let policies = |value: Value| json!({"scaleUp": {"policies": value}});
        #[rustfmt::skip]
        let cases: Vec<(&str, Value, &str, &str, &str)> = vec![
            ("/forecast", json!({"model": "ols"}), "spec.forecast", "forecast is not supported by this version", "remove"),
            ("/vertical", json!({"mode": "Off"}), "spec.vertical", "vertical is not supported by this version", "remove"),
            ("/actuator", json!("Keda"), "spec.actuator", "actuator Keda is not supported", "Command"),
            ("/actuator", json!("keda"), "spec.actuator", "\"keda\" is not an actuator", "Command"),
            ("/serviceRef/name", json!(""), "spec.serviceRef.name", "empty", "name"),
            ("/command", json!([]), "spec.command", "empty", "write the program"),
            ("/command/0", json!(" "), "spec.command[0]", "empty", "write the program"),
            ("/command/1", json!("a\0b"), "spec.command[1]", "zero byte", "write the program"),
            ("/replicas/min", json!(0), "spec.replicas.min", "scaling to zero is not supported", "1 or more"),
            ("/replicas/min", json!(-1), "spec.replicas.min", "-1 is negative", "1 or more"),
            ("/replicas/min", json!(10), "spec.replicas.max", "9 is less than spec.replicas.min, 10", "not less"),
            ("/replicas/max", json!(-3), "spec.replicas.max", "-3 is less", "not less"),
            ("/rules/0/signal", json!("cpu"), "spec.rules[0].signal", "signal cpu is not supported by this version", "activeConnections, connectionsPerSecond, bytesPerSecond"),
            ("/rules/0/signal", json!("cpus"), "spec.rules[0].signal", "\"cpus\" is not a signal", "use one of"),
            ("/targets/0/signal", json!("inFlight"), "spec.targets[0].signal", "signal inFlight is not supported", "use one of"),
            ("/rules/0/name", json!(""), "spec.rules[0].name", "empty", "name"),
            ("/rules/1/name", json!("busy"), "spec.rules[1].name", "two rules are named \"busy\"", "own"),
            ("/rules/0/for", json!("soon"), "spec.rules[0].for", "\"soon\" is not a duration", "30s or 5m"),
            ("/rules/0/for", json!("30"), "spec.rules[0].for", "\"30\" is not a duration", "30s or 5m"),
            ("/rules/0/for", json!("2days"), "spec.rules[0].for", "more than a day", "a day or less"),
            ("/rules/0/above", Value::Null, "spec.rules[0]", "neither above nor below", "above with add"),
            ("/rules/0/below", json!(3), "spec.rules[0]", "above and below are both given", "above with add"),
            ("/rules/0/add", Value::Null, "spec.rules[0]", "neither add nor remove", "above with add"),
            ("/rules/0/remove", json!(1), "spec.rules[0]", "add and remove are both given", "above with add"),
            ("/rules/0", json!({"name": "x", "signal": "activeConnections", "above": 1, "remove": 1}), "spec.rules[0].remove", "remove goes with below", "above with add"),
            ("/rules/1", json!({"name": "x", "signal": "activeConnections", "below": 1, "add": 1}), "spec.rules[1].add", "add goes with above", "above with add"),
            ("/rules/0/add", json!(0), "spec.rules[0].add", "0 is not a number of replicas", "1 or more"),
            ("/rules/1/remove", json!(-2), "spec.rules[1].remove", "-2 is not a number of replicas", "1 or more"),
            ("/rules/0/above", json!(-1), "spec.rules[0].above", "-1 is not a load", "not negative"),
            ("/rules/1/below", json!(90), "spec.rules[1]", "both hold between 80 and 90", "higher"),
            ("/targets/0/perReplica", json!(0), "spec.targets[0].perReplica", "0 is not a load", "greater than 0"),
            ("/targets", json!([{"signal": "bytesPerSecond", "perReplica": 1}, {"signal": "bytesPerSecond", "perReplica": 2}]), "spec.targets[1].signal", "two targets read bytesPerSecond", "keep one"),
            ("/behavior/scaleDown/stabilizationWindowSeconds", json!(3601), "spec.behavior.scaleDown.stabilizationWindowSeconds", "3601 is out of range", "0 to 3600"),
            ("/behavior/scaleDown/stabilizationWindowSeconds", json!(-1), "spec.behavior.scaleDown.stabilizationWindowSeconds", "-1 is out of range", "0 to 3600"),
            ("/behavior", policies(json!([])), "spec.behavior.scaleUp.policies", "empty", "leave"),
            ("/behavior", policies(json!([{"type": "Pods", "value": 0, "periodSeconds": 15}])), "spec.behavior.scaleUp.policies[0].value", "0 is not a number", "1 or more"),
            ("/behavior", policies(json!([{"type": "Pods", "value": 1, "periodSeconds": 1801}])), "spec.behavior.scaleUp.policies[0].periodSeconds", "1801 is out of range", "1 to 1800"),
        ];
        for (pointer, value, path, problem, remedy) in cases {
            let resource = resource(with(pointer, value.clone())).unwrap();
            let error = validate(&resource).expect_err(&format!("{pointer} = {value}"));
            assert_eq!(error.path, path, "{pointer} = {value}: {error}");
            assert!(error.problem.contains(problem), "{pointer} = {value}: {error}");
            assert!(error.remedy.contains(remedy), "{pointer} = {value}: {error}");
        }
    }

    #[test]
    fn a_policy_that_decides_from_nothing_is_refused() {
        let mut spec = with("/rules", json!([]));
        spec["targets"] = json!([]);
        let error = validate(&resource(spec).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "spec: neither rules nor targets are given; give at least one of them");
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        for (pointer, field) in [
            ("/replica", "replica"),
            ("/rules/0/addCpu", "addCpu"),
            ("/targets/0/perPod", "perPod"),
            ("/replicas/minimum", "minimum"),
            ("/behavior/scaleDown/tolerance", "tolerance"),
            ("/serviceRef/port", "port"),
        ] {
            let error = resource(with(pointer, json!(1))).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown field `{field}`")), "{pointer}: {error}");
        }
    }

    #[test]
    fn the_definition_is_a_structural_schema_with_a_status() {
        use kube::CustomResourceExt;
        let definition = serde_json::to_value(ScalePolicy::crd()).unwrap();
        let version = &definition["spec"]["versions"][0];
        assert_eq!(definition["metadata"]["name"], "scalepolicies.weir.dev");
        assert_eq!(definition["spec"]["scope"], "Namespaced");
        assert_eq!(version["subresources"], json!({"status": {}}));
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        assert_eq!(spec["forecast"]["x-kubernetes-preserve-unknown-fields"], json!(true));
        assert_eq!(spec["rules"]["items"]["properties"]["for"]["type"], "string");
        assert!(!definition.to_string().contains("additionalProperties"), "{definition}");
    }
}
