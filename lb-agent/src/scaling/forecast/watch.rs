//! The forecast of a policy as decisions see it: fed once a second with what the replicas carry.

use std::sync::Arc;

use super::{
    engine::{Forecaster, Reading, Settings},
    history::HistoryError,
    status::ForecastReport,
};
use crate::scaling::{
    checked::{Bound, Policy},
    observation::{Clock, Forecast, Observation},
    policy::Per,
    rules::read,
    signal::Signal,
};

/// Keeps a policy's forecast.
#[derive(Clone, Debug)]
pub struct Watch {
    load: Signal,
    /// The signal that saturates.
    full: Option<Signal>,
    forecaster: Forecaster,
    last: Option<Forecast>,
}

impl Watch {
    /// For a policy that asks for a forecast.
    pub fn of(policy: &Policy) -> Option<Self> {
        let (load, full, settings) = asked(policy)?;
        Some(Self { load, full, forecaster: Forecaster::new(settings), last: None })
    }

    /// For the policy after a change: the history of the same load is kept.
    pub fn changed(before: Option<Self>, policy: &Policy) -> Option<Self> {
        let (load, full, settings) = asked(policy)?;
        match before {
            Some(mut watch) if watch.load == load => {
                watch.forecaster.configure(settings);
                Some(Self { full, last: None, ..watch })
            }
            _ => Self::of(policy),
        }
    }

    /// Takes what is seen, and gives the forecast for a decision.
    pub fn tick(&mut self, seen: &Observation, clock: Clock) -> Option<Forecast> {
        if self.forecaster.observe(clock.wall, self.reading(seen, clock)) {
            let replicas = self.forecaster.outlook().ok().map(|outlook| outlook.replicas);
            let why: Arc<str> = self.forecaster.why(&self.load.to_string()).into();
            self.last = Some(Forecast { replicas, why, at: clock.now });
        }
        self.last.clone()
    }

    /// What can be read now. Replicas that did not say count as the others.
    fn reading(&self, seen: &Observation, clock: Clock) -> Reading {
        let value = |signal: &Signal| read(signal, seen, clock.now).ok().map(|reading| reading.value);
        let load = value(&self.load).filter(|load| *load >= 0.0);
        let ready = Some(seen.load.ready).filter(|ready| *ready > 0).map(f64::from);
        let (of_all, of_each) = match self.load.per() {
            Per::Service => (load, load.zip(ready).map(|(load, ready)| load / ready)),
            Per::Replica => (load.zip(ready).map(|(load, ready)| load * ready), load),
        };
        Reading { load: of_all, pair: of_each.zip(self.full.as_ref().and_then(value)) }
    }

    /// What there is to show.
    pub fn report(&self) -> ForecastReport {
        ForecastReport::new(&self.forecaster, &self.load.to_string())
    }

    /// What it foresees.
    pub const fn load(&self) -> &Signal {
        &self.load
    }

    /// Its memory, at most [`super::history::LIMIT`] bytes.
    pub fn remember(&self) -> Vec<u8> {
        self.forecaster.remember()
    }

    /// Takes up a memory instead of its own, at best before the first tick.
    pub fn recall(&mut self, bytes: &[u8]) -> Result<(), HistoryError> {
        self.forecaster.recall(bytes)
    }
}

/// The load, the signal that saturates, and the rest.
fn asked(policy: &Policy) -> Option<(Signal, Option<Signal>, Settings)> {
    let forecast = policy.forecast.as_ref()?;
    let full = full(policy, &forecast.signal);
    let settings = Settings::new(forecast, full.as_ref().map(|(_, limit)| *limit));
    Some((forecast.signal.clone(), full.map(|(signal, _)| signal), settings))
}

