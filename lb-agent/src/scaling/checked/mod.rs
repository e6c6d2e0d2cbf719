//! Decides whether a ScalePolicy makes sense, from its text alone, and gives it the form that [`super::decide()`] works on: every
//! name resolved, every duration parsed, every default filled in, and no two fields that contradict each other.
//!
//! What is refused here is what the schema refuses, so that a file and the API server say the same. What depends on where the policy
//! is read (a command in a cluster, a target that does not exist) is no mistake of the text: [`Policy::actuator`] says it.

mod behavior;
mod error;
mod forecast;
pub mod quantity;
mod rules;
mod schedule;
mod text;
mod vertical;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use kube::ResourceExt;

pub use behavior::{Limit, Pace, Panic, TOLERANCE};
pub use error::PolicyError;
pub use forecast::{FEATURES, Feature, ForecastPolicy, RATE, feature};
pub use rules::{Bound, Resize, Rule, Step, Target};
pub use schedule::Entry;
pub use vertical::{Bounds, Vertical};

use error::{Checked, count, wrong};

use super::{
    Quantile, Signal, SignalName,
    policy::{ActuatorKind, Mode, ScalePolicy, ScalePolicySpec, TargetRef},
};

/// The annotation that makes a policy decide nothing.
pub const PAUSED: &str = "weir.dev/paused";

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
    /// It decides nothing, by its annotation.
    pub paused: bool,
    /// The least replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// Thresholds that change the number of replicas, names unique.
    pub rules: Vec<Rule>,
    /// Wanted loads, signals unique.
    pub targets: Vec<Target>,
    /// The fields of the signals that others are asked for.
    pub asks: BTreeMap<Signal, String>,
    /// How fast the number may grow.
    pub up: Pace,
    /// How fast the number may shrink.
    pub down: Pace,
    /// What is done about bursts.
    pub panic: Option<Panic>,
    /// The least replicas by time.
    pub schedule: Vec<Entry>,
    /// The forecast.
    pub forecast: Option<ForecastPolicy>,
    /// The size of a replica.
    pub vertical: Option<Vertical>,
    /// How a decision is to be carried out, if the policy says so.
    pub actuator: Option<ActuatorKind>,
    /// What is scaled.
    pub target: Option<TargetRef>,
    /// What is run to scale, if the policy says so itself.
    pub command: Option<Vec<String>>,
    /// How long a replica that is to go may keep its connections.
    pub drain_timeout: Duration,
}

/// Where a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a cluster, whose coordinator decides.
    Cluster,
    /// On a node by itself.
    Standalone,
}

impl Policy {
    /// How decisions are carried out there, or why they cannot be.
    pub fn actuator(&self, place: Place) -> Result<ActuatorKind, PolicyError> {
        let command = self.command.is_some();
        let kind = match (self.actuator, place) {
            (Some(kind), _) => kind,
            (None, Place::Standalone) => ActuatorKind::Command,
            (None, Place::Cluster) if command => ActuatorKind::Command,
            (None, Place::Cluster) => ActuatorKind::Scale,
        };
        match (kind, place) {
            (ActuatorKind::Command, Place::Cluster) => {
                let field = if command { "spec.command" } else { "spec.actuator" };
                wrong(field, "commands are not run in a cluster", "use actuator Scale, Keda or Metric")
            }
            (ActuatorKind::Scale | ActuatorKind::Keda, Place::Standalone) => {
                wrong("spec.actuator", format!("{kind:?} needs a cluster"), "use actuator Command or Metric")
            }
            (ActuatorKind::Scale, Place::Cluster) if self.target.is_none() => {
                wrong("spec.targetRef", "it is not given", "say what is scaled")
            }
            (kind, _) => Ok(kind),
        }
    }

    /// Whether who asks for its Service in vain brings a replica back.
    pub fn wakes(&self) -> bool {
        self.min == 0 && self.mode == Mode::Apply && !self.paused
    }

    /// Every signal that it reads, each once.
    pub fn signals(&self) -> Vec<&Signal> {
        let of_rules = self.rules.iter().map(|rule| &rule.signal);
        let of_sizes = self.vertical.iter().flat_map(|vertical| &vertical.rules).map(|rule| &rule.signal);
        let of_forecast = self.forecast.iter().map(|forecast| &forecast.signal);
        let of_targets = self.targets.iter().map(|target| &target.signal);
        let mut signals: Vec<_> = of_rules.chain(of_targets).chain(of_forecast).chain(of_sizes).collect();
        signals.sort_unstable();
        signals.dedup();
        signals
    }

    /// Whether it reads a signal that is made from requests, which are measured only then.
    pub fn reads_requests(&self) -> bool {
        use SignalName::{InFlight, RequestsPerSecond};
        let is_of_requests =
            |signal: &&Signal| matches!(**signal, Signal::Measured(InFlight | RequestsPerSecond) | Signal::Ttfb(_));
        self.signals().iter().any(is_of_requests)
    }

