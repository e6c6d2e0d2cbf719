//! Decides which size the replicas of a policy should have, from what an [`Estimator`] and rules say:
//!
//! 1. Of what is added the most wins, and what removes counts only where nothing is added.
//! 2. Without rules for a resource the estimate is followed: up once it is known, down after [`DOWN_AFTER`], each time by more than
//!    [`BAND`] and not again within [`PACE`]. With rules it is the least that is left: they go no lower than its floor.
//! 3. The bounds hold always.
//!
//! While replicas do not have the size that was decided last, nothing else is decided.

use std::{fmt, sync::Arc, time::Duration};

use super::{Estimate, Estimator, Resource, estimate::Goal, in_words};
use crate::scaling::{
    checked::{Bounds, Policy, Resize, Rule, Vertical},
    observation::{Clock, Observation},
    policy::{Per, SignalName},
    rules::{Holding, Situation, Standing, stand},
    signal::Signal,
    signals::Requests,
    voice::{Waits, Why},
};

/// Estimates that are so near to what there is change nothing.
pub const BAND: f64 = 0.1;
/// Estimates change nothing again for so long.
pub const PACE: Duration = Duration::from_secs(300);
/// An estimate needs to have watched for so long.
pub const UP_AFTER: Duration = Duration::from_secs(60);
/// One that takes something away needs to have watched for so long.
pub const DOWN_AFTER: Duration = Duration::from_secs(3600);

/// What is remembered of a policy's sizes.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// The size that was decided; none: the template's.
    wanted: Requests,
    holding: Holding,
    followed: [Option<Duration>; 2],
}

/// What there is to decide from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the replicas carry.
    pub load: &'a Observation,
    /// What the container requests in the workload's template.
    pub template: Requests,
    /// What its replicas use.
    pub estimator: &'a Estimator,
    /// Whether some replicas do not have the decided size yet.
    pub changing: bool,
    /// Whether decisions are carried out.
    pub applies: bool,
    /// The time.
    pub clock: Clock,
}

/// Which size replicas should have, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What was requested before.
    pub base: Requests,
    /// What the container should request, of what the policy sizes.
    pub wanted: Requests,
    /// What the estimate says, within the bounds.
    pub estimated: Requests,
    /// From what.
    pub whys: Vec<String>,
    /// What rules said.
    pub answers: Vec<Answer>,
    /// Why something changes.
    pub changes: Vec<String>,
}

/// What a rule said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its name.
    pub rule: Arc<str>,
    /// What it changes, if it asks for it now.
    pub asks: Option<Resize>,
    /// The resource.
    pub resource: Resource,
    /// Whether it adds.
    pub adds: bool,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", self.rule, self.why)
    }
}

impl Sizes {
    /// Goes on from what an earlier leader has decided.
    pub fn new(wanted: Requests) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// What was decided.
    pub const fn wanted(&self) -> Requests {
        self.wanted
    }

    /// The policy has changed: rules begin anew, and what it does not size any more is left alone.
    pub fn policy_changed(&mut self, vertical: &Vertical) {
        self.holding.restart();
        for resource in Resource::ALL {
            if bounds(vertical, resource).is_none() {
                *resource.place(&mut self.wanted) = None;
            }
        }
    }
}

/// Decides. Where decisions are carried out, the state takes it that this one is.
pub fn decide(policy: &Policy, vertical: &Vertical, state: &mut Sizes, seen: Seen<'_>) -> Decision {
    let base = base(state, &seen);
    let answers: Vec<Answer> = vertical.rules.iter().map(|rule| ask(rule, state, &seen)).collect();
    let goal = goal(policy);
    let mut decision = Decision { base, answers, ..Decision::default() };
    for resource in Resource::ALL {
        let Some(bounds) = bounds(vertical, resource) else { continue };
        let estimate = seen.estimator.estimate(resource, goal);
        let estimate = estimate.filter(|_| seen.estimator.watched(wall(&seen.clock)) >= UP_AFTER);
        if let Some(estimate) = &estimate {
            *resource.place(&mut decision.estimated) = Some(estimate.amount.clamp(bounds.min, bounds.max));
            decision.whys.push(estimate.why.clone());
        }
        let Some(base) = resource.of(&base) else { continue };
        let now = seen.clock.now;
        let (wanted, why) = if seen.changing {
            (base, None)
        } else {
            asked(&decision.answers, resource, base, estimate.as_ref())
                .or_else(|| follow(vertical, state, &seen, resource, base, estimate.as_ref()))
                .map_or((base, None), |(wanted, why)| (wanted, Some(why)))
        };
        let within = wanted.clamp(bounds.min, bounds.max);
        *resource.place(&mut decision.wanted) = Some(within);
        if within == base {
            continue;
        }
        let (from, to) = (resource.quantity(base), resource.quantity(within));
        let limit = (within != wanted).then(|| format!("spec.vertical.{resource} allows no other"));
        let why = why.into_iter().chain(limit).collect::<Vec<_>>().join("; ");
        decision.changes.push(format!("{resource} {from} -> {to}: {why}"));
        if seen.applies {
            *resource.place(&mut state.wanted) = Some(within);
            state.followed[resource as usize] = Some(now);
            let acted = decision.answers.iter().filter(|answer| answer.asks.is_some() && answer.resource == resource);
            acted.for_each(|answer| state.holding.acted(&answer.rule, now));
        }
    }
    if seen.applies && !decision.changes.is_empty() {
        state.holding.restart();
    }
    decision
}

