//! How fast the number of replicas may change.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::DURATION;

/// `behavior` of autoscaling/v2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScalingRules {
    /// Up: the lowest recommendation of this long counts; down: the highest. 0 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_window_seconds: Option<i32>,
    /// Which of the policies counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// The largest changes within a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub policies: Option<Vec<ScalingPolicySpec>>,
    /// How far a target's mean may be from what is wanted without a change, as a part of it: 0.1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tolerance: Option<f64>,
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
    #[schemars(range(min = 1))]
    pub value: i32,
    /// The period, 1 to 1800.
    #[schemars(range(min = 1, max = 1800))]
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

/// Bursts: targets read a mean over `longWindow`, until the mean over `shortWindow` asks for `threshold` times the ready replicas; from
/// then on they read the short one, and nothing is scaled in before it has been calm for `longWindow`. After Knative's autoscaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.shortWindow) ? duration(self.shortWindow) : duration('6s')) < (has(self.longWindow) ? duration(self.longWindow) : duration('1m'))")
    .message("shortWindow is not shorter than longWindow; use a shorter one"))]
pub struct PanicSpec {
    /// The window in which a burst shows: `6s` by default, at least a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("out of range; use 1s to 1h"))]
    pub short_window: Option<String>,
    /// The window of calm times: `60s` by default, an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("out of range; use 1s to 1h"))]
    pub long_window: Option<String>,
    /// How many times the ready replicas the short window asks for in a burst: 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.1, max = 10.0))]
    #[x_kube(validation = Rule::new("self >= 1.1").message("out of range; use 1.1 to 10"))]
    pub threshold: Option<f64>,
}
