//! What is told of a policy: its status with conditions, and Events of what is new.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{drain::Drain, size::Outcome};
use crate::scaling::{
    Clock, Decision, Load, Policy, ScalePolicy,
    decision::Summary,
    policy::{DecisionStatus, Mode, ScalePolicyStatus},
    restraint::Restraint,
    status::{SignalStatus, signals},
    voice::Stance,
};

/// How a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It decides.
    Working,
    /// It, or something around it, has to be mended.
    Refused,
    /// Whether it could work is not known now.
    Unknown,
}

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// It is a warning.
    pub warning: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// What.
    pub note: String,
}

/// What there is to tell of a policy.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its status.
    pub status: ScalePolicyStatus,
    /// What its replicas carry, for metrics.
    pub signals: Vec<SignalStatus>,
    events: Vec<Told>,
    generation: Option<i64>,
    decided: Option<Summary>,
    /// Since when a signal is missing.
    blind: Option<Duration>,
}

/// The condition of the replicas' size.
const SIZED: &str = "Sized";

/// Signals that are missing for so long are told of: at a start none has a rate yet.
const PATIENCE: Duration = Duration::from_secs(10);

impl Report {
    /// Goes on from what is in the API.
    pub fn new(status: ScalePolicyStatus) -> Self {
        Self { status, ..Self::default() }
    }

    /// Begins another look at this object.
    pub fn begin(&mut self, object: &ScalePolicy) {
        self.generation = object.metadata.generation;
        self.status.observed_generation = self.generation;
    }

