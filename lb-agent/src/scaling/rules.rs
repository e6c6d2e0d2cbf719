//! Decides what each rule and each target of a policy asks for, from the signals and how long the rules have held. A rule or
//! target that cannot see its signal asks for what is there, which keeps every other one from scaling in.

use std::{collections::BTreeMap, time::Duration};

use super::{
    checked::{Policy, Rule, Target, Trigger},
    signals::{Load, STALE, Signal},
};

/// As in autoscaling: a mean within 10 % of its target is on target.
pub const TOLERANCE: f64 = 0.1;

/// What a rule or target asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Which one: `rule busy`, `target activeConnections`.
    pub who: String,
    /// What it asks for.
    pub stance: Stance,
    /// Why.
    pub why: String,
}

/// What a rule or target asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stance {
    /// Nothing.
    Silent,
    /// What is there: its signal is missing or too old.
    Blind,
    /// What is there.
    Keep,
    /// Another number.
    Ask(u32),
}

/// How long rules have held, by name.
#[derive(Clone, Debug, Default)]
pub struct Holding(BTreeMap<String, Duration>);

impl Holding {
    /// Lets every rule start again.
    pub fn restart(&mut self) {
        self.0.clear();
    }

    /// Since when this rule has held without a break, given whether it holds now.
    fn since(&mut self, rule: &Rule, holds: bool, now: Duration) -> Option<Duration> {
        if !holds {
            self.0.remove(&rule.name);
            return None;
        }
        Some(*self.0.entry(rule.name.clone()).or_insert(now))
    }
}

/// What there is to decide from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Replicas, as last wanted.
    pub base: u32,
    /// What is wanted is not yet set: rules, which count from what is there, wait for it.
    pub changing: bool,
    /// What the replicas carry.
    pub load: &'a Load,
    /// The time.
    pub now: Duration,
}

/// Asks every rule and target.
pub fn voices(policy: &Policy, holding: &mut Holding, situation: Situation<'_>) -> Vec<Voice> {
    let rules = policy.rules.iter().map(|rule| {
        let (stance, why) = ask_rule(rule, holding, situation);
        Voice { who: format!("rule {}", rule.name), stance, why }
    });
    let targets = policy.targets.iter().map(|target| {
        let (stance, why) = ask_target(*target, situation);
        Voice { who: format!("target {}", target.signal), stance, why }
    });
    rules.chain(targets).collect()
}

fn ask_rule(rule: &Rule, holding: &mut Holding, situation: Situation<'_>) -> (Stance, String) {
    let Situation { base, now, .. } = situation;
    let value = match fresh(rule.signal, situation) {
        Ok(value) => value,
        Err(why) => {
            holding.since(rule, false, now);
            return (Stance::Blind, why);
        }
    };
    let (holds, is_or_not, wanted) = compare(rule.trigger, value, base);
    let what = format!("{} {} {is_or_not}", rule.signal, short(value));
    if situation.changing {
        holding.since(rule, false, now);
        return (Stance::Keep, format!("{what}, waits for the last change to be done"));
    }
    let Some(since) = holding.since(rule, holds, now) else {
        let silent = matches!(rule.trigger, Trigger::Above(..));
        return (if silent { Stance::Silent } else { Stance::Keep }, what);
    };
    let held = now.saturating_sub(since);
    if held < rule.hold {
        let why = format!("{what} for {} of {}", whole(held), whole(rule.hold));
        return (Stance::Keep, why);
    }
    (Stance::Ask(wanted), format!("{what} for {}", whole(held)))
}

fn compare(trigger: Trigger, value: f64, base: u32) -> (bool, String, u32) {
    let (holds, word, threshold, wanted) = match trigger {
        Trigger::Above(above, add) => (value > above, "above", above, base.saturating_add(add)),
        Trigger::Below(below, remove) => (value < below, "below", below, base.saturating_sub(remove)),
    };
    let not = if holds { "" } else { "not " };
    (holds, format!("is {not}{word} {}", short(threshold)), wanted)
}

/// As the HorizontalPodAutoscaler: replicas that are not ready count as carrying nothing on the way up, and are left out on the
/// way down.
fn ask_target(target: Target, situation: Situation<'_>) -> (Stance, String) {
    let Situation { base, load, .. } = situation;
    let value = match fresh(target.signal, situation) {
        Ok(value) => value,
        Err(why) => return (Stance::Blind, why),
    };
    let what = format!("{} {} of {}", target.signal, short(value), short(target.per_replica));
    let ratio = value / target.per_replica;
    let need = f64::from(load.ready) * ratio;
    if near(ratio) {
        return (Stance::Keep, format!("{what} is within 10 %"));
    }
    let ready = load.ready;
    let wanted = (need - 1e-9).ceil().max(0.0) as u32;
    if ratio > 1.0 && (wanted <= base || near(need / f64::from(base))) {
        return (Stance::Keep, format!("{what} on {ready} ready: {base} are enough once all are"));
    }
    if wanted.min(base) == base && ratio < 1.0 {
        return (Stance::Keep, format!("{what} on {ready} ready needs {base}"));
    }
    (Stance::Ask(wanted), format!("{what} on {ready} ready needs {wanted}"))
}

fn near(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE + 1e-9
}

/// The value of a signal, or why it cannot be used.
fn fresh(signal: Signal, situation: Situation<'_>) -> Result<f64, String> {
    let Some(reading) = situation.load.readings.get(&signal) else {
        let why = if situation.load.ready == 0 { "no backend is ready" } else { "no rate yet" };
        return Err(format!("{signal} is missing ({why})"));
    };
    let age = situation.now.saturating_sub(reading.at);
    if age > STALE {
        return Err(format!("{signal} is {} s old, too old to decide from", age.as_secs()));
    }
    Ok(reading.value)
}

/// A number without digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn whole(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
