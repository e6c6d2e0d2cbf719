//! Rules and targets: which number they read, when they hold, and what they do then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    error::{Checked, at_most, load, share, within, wrong},
    text::{self, METRIC, PATH, SERVER, WORD, duration, of_form},
};
use crate::scaling::{
    policy::{PodMetricSpec, PrometheusSpec, RuleSpec, SignalName, TargetSpec},
    signal::{Quantile, Signal},
};

/// A threshold, and what is done once it is crossed for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule<Action = Step> {
    /// Its name.
    pub name: Arc<str>,
    /// What it reads.
    pub signal: Signal,
    /// When it holds.
    pub bound: Bound,
    /// How long it must hold before it acts.
    pub hold: Duration,
    /// How long it does not act again after it has acted.
    pub cooldown: Duration,
    /// How much more, above the threshold, or less, below it.
    pub action: Action,
}

/// When a rule holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The signal is greater than this.
    Above(f64),
    /// The signal is less than this.
    Below(f64),
}

/// A change of the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many replicas.
    Replicas(u32),
    /// So many in a hundred of those there are, and one at least.
    Percent(u32),
}

/// A change of the size of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Thousandths of a CPU.
    Cpu(u64),
    /// Bytes of memory.
    Memory(u64),
}

/// The load one replica should carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What it reads.
    pub signal: Signal,
    /// The wanted mean, greater than 0.
    pub per_replica: f64,
}

/// The rules that change the number of replicas, and those that change their size.
pub(super) fn rules(specs: &[RuleSpec]) -> Checked<(Vec<Rule>, Vec<Rule<Resize>>)> {
    at_most("spec.rules", specs, 32)?;
    let mut names = BTreeSet::new();
    let (mut horizontal, mut vertical) = (Vec::new(), Vec::new());
    for (index, spec) in specs.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let (rule, action) = rule(&path, spec)?;
        if !names.insert(spec.name.as_str()) {
            let problem = format!("two rules are named {:?}", spec.name);
            return wrong(format!("{path}.name"), problem, "give each rule a name of its own");
        }
        match action {
            Action::Step(action) => horizontal.push((path, with(rule, action))),
            Action::Resize(action) => vertical.push((path, with(rule, action))),
        }
    }
    let alike = |a: &Resize, b: &Resize| std::mem::discriminant(a) == std::mem::discriminant(b);
    Ok((contradictions(horizontal, |_, _| true)?, contradictions(vertical, alike)?))
}

enum Action {
    Step(Step),
    Resize(Resize),
}

fn with<A>(rule: Rule<()>, action: A) -> Rule<A> {
    let Rule { name, signal, bound, hold, cooldown, action: () } = rule;
    Rule { name, signal, bound, hold, cooldown, action }
}

fn rule(path: &str, spec: &RuleSpec) -> Checked<(Rule<()>, Action)> {
    let name = of_form(&format!("{path}.name"), &spec.name, &WORD, 63, "give a name of letters, digits, -, _ and .")?;
    let signal = source(path, &Source::of_rule(spec))?;
    let bound = bound(path, spec)?;
    let action = action(path, spec, bound)?;
    let hold = duration(&format!("{path}.for"), spec.hold.as_deref(), Duration::ZERO)?;
    let cooldown = duration(&format!("{path}.cooldown"), spec.cooldown.as_deref(), Duration::ZERO)?;
    Ok((Rule { name: name.into(), signal, bound, hold, cooldown, action: () }, action))
}

const PAIRS: &str = "use above with add, or below with remove";

fn bound(path: &str, spec: &RuleSpec) -> Checked<Bound> {
    match (spec.above, spec.below) {
        (Some(above), None) => load(&format!("{path}.above"), above).map(Bound::Above),
        (None, Some(below)) => load(&format!("{path}.below"), below).map(Bound::Below),
        (None, None) => wrong(path, "neither above nor below is given", PAIRS),
        (Some(_), Some(_)) => wrong(path, "above and below are both given", PAIRS),
    }
}

type Read = fn(&str, &IntOrString) -> Checked<Action>;

