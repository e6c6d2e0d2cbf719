//! The ScalePolicy resource as users write it. [`super::validate`] turns it into a checked [`super::Policy`]; fields that a later
//! version defines are known here only so that they are refused by name, on every source, and never silently ignored.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// How many replicas of what serves a Service there should be, decided from what its backends carry.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "ScalePolicy",
    plural = "scalepolicies",
    shortname = "scp",
    namespaced,
    status = "ScalePolicyStatus",
    derive = "PartialEq",
    doc = "How many replicas of what serves a Service there should be, decided from what its backends carry."
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScalePolicySpec {
    /// What is scaled on Kubernetes. Without a cluster it only names what `command` scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// What is run to scale without a cluster; called with NAME CURRENT DESIRED added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    pub rules: Vec<RuleSpec>,
    /// Wanted loads of one replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetSpec>,
    /// How fast the number may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// How a decision is carried out. `Command` is the only actuator of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actuator: Option<String>,
    /// Not supported by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub forecast: Option<serde_json::Value>,
    /// Not supported by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub vertical: Option<serde_json::Value>,
}

/// The last decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalePolicyStatus {
    /// Replicas as last set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_replicas: Option<u32>,
    /// Replicas as last decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An object with a scale subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Its API group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A Service in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRef {
    /// Its name.
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

/// The bounds of the number of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaBounds {
    /// The least, at least 1.
    #[serde(default = "one")]
    pub min: i32,
    /// The most.
    pub max: i32,
}

const fn one() -> i32 {
    1
}

/// A threshold that, once crossed for a while, adds or removes replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Its name, unique in the policy.
    pub name: String,
    /// The number it reads, a mean over the ready backends.
    pub signal: String,
    /// It holds while the signal is greater; goes with `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// It holds while the signal is less; goes with `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// How long it must hold without a break before it acts: `30s`, `5m`. Without it, it acts at once.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Replicas to add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<i32>,
    /// Replicas to remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<i32>,
}

/// The load one replica should carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// The number it reads, a mean over the ready backends.
    pub signal: String,
    /// The wanted mean.
    pub per_replica: f64,
}

/// `behavior` of autoscaling/v2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Behavior {
    /// Going up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Going down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// How fast the number may change in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScalingRules {
    /// Up: the lowest recommendation of this long counts; down: the highest. 0 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stabilization_window_seconds: Option<i32>,
    /// Which of the policies counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// The largest changes within a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<ScalingPolicySpec>>,
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SelectPolicy {
    /// The one that allows the largest change.
    #[default]
    Max,
    /// The one that allows the smallest change.
    Min,
    /// No change in this direction.
    Disabled,
}

/// The largest change within a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScalingPolicySpec {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub kind: ChangeKind,
    /// The change.
    pub value: i32,
    /// The period, 1 to 1800.
    pub period_seconds: i32,
}

/// What a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ChangeKind {
    /// Replicas.
    Pods,
    /// Percent of the replicas at the period's start.
    Percent,
}

/// Keeps a later version's field from being pruned by the API server, so that it is refused and not lost.
fn anything(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "description": "Not supported by this version.",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
