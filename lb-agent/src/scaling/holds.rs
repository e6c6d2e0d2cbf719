//! Decides what keeps a policy from changing the number at all, or in one direction, whatever its rules and targets ask for.

use std::{sync::Arc, time::Duration};

use super::{
    checked::Policy, observation::Observation, policy::SignalName, replicas::Replicas, restraint::Restraint,
    signal::Signal,
};

/// How long a number that somebody else has set is left alone.
pub const RESPECT: Duration = Duration::from_secs(300);

/// How long replicas may wait to run before no more are added to them.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What holds the number where it is, in both directions.
pub fn both(policy: &Policy, seen: &Observation, replicas: &Replicas, now: Duration) -> Option<Restraint> {
    if policy.paused {
        return Some(Restraint::Paused);
    }
    if seen.set == Some(0) && policy.min > 0 {
        return Some(Restraint::ZeroByHand);
    }
    if seen.set.is_none() && replicas.desired() < policy.min && !replicas.steady(now) {
        return Some(Restraint::MoreMayCome);
    }
    let foreign = replicas.foreign()?;
    let left = RESPECT.checked_sub(now.saturating_sub(foreign.at)).filter(|left| !left.is_zero())?;
    Some(Restraint::Foreign { from: foreign.from, to: foreign.to, left })
}

/// What keeps it from `wanted` in that direction; for both, what is there stays.
pub fn one(seen: &Observation, base: u32, wanted: u32, now: Duration) -> Option<Restraint> {
    if wanted > base {
        let pending = seen.pending.filter(|pending| now.saturating_sub(pending.since) > PATIENCE)?;
        return Some(Restraint::Pending { replicas: pending.replicas, waited: now.saturating_sub(pending.since) });
    }
    if wanted == base {
        return None;
    }
    seen.rollout.as_ref().map(|what| Restraint::Rollout(Arc::clone(what)))
}

/// Whether it is known that the replicas carry nothing: the last one goes only then.
pub fn is_idle(seen: &Observation, now: Duration) -> bool {
    let read = |name: SignalName| {
        let signal = Signal::from(name);
        let reading = seen.load.readings.get(&signal)?;
        (now.saturating_sub(reading.at) <= signal.stale() && reading.missing == 0).then_some(reading.value)
    };
    let quiet = |name| read(name).is_none_or(|value| value == 0.0);
    read(SignalName::ActiveConnections) == Some(0.0)
        && quiet(SignalName::ConnectionsPerSecond)
        && quiet(SignalName::InFlight)
        && quiet(SignalName::RequestsPerSecond)
}