fn action(path: &str, spec: &RuleSpec, bound: Bound) -> Checked<Action> {
    let step: Read = |path, value| text::step(path, value).map(Action::Step);
    let cpu: Read = |path, value| {
        text::millicores(path, value).and_then(|it| some(path, it)).map(|it| Action::Resize(Resize::Cpu(it)))
    };
    let memory: Read = |path, value| {
        text::bytes(path, value).and_then(|it| some(path, it)).map(|it| Action::Resize(Resize::Memory(it)))
    };
    let all = [
        ("add", &spec.add, true, step),
        ("remove", &spec.remove, false, step),
        ("addCpu", &spec.add_cpu, true, cpu),
        ("removeCpu", &spec.remove_cpu, false, cpu),
        ("addMemory", &spec.add_memory, true, memory),
        ("removeMemory", &spec.remove_memory, false, memory),
    ];
    let mut given = all.into_iter().filter_map(|(field, value, adds, read)| Some((field, value.as_ref()?, adds, read)));
    let Some((field, value, adds, read)) = given.next() else {
        return wrong(path, "neither add nor remove is given", PAIRS);
    };
    if let Some((other, ..)) = given.next() {
        return wrong(
            path,
            format!("{field} and {other} are both given"),
            "let a rule do one thing: above with add, or below with remove",
        );
    }
    match (bound, adds) {
        (Bound::Above(_), false) => {
            wrong(format!("{path}.{field}"), format!("{field} goes with below, not with above"), PAIRS)
        }
        (Bound::Below(_), true) => {
            wrong(format!("{path}.{field}"), format!("{field} goes with above, not with below"), PAIRS)
        }
        _ => read(&format!("{path}.{field}"), value),
    }
}

fn some(path: &str, amount: u64) -> Checked<u64> {
    if amount == 0 { wrong(path, "0 changes nothing", "use more than 0") } else { Ok(amount) }
}

/// The fields that say what a rule or target reads.
struct Source<'a> {
    signal: Option<SignalName>,
    quantile: Option<f64>,
    prometheus: Option<&'a PrometheusSpec>,
    pod_metric: Option<&'a PodMetricSpec>,
}

impl<'a> Source<'a> {
    fn of_rule(spec: &'a RuleSpec) -> Self {
        let RuleSpec { signal, quantile, prometheus, pod_metric, .. } = spec;
        Self { signal: *signal, quantile: *quantile, prometheus: prometheus.as_ref(), pod_metric: pod_metric.as_ref() }
    }

    fn of_target(spec: &'a TargetSpec) -> Self {
        let TargetSpec { signal, quantile, prometheus, pod_metric, .. } = spec;
        Self { signal: *signal, quantile: *quantile, prometheus: prometheus.as_ref(), pod_metric: pod_metric.as_ref() }
    }
}

/// The fields of the signals that others are asked for.
pub(super) fn asks(rules: &[RuleSpec], targets: &[TargetSpec]) -> BTreeMap<Signal, String> {
    let rules = rules.iter().enumerate().map(|(index, spec)| (format!("spec.rules[{index}]"), Source::of_rule(spec)));
    let targets =
        targets.iter().enumerate().map(|(index, spec)| (format!("spec.targets[{index}]"), Source::of_target(spec)));
    let mut asks = BTreeMap::new();
    for (path, source) in rules.chain(targets) {
        let query = source.prometheus.map(|spec| (Signal::Prometheus(Arc::new(spec.clone())), "prometheus"));
        let metric = source.pod_metric.map(|spec| (Signal::PodMetric(Arc::new(spec.clone())), "podMetric"));
        for (signal, field) in query.into_iter().chain(metric) {
            asks.entry(signal).or_insert_with(|| format!("{path}.{field}"));
        }
    }
    asks
}

