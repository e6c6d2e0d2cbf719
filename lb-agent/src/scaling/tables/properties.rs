//! What holds whatever is seen.

use proptest::prelude::*;

use super::*;

const NAMES: [SignalName; 2] = [SignalName::ActiveConnections, SignalName::ConnectionsPerSecond];

/// A second: endpoints, those of them that are ready, each signal with its age and those who did not say, and a forecast.
#[derive(Clone, Debug)]
struct Second {
    backends: u32,
    ready: u32,
    signals: [Option<(f64, u64, u32)>; 2],
    forecast: Option<u32>,
    rollout: bool,
}

fn second() -> impl Strategy<Value = Second> {
    let value = prop_oneof![8 => 0.0..200.0, 1 => Just(f64::NAN), 1 => Just(-1.0), 1 => Just(f64::INFINITY)];
    let signal = proptest::option::weighted(0.8, (value, 0..3000_u64, prop_oneof![4 => Just(0_u32), 1 => 0..4_u32]));
    let signals = [signal.clone(), signal];
    (0..12_u32, 0..12_u32, signals, proptest::option::of(0..30_u32), proptest::bool::weighted(0.1)).prop_map(
        |(backends, ready, signals, forecast, rollout)| Second {
            backends,
            ready: ready.min(backends),
            signals,
            forecast,
            rollout,
        },
    )
}

impl Second {
    fn seen(&self, now: Duration, set: Option<u32>) -> Observation {
        let readings = NAMES.into_iter().zip(self.signals).filter_map(|(name, signal)| {
            let (value, age, missing) = signal?;
            Some((name.into(), Reading { value, at: now - Duration::from_millis(age), missing }))
        });
        let why = "the load that comes".into();
        Observation {
            load: Load { replicas: self.backends, ready: self.ready, readings: readings.collect() },
            set,
            rollout: self.rollout.then(|| "deployment web".into()),
            forecast: self.forecast.map(|replicas| Forecast { replicas: Some(replicas), why, at: now }),
            ..Observation::default()
        }
    }

    fn is_blind(&self) -> bool {
        self.ready == 0
            || self
                .signals
                .iter()
                .any(|signal| signal.is_none_or(|(value, age, _)| !value.is_finite() || value < 0.0 || age > 2000))
    }
}

fn clock(now: Duration) -> Clock {
    Clock { now, wall: SystemTime::UNIX_EPOCH + now }
}

fn at(second: usize) -> Duration {
    Duration::from_secs(START + second as u64)
}

fn busy(behavior: &Value, forecast: bool) -> Policy {
    let mut fields = json!({
        "replicas": {"min": 2, "max": 8},
        "rules": [
            {"name": "busy", "signal": "activeConnections", "above": 80, "for": "3s", "add": "50%"},
            {"name": "idle", "signal": "activeConnections", "below": 30, "for": "5s", "remove": 1, "cooldown": "9s"},
        ],
        "targets": target("connectionsPerSecond", 50.0),
        "behavior": behavior,
    });
    if forecast {
        fields["forecast"] = json!({"features": ["lag:1m"]});
    }
    policy(fields)
}

fn quick() -> Value {
    json!({"scaleDown": {"stabilizationWindowSeconds": 0}})
}

proptest! {
    #[test]
    fn the_bounds_hold_and_what_cannot_be_read_never_scales_in(
        seconds in proptest::collection::vec(second(), 1..80),
        carried_out in any::<bool>(),
    ) {
        let policy = busy(&quick(), true);
        let (mut state, mut set) = (State::default(), 5);
        for (index, second) in seconds.iter().enumerate() {
            let decision = decide(&policy, &mut state, &second.seen(at(index), Some(set)), clock(at(index)));
            let Decision { base, desired, .. } = decision;
            prop_assert!((2..=8).contains(&desired), "{base} -> {desired}");
            if second.is_blind() || second.rollout {
                prop_assert!(desired >= base, "{}", decision.reason());
            }
            if carried_out {
                set = desired;
            }
        }
    }

    #[test]
    fn a_window_of_five_minutes_removes_nothing_within_two_of_an_addition(
        seconds in proptest::collection::vec(second(), 100..200),
    ) {
        let policy = busy(&json!({}), true);
        let (mut state, mut set, mut added) = (State::default(), 5, None);
        for (index, second) in seconds.iter().enumerate() {
            // Two seconds a tick.
            let now = at(2 * index);
            let desired = decide(&policy, &mut state, &second.seen(now, Some(set)), clock(now)).desired;
            if desired > set {
                added = Some(now);
            }
            if desired < set {
                prop_assert!(added.is_none_or(|added| now - added >= Duration::from_secs(120)));
            }
            set = desired;
        }
    }

    #[test]
    fn no_more_changes_in_a_period_than_behavior_allows(
        seconds in proptest::collection::vec(second(), 1..120),
        value in 1..4_u32,
        period in 5..40_u64,
    ) {
        let pods = json!([{"type": "Pods", "value": value, "periodSeconds": period}]);
        let rules = json!({"stabilizationWindowSeconds": 0, "policies": pods});
        let policy = busy(&json!({"scaleUp": rules, "scaleDown": rules}), false);
        let (mut state, mut set, mut changes) = (State::default(), 5, Vec::new());
        for (index, second) in seconds.iter().enumerate() {
            let desired = decide(&policy, &mut state, &second.seen(at(index), Some(set)), clock(at(index))).desired;
            changes.push((at(index), i64::from(desired) - i64::from(set)));
            set = desired;
            let recent = changes.iter().filter(|(when, _)| at(index) - *when < Duration::from_secs(period));
            let (mut net, mut low, mut high) = (0, 0, 0);
            for (_, change) in recent {
                net += change;
                low = low.min(net);
                high = high.max(net);
            }
            prop_assert!(net.abs() <= i64::from(value), "{net} within {period} s");
        }
    }

    #[test]
    fn more_load_never_asks_for_fewer(
        ready in 1..12_u32,
        low in 0.0..400.0,
        more in 0.0..400.0,
        missing in 0..3_u32,
    ) {
        let policy = policy(json!({"targets": target("activeConnections", 8.0)}));
        let ask = |value| {
            let reading = Reading { value, at: at(0), missing: missing.min(ready - 1) };
            let readings = [(SignalName::ActiveConnections.into(), reading)].into();
            let seen = Observation::from(Load { replicas: ready, ready, readings });
            decide(&policy, &mut State::default(), &seen, clock(at(0))).desired
        };
        prop_assert!(ask(low) <= ask(low + more));
    }

    #[test]
    fn a_forecast_never_lowers_the_number(seconds in proptest::collection::vec(second(), 1..80)) {
        let (with, without) = (busy(&json!({}), true), busy(&json!({}), false));
        for (index, second) in seconds.iter().enumerate() {
            let decide = |policy| {
                let seen = second.seen(at(index), Some(5));
                decide(policy, &mut State::default(), &seen, clock(at(index))).desired
            };
            prop_assert!(decide(&with) >= decide(&without));
        }
    }

    #[test]
    fn a_new_leader_removes_nothing_before_a_window_has_passed(
        seconds in proptest::collection::vec(second(), 1..60),
        taken_over in 0..60_usize,
    ) {
        let policy = busy(&json!({}), true);
        let (mut state, mut set) = (State::default(), 5);
        for (index, second) in seconds.iter().enumerate() {
            if index == taken_over {
                state = State::default();
            }
            let desired = decide(&policy, &mut state, &second.seen(at(index), Some(set)), clock(at(index))).desired;
            prop_assert!(desired >= set);
            set = desired;
        }
    }
}
