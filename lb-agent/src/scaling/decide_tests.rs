//! Decision tables: a policy, then what is seen second by second and the number that must come out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::scaling::{
    decision::Rejected,
    observation::{Load, Reading},
    policy::SignalName,
    testing,
};

fn policy(spec: Value) -> Policy {
    let least =
        json!({"replicas": {"min": 1, "max": 10}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}});
    testing::policy(least, &spec)
}

/// What is seen at a second.
#[derive(Clone, Debug)]
struct Seen {
    active: Option<f64>,
    rate: Option<f64>,
    age: Duration,
    /// Endpoints and ready ones, where they are not what was last decided.
    backends: Option<(u32, u32)>,
    /// Whether a decision is carried out at once.
    carried_out: bool,
}

fn active(value: f64) -> Seen {
    Seen { active: Some(value), rate: None, age: Duration::ZERO, backends: None, carried_out: true }
}

fn missing() -> Seen {
    Seen { active: None, ..active(0.0) }
}

fn aged(value: f64, milliseconds: u64) -> Seen {
    Seen { age: Duration::from_millis(milliseconds), ..active(value) }
}

fn both(value: f64, rate: f64) -> Seen {
    Seen { rate: Some(rate), ..active(value) }
}

impl Seen {
    fn backends(self, all: u32, ready: u32) -> Self {
        Self { backends: Some((all, ready)), ..self }
    }

    fn not_carried_out(self) -> Self {
        Self { carried_out: false, ..self }
    }
}

type Steps = Vec<(u64, Seen, u32)>;

const START: u64 = 1000;

/// The age at which what Weir measures is too old.
const STALE: Duration = Signal::Measured(SignalName::ActiveConnections).stale();

fn clock(now: Duration) -> Clock {
    Clock { now, wall: std::time::SystemTime::UNIX_EPOCH + now }
}

/// Goes through (second, what is seen, desired) steps from a number of replicas. Gives the last decision.
fn follow(name: &str, policy: &Policy, start: u32, steps: Steps) -> Decision {
    let mut state = State::default();
    let mut replicas = start;
    let mut last = None;
    for (second, seen, expected) in steps {
        let now = Duration::from_secs(START + second);
        let (all, ready) = seen.backends.unwrap_or((replicas, replicas));
        let at = now - seen.age;
        let readings = [(SignalName::ActiveConnections, seen.active), (SignalName::ConnectionsPerSecond, seen.rate)];
        let readings = readings
            .into_iter()
            .filter_map(|(signal, value)| Some((signal.into(), Reading::new(value?, at))))
            .collect();
        let decision = decide(policy, &mut state, &Load { replicas: all, ready, readings }.into(), clock(now));
        assert_eq!(decision.desired, expected, "{name} at {second} s: {}", decision.reason());
        if seen.carried_out && policy.mode == Mode::Apply {
            if decision.desired != decision.current {
                state.set(decision.desired, now);
            }
            replicas = decision.desired;
        }
        last = Some(decision);
    }
    last.unwrap()
}

fn rules() -> Value {
    json!([
        {"name": "busy", "signal": "activeConnections", "above": 80, "for": "3s", "add": 2},
        {"name": "idle", "signal": "activeConnections", "below": 30, "for": "5s", "remove": 1},
    ])
}

