//! Decides how many replicas a policy wants, from what its rules and targets ask for: the highest number wins on the way up, all
//! must agree on the way down, and `behavior` and `replicas` say how much of that happens now. Every decision says why.

use std::time::Duration;

use super::{
    checked::Policy,
    pace::{History, Restraint},
    policy::Mode,
    replicas::{CONFIRM, Replicas},
    rules::{self, Holding, Situation, Stance, Voice},
    signals::{Load, Signal},
};

/// What a policy remembers between two decisions.
#[derive(Clone, Debug, Default)]
pub struct State {
    replicas: Option<Replicas>,
    holding: Holding,
    history: History,
}

impl State {
    /// Forgets how long rules have held: the policy has changed.
    pub fn policy_changed(&mut self) {
        self.holding.restart();
    }

    /// Notes that a number of replicas was set.
    pub fn set(&mut self, replicas: u32, now: Duration) {
        if let Some(known) = &mut self.replicas {
            known.set(replicas, now);
        }
    }
}

/// How many replicas there should be, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Replicas as last set.
    pub current: u32,
    /// Replicas as wanted.
    pub desired: u32,
    /// Why.
    pub reason: String,
    /// What every rule and target said.
    pub voices: Vec<Voice>,
    /// What the signals were.
    pub inputs: Vec<Input>,
    /// What was asked for and not done.
    pub rejected: Vec<Rejected>,
    /// What kept it from what was asked for.
    pub limited_by: Vec<Restraint>,
}

/// A signal at the time of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Which.
    pub signal: Signal,
    /// Its value, if known.
    pub value: Option<f64>,
    /// How old it was.
    pub age: Option<Duration>,
}

/// What was asked for and not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Who asked for how many.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// Decides. Under `mode: Apply` the state takes it that the decision is being carried out.
pub fn decide(policy: &Policy, state: &mut State, load: &Load, now: Duration) -> Decision {
    let replicas = state.replicas.get_or_insert_with(|| Replicas::new(load.replicas, now));
    match policy.mode {
        Mode::Apply => replicas.observe(load.replicas, now),
        Mode::Recommend => replicas.take(load.replicas),
    }
    let base = replicas.desired();
    let situation = Situation { base, changing: replicas.changing(), load, now };
    let voices = rules::voices(policy, &mut state.holding, situation);
    let wanted = voices.iter().filter_map(|voice| asks(voice, base)).max().unwrap_or(base);
    let (desired, limited_by) = if base < policy.min && !replicas.steady(now) {
        (base, vec![more_may_come()])
    } else {
        state.history.pace(policy, base, wanted, now)
    };
    let decision = Decision {
        current: replicas.current(),
        desired,
        reason: reason(&voices, base, wanted, desired, &limited_by),
        inputs: inputs(policy, load, now),
        rejected: rejected(&voices, base, wanted, desired, &limited_by),
        voices,
        limited_by,
    };
    if policy.mode == Mode::Apply && desired != base {
        replicas.want(desired);
        state.history.changed(base, desired, now);
        state.holding.restart();
    }
    decision
}

fn more_may_come() -> Restraint {
    let why = format!("waits {} s for endpoints that may still appear", CONFIRM.as_secs());
    Restraint { field: "replicas.min", why }
}

fn asks(voice: &Voice, base: u32) -> Option<u32> {
    match voice.stance {
        Stance::Silent => None,
        Stance::Blind | Stance::Keep => Some(base),
        Stance::Ask(wanted) => Some(wanted),
    }
}

fn reason(voices: &[Voice], base: u32, wanted: u32, desired: u32, limited: &[Restraint]) -> String {
    let decisive = |voice: &&Voice| wanted == base || voice.stance == Stance::Ask(wanted);
    let said = voices.iter().filter(decisive).map(|voice| format!("{}: {}", voice.who, voice.why));
    let held = limited.iter().map(|limit| format!("{}: {}", limit.field, limit.why));
    let verb = if desired == base { format!("stays at {base}") } else { format!("{base} -> {desired}") };
    format!("{verb}: {}", said.chain(held).collect::<Vec<_>>().join("; "))
}

/// What was asked for and is not what was decided, with the voice or the limit that decided against it.
fn rejected(voices: &[Voice], base: u32, wanted: u32, desired: u32, limited: &[Restraint]) -> Vec<Rejected> {
    let mut rejected = Vec::new();
    for voice in voices {
        let Stance::Ask(asked) = voice.stance else {
            continue;
        };
        if asked == desired {
            continue;
        }
        let why = if asked == wanted {
            limited.iter().map(|limit| format!("{}: {}", limit.field, limit.why)).collect()
        } else {
            let winners = voices.iter().filter(|other| asks(other, base) == Some(wanted));
            winners.map(|other| format!("{}: {}", other.who, other.why)).collect::<Vec<_>>()
        };
        rejected.push(Rejected { what: format!("{}: {base} -> {asked}", voice.who), why: why.join("; ") });
    }
    rejected
}

/// The signals that the policy reads.
fn inputs(policy: &Policy, load: &Load, now: Duration) -> Vec<Input> {
    let of_rules = policy.rules.iter().map(|rule| rule.signal);
    let mut signals: Vec<_> = of_rules.chain(policy.targets.iter().map(|target| target.signal)).collect();
    signals.sort_unstable();
    signals.dedup();
    let input = |signal| {
        let reading = load.readings.get(&signal);
        Input {
            signal,
            value: reading.map(|reading| reading.value),
            age: reading.map(|reading| now.saturating_sub(reading.at)),
        }
    };
    signals.into_iter().map(input).collect()
}

#[cfg(test)]
#[rustfmt::skip] // tables
#[path = "decide_tests.rs"]
mod tests;