/// The bounds of what is sized.
const fn bounds(vertical: &Vertical, resource: Resource) -> Option<Bounds> {
    match resource {
        Resource::Cpu => vertical.cpu,
        Resource::Memory => vertical.memory,
    }
}

fn base(state: &Sizes, seen: &Seen<'_>) -> Requests {
    let Seen { template, applies, .. } = *seen;
    let mut base = template;
    for resource in Resource::ALL.into_iter().filter(|_| applies) {
        let place = resource.place(&mut base);
        // What is not requested at all cannot be changed.
        *place = place.and(resource.of(&state.wanted).or(*place));
    }
    base
}

fn wall(clock: &Clock) -> Duration {
    clock.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn ask(rule: &Rule<Resize>, state: &mut Sizes, seen: &Seen<'_>) -> Answer {
    let now = seen.clock.now;
    let waits = match state.holding.cooldown(rule, now) {
        _ if seen.changing => Waits::Change,
        Some(left) => Waits::Cooldown(left),
        None => Waits::Nothing,
    };
    // Rules for sizes count from no number of replicas.
    let situation = Situation { current: 0, base: 0, seen: seen.load, now };
    let (acts, why) = match stand(rule, &mut state.holding, situation, waits) {
        Ok(Standing { held, why, .. }) => (held.is_some_and(|held| held >= rule.hold && waits == Waits::Nothing), why),
        Err(unread) => (false, Why::Unread(unread)),
    };
    let resource = match rule.action {
        Resize::Cpu(_) => Resource::Cpu,
        Resize::Memory(_) => Resource::Memory,
    };
    let adds = matches!(rule.bound, crate::scaling::checked::Bound::Above(_));
    Answer { rule: Arc::clone(&rule.name), asks: acts.then_some(rule.action), resource, adds, why }
}

/// What rules make of it, and why; none if they ask for nothing.
fn asked(answers: &[Answer], resource: Resource, base: u64, estimate: Option<&Estimate>) -> Option<(u64, String)> {
    let amount = |answer: &&Answer| match answer.asks {
        Some(Resize::Cpu(amount) | Resize::Memory(amount)) => amount,
        None => 0,
    };
    let asking = |adds| {
        let of = move |answer: &&Answer| answer.asks.is_some() && answer.resource == resource && answer.adds == adds;
        answers.iter().filter(of)
    };
    if let Some(most) = asking(true).max_by_key(amount) {
        return Some((base.saturating_add(amount(&most)), most.to_string()));
    }
    let least = asking(false).min_by_key(amount)?;
    let floor = estimate.map_or(1, |estimate| estimate.floor).min(base);
    let (wanted, why) = (base.saturating_sub(amount(&least)), least.to_string());
    if wanted >= floor { Some((wanted, why)) } else { Some((floor, format!("{why}, but not below what is used"))) }
}

/// What the estimate makes of it; none if that is near to what there is, or it is too early.
fn follow(
    vertical: &Vertical,
    state: &Sizes,
    seen: &Seen<'_>,
    resource: Resource,
    base: u64,
    estimate: Option<&Estimate>,
) -> Option<(u64, String)> {
    let estimate = estimate?;
    let now = seen.clock.now;
    if seen.applies && state.followed[resource as usize].is_some_and(|at| now.saturating_sub(at) < PACE) {
        return None;
    }
    let is_of = |rule: &Rule<Resize>| {
        matches!((rule.action, resource), (Resize::Cpu(_), Resource::Cpu) | (Resize::Memory(_), Resource::Memory))
    };
    let ruled = vertical.rules.iter().any(is_of);
    let wanted = if ruled { estimate.floor.max(base) } else { estimate.amount };
    let bounds = bounds(vertical, resource)?;
    let wanted = wanted.clamp(bounds.min, bounds.max);
    let change = wanted as f64 / base as f64 - 1.0;
    let early = change < 0.0 && seen.estimator.watched(wall(&seen.clock)) < DOWN_AFTER;
    (change.abs() > BAND && !early).then(|| (wanted, estimate.why.clone()))
}

/// The load that a replica is meant to carry.
fn goal(policy: &Policy) -> Goal {
    let target = policy.targets.iter().find(|target| is_load(&target.signal) && Some(&target.signal) == load(policy));
    Goal { per_replica: target.filter(|target| target.signal.per() == Per::Replica).map(|target| target.per_replica) }
}

/// The load that sizes depend on: the first that the policy names of what clients bring.
pub fn load(policy: &Policy) -> Option<&Signal> {
    let forecast = policy.forecast.iter().map(|forecast| &forecast.signal);
    let targets = policy.targets.iter().map(|target| &target.signal);
    let rules = policy.rules.iter().map(|rule| &rule.signal);
    targets.chain(forecast).chain(rules).find(|signal| is_load(signal))
}

/// Whether it is brought by clients; what replicas make of it is none.
const fn is_load(signal: &Signal) -> bool {
    use SignalName::{ActiveConnections, BytesPerSecond, ConnectionsPerSecond, InFlight, RequestsPerSecond};
    match signal {
        Signal::Measured(name) => {
            matches!(name, ActiveConnections | BytesPerSecond | ConnectionsPerSecond | InFlight | RequestsPerSecond)
        }
        Signal::Ttfb(_) => false,
        Signal::Prometheus(_) | Signal::PodMetric(_) => true,
    }
}

impl Decision {
    /// What it says in one line.
    pub fn reason(&self) -> String {
        if self.changes.is_empty() {
            return format!("stays at {}", in_words(&self.wanted));
        }
        self.changes.join("; ")
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