#[test]
fn rules_hold_without_a_break_before_they_act_and_restart_after() {
    let policy = policy(json!({"rules": rules()}));
    let table: Vec<(&str, u32, Steps)> = vec![
        ("quiet", 4, vec![(0, active(50.0), 4), (99, active(50.0), 4)]),
        ("at the threshold is not above it", 4, vec![(0, active(80.0), 4), (9, active(80.0), 4)]),
        ("at the threshold is not below it", 4, vec![(0, active(30.0), 4), (9, active(30.0), 4)]),
        ("busy for 3 s", 4, vec![(0, active(81.0), 4), (2, active(81.0), 4), (3, active(81.0), 6)]),
        ("busy, with a break", 4, vec![(0, active(99.0), 4), (2, active(80.0), 4), (3, active(99.0), 4), (5, active(99.0), 4), (6, active(99.0), 6)]),
        ("flapping", 4, (0..60).map(|t| (t, active(if t % 3 == 2 { 50.0 } else { 99.0 }), 4)).collect()),
        ("restarts after acting", 2, vec![(0, active(99.0), 2), (3, active(99.0), 4), (4, active(99.0), 4), (6, active(99.0), 4), (7, active(99.0), 6)]),
        ("up to the most", 9, vec![(0, active(99.0), 9), (3, active(99.0), 10), (9, active(99.0), 10), (20, active(99.0), 10)]),
        ("idle for 5 s", 3, vec![(0, active(1.0), 3), (4, active(1.0), 3), (5, active(1.0), 2), (6, active(1.0), 2), (11, active(1.0), 1)]),
        ("down to the least", 1, vec![(0, active(0.0), 1), (5, active(0.0), 1), (50, active(0.0), 1)]),
        ("none at all: the least, once it is sure", 0, vec![(0, missing(), 0), (4, missing(), 0), (5, missing(), 1)]),
        ("they appear in time", 0, vec![(0, missing(), 0), (1, active(50.0).backends(4, 4), 0), (6, active(50.0).backends(4, 4), 4)]),
        ("more than the most", 12, vec![(0, active(50.0), 10)]),
    ];
    for (name, start, steps) in table {
        follow(name, &policy, start, steps);
    }
}

#[test]
fn missing_or_stale_data_holds() {
    let policy = policy(json!({"rules": rules(), "targets": [{"signal": "connectionsPerSecond", "perReplica": 10}]}));
    let limit = STALE.as_millis() as u64;
    let table: Vec<(&str, u32, Steps, &str)> = vec![
        ("missing from the start", 4, vec![(0, missing(), 4), (99, missing(), 4)], "activeConnections is missing (no value yet)"),
        ("no backend is ready", 4, vec![(0, missing().backends(4, 0), 4)], "activeConnections is missing (no backend is ready)"),
        ("old enough to use", 4, vec![(0, both(99.0, 10.0), 4), (3, Seen { age: STALE, ..both(99.0, 10.0) }, 6)], "is above 80"),
        ("too old to scale out", 4, vec![(0, aged(99.0, limit + 1), 4), (9, aged(99.0, limit + 1), 4)], "activeConnections is 2 s old, too old"),
        ("too old to scale in", 4, vec![(0, aged(0.0, 9000), 4), (9, aged(0.0, 18000), 4)], "activeConnections is 18 s old, too old"),
        ("a gap breaks the rule's time", 4, vec![(0, both(99.0, 10.0), 4), (2, missing(), 4), (3, both(99.0, 10.0), 4), (5, both(99.0, 10.0), 4), (6, both(99.0, 10.0), 6)], "is above 80"),
        ("one blind voice keeps the others from scaling in", 4, vec![(0, active(0.0), 4), (5, active(0.0), 4), (50, active(0.0), 4)], "connectionsPerSecond is missing"),
        ("one blind voice does not keep the others from scaling out", 4, vec![(0, active(99.0), 4), (3, active(99.0), 6)], "is above 80"),
    ];
    for (name, start, steps, why) in table {
        let decision = follow(name, &policy, start, steps);
        assert!(decision.reason().contains(why), "{name}: {}", decision.reason());
    }
}

#[test]
fn targets_ask_for_what_the_load_needs() {
    let spec = json!({"targets": [{"signal": "activeConnections", "perReplica": 8}]});
    let policy = policy(spec);
    let table: Vec<(&str, u32, Steps)> = vec![
        ("on target", 4, vec![(0, active(8.0), 4)]),
        ("10 % over is on target", 4, vec![(0, active(8.8), 4)]),
        ("10 % under is on target", 4, vec![(0, active(7.2), 4)]),
        ("a little more than 10 % over", 4, vec![(0, active(8.9), 5)]),
        ("half of it", 4, vec![(0, active(4.0), 2)]),
        ("rounded up", 4, vec![(0, active(4.1), 3)]),
        ("twice of it", 4, vec![(0, active(16.0), 8)]),
        ("no load: the least", 4, vec![(0, active(0.0), 1)]),
        ("unready ones will help", 4, vec![(0, active(16.0).backends(4, 2), 4)]),
        ("unready ones will not be enough", 4, vec![(0, active(24.0).backends(4, 2), 6)]),
        ("unready ones are left out going down", 4, vec![(0, active(4.0).backends(4, 3), 2)]),
        ("unready ones on target", 4, vec![(0, active(8.0).backends(4, 2), 4)]),
        ("at most by double or 4 at once", 2, vec![(0, active(400.0), 6), (1, active(400.0), 6), (15, active(400.0), 10)]),
    ];
    for (name, start, steps) in table {
        follow(name, &policy, start, steps);
    }
}

