//! Weir's own decision: the functions that production calls, on what production would have seen a second ago.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use crate::{
    backtest::replay::{Observation, Scaler},
    scaling::{
        self, Clock, Load, Policy, Reading, Signal, SignalName, State, decide, forecast::Watch, signals::WINDOW,
    },
};

/// A policy at work.
pub struct Weir {
    policy: Policy,
    state: State,
    watch: Option<Watch>,
    /// The wall clock at the start.
    epoch: SystemTime,
    /// Requests so far, at each second of the window of rates.
    arrived: VecDeque<u64>,
    load: Option<Load>,
}

/// Signals that a queueing model knows.
const KNOWN: [SignalName; 4] = [
    SignalName::InFlight,
    SignalName::ActiveConnections,
    SignalName::RequestsPerSecond,
    SignalName::ConnectionsPerSecond,
];

/// Why a policy cannot be replayed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("signal {signal} is unknown to a replay")]
pub struct UnknownSignal {
    /// The signal.
    pub signal: String,
}

impl Weir {
    /// A policy, from its start at a time of the wall clock.
    pub fn new(policy: &Policy, epoch: SystemTime) -> Result<Self, UnknownSignal> {
        let known = |signal: &&Signal| matches!(signal, Signal::Measured(name) if KNOWN.contains(name));
        if let Some(signal) = policy.signals().into_iter().find(|signal| !known(signal)) {
            return Err(UnknownSignal { signal: signal.to_string() });
        }
        let (state, watch) = (State::default(), Watch::of(policy));
        Ok(Self { policy: policy.clone(), state, watch, epoch, arrived: VecDeque::new(), load: None })
    }

    /// What the agents would say: means over the ready replicas. A request is a connection.
    fn measure(&mut self, seen: &Observation) -> Load {
        let rate = self.rate(seen.arrived);
        let mut load = Load { replicas: seen.replicas, ready: seen.ready, ..Load::default() };
        if seen.ready == 0 {
            return load;
        }
        let at = Duration::from_secs(seen.second);
        let mut put = |names: [SignalName; 2], sum: f64| {
            let reading = Reading::new(sum / f64::from(seen.ready), at);
            load.readings.extend(names.map(|name| (Signal::Measured(name), reading)));
        };
        put([SignalName::InFlight, SignalName::ActiveConnections], f64::from(seen.in_flight));
        if let Some(rate) = rate {
            put([SignalName::RequestsPerSecond, SignalName::ConnectionsPerSecond], rate);
        }
        load
    }

    /// Requests in a second, over the window that agents take.
    fn rate(&mut self, arrived: u64) -> Option<f64> {
        self.arrived.push_back(arrived);
        if self.arrived.len() as u64 > WINDOW.as_secs() + 1 {
            self.arrived.pop_front();
        }
        let seconds = self.arrived.len() - 1;
        let first = self.arrived.front()?;
        (seconds > 0).then(|| (arrived - first) as f64 / seconds as f64)
    }
}

impl Scaler for Weir {
    fn desired(&mut self, seen: &Observation) -> u32 {
        let now = Duration::from_secs(seen.second);
        let load = self.measure(seen);
        let Some(mut load) = self.load.replace(load) else {
            return seen.replicas;
        };
        // How many there are is asked for at the time; what they carry was told a second ago.
        load.replicas = seen.replicas;
        let clock = Clock { now, wall: self.epoch + now };
        let mut known = scaling::Observation { set: Some(seen.replicas), ..load.into() };
        known.forecast = self.watch.as_mut().and_then(|watch| watch.tick(&known, clock));
        decide(&self.policy, &mut self.state, &known, clock).desired
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::scaling::{ScalePolicy, validate};

    fn policy(target: &Value, forecast: Option<&Value>) -> Policy {
        let mut resource = json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ScalePolicy",
            "metadata": {"name": "web"},
            "spec": {"serviceRef": {"name": "web"}, "replicas": {"max": 100}, "targets": [target]},
        });
        if let Some(forecast) = forecast {
            resource["spec"]["forecast"] = forecast.clone();
        }
        validate(&serde_json::from_value::<ScalePolicy>(resource).unwrap()).unwrap()
    }

    /// Follows requests in flight and arrivals at each second, with replicas that are there at once; their number at each second.
    fn follow(policy: &Policy, seconds: u64, load: impl Fn(u64) -> (u32, u64)) -> Vec<u32> {
        let mut weir = Weir::new(policy, SystemTime::UNIX_EPOCH).unwrap();
        let mut replicas = 4;
        let step = |second| {
            let (in_flight, arrived) = load(second);
            replicas = weir.desired(&Observation { second, replicas, ready: replicas, in_flight, arrived });
            replicas
        };
        (0..seconds).map(step).collect()
    }

    #[test]
    fn rates_are_over_the_window_of_the_agents() {
        let policy = policy(&json!({"signal": "requestsPerSecond", "perReplica": 10}), None);
        // 40 in a second, 100 from second 100 on: the mean of 5 s is 52, 64, 76, each told a second later.
        let numbers = follow(&policy, 120, |second| (0, 40 * second + 60 * second.saturating_sub(100)));
        assert_eq!([numbers[101], numbers[102], numbers[104]], [4, 6, 8]);
    }

    #[test]
    fn a_forecast_raises_before_the_load_does() {
        let target = json!({"signal": "inFlight", "perReplica": 10});
        let forecast = json!({"features": ["lag:1m", "mean:5m"], "horizon": "2m"});
        let wave = |second: u64| (60.0 + 40.0 * (second as f64 * std::f64::consts::TAU / 2400.0).sin()) as u32;
        let [with, without] =
            [Some(&forecast), None].map(|forecast| follow(&policy(&target, forecast), 12_000, |at| (wave(at), 0)));
        assert_eq!(with[..600], without[..600], "too little is known");
        let earlier = with.iter().zip(&without).filter(|(with, without)| with > without).count();
        let lower = with.iter().zip(&without).filter(|(with, without)| with < without).count();
        assert!(earlier > 1000 && lower < 100, "more for {earlier} s, fewer for {lower} s");
    }
}