/// What says that a replica is full, beside the load itself: the first target of another signal, else the first rule that adds.
fn full(policy: &Policy, load: &Signal) -> Option<(Signal, f64)> {
    let targets = policy.targets.iter().map(|target| (&target.signal, target.per_replica));
    let rules = policy.rules.iter().filter_map(|rule| match rule.bound {
        Bound::Above(limit) => Some((&rule.signal, limit)),
        Bound::Below(_) => None,
    });
    let others = targets.chain(rules).filter(|(signal, _)| *signal != load && signal.per() == Per::Replica);
    others.map(|(signal, limit)| (signal.clone(), limit)).next()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::{Value, json};

    use super::*;
    use crate::scaling::{
        observation::{Load, Reading as Read},
        policy::SignalName,
        testing,
    };

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn policy(fields: Value) -> Policy {
        testing::policy(json!({"replicas": {"max": 9}}), &fields)
    }

    fn seen(ready: u32, readings: &[(Signal, f64, u64)]) -> Observation {
        let readings = readings
            .iter()
            .map(|(signal, value, age)| (signal.clone(), Read::new(*value, NOW - Duration::from_secs(*age))));
        Load { replicas: ready, ready, readings: readings.collect() }.into()
    }

    fn clock() -> Clock {
        Clock { now: NOW, wall: SystemTime::UNIX_EPOCH + NOW }
    }

    #[test]
    fn the_load_of_all_replicas_is_what_is_foreseen() {
        let query = json!({"server": "http://prometheus:9090", "query": "queue", "per": "Service"});
        let own = policy(json!({"targets": [{"signal": "inFlight", "perReplica": 8}], "forecast": {}}));
        let queue = policy(json!({"targets": [{"prometheus": query, "perReplica": 10}], "forecast": {}}));
        let busy = json!([{"name": "busy", "signal": "cpu", "above": 80, "add": 1}]);
        let rate = policy(json!({"rules": busy, "forecast": {"signal": "requestsPerSecond"}}));
        let in_flight = Signal::from(SignalName::InFlight);
        let of_queue = queue.targets[0].signal.clone();
        let (requests, cpu) = (SignalName::RequestsPerSecond.into(), SignalName::Cpu.into());
        for (name, policy, seen, load, pair) in [
            ("a mean, of each", &own, seen(4, &[(in_flight.clone(), 6.0, 1)]), Some(24.0), None),
            ("nothing is ready", &own, seen(0, &[(in_flight.clone(), 6.0, 1)]), None, None),
            ("too old", &own, seen(4, &[(in_flight.clone(), 6.0, 3)]), None, None),
            ("no number", &own, seen(4, &[(in_flight.clone(), f64::NAN, 0)]), None, None),
            ("less than nothing", &own, seen(4, &[(in_flight, -1.0, 0)]), None, None),
            ("not there", &own, seen(4, &[]), None, None),
            ("a sum", &queue, seen(0, &[(of_queue, 30.0, 9)]), Some(30.0), None),
            (
                "beside what saturates",
                &rate,
                seen(2, &[(requests, 50.0, 0), (cpu, 70.0, 1)]),
                Some(100.0),
                Some((50.0, 70.0)),
            ),
        ] {
            let reading = Watch::of(policy).unwrap().reading(&seen, clock());
            assert_eq!(reading, Reading { load, pair }, "{name}");
        }
    }

    #[test]
    fn a_forecast_is_said_once_a_sample_is_whole() {
        let policy = policy(json!({"targets": [{"signal": "inFlight", "perReplica": 8}], "forecast": {}}));
        let mut watch = Watch::of(&policy).unwrap();
        let mut said = Vec::new();
        for second in 0..32 {
            let at = |start: Duration| start + Duration::from_secs(second);
            let seen = seen(2, &[(SignalName::InFlight.into(), 4.0, 0)]);
            let forecast = watch.tick(&seen, Clock { now: NOW, wall: SystemTime::UNIX_EPOCH + at(NOW) });
            said.push(forecast.map(|forecast| (forecast.replicas, forecast.why.to_string())));
        }
        assert_eq!(said[14], None);
        let (replicas, why) = said[15].clone().unwrap();
        assert_eq!(replicas, None);
        assert!(why.starts_with("off: too little history: 0 of "), "{why}");
        assert!(!watch.report().on);
        assert_eq!(watch.report().samples, 2);
    }
}