#[test]
fn the_highest_wins_up_and_all_must_agree_down() {
    let policy = policy(json!({
        "rules": [
            {"name": "busy", "signal": "activeConnections", "above": 80, "for": "3s", "add": 1},
            {"name": "very-busy", "signal": "activeConnections", "above": 90, "for": "3s", "add": 3},
            {"name": "idle", "signal": "activeConnections", "below": 30, "add": null, "remove": 2},
        ],
        "targets": [{"signal": "connectionsPerSecond", "perReplica": 10}],
    }));
    let table: Vec<(&str, u32, Steps)> = vec![
        ("the larger rule", 4, vec![(0, both(95.0, 10.0), 4), (3, both(95.0, 10.0), 7), (4, both(95.0, 10.0), 7)]),
        ("the target above a rule", 4, vec![(0, both(85.0, 10.0), 4), (3, both(85.0, 20.0), 8)]),
        ("the rule above the target", 4, vec![(0, both(95.0, 10.0), 4), (3, both(95.0, 12.0), 7)]),
        ("only the rule agrees going down", 4, vec![(0, both(10.0, 10.0), 4)]),
        ("only the target agrees going down", 4, vec![(0, both(50.0, 2.0), 4)]),
        ("both agree: the higher", 4, vec![(0, both(10.0, 7.0), 3)]),
        ("both agree: the higher again", 4, vec![(0, both(10.0, 1.0), 2)]),
    ];
    for (name, start, steps) in table {
        follow(name, &policy, start, steps);
    }
}

#[test]
fn a_scale_out_rule_that_holds_blocks_scaling_in() {
    let policy = policy(json!({
        "rules": [{"name": "busy", "signal": "activeConnections", "above": 80, "for": "60s", "add": 1}],
        "targets": [{"signal": "connectionsPerSecond", "perReplica": 10}],
    }));
    let decision = follow("blocked", &policy, 4, vec![(0, both(99.0, 1.0), 4), (9, both(99.0, 1.0), 4)]);
    assert_eq!(
        decision.rejected(),
        [Rejected {
            what: "target connectionsPerSecond: 4 -> 1".to_owned(),
            why: "rule busy: activeConnections 99 is above 80 for 9s of 1m".to_owned(),
        }]
    );
    follow("free", &policy, 4, vec![(0, both(99.0, 1.0), 4), (9, both(20.0, 1.0), 1)]);
}

#[test]
fn rules_wait_until_the_last_change_is_done() {
    let policy = policy(json!({"rules": rules()}));
    let pending = |t| (t, active(99.0).not_carried_out(), 6);
    let steps = vec![(0, active(99.0), 4), (3, active(99.0).not_carried_out(), 6), pending(4), pending(60), pending(600)];
    let decision = follow("a command that fails", &policy, 4, steps);
    assert_eq!((decision.current, decision.desired), (4, 6));
    assert!(decision.reason().contains("waits for the last change to be done"), "{}", decision.reason());

    let steps = vec![(0, active(99.0), 4), (3, active(99.0).not_carried_out(), 6), (4, active(99.0), 6), (5, active(99.0), 6), (7, active(99.0), 6), (8, active(99.0), 8)];
    follow("then it is done", &policy, 4, steps);
}

#[test]
fn replicas_that_change_by_themselves_are_counted_again() {
    let policy = policy(json!({"rules": rules()}));
    let seen = |n| active(50.0).backends(n, n);
    let steps = vec![(0, active(50.0), 4), (1, seen(7), 4), (6, seen(7), 7), (7, seen(0), 7), (8, seen(7), 7), (9, seen(3), 7), (14, seen(3), 3)];
    let decision = follow("by hand", &policy, 4, steps);
    assert_eq!(decision.current, 3);
}

