//! The ScalePolicy resource as users write it. [`super::validate`] turns it into a checked [`super::Policy`].
//!
//! Everything the API server can refuse by itself is in the schema: patterns and ranges at the fields, CEL rules where fields depend on
//! each other. `validate` refuses the same, in the same words where both have any, for whoever has no API server.

#![allow(unreachable_pub, reason = "KubeSchema repeats every struct where nobody reaches it")]

mod behavior;
mod foresight;
mod rule;
mod status;
pub mod text;
mod vertical;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use behavior::{Behavior, ChangeKind, PanicSpec, ScalingPolicySpec, ScalingRules, SelectPolicy};
pub use foresight::{ForecastSpec, Model, ScheduleSpec};
pub use rule::{Per, PodMetricSpec, PrometheusSpec, RuleSpec, SignalName, TargetSpec};
pub use status::{
    AnswerStatus, DecisionStatus, ForecastStatus, LimitStatus, RecommendationStatus, RejectedStatus, ScalePolicyStatus,
    SignalStatus, UsageHistoryStatus,
};
pub use vertical::{CpuBounds, MemoryBounds, VerticalMode, VerticalSpec};

use text::{NAME, WORD};

/// How many replicas of what serves a Service there should be, and how large, decided from what its backends carry.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "ScalePolicy",
    plural = "scalepolicies",
    shortname = "scp",
    namespaced,
    status = "ScalePolicyStatus",
    derive = "PartialEq",
    doc = "How many replicas of what serves a Service there should be, and how large, decided from what its backends carry.",
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.serviceRef.name"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Min","type":"integer","jsonPath":".spec.replicas.min"}"#,
    printcolumn = r#"{"name":"Max","type":"integer","jsonPath":".spec.replicas.max"}"#,
    printcolumn = r#"{"name":"Current","type":"integer","jsonPath":".status.currentReplicas"}"#,
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".status.desiredReplicas"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.lastDecision.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.rules) && size(self.rules) > 0 || has(self.targets) && size(self.targets) > 0")
        .message("neither rules nor targets are given; give at least one of them"),
    validation = Rule::new("!has(self.command) || !has(self.actuator) || self.actuator == 'Command'")
        .message("command goes with actuator Command; remove one of them"),
    validation = Rule::new("!has(self.actuator) || self.actuator != 'Scale' || has(self.targetRef)")
        .message("actuator Scale needs a targetRef; say what is scaled"),
    validation = Rule::new("!has(self.schedule) || self.schedule.all(s, s.minReplicas <= self.replicas.max)")
        .message("minReplicas of a schedule is more than replicas.max; use a number that is not more than max"),
    validation = Rule::new("!has(self.rules) || !self.rules.exists(r, has(r.addCpu) || has(r.removeCpu)) || has(self.vertical) && has(self.vertical.cpu)")
        .message("a rule changes the CPU without bounds; give vertical.cpu"),
    validation = Rule::new("!has(self.rules) || !self.rules.exists(r, has(r.addMemory) || has(r.removeMemory)) || has(self.vertical) && has(self.vertical.memory)")
        .message("a rule changes the memory without bounds; give vertical.memory"),
    validation = Rule::new("!has(self.vertical) || self.vertical.mode == 'Off' || !has(self.vertical.cpu) || !((has(self.rules) && self.rules.exists(r, has(r.signal) && r.signal == 'cpu' && (has(r.add) || has(r.remove)))) || (has(self.targets) && self.targets.exists(t, has(t.signal) && t.signal == 'cpu')))")
        .message("cpu decides the number of replicas and vertical.cpu their size; let CPU do one of them: remove vertical.cpu, or use another signal"),
    validation = Rule::new("!has(self.forecast) || has(self.forecast.signal) || has(self.targets) && size(self.targets) > 0")
        .message("the forecast has no load to foresee; give a target, or forecast.signal with forecast.perReplica"),
    validation = Rule::new("!has(self.panic) || has(self.targets) && size(self.targets) > 0")
        .message("panic has no target to watch; give a target, or remove panic"),
)]
pub struct ScalePolicySpec {
    /// What is scaled on Kubernetes. Without a cluster it only names what `command` scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// What is run to scale without a cluster; called with NAME CURRENT DESIRED added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self[0].matches('[^ ]')").message("the program is empty; write the program and its arguments"))]
    pub command: Option<Vec<String>>,
    /// The Service whose backends are the replicas.
    pub service_ref: ServiceRef,
    /// Whether decisions are carried out.
    #[serde(default)]
    pub mode: Mode,
    /// The bounds of the number of replicas.
    pub replicas: ReplicaBounds,
    /// Thresholds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
        .message("two rules have the same name; give each rule a name of its own"),
        validation = Rule::new("self.all(a, !has(a.above) || self.all(b, !has(b.below) || b.below <= a.above || has(a.add) != has(b.remove) || has(a.addCpu) != has(b.removeCpu) || !(has(a.signal) && has(b.signal) && a.signal == b.signal && (a.signal != 'ttfb' || a.quantile == b.quantile) || has(a.prometheus) && has(b.prometheus) && a.prometheus == b.prometheus || has(a.podMetric) && has(b.podMetric) && a.podMetric == b.podMetric)))")
        .message("two rules of one number hold at the same time; let the threshold of above be the higher one"))]
    pub rules: Vec<RuleSpec>,
    /// Wanted loads of one replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, has(a.signal) && has(b.signal) && a.signal == b.signal && (a.signal != 'ttfb' || a.quantile == b.quantile) || has(a.prometheus) && has(b.prometheus) && a.prometheus == b.prometheus || has(a.podMetric) && has(b.podMetric) && a.podMetric == b.podMetric))")
        .message("two targets read one number; keep one of them"))]
    pub targets: Vec<TargetSpec>,
    /// How fast the number may change; names and defaults are those of autoscaling/v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// What is done about bursts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<PanicSpec>,
    /// The least replicas by time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub schedule: Vec<ScheduleSpec>,
    /// The load that is foreseen; it only ever raises the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastSpec>,
    /// How a decision is carried out: by default Scale in a cluster, Command without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actuator: Option<ActuatorKind>,
    /// How long a replica that is to go may keep the connections it has: `120s` by default, an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = text::DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("more than an hour; use an hour or less"))]
    pub drain_timeout: Option<String>,
    /// The size of a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<VerticalSpec>,
}

/// An object with a scale subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Its API group and version.
    #[schemars(regex(pattern = text::API_VERSION), length(max = 253))]
    pub api_version: String,
    /// Its kind.
    #[schemars(regex(pattern = WORD), length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub name: String,
}

/// A Service in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRef {
    /// Its name.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub name: String,
}

/// Whether decisions are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// They are.
    #[default]
    Apply,
    /// They are only shown.
    Recommend,
}

/// How a decision is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ActuatorKind {
    /// Through the scale subresource of `targetRef`.
    Scale,
    /// Through KEDA, which asks for the number.
    Keda,
    /// Through a HorizontalPodAutoscaler, which reads the number as a metric.
    Metric,
    /// By a command; only without a cluster.
    Command,
}

/// The bounds of the number of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("max is less than min; use a number that is not less than min"))]
pub struct ReplicaBounds {
    /// The least; with 0, an idle Service loses its last replica, and a client's first packet brings one back.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min: i32,
    /// The most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: i32,
}

const fn one() -> i32 {
    1
}