    /// Whether it reads what replicas use of CPU or memory, which is measured only then.
    pub fn reads_usage(&self) -> bool {
        use SignalName::{Cpu, CpuCores, Memory, MemoryBytes};
        let is_usage = |signal: &&Signal| matches!(**signal, Signal::Measured(Cpu | CpuCores | Memory | MemoryBytes));
        self.signals().iter().any(is_usage)
    }

    /// The quantiles of `ttfb` that it reads.
    pub fn quantiles(&self) -> BTreeSet<Quantile> {
        let quantile = |signal: &Signal| match signal {
            Signal::Ttfb(quantile) => Some(*quantile),
            _ => None,
        };
        self.signals().into_iter().filter_map(quantile).collect()
    }
}

/// Checks a policy.
pub fn validate(policy: &ScalePolicy) -> Checked<Policy> {
    let spec = &policy.spec;
    let (min, max) = bounds(spec.replicas.min, spec.replicas.max)?;
    let (rules, resize) = rules::rules(&spec.rules)?;
    let targets = rules::targets(&spec.targets)?;
    let (up, down) = behavior::paces(spec.behavior.as_ref())?;
    let hour = Duration::from_secs(3600);
    let drain = spec.drain_timeout.as_deref();
    let checked = Policy {
        id: identity(policy)?,
        service: text::name("spec.serviceRef.name", &spec.service_ref.name, 253)?,
        mode: spec.mode,
        paused: policy.annotations().get(PAUSED).is_some_and(|value| value != "false"),
        min,
        max,
        asks: rules::asks(&spec.rules, &spec.targets),
        up,
        down,
        panic: behavior::panic(spec.panic.as_ref())?,
        schedule: schedule::schedule(&spec.schedule, max)?,
        forecast: forecast::forecast(spec.forecast.as_ref(), &targets)?,
        vertical: vertical::vertical(spec.vertical.as_ref(), resize, &rules, &targets)?,
        actuator: actuator(spec)?,
        target: spec.target_ref.as_ref().map(target).transpose()?,
        command: command(spec.command.as_deref())?,
        drain_timeout: text::duration_within("spec.drainTimeout", drain, DRAIN, Duration::ZERO, hour)?,
        rules,
        targets,
    };
    if spec.rules.is_empty() && spec.targets.is_empty() {
        return wrong("spec", "neither rules nor targets are given", "give at least one of them");
    }
    if checked.panic.is_some() && checked.targets.is_empty() {
        return wrong("spec.panic", "there is no target to watch", "give a target, or remove panic");
    }
    Ok(checked)
}

/// How long a replica that is to go may keep its connections, where the policy does not say.
const DRAIN: Duration = Duration::from_secs(120);

fn identity(policy: &ScalePolicy) -> Checked<PolicyId> {
    Ok(PolicyId {
        namespace: policy.namespace().unwrap_or_else(|| "default".to_owned()),
        name: text::name("metadata.name", policy.metadata.name.as_deref().unwrap_or(""), 253)?,
    })
}

fn target(spec: &TargetRef) -> Checked<TargetRef> {
    let remedy = "write it like apiVersion: apps/v1, kind: Deployment, name: web";
    text::of_form("spec.targetRef.apiVersion", &spec.api_version, &text::API_VERSION, 253, remedy)?;
    text::of_form("spec.targetRef.kind", &spec.kind, &text::WORD, 63, remedy)?;
    text::name("spec.targetRef.name", &spec.name, 253)?;
    Ok(spec.clone())
}

fn actuator(spec: &ScalePolicySpec) -> Checked<Option<ActuatorKind>> {
    match spec.actuator {
        Some(kind) if spec.command.is_some() && kind != ActuatorKind::Command => wrong(
            "spec.command",
            format!("command goes with actuator Command, not with {kind:?}"),
            "remove one of them",
        ),
        Some(ActuatorKind::Scale) if spec.target_ref.is_none() => {
            wrong("spec.targetRef", "actuator Scale needs a targetRef", "say what is scaled")
        }
        kind => Ok(kind),
    }
}

fn command(argv: Option<&[String]>) -> Checked<Option<Vec<String>>> {
    let remedy = "write the program and its arguments, as in [\"/usr/local/bin/scale\"]";
    match argv {
        None => Ok(None),
        Some([]) => wrong("spec.command", "it is empty", remedy),
        Some([program, ..]) if program.trim_matches(' ').is_empty() => wrong("spec.command[0]", "it is empty", remedy),
        Some(argv) => {
            error::at_most("spec.command", argv, 64)?;
            if let Some(index) = argv.iter().position(|word| word.contains('\0')) {
                return wrong(format!("spec.command[{index}]"), "it contains a zero byte", remedy);
            }
            Ok(Some(argv.to_vec()))
        }
    }
}

fn bounds(min: i32, max: i32) -> Checked<(u32, u32)> {
    let low = count("spec.replicas.min", min, 0, MOST)?;
    let high = count("spec.replicas.max", max, 1, MOST)?;
    if high < low {
        let problem = format!("{max} is less than spec.replicas.min, {min}");
        return wrong("spec.replicas.max", problem, "use a number that is not less than min");
    }
    Ok((low, high))
}

/// More replicas than anyone has.
const MOST: i32 = 1_000_000;

#[cfg(test)]
mod tests;