#[test]
fn equal_bounds_leave_nothing_to_decide() {
    let policy = policy(json!({"replicas": {"min": 3, "max": 3}, "rules": rules()}));
    for (value, field) in [(99.0, "replicas.max"), (0.0, "replicas.min")] {
        let decision = follow("fixed", &policy, 3, vec![(0, active(value), 3), (5, active(value), 3), (50, active(value), 3)]);
        assert_eq!(decision.limited_by[0].field(), field);
        assert!(decision.rejected()[0].why.starts_with(field), "{:?}", decision.rejected());
    }
}

#[test]
fn the_default_behavior_waits_five_minutes_before_it_scales_in() {
    let policy = policy(json!({"rules": rules(), "behavior": {}}));
    let mut steps: Vec<_> = (0..304).map(|t| (t, active(1.0), 4)).collect();
    steps.push((304, active(1.0), 3));
    let decision = follow("idle", &policy, 4, steps);
    assert_eq!(decision.reason(), "4 -> 3: rule idle: activeConnections 1 is below 30 for 5m 4s");
}

#[test]
fn recommendations_are_shown_and_not_followed() {
    let policy = policy(json!({"mode": "Recommend", "rules": rules()}));
    let steps = vec![(0, active(99.0), 4), (3, active(99.0), 6), (60, active(99.0), 6), (61, active(50.0), 4)];
    let decision = follow("recommend", &policy, 4, steps);
    assert_eq!((decision.current, decision.desired), (4, 4));
}

#[test]
fn a_decision_says_why() {
    let policy = policy(json!({"rules": rules()}));
    let decision = follow("up", &policy, 4, vec![(0, active(91.5), 4), (3, aged(91.5, 500), 6)]);
    assert_eq!(decision.reason(), "4 -> 6: rule busy: activeConnections 91.5 is above 80 for 3s");
    let age = Some(Duration::from_millis(500));
    assert_eq!(decision.inputs, [Input { signal: SignalName::ActiveConnections.into(), value: Some(91.5), age }]);
    let decision = follow("hold", &policy, 4, vec![(0, active(50.0), 4)]);
    assert_eq!(
        decision.reason(),
        "stays at 4: rule busy: activeConnections 50 is not above 80; rule idle: activeConnections 50 is not below 30"
    );
}

/// What may be seen in one second: a number of backends, and each signal with its age.
fn anything() -> impl Strategy<Value = (u32, [Option<(f64, u64)>; 2])> {
    let signal = || proptest::option::weighted(0.8, (0.0..200.0, 0..4000_u64));
    (0..12_u32, [signal(), signal()])
}

proptest! {
    #[test]
    fn whatever_is_seen_the_bounds_hold_and_missing_data_never_scales_in(
        seconds in proptest::collection::vec(anything(), 1..120),
        carried_out in proptest::bool::ANY,
    ) {
        let policy = policy(json!({
            "replicas": {"min": 2, "max": 8},
            "rules": rules(),
            "targets": [{"signal": "connectionsPerSecond", "perReplica": 50}],
        }));
        let mut state = State::default();
        for (second, (backends, signals)) in seconds.into_iter().enumerate() {
            let now = Duration::from_secs(START + second as u64);
            let names = [SignalName::ActiveConnections, SignalName::ConnectionsPerSecond];
            let readings = names.into_iter().zip(signals).filter_map(|(signal, seen)| {
                let (value, age) = seen?;
                Some((signal.into(), Reading::new(value, now - Duration::from_millis(age))))
            });
            let load = Load { replicas: backends, ready: backends, readings: readings.collect() };
            let decision = decide(&policy, &mut state, &load.into(), clock(now));
            let blind = decision.voices.iter().any(|voice| voice.stance == Stance::Blind);
            let Decision { current, desired, .. } = decision;
            prop_assert!((2..=8).contains(&desired) || desired == current, "{current} -> {desired}");
            if blind && carried_out && current <= 8 {
                prop_assert!(desired >= current, "{}", decision.reason());
            }
            if carried_out && desired != current {
                state.set(desired, now);
            }
        }
    }
}
