//! Decides how many replicas a policy wants, from what its rules, targets and forecast ask for: the highest number wins on the way up, all
//! must agree on the way down, and `behavior`, `replicas`, the schedule and the state of the target say how much of that happens now.

use std::time::Duration;

use super::{
    checked::Policy,
    decision::{Decision, Input},
    floor, holds,
    observation::{Clock, Forecast, Observation},
    pace::History,
    policy::{ActuatorKind, Mode},
    replicas::Replicas,
    rules::{self, Holding, Situation},
    signal::Signal,
    targets::{self, Windows},
    voice::{Stance, Voice, Who, Why},
};

/// What a policy remembers between two decisions. A new one is safe wherever the old one was lost: it takes the number that there is,
/// and removes nothing before a whole window has passed.
#[derive(Clone, Debug, Default)]
pub struct State {
    replicas: Option<Replicas>,
    holding: Holding,
    windows: Windows,
    history: History,
}

impl State {
    /// Forgets how long rules have held: the policy has changed.
    pub fn policy_changed(&mut self) {
        self.holding.restart();
        self.windows.restart();
    }

    /// Notes that a number of replicas was set, where [`Observation::set`] cannot say so.
    pub fn set(&mut self, replicas: u32, now: Duration) {
        if let Some(known) = &mut self.replicas {
            known.set(replicas, now);
        }
    }

    /// Asks every part of the policy.
    fn ask(&mut self, policy: &Policy, situation: Situation<'_>) -> Vec<Voice> {
        let mut voices = Vec::with_capacity(policy.rules.len() + policy.targets.len() + 1);
        voices.extend(policy.rules.iter().map(|rule| rules::ask(rule, &mut self.holding, situation)));
        voices.extend(targets::ask(policy, &mut self.windows, situation));
        let forecast = situation.seen.forecast.as_ref().filter(|_| policy.forecast.is_some());
        voices.extend(forecast.map(|forecast| foresee(forecast, situation.now)));
        voices
    }

    /// Takes it that a decision is being carried out.
    fn carry_out(&mut self, decision: &Decision, now: Duration) {
        let Decision { base, desired, .. } = *decision;
        let Some(replicas) = &mut self.replicas else { return };
        replicas.want(desired);
        if base == desired {
            return;
        }
        self.history.changed(base, desired, now);
        self.holding.restart();
        for voice in &decision.voices {
            if let (Who::Rule(name), Stance::Ask(asked)) = (&voice.who, voice.stance)
                && (asked > base) == (desired > base)
            {
                self.holding.acted(name, now);
            }
        }
    }
}

/// Decides. Under `mode: Apply` the state takes it that the decision is being carried out.
pub fn decide(policy: &Policy, state: &mut State, seen: &Observation, clock: Clock) -> Decision {
    let now = clock.now;
    let replicas = follow(policy, state.replicas, seen, now);
    state.replicas = Some(replicas);
    let (current, base) = (replicas.current(), replicas.desired());
    let voices = state.ask(policy, Situation { current, base, seen, now });
    let wanted = wanted(&voices, base);
    let floor = floor::floor(policy, seen, base, clock);
    let (desired, limited_by) = match holds::both(policy, seen, &replicas, now) {
        Some(hold) => {
            state.history.held(current, now);
            (current, vec![hold])
        }
        None => {
            let held = holds::one(seen, base, wanted, now);
            let wanted = if held.is_some() { base } else { wanted };
            let (desired, limits) = state.history.pace(policy, &floor, (current, base), wanted, now);
            (desired, held.into_iter().chain(limits).collect())
        }
    };
    let inputs = inputs(policy, seen, now);
    let decision = Decision { current, base, wanted, desired, voices, inputs, limited_by };
    if policy.mode == Mode::Apply {
        state.carry_out(&decision, now);
    }
    decision
}

/// The number of replicas, after what is seen now.
fn follow(policy: &Policy, known: Option<Replicas>, seen: &Observation, now: Duration) -> Replicas {
    let there = seen.set.unwrap_or(seen.load.replicas);
    let mut replicas = known.unwrap_or(Replicas::new(there, now));
    match (policy.mode, seen.set, policy.actuator) {
        (Mode::Recommend, ..) => replicas.take(there),
        // Others carry it out in their own time.
        (Mode::Apply, Some(set), Some(ActuatorKind::Keda | ActuatorKind::Metric)) => replicas.set(set, now),
        (Mode::Apply, Some(set), _) => replicas.told(set, now),
        (Mode::Apply, None, _) => replicas.observe(there, now),
    }
    replicas
}

/// The highest number wins; what only says how many there have to be at least never lowers it.
fn wanted(voices: &[Voice], base: u32) -> u32 {
    let asked = voices.iter().filter_map(|voice| voice.asks(base)).max().unwrap_or(base);
    let least = voices.iter().filter_map(|voice| match voice.stance {
        Stance::AtLeast(least) => Some(least),
        _ => None,
    });
    least.fold(asked, u32::max)
}

fn foresee(forecast: &Forecast, now: Duration) -> Voice {
    let age = now.saturating_sub(forecast.at);
    let (stance, why) = match forecast.replicas {
        _ if age > Forecast::STALE => (Stance::Silent, Why::OldForecast(age)),
        None => (Stance::Silent, Why::Foreseen(forecast.why.clone())),
        Some(least) => (Stance::AtLeast(least), Why::Foreseen(forecast.why.clone())),
    };
    Voice { who: Who::Forecast, stance, why }
}

/// The signals that the policy reads.
fn inputs(policy: &Policy, seen: &Observation, now: Duration) -> Vec<Input> {
    let input = |signal: &Signal| {
        let reading = seen.load.readings.get(signal);
        Input {
            signal: signal.clone(),
            value: reading.map(|reading| reading.value),
            age: reading.map(|reading| now.saturating_sub(reading.at)),
        }
    };
    policy.signals().into_iter().map(input).collect()
}

#[cfg(test)]
#[rustfmt::skip] // tables
#[path = "decide_tests.rs"]
mod tests;
