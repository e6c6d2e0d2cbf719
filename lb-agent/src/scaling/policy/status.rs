//! What became of a policy.

use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{Condition, Time},
    util::intstr::IntOrString,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scaling::{
    checked::quantity::{bytes, millicores},
    signals::Requests,
    vertical::histogram::Weights,
};

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalePolicyStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas as last set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_replicas: Option<u32>,
    /// Replicas as last decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// What is foreseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastStatus>,
    /// The size that a replica should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<RecommendationStatus>,
    /// When the number was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// Pods that are to go, and get no new connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<String>,
    /// The last decision that said something new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<DecisionStatus>,
    /// Whether it works, and what is in its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What is foreseen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForecastStatus {
    /// The replicas that it keeps at least; none while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// From what, or why it is off.
    #[serde(default)]
    pub message: String,
}

/// The size that a container should have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecommendationStatus {
    /// The container.
    pub container: String,
    /// Its CPU request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Its memory request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// From what.
    #[serde(default)]
    pub message: String,
    /// Whether pods are given it, in place.
    #[serde(default)]
    pub applied: bool,
    /// Pods that run.
    #[serde(default)]
    pub pods: u32,
    /// Those of them that have it; none where it is only recommended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized_pods: Option<u32>,
    /// The last change of the size, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<String>,
    /// What was used, for the next leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<UsageHistoryStatus>,
}

/// What the containers have used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageHistoryStatus {
    /// Since when it is counted, in seconds since 1970.
    pub since_seconds: u64,
    /// Of CPU and of memory.
    pub weights: [Weights; 2],
}

impl RecommendationStatus {
    /// The size.
    pub fn requests(&self) -> Requests {
        let text = |text: &Option<String>| text.clone().map(IntOrString::String);
        Requests {
            cpu: text(&self.cpu).and_then(|text| millicores(&text)),
            memory: text(&self.memory).and_then(|text| bytes(&text)),
        }
    }
}

/// A decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionStatus {
    /// When it was made, as RFC 3339 writes it.
    pub at: String,
    /// Why.
    pub reason: String,
    /// What the signals were.
    #[serde(default)]
    pub inputs: Vec<SignalStatus>,
    /// What each rule, target, schedule and forecast said.
    #[serde(default)]
    pub answers: Vec<AnswerStatus>,
    /// What was asked for and not done.
    #[serde(default)]
    pub rejected: Vec<RejectedStatus>,
    /// What kept it from what was asked for.
    #[serde(default)]
    pub limited_by: Vec<LimitStatus>,
}

/// A signal's value and age.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignalStatus {
    /// Which.
    pub signal: String,
    /// Its value, if known.
    pub value: Option<f64>,
    /// Its age.
    pub age_seconds: Option<f64>,
}

/// What a rule, target, schedule or forecast said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerStatus {
    /// Which one.
    pub from: String,
    /// The replicas it asks for; none where it asks for nothing.
    pub replicas: Option<u32>,
    /// Whether it lacked its signal.
    #[serde(default)]
    pub blind: bool,
    /// Why.
    pub why: String,
}

/// What was asked for and not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedStatus {
    /// Who asked for how many.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// What kept a decision from what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitStatus {
    /// The field or the circumstance.
    pub field: String,
    /// What it says.
    pub why: String,
}
