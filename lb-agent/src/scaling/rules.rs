//! Decides what each rule of a policy asks for, from its signal and how long it has held. A rule that cannot see its signal asks for
//! what is there, which keeps every other part of the policy from scaling in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    checked::{Bound, Rule, Step},
    observation::{Observation, Reading},
    signal::Signal,
    voice::{Stance, Unread, Voice, Waits, Who, Why},
};

/// How long signals in percent of a replica's size count for nothing after a resize.
pub const RESIZED: Duration = Duration::from_secs(60);

/// What rules remember, by their names.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    since: BTreeMap<Arc<str>, Duration>,
    acted: BTreeMap<Arc<str>, Duration>,
}

impl Holding {
    /// Lets every rule start again.
    pub fn restart(&mut self) {
        self.since.clear();
    }

    /// A rule has acted.
    pub fn acted(&mut self, name: &Arc<str>, now: Duration) {
        self.acted.insert(Arc::clone(name), now);
    }

    /// Forgets the rules that there are no more.
    pub fn keep(&mut self, known: impl Fn(&str) -> bool) {
        self.since.retain(|name, _| known(name));
        self.acted.retain(|name, _| known(name));
    }

    /// How long this rule has held without a break, given whether it holds now.
    pub(super) fn held<A>(&mut self, rule: &Rule<A>, holds: bool, now: Duration) -> Option<Duration> {
        if !holds {
            self.since.remove(&rule.name);
            return None;
        }
        let since = *self.since.entry(Arc::clone(&rule.name)).or_insert(now);
        Some(now.saturating_sub(since))
    }

    /// How long this rule still cools down.
    pub(super) fn cooldown<A>(&self, rule: &Rule<A>, now: Duration) -> Option<Duration> {
        let until = self.acted.get(&rule.name)?.saturating_add(rule.cooldown);
        until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

/// What there is to decide from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Replicas, as last set.
    pub current: u32,
    /// Replicas, as last wanted.
    pub base: u32,
    /// What is seen.
    pub seen: &'a Observation,
    /// The time.
    pub now: Duration,
}

impl Bound {
    /// Whether it holds.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Above(above) => value > above,
            Self::Below(below) => value < below,
        }
    }
}

/// Asks a rule.
pub fn ask(rule: &Rule, holding: &mut Holding, situation: Situation<'_>) -> Voice {
    let (stance, why) = answer(rule, holding, situation);
    Voice { who: Who::Rule(Arc::clone(&rule.name)), stance, why }
}

fn answer(rule: &Rule, holding: &mut Holding, situation: Situation<'_>) -> (Stance, Why) {
    let waits = waits(rule, holding, situation);
    let Standing { holds, held, why } = match stand(rule, holding, situation, waits) {
        Ok(standing) => standing,
        Err(unread) => return (Stance::Blind, Why::Unread(unread)),
    };
    let stance = match (held, rule.bound) {
        (None, Bound::Above(_)) if !holds && waits != Waits::Change => Stance::Silent,
        (Some(held), _) if held >= rule.hold && waits == Waits::Nothing => Stance::Ask(wanted(rule, situation.base)),
        _ => Stance::Keep,
    };
    (stance, why)
}

/// How a rule stands.
pub(super) struct Standing {
    /// Whether it holds.
    pub(super) holds: bool,
    /// For how long it has, as far as that counts.
    pub(super) held: Option<Duration>,
    /// All of that in words.
    pub(super) why: Why,
}

/// Compares what a rule reads, and remembers for how long it has held; while it waits for a change it does not.
pub(super) fn stand<A>(
    rule: &Rule<A>,
    holding: &mut Holding,
    situation: Situation<'_>,
    waits: Waits,
) -> Result<Standing, Unread> {
    let now = situation.now;
    let value = match value(rule, situation) {
        Ok(value) => value,
        Err(unread) => {
            holding.held(rule, false, now);
            return Err(unread);
        }
    };
    let holds = rule.bound.holds(value);
    let held = holding.held(rule, holds && waits != Waits::Change, now);
    let why = Why::Compared {
        signal: rule.signal.clone(),
        value,
        bound: rule.bound,
        held: held.or(holds.then_some(Duration::ZERO)),
        hold: rule.hold,
        waits,
    };
    Ok(Standing { holds, held, why })
}

/// A rule counts from what is there, so it lets the last change be done; but what is to go may be kept.
fn waits(rule: &Rule, holding: &Holding, situation: Situation<'_>) -> Waits {
    let Situation { current, base, now, .. } = situation;
    let calls_back = base < current && matches!(rule.bound, Bound::Above(_));
    if base != current && !calls_back {
        return Waits::Change;
    }
    holding.cooldown(rule, now).map_or(Waits::Nothing, Waits::Cooldown)
}

fn wanted(rule: &Rule, base: u32) -> u32 {
    let step = match rule.action {
        Step::Replicas(replicas) => replicas,
        Step::Percent(percent) => {
            let step = (u64::from(base) * u64::from(percent)).div_ceil(100).max(1);
            u32::try_from(step).unwrap_or(u32::MAX)
        }
    };
    match rule.bound {
        Bound::Above(_) => base.saturating_add(step),
        Bound::Below(_) => base.saturating_sub(step),
    }
}

/// The mean that a rule compares. Replicas that did not say count as idle on the way up, and forbid the way down.
fn value<A>(rule: &Rule<A>, situation: Situation<'_>) -> Result<f64, Unread> {
    let reading = read(&rule.signal, situation.seen, situation.now)?;
    let ready = situation.seen.load.ready;
    match rule.bound {
        _ if reading.missing == 0 => Ok(reading.value),
        Bound::Above(_) if ready > 0 => {
            let said = ready.saturating_sub(reading.missing);
            Ok(reading.value * f64::from(said) / f64::from(ready))
        }
        _ => Err(Unread::Partial(rule.signal.clone(), reading.missing)),
    }
}

/// A signal's reading, or why it cannot be used.
pub fn read(signal: &Signal, seen: &Observation, now: Duration) -> Result<Reading, Unread> {
    let Some(reading) = seen.load.readings.get(signal) else {
        let none_ready = seen.load.ready == 0;
        return Err(if none_ready { Unread::NoneReady(signal.clone()) } else { Unread::Missing(signal.clone()) });
    };
    if !reading.value.is_finite() {
        return Err(Unread::Nonsense(signal.clone(), reading.value));
    }
    let age = now.saturating_sub(reading.at);
    if age > signal.stale() {
        return Err(Unread::Old(signal.clone(), age));
    }
    let since = seen.resized.filter(|_| signal.is_percent()).map(|at| now.saturating_sub(at));
    match since.and_then(|since| RESIZED.checked_sub(since)).filter(|left| !left.is_zero()) {
        Some(left) => Err(Unread::Resized(signal.clone(), left)),
        None => Ok(*reading),
    }
}
