//! What `weir get policies` and `weir explain policy` show of a policy.

use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    actuator::ActuatorStatus,
    checked::Policy,
    decision::{Decision, Input},
    forecast::ForecastReport,
    observation::{Load, Reading},
    policy::{Mode, RecommendationStatus, ScalePolicy, VerticalMode},
    signal::Signal,
    voice::{Stance, Voice},
};

pub use super::policy::{AnswerStatus, DecisionStatus, LimitStatus, RejectedStatus, SignalStatus};

/// A policy, its last decision and how it is carried out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The Service's name.
    pub service: String,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// Replicas as last set; none while the Service is not known.
    pub current_replicas: Option<u32>,
    /// Replicas as last decided.
    pub desired_replicas: Option<u32>,
    /// The least.
    pub min_replicas: u32,
    /// The most.
    pub max_replicas: u32,
    /// What is foreseen, and from what; none for a policy without a forecast.
    pub forecast: Option<ForecastReport>,
    /// The size that a replica should have, and how many have it; none for a policy that does not ask.
    pub recommendation: Option<RecommendationStatus>,
    /// What the replicas carry.
    pub signals: Vec<SignalStatus>,
    /// The last decision.
    pub last_decision: Option<DecisionStatus>,
    /// The last decision that changed the number.
    pub last_change: Option<ChangeStatus>,
    /// How it is carried out.
    pub actuator: ActuatorStatus,
    /// What keeps the policy from working.
    pub problem: Option<String>,
    /// What the coordinator says of it; empty without a cluster.
    pub conditions: Vec<Condition>,
}

/// A decision that changed the number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// When it was made.
    pub at: String,
    /// The number before.
    pub from: u32,
    /// The number after.
    pub to: u32,
    /// Why.
    pub reason: String,
}

impl DecisionStatus {
    /// Puts a decision in words.
    pub fn new(decision: &Decision, at: SystemTime) -> Self {
        let answer = |voice: &Voice| AnswerStatus {
            from: voice.who.to_string(),
            replicas: match voice.stance {
                Stance::Ask(replicas) | Stance::AtLeast(replicas) => Some(replicas),
                Stance::Silent | Stance::Blind | Stance::Keep => None,
            },
            blind: voice.stance == Stance::Blind,
            why: voice.why.to_string(),
        };
        let rejected = decision.rejected().into_iter();
        let limits = decision.limited_by.iter();
        Self {
            at: timestamp(at),
            reason: decision.reason(),
            inputs: decision.inputs.iter().map(SignalStatus::from).collect(),
            answers: decision.voices.iter().map(answer).collect(),
            rejected: rejected.map(|item| RejectedStatus { what: item.what, why: item.why }).collect(),
            limited_by: limits.map(|limit| LimitStatus { field: limit.field().to_owned(), why: limit.why() }).collect(),
        }
    }
}

impl From<&Input> for SignalStatus {
    fn from(input: &Input) -> Self {
        let age_seconds = input.age.map(|age| age.as_secs_f64());
        Self { signal: input.signal.to_string(), value: input.value, age_seconds }
    }
}

impl PolicyStatus {
    /// A policy that has decided nothing yet.
    pub fn new(policy: &Policy) -> Self {
        Self {
            namespace: policy.id.namespace.clone(),
            name: policy.id.name.clone(),
            service: policy.service.clone(),
            mode: policy.mode,
            current_replicas: None,
            desired_replicas: None,
            min_replicas: policy.min,
            max_replicas: policy.max,
            forecast: None,
            signals: Vec::new(),
            last_decision: None,
            last_change: None,
            actuator: ActuatorStatus::default(),
            recommendation: recommendation(policy),
            problem: None,
            conditions: Vec::new(),
        }
    }

    /// A policy of a cluster, as the coordinator tells of it.
    pub fn told(object: &ScalePolicy) -> Self {
        let (spec, told) = (&object.spec, object.status.clone().unwrap_or_default());
        let bound = |bound: i32| u32::try_from(bound).unwrap_or_default();
        let ready = told.conditions.iter().find(|condition| condition.type_ == "Ready");
        let problem = ready.filter(|ready| ready.status == "False").map(|ready| ready.message.clone());
        // What the next leader needs is none of a user's.
        let shown = |told: RecommendationStatus| RecommendationStatus { history: None, ..told };
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            service: spec.service_ref.name.clone(),
            mode: spec.mode,
            current_replicas: told.current_replicas,
            desired_replicas: told.desired_replicas,
            min_replicas: bound(spec.replicas.min),
            max_replicas: bound(spec.replicas.max),
            forecast: None,
            recommendation: told.recommendation.map(shown),
            signals: told.last_decision.iter().flat_map(|decision| decision.inputs.clone()).collect(),
            last_decision: told.last_decision,
            last_change: None,
            actuator: ActuatorStatus::default(),
            problem,
            conditions: told.conditions,
        }
    }
}

/// Without a cluster there are no pods to size.
fn recommendation(policy: &Policy) -> Option<RecommendationStatus> {
    let vertical = policy.vertical.as_ref().filter(|vertical| vertical.mode != VerticalMode::Off)?;
    let message = "sizes are those of a cluster's pods".to_owned();
    Some(RecommendationStatus { container: vertical.container.clone(), message, ..RecommendationStatus::default() })
}

/// Every signal that is known of a Service.
pub fn signals(load: &Load, now: Duration) -> Vec<SignalStatus> {
    let status = |(signal, reading): (&Signal, &Reading)| SignalStatus {
        signal: signal.to_string(),
        value: Some(reading.value),
        age_seconds: Some(now.saturating_sub(reading.at).as_secs_f64()),
    };
    load.readings.iter().map(status).collect()
}

/// A time as RFC 3339 writes it.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