fn source(path: &str, source: &Source<'_>) -> Checked<Signal> {
    let remedy = "give one of signal, prometheus and podMetric";
    let signal = match (source.signal, source.prometheus, source.pod_metric) {
        (Some(name), None, None) => return named(path, name, source.quantile),
        (None, Some(spec), None) => prometheus(&format!("{path}.prometheus"), spec)?,
        (None, None, Some(spec)) => pod_metric(&format!("{path}.podMetric"), spec)?,
        (None, None, None) => return wrong(path, "it reads nothing", remedy),
        _ => return wrong(path, "it reads more than one number", remedy),
    };
    match source.quantile {
        None => Ok(signal),
        Some(_) => wrong(format!("{path}.quantile"), "quantile goes with signal ttfb", "remove it"),
    }
}

fn named(path: &str, name: SignalName, quantile: Option<f64>) -> Checked<Signal> {
    let path = format!("{path}.quantile");
    match (name, quantile) {
        (SignalName::Ttfb, Some(quantile)) => {
            within(&path, quantile, 0.01, 0.999).map(|quantile| Signal::Ttfb(Quantile::new(quantile)))
        }
        (SignalName::Ttfb, None) => wrong(path, "ttfb has no quantile", "give one, as quantile: 0.95"),
        (_, Some(_)) => wrong(path, "quantile goes with signal ttfb", "remove it"),
        (name, None) => Ok(name.into()),
    }
}

fn prometheus(path: &str, spec: &PrometheusSpec) -> Checked<Signal> {
    let remedy = "write it like http://prometheus.monitoring:9090";
    of_form(&format!("{path}.server"), &spec.server, &SERVER, 1024, remedy)?;
    let query = format!("{path}.query");
    match spec.query.chars().count() {
        0 => wrong(query, "it is empty", "give a query of one value"),
        1..=4096 => Ok(Signal::Prometheus(Arc::new(spec.clone()))),
        _ => wrong(query, "it is longer than 4096 characters", "let a recording rule do a part of it"),
    }
}

fn pod_metric(path: &str, spec: &PodMetricSpec) -> Checked<Signal> {
    within(&format!("{path}.port"), spec.port, 1, 65_535)?;
    of_form(&format!("{path}.path"), &spec.path, &PATH, 1024, "write it like /metrics")?;
    of_form(&format!("{path}.name"), &spec.name, &METRIC, 256, "write it as Prometheus shows it, without labels")?;
    Ok(Signal::PodMetric(Arc::new(spec.clone())))
}

/// A rule that removes where another one adds would make the number swing for ever.
fn contradictions<A>(rules: Vec<(String, Rule<A>)>, alike: fn(&A, &A) -> bool) -> Checked<Vec<Rule<A>>> {
    for (index, (path, rule)) in rules.iter().enumerate() {
        let others = rules[..index].iter().map(|(_, other)| other);
        for other in others.filter(|other| other.signal == rule.signal && alike(&other.action, &rule.action)) {
            let (above, below) = match (other.bound, rule.bound) {
                (Bound::Above(above), Bound::Below(below)) | (Bound::Below(below), Bound::Above(above)) => {
                    (above, below)
                }
                _ => continue,
            };
            if below > above {
                let problem =
                    format!("rules {:?} and {:?} both hold between {above} and {below}", other.name, rule.name);
                return wrong(path, problem, "let the threshold of above be the higher one");
            }
        }
    }
    Ok(rules.into_iter().map(|(_, rule)| rule).collect())
}

/// The wanted loads.
pub(super) fn targets(specs: &[TargetSpec]) -> Checked<Vec<Target>> {
    at_most("spec.targets", specs, 16)?;
    let mut signals = BTreeSet::new();
    let mut targets = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let path = format!("spec.targets[{index}]");
        let signal = source(&path, &Source::of_target(spec))?;
        if signal == SignalName::Skew.into() {
            return wrong(format!("{path}.signal"), "more replicas do not lessen skew", "use it in a rule");
        }
        if !signals.insert(signal.clone()) {
            let problem = format!("two targets read {signal}");
            return wrong(format!("{path}.signal"), problem, "keep one of them");
        }
        targets.push(Target { signal, per_replica: share(&format!("{path}.perReplica"), spec.per_replica)? });
    }
    Ok(targets)
}
