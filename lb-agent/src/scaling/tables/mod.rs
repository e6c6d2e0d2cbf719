//! Tables of decisions: a policy, and what is seen of its target second by second with the number that must come out.
//!
//! A row is a name, the replicas at first, and steps `SECOND:SEEN,SEEN,...>DESIRED`. What is seen:
//! - `a8` activeConnections, `c8` connectionsPerSecond, `i8` inFlight, `p8` cpu, `q8` what Prometheus answers for the Service;
//!   `nan` and `inf` are values too, `@N` after it is its age in milliseconds, `-N` ready replicas that did not say;
//! - `b4/2` endpoints and ready ones, where they are not what was last decided;
//! - `s4` what the scale subresource says, from then on; `s` alone: what was last decided;
//! - `f6` a forecast of 6, `f?` one that is off, `F6` one that is two minutes old;
//! - `roll` a rollout, `wait61` a replica that has waited for 61 s, `knock` a client that asks now, `sized` replicas resized now;
//! - `x` the decision is not carried out.

mod data;
mod holds;
mod limits;
mod panic;
mod properties;
mod rules;
mod targets;
mod zero;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::scaling::policy::{Mode, PrometheusSpec};

/// When the tables begin: 2026-11-23, a Monday, at 06:00 UTC.
const START: u64 = 1_795_413_600;

/// A policy with these fields over the least that one has. Going down is not delayed, where the fields do not say so.
fn policy(fields: Value) -> Policy {
    let least =
        json!({"replicas": {"min": 1, "max": 20}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}});
    testing::policy(least, &fields)
}

fn target(signal: &str, per_replica: f64) -> Value {
    json!([{"signal": signal, "perReplica": per_replica}])
}

fn queue() -> Value {
    json!({"server": "http://prometheus:9090", "query": "queue", "per": "Service"})
}

fn signal(letter: char) -> Signal {
    match letter {
        'a' => SignalName::ActiveConnections.into(),
        'c' => SignalName::ConnectionsPerSecond.into(),
        'i' => SignalName::InFlight.into(),
        'p' => SignalName::Cpu.into(),
        'q' => {
            let spec: PrometheusSpec = serde_json::from_value(queue()).expect("a query");
            Signal::Prometheus(spec.into())
        }
        other => panic!("{other} is no signal"),
    }
}

/// A world that carries decisions out at once, where it is not told otherwise.
struct World {
    replicas: u32,
    asked: bool,
    state: State,
}

/// What a step sees, and whether its decision is carried out.
struct Step {
    at: u64,
    seen: Observation,
    carried_out: bool,
    desired: u32,
}

impl World {
    fn parse(&mut self, text: &str) -> Step {
        let malformed = || panic!("{text}: not a step");
        let (at, rest) = text.split_once(':').unwrap_or_else(malformed);
        let (words, desired) = rest.split_once('>').unwrap_or_else(malformed);
        let at = at.parse().expect("a second");
        let now = Duration::from_secs(at);
        let load = Load { replicas: self.replicas, ready: self.replicas, ..Load::default() };
        let mut step = Step { at, seen: load.into(), carried_out: true, desired: desired.parse().expect("a number") };
        for word in words.split(',').filter(|word| !word.is_empty()) {
            self.word(&mut step, word, now);
        }
        if self.asked {
            step.seen.set = Some(step.seen.set.unwrap_or(self.replicas));
        }
        step
    }

    fn word(&mut self, step: &mut Step, word: &str, now: Duration) {
        let seen = &mut step.seen;
        let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{word}: not a number"));
        let forecast = |replicas, at| Forecast { replicas, why: "the load that comes".into(), at };
        let start = Duration::from_secs(START);
        match word {
            "x" => step.carried_out = false,
            "roll" => seen.rollout = Some("deployment web".into()),
            "knock" => seen.knocked = Some(start + now),
            "sized" => seen.resized = Some(start + now),
            "s" => self.asked = true,
            "f?" => seen.forecast = Some(forecast(None, start + now)),
            _ => match word.split_at(1) {
                ("b", counts) => {
                    let (all, ready) = counts.split_once('/').expect("endpoints/ready");
                    (seen.load.replicas, seen.load.ready) = (number(all), number(ready));
                }
                ("s", set) => {
                    self.asked = true;
                    self.replicas = number(set);
                    seen.set = Some(self.replicas);
                    (seen.load.replicas, seen.load.ready) = (self.replicas, self.replicas);
                }
                ("f", replicas) => seen.forecast = Some(forecast(Some(number(replicas)), start + now)),
                ("F", replicas) => {
                    let made = start + now - Duration::from_secs(120);
                    seen.forecast = Some(forecast(Some(number(replicas)), made));
                }
                ("w", waited) => {
                    let waited = Duration::from_secs(number(waited.trim_start_matches("ait")).into());
                    seen.pending = Some(Pending { replicas: 1, since: start + now - waited });
                }
                (_, value) => {
                    let signal = signal(word.chars().next().expect("a letter"));
                    seen.load.readings.insert(signal, reading(value, start + now));
                }
            },
        }
    }
}

/// `8`, `8@2500`, `8-1`.
fn reading(text: &str, now: Duration) -> Reading {
    let (text, age) = text.split_once('@').map_or((text, 0), |(text, age)| (text, age.parse().expect("milliseconds")));
    let (value, missing) = text.split_once('-').filter(|(value, _)| !value.is_empty()).unwrap_or((text, "0"));
    Reading {
        value: value.parse().expect("a value"),
        at: now - Duration::from_millis(age),
        missing: missing.parse().expect("a number"),
    }
}

/// Goes through the rows of a table.
fn table(policy: &Policy, rows: &[(&str, u32, &str)]) {
    for (name, start, steps) in rows {
        follow(name, policy, *start, steps);
    }
}

/// Goes through one row. Gives the last decision.
fn follow(name: &str, policy: &Policy, start: u32, steps: &str) -> Decision {
    let mut world = World { replicas: start, asked: false, state: State::default() };
    let mut last = None;
    for text in steps.split_whitespace() {
        let step = world.parse(text);
        let now = Duration::from_secs(START + step.at);
        let clock = Clock { now, wall: SystemTime::UNIX_EPOCH + now };
        let decision = decide(policy, &mut world.state, &step.seen, clock);
        assert_eq!(decision.desired, step.desired, "{name}, {text}: {}", decision.reason());
        if step.carried_out && policy.mode == Mode::Apply && decision.desired != decision.current {
            world.replicas = decision.desired;
            if !world.asked {
                world.state.set(decision.desired, now);
            }
        }
        last = Some(decision);
    }
    last.expect("a step")
}

/// Goes through rows and looks for words in the last reason.
fn told(policy: &Policy, rows: &[(&str, u32, &str, &str)]) {
    for (name, start, steps, words) in rows {
        let decision = follow(name, policy, *start, steps);
        assert!(decision.reason().contains(words), "{name}: {}", decision.reason());
    }
}
