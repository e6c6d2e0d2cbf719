//! Decides what each target of a policy asks for: desired = ceil(ready x value / perReplica), as the HorizontalPodAutoscaler computes
//! it. A target that cannot see its signal asks for what is there.
//!
//! With `panic`, the value is a mean over the long window, until the short one asks for `threshold` times what is ready. From then on it
//! is the greater of both, and nothing is removed until it has been calm for the long window: Knative's autoscaler does so too. Without it,
//! what is in flight counts with its variation ([`Demand`]); every other signal as it is now.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    checked::{Panic, Policy, Target},
    demand::Demand,
    observation::Observation,
    policy::{Per, SignalName},
    rules::{Situation, read},
    signal::Signal,
    voice::{Stance, Unread, Verdict, Voice, Who, Why},
};

/// What targets remember: the loads of the long window, and when a burst was last seen.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    loads: BTreeMap<Signal, VecDeque<(Duration, f64)>>,
    demands: BTreeMap<Signal, Demand>,
    burst: Option<Duration>,
}

/// A target's load: of all ready replicas that said, and of how many.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// The sum over the ready replicas that said.
    total: f64,
    /// Ready replicas that did not say.
    missing: u32,
}

impl Windows {
    /// Forgets all: the policy has changed.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// Whether there is a burst.
    pub fn bursting(&self, policy: &Policy, now: Duration) -> bool {
        policy.panic.zip(self.burst).is_some_and(|(panic, at)| now.saturating_sub(at) < panic.long)
    }

    /// The load that counts, where panic is asked for: the long window's, or in a burst the greater one's.
    fn smooth(&mut self, panic: Panic, target: &Target, ready: u32, total: f64, now: Duration) -> f64 {
        let loads = self.loads.entry(target.signal.clone()).or_default();
        loads.push_back((now, total));
        while loads.front().is_some_and(|(at, _)| now.saturating_sub(*at) > panic.long) {
            loads.pop_front();
        }
        let (short, long) = (mean(loads, panic.short, now), mean(loads, panic.long, now));
        if ready > 0 && short / target.per_replica >= panic.threshold * f64::from(ready) {
            self.burst = Some(now);
        }
        let bursting = self.burst.is_some_and(|at| now.saturating_sub(at) < panic.long);
        if bursting { short.max(long) } else { long }
    }
}

fn mean(loads: &VecDeque<(Duration, f64)>, window: Duration, now: Duration) -> f64 {
    let within = loads.iter().rev().take_while(|(at, _)| now.saturating_sub(*at) <= window);
    let (count, sum) = within.fold((0_u32, 0.0), |(count, sum), (_, load)| (count + 1, sum + load));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Asks every target.
pub fn ask<'a>(
    policy: &'a Policy,
    windows: &'a mut Windows,
    situation: Situation<'a>,
) -> impl Iterator<Item = Voice> + 'a {
    policy.targets.iter().map(move |target| {
        let (stance, why) = match measure(target, situation.seen, situation.now) {
            Ok(measured) => answer(policy, target, windows, measured, situation),
            Err(unread) => (Stance::Blind, Why::Unread(unread)),
        };
        Voice { who: Who::Target(target.signal.clone()), stance, why }
    })
}

fn measure(target: &Target, seen: &Observation, now: Duration) -> Result<Measured, Unread> {
    let reading = read(&target.signal, seen, now)?;
    if reading.value < 0.0 {
        return Err(Unread::Nonsense(target.signal.clone(), reading.value));
    }
    let ready = seen.load.ready;
    match target.signal.per() {
        Per::Service => Ok(Measured { total: reading.value, missing: 0 }),
        Per::Replica if ready == 0 => Err(Unread::NoneReady(target.signal.clone())),
        Per::Replica => {
            let missing = reading.missing.min(ready);
            Ok(Measured { total: reading.value * f64::from(ready - missing), missing })
        }
    }
}

fn answer(
    policy: &Policy,
    target: &Target,
    windows: &mut Windows,
    measured: Measured,
    situation: Situation<'_>,
) -> (Stance, Why) {
    let ready = situation.seen.load.ready;
    let total = match policy.panic {
        Some(panic) => windows.smooth(panic, target, ready, measured.total, situation.now),
        None if target.signal == Signal::Measured(SignalName::InFlight) => {
            let demand = windows.demands.entry(target.signal.clone()).or_default();
            demand.see(measured.total, policy.down.window, situation.now)
        }
        None => measured.total,
    };
    let verdict = verdict(policy, total / target.per_replica, measured.missing, situation);
    let bursting = windows.bursting(policy, situation.now);
    let (stance, verdict) = match verdict {
        Verdict::Needs(wanted) if wanted < situation.base && bursting => (Stance::Keep, Verdict::Burst(wanted)),
        Verdict::Needs(wanted) if wanted != situation.base => (Stance::Ask(wanted), verdict),
        _ => (Stance::Keep, verdict),
    };
    let sharers = match target.signal.per() {
        Per::Service => 1,
        Per::Replica => ready.saturating_sub(measured.missing).max(1),
    };
    let [value, counts] = [measured.total, total].map(|load| load / f64::from(sharers));
    let (signal, per_replica) = (target.signal.clone(), target.per_replica);
    (stance, Why::Measured { signal, value, counts, per_replica, ready, verdict })
}

/// What it means that the load fills `need` replicas. Those that are not ready count as carrying nothing on the way up and are left out on
/// the way down; those that did not say count as carrying nothing on the way up and as on target on the way down.
fn verdict(policy: &Policy, need: f64, missing: u32, situation: Situation<'_>) -> Verdict {
    let Situation { base, seen, .. } = situation;
    let said = f64::from(seen.load.ready.saturating_sub(missing));
    let up = need > said;
    let tolerance = if up { policy.up.tolerance } else { policy.down.tolerance };
    let near = |replicas: f64| (need - replicas).abs() <= (tolerance + 1e-9) * replicas;
    if said > 0.0 && near(said) {
        return Verdict::Near(tolerance);
    }
    let need = if up { need } else { need + f64::from(missing) };
    // What the division leaves behind the last digit must not become one more.
    let wanted = (need - 1e-9).ceil().max(0.0) as u32;
    let enough = if up { wanted <= base || near(f64::from(base)) } else { seen.load.ready == 0 };
    match (enough, up) {
        (true, _) => Verdict::EnoughOnceReady(base),
        (false, true) => Verdict::Needs(wanted),
        (false, false) => Verdict::Needs(wanted.min(base)),
    }
}