    /// The Events that were not taken yet.
    pub fn take_events(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.events)
    }

    /// Something has happened.
    pub fn tell_normal(&mut self, reason: &'static str, note: String) {
        self.tell(false, reason, note);
    }

    /// Something has happened that should not.
    pub fn tell_warning(&mut self, reason: &'static str, note: String) {
        self.tell(true, reason, note);
    }

    fn tell(&mut self, warning: bool, reason: &'static str, note: String) {
        self.events.push(Told { warning, reason, note });
    }

    /// The policy does nothing.
    pub fn refuse(&mut self, standing: Standing, reason: &'static str, message: String) {
        let status = if standing == Standing::Unknown { "Unknown" } else { "False" };
        if self.condition("Ready", status, reason, message.clone()) {
            self.tell(standing == Standing::Refused, reason, message);
        }
        if standing != Standing::Unknown {
            self.condition("Progressing", "False", reason, String::new());
            // Nobody is to go on with a number that nobody decides any more.
            self.status.desired_replicas = None;
        }
        self.decided = None;
    }

    /// The policy has decided.
    pub fn decided(&mut self, policy: &Policy, decision: &Decision, load: &Load, set: u32, clock: Clock) {
        self.signals = signals(load, clock.now);
        self.status.current_replicas = Some(set);
        self.status.desired_replicas = Some(decision.desired);
        let summary = decision.summary();
        if self.decided.as_ref() != Some(&summary) {
            self.status.last_decision = Some(DecisionStatus::new(decision, clock.wall));
            let (id, mode) = (&policy.id, policy.mode);
            tracing::info!(policy = %id, ?mode, set, desired = decision.desired, "scaling: {}", decision.reason());
            let is_new = self.decided.as_ref().is_some_and(|before| before.desired != summary.desired);
            if is_new && policy.mode == Mode::Recommend && decision.desired != set {
                self.tell_normal("Recommended", decision.reason());
            }
            self.decided = Some(summary);
        }
        let limits = decision.limited_by.iter().map(Restraint::field).collect::<Vec<_>>();
        let limited = if limits.is_empty() { "False" } else { "True" };
        let reason = if limits.is_empty() { "AsAsked" } else { "Limited" };
        self.condition("Limited", limited, reason, limits.join(", "));
    }

    /// Whether the policy does what it is for; `obstacle` is why what was decided could not be done, with a reason.
    pub fn say_ready(
        &mut self,
        policy: &Policy,
        decision: &Decision,
        obstacle: Option<&(&'static str, String)>,
        now: Duration,
    ) {
        if let Some((reason, message)) = obstacle {
            if self.condition("Ready", "False", reason, message.clone()) {
                self.tell_warning(reason, message.clone());
            }
            return;
        }
        let blind = decision.voices.iter().filter(|voice| voice.stance == Stance::Blind);
        let blind: Vec<String> = blind.map(|voice| voice.to_string()).collect();
        self.blind = self.blind.or(Some(now)).filter(|_| !blind.is_empty());
        if self.blind.is_some_and(|since| now.saturating_sub(since) >= PATIENCE) {
            let message = format!("the number does not fall while these lack their signal: {}", blind.join("; "));
            if self.condition("Ready", "False", "SignalsMissing", message.clone()) {
                self.tell_warning("SignalsMissing", message);
            }
            return;
        }
        if let Some(pause) =
            decision.limited_by.iter().find(|limit| matches!(limit, Restraint::Paused | Restraint::ZeroByHand))
        {
            if self.condition("Ready", "False", "Paused", pause.to_string()) {
                self.tell_normal("Paused", pause.to_string());
            }
            return;
        }
        let (reason, message) = match policy.mode {
            Mode::Apply => ("Deciding", "decisions are carried out"),
            Mode::Recommend => ("Recommending", "decisions are only shown"),
        };
        self.condition("Ready", "True", reason, message.to_owned());
    }

    /// The policy does not say which size its replicas should have.
    pub fn unsized_now(&mut self) {
        self.status.recommendation = None;
        self.status.conditions.retain(|condition| condition.type_ != SIZED);
    }

    /// Whether the replicas have the size that they should.
    pub fn sized(&mut self, outcome: &Outcome) {
        let Outcome { standing, news, .. } = outcome;
        if let Some(news) = news {
            tracing::info!("size: {news}");
            self.tell_normal(
                if standing.reason == "Recommending" { "SizeRecommended" } else { "SizeDecided" },
                news.clone(),
            );
        }
        let before = self.status.conditions.iter().find(|condition| condition.type_ == SIZED);
        let resizing = before.is_some_and(|before| before.reason == "Resizing");
        let status = if standing.sized { "True" } else { "False" };
        if !self.condition(SIZED, status, standing.reason, standing.message.clone()) {
            return;
        }
        if standing.problem {
            self.tell_warning(standing.reason, standing.message.clone());
        } else if standing.sized && resizing {
            self.tell_normal("Resized", standing.message.clone());
        }
    }

    /// How far it is with what was decided.
    pub fn progress(&mut self, drain: &Drain, decision: &Decision, set: u32, rollout: Option<&str>) {
        let victims = drain.victims().iter().map(|victim| victim.name.as_str()).collect::<Vec<_>>().join(", ");
        let hold = decision.limited_by.iter().find_map(held);
        let (status, reason, message) = match (drain, hold, rollout) {
            (_, Some((reason, message)), _) => ("False", reason, message),
            (_, _, Some(rollout)) if decision.desired < set => ("False", "Rollout", rollout.to_owned()),
            (Drain::Draining { .. }, ..) => ("True", "Draining", format!("waits for the connections of {victims}")),
            (Drain::Leaving { .. }, ..) => ("True", "Leaving", format!("waits for {victims} to go")),
            _ if decision.desired > set => ("True", "ScalingOut", String::new()),
            _ => ("False", "AsDecided", String::new()),
        };
        if self.condition("Progressing", status, reason, message.clone()) && hold_is_news(reason) {
            self.tell(reason == "PodsPending", reason, message);
        }
    }

    /// The number was set.
    pub fn scaled(&mut self, from: u32, to: u32, clock: Clock) {
        let why = self.status.last_decision.as_ref().map(|decision| decision.reason.clone()).unwrap_or_default();
        let reason = if to > from { "ScaledOut" } else { "ScaledIn" };
        tracing::info!(from, to, "{reason}");
        self.tell_normal(reason, format!("{from} -> {to}; {why}"));
        self.status.current_replicas = Some(to);
        self.status.last_scale_time = Some(seconds(Timestamp::try_from(clock.wall).unwrap_or_default()));
    }

    /// Sets a condition. Returns whether its status or reason is new; if not, its message stays, so that numbers in it are no news.
    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: String) -> bool {
        let old = self.status.conditions.iter().position(|condition| condition.type_ == kind);
        let same = old.map(|at| &self.status.conditions[at]).filter(|old| old.status == status);
        let is_new = same.is_none_or(|same| same.reason != reason);
        let since = same.map_or_else(|| seconds(Timestamp::now()), |same| same.last_transition_time.clone());
        let condition = Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: same.filter(|_| !is_new).map_or(message, |same| same.message.clone()),
            observed_generation: self.generation,
            last_transition_time: since,
        };
        match old {
            Some(at) => self.status.conditions[at] = condition,
            None => self.status.conditions.push(condition),
        }
        is_new
    }
}

/// What holds the number, with a word for it.
fn held(limit: &Restraint) -> Option<(&'static str, String)> {
    let reason = match limit {
        Restraint::Foreign { .. } => "ChangedByOthers",
        Restraint::Rollout(_) => "Rollout",
        Restraint::Pending { .. } => "PodsPending",
        _ => return None,
    };
    Some((reason, limit.to_string()))
}

fn hold_is_news(reason: &str) -> bool {
    matches!(reason, "ChangedByOthers" | "PodsPending")
}

/// A time as the API keeps it.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or_default())
}
