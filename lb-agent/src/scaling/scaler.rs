//! The shell around [`decide`]: once a second it gives every policy what its Service carries, has decisions carried out, and keeps
//! what there is to show of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use super::{
    actuator::Actuator,
    asked::{self, Answers, Asker, Questions},
    checked::{Place, Policy, PolicyId},
    command::{CommandError, Run},
    decide::{State, decide},
    decision::{Decision, Summary},
    forecast::Watch,
    knocks::Knocks,
    observation::{Clock, Load, Observation},
    policy::{ActuatorKind, Mode},
    signal::Quantile,
    signals::{Meter, ServiceSample},
    status::{self, ChangeStatus, DecisionStatus, PolicyStatus},
};

/// Decides for all policies, and has it done.
pub struct Scaler {
    fallback: Option<Vec<String>>,
    limit: Duration,
    meters: HashMap<(String, String), Meter>,
    asker: Asker,
    entries: BTreeMap<PolicyId, Entry>,
    knocks: Knocks,
}

struct Entry {
    policy: Policy,
    state: State,
    watch: Option<Watch>,
    actuator: Actuator,
    logged: Option<Summary>,
    status: PolicyStatus,
}

impl Scaler {
    /// A scaler that runs `fallback`, the agent's own `--scale-command`, for policies without a command of their own, and gives
    /// every run so much time.
    pub fn new(fallback: Option<Vec<String>>, limit: Duration) -> Self {
        let (meters, asker, entries) = (HashMap::new(), Asker::default(), BTreeMap::new());
        Self { fallback, limit, meters, asker, entries, knocks: Knocks::default() }
    }

    /// Decides once for every policy. Runs in the context of a tokio runtime, where it starts scale commands and asks others for
    /// signals. A Service without a sample keeps its last one, which gets too old to decide from.
    pub fn tick(&mut self, clock: Clock, samples: &[ServiceSample], policies: &[Policy]) {
        self.adopt(policies);
        self.measure(samples);
        let ready = ready(samples);
        let (mut questions, nobody) = (Questions::new(), BTreeSet::new());
        for entry in self.entries.values() {
            asked::questions(&entry.policy, ready.get(&entry.service()).unwrap_or(&nobody), &mut questions);
        }
        self.asker.tick(questions, clock.now);
        for entry in self.entries.values_mut() {
            let service = entry.service();
            let load = self.meters.get(&service).and_then(Meter::last);
            let answers = self.asker.answers(&entry.policy, ready.get(&service).unwrap_or(&nobody), clock.now);
            let knocked = self.knocks.last(&service);
            let seen = load.map(|load| Observation { knocked, ..seen(load, answers) });
            entry.tick(clock, seen, self.fallback.as_deref(), self.limit);
        }
    }

    /// Whether who asks for a policy's Service in vain brings a replica back: there is something to do it with.
    pub fn wakes(&self, policy: &Policy) -> bool {
        policy.wakes() && command(policy, self.fallback.as_deref()).is_ok()
    }

    /// Clients ask for Services without a backend. Returns whether that is news, which should not wait for the next tick.
    pub fn knock(&mut self, services: BTreeSet<(String, String)>, now: Duration) -> bool {
        let news = services.into_iter().filter(|service| self.knocks.note(service.clone(), now));
        news.count() > 0
    }

    /// What there is to show, by namespace and name.
    pub fn status(&self) -> Vec<PolicyStatus> {
        self.entries.values().map(|entry| entry.status.clone()).collect()
    }

    fn adopt(&mut self, policies: &[Policy]) {
        let mut before = std::mem::take(&mut self.entries);
        for policy in policies {
            let entry = match before.remove(&policy.id) {
                Some(entry) => entry.adopt(policy),
                None => Entry::new(policy.clone()),
            };
            self.entries.insert(policy.id.clone(), entry);
        }
        let services: BTreeSet<_> = self.entries.values().map(Entry::service).collect();
        self.knocks.retain(|service, _| services.contains(service));
    }

    fn measure(&mut self, samples: &[ServiceSample]) {
        let mut before = std::mem::take(&mut self.meters);
        let mut quantiles: HashMap<(String, String), BTreeSet<Quantile>> = HashMap::new();
        for entry in self.entries.values() {
            let service = entry.service();
            quantiles.entry(service.clone()).or_default().extend(entry.policy.quantiles());
            if let Some(meter) = before.remove(&service) {
                self.meters.insert(service, meter);
            } else {
                self.meters.entry(service).or_default();
            }
        }
        for (service, quantiles) in quantiles {
            self.meters.entry(service).or_default().ask(quantiles);
        }
        for sample in samples {
            let service = (sample.namespace.clone(), sample.name.clone());
            if let Some(meter) = self.meters.get_mut(&service) {
                meter.measure(sample);
            }
        }
    }
}

/// The addresses of each Service's ready backends.
fn ready(samples: &[ServiceSample]) -> HashMap<(String, String), BTreeSet<IpAddr>> {
    let addresses = |sample: &ServiceSample| {
        sample.backends.iter().filter(|backend| backend.ready).map(|backend| backend.key.address.ip()).collect()
    };
    samples.iter().map(|sample| ((sample.namespace.clone(), sample.name.clone()), addresses(sample))).collect()
}

/// What a decision is made from.
fn seen(load: &Load, answers: Answers) -> Observation {
    let mut seen = Observation::from(load.clone());
    seen.load.readings.extend(answers.readings);
    seen.failures = answers.failures;
    seen
}

/// What is run to scale: none where nothing is to be run, an error where something is and cannot.
fn command(policy: &Policy, fallback: Option<&[String]>) -> Result<Option<Vec<String>>, String> {
    if policy.mode == Mode::Recommend {
        return Ok(None);
    }
    match policy.actuator(Place::Standalone) {
        Ok(ActuatorKind::Command) => {
            let argv = policy.command.as_deref().or(fallback);
            argv.map(|argv| Some(argv.to_vec())).ok_or_else(|| CommandError::None.to_string())
        }
        Ok(_) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

impl Entry {
    fn service(&self) -> (String, String) {
        (self.policy.id.namespace.clone(), self.policy.service.clone())
    }

    fn new(policy: Policy) -> Self {
        let status = PolicyStatus::new(&policy);
        let (state, actuator, watch) = (State::default(), Actuator::default(), Watch::of(&policy));
        Self { policy, state, watch, actuator, logged: None, status }
    }

    fn adopt(mut self, policy: &Policy) -> Self {
        if self.policy == *policy {
            return self;
        }
        if self.policy.service != policy.service {
            return Self::new(policy.clone());
        }
        self.policy = policy.clone();
        self.watch = Watch::changed(self.watch.take(), policy);
        self.state.policy_changed();
        self.status = PolicyStatus { last_change: self.status.last_change.take(), ..PolicyStatus::new(policy) };
        self
    }

    fn tick(&mut self, clock: Clock, seen: Option<Observation>, fallback: Option<&[String]>, limit: Duration) {
        if let Some(replicas) = self.actuator.finished(clock) {
            self.state.set(replicas, clock.now);
        }
        let Some(mut seen) = seen else {
            let Policy { id, service, .. } = &self.policy;
            self.status.problem = Some(format!("spec.serviceRef.name: there is no Service {}/{service}", id.namespace));
            return;
        };
        seen.forecast = self.watch.as_mut().and_then(|watch| watch.tick(&seen, clock));
        let decision = decide(&self.policy, &mut self.state, &seen, clock);
        self.note(&decision, &seen.load, clock);
        let argv = command(&self.policy, fallback);
        let failure = seen.failures.values().next().map(|failure| failure.text.to_string());
        self.status.problem = argv.as_ref().err().cloned().or(failure);
        let argv = argv.unwrap_or_default();
        let wanted = self.wanted(&decision, argv, limit);
        self.actuator.drive(wanted, clock);
        self.status.actuator = self.actuator.status().clone();
    }

    fn wanted(&self, decision: &Decision, argv: Option<Vec<String>>, limit: Duration) -> Option<Run> {
        let Decision { current, desired, .. } = *decision;
        if current == desired {
            return None;
        }
        let (argv, policy) = (argv?, self.policy.id.clone());
        Some(Run { argv, policy, current, desired, limit })
    }

    fn note(&mut self, decision: &Decision, load: &Load, clock: Clock) {
        let before = self.status.desired_replicas;
        let in_words = DecisionStatus::new(decision, clock.wall);
        if let Some(from) = before.filter(|before| *before != decision.desired) {
            self.status.last_change = Some(ChangeStatus {
                at: in_words.at.clone(),
                from,
                to: decision.desired,
                reason: in_words.reason.clone(),
            });
        }
        let summary = decision.summary();
        if self.logged.as_ref() != Some(&summary) {
            let policy = &self.policy.id;
            let (mode, current, desired) = (self.policy.mode, decision.current, decision.desired);
            tracing::info!(%policy, ?mode, current, desired, "scaling: {}", in_words.reason);
            self.logged = Some(summary);
        }
        self.status.current_replicas = Some(decision.current);
        self.status.desired_replicas = Some(decision.desired);
        self.status.forecast = self.watch.as_ref().map(Watch::report);
        self.status.signals = status::signals(load, clock.now);
        self.status.last_decision = Some(in_words);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path, time::SystemTime};

    use lb_common::Protocol;
    use serde_json::json;

    use super::*;
    use crate::scaling::{
        checked::validate,
        command::TIME_LIMIT,
        policy::ScalePolicy,
        signals::{BackendKey, BackendSample},
    };

    fn clock(seconds: u64) -> Clock {
        let now = Duration::from_secs(seconds);
        Clock { now, wall: SystemTime::UNIX_EPOCH + now }
    }

    fn sample(at: u64, backends: u8, active: u64) -> ServiceSample {
        let backend = |host| BackendSample {
            key: BackendKey { port: 80, protocol: Protocol::Tcp, address: SocketAddr::from(([10, 0, 0, host], 8080)) },
            ready: true,
            active,
            connections: 0,
            bytes: 0,
            requests: None,
            usage: None,
        };
        ServiceSample {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            at: Duration::from_secs(at),
            backends: (0..backends).map(backend).collect(),
            ..ServiceSample::default()
        }
    }

    fn policy(script: Option<&str>) -> Policy {
        let resource: ScalePolicy = serde_json::from_value(json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ScalePolicy",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "serviceRef": {"name": "web"},
                "command": script.map(|script| ["/bin/sh", "-c", script, "sh"]),
                "replicas": {"min": 1, "max": 9},
                "rules": [{"name": "busy", "signal": "activeConnections", "above": 5, "for": "2s", "add": 2}],
            },
        }))
        .unwrap();
        validate(&resource).unwrap()
    }

    fn script(folder: &Path) -> String {
        format!("echo \"$*\" >> {}/runs", folder.display())
    }

    async fn ended(scaler: &mut Scaler, clock: Clock, sample: &ServiceSample, policy: &Policy) {
        for _ in 0..1000 {
            scaler.tick(clock, std::slice::from_ref(sample), std::slice::from_ref(policy));
            if !scaler.status()[0].actuator.running {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the command did not end");
    }

    #[tokio::test]
    async fn load_becomes_a_command() {
        let folder = tempfile::tempdir().unwrap();
        let policy = policy(Some(&script(folder.path())));
        let mut scaler = Scaler::new(None, TIME_LIMIT);
        for second in 100..102 {
            scaler.tick(clock(second), &[sample(second, 2, 6)], std::slice::from_ref(&policy));
            assert_eq!(scaler.status()[0].desired_replicas, Some(2));
        }
        ended(&mut scaler, clock(102), &sample(102, 2, 6), &policy).await;
        let status = &scaler.status()[0];
        assert_eq!((status.current_replicas, status.desired_replicas), (Some(4), Some(4)));
        let change = status.last_change.clone().unwrap();
        assert_eq!((change.from, change.to), (2, 4));
        assert_eq!(change.reason, "2 -> 4: rule busy: activeConnections 6 is above 5 for 2s");
        assert_eq!(std::fs::read_to_string(folder.path().join("runs")).unwrap(), "web 2 4\n");
        let shown = serde_json::to_value(status).unwrap();
        assert_eq!(shown["mode"], "Apply");
        assert_eq!(shown["currentReplicas"], 4);
        assert_eq!(shown["signals"][0], json!({"signal": "activeConnections", "value": 6.0, "ageSeconds": 0.0}));
        assert_eq!(shown["lastDecision"]["answers"][0]["from"], "rule busy");
        assert_eq!(shown["actuator"]["lastRun"]["success"], true);
    }

    /// Four replicas under a load that swings within twenty minutes: on its way up, more are wanted before the target asks for them.
    #[test]
    fn a_forecast_raises_before_the_load_does() {
        let resource: ScalePolicy = serde_json::from_value(json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ScalePolicy",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "serviceRef": {"name": "web"},
                "mode": "Recommend",
                "replicas": {"min": 1, "max": 50},
                "targets": [{"signal": "activeConnections", "perReplica": 10}],
                "forecast": {"features": ["lag:1m", "mean:5m"], "horizon": "2m"},
                "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]}},
            },
        }))
        .unwrap();
        let policy = validate(&resource).unwrap();
        let mut scaler = Scaler::new(None, TIME_LIMIT);
        let (mut earlier, mut on) = (0, 0);
        for second in 0..7_000 {
            let load = 60.0 + 40.0 * (second as f64 * std::f64::consts::TAU / 1200.0).sin();
            scaler.tick(
                clock(100_000 + second),
                &[sample(100_000 + second, 4, load as u64)],
                std::slice::from_ref(&policy),
            );
            let status = &scaler.status()[0];
            let answers = &status.last_decision.as_ref().unwrap().answers;
            let asked = |from: &str| {
                answers.iter().find(|answer| answer.from.starts_with(from)).and_then(|answer| answer.replicas)
            };
            on += u32::from(status.forecast.as_ref().unwrap().on);
            if let (Some(foreseen), Some(target)) = (asked("forecast"), asked("target")) {
                assert!(status.desired_replicas >= Some(foreseen.max(target).min(50)), "{status:?}");
                earlier += u32::from(foreseen > target + 2);
            }
        }
        assert!(on > 3_000 && earlier > 1_000, "on for {on} s, ahead of the target for {earlier} s");
        let shown = serde_json::to_value(&scaler.status()[0]).unwrap();
        assert_eq!(shown["forecast"]["coefficients"][1]["name"], "lag:0s");
        assert!(shown["forecast"]["why"].as_str().unwrap().contains("one replica carries 10"), "{}", shown["forecast"]);
    }

    #[tokio::test]
    async fn who_asks_is_a_reason_for_the_first_replica() {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy { min: 0, ..policy(Some(&script(folder.path()))) };
        let mut scaler = Scaler::new(None, TIME_LIMIT);
        assert!(scaler.wakes(&policy));
        for (mode, command) in [(Mode::Recommend, policy.command.clone()), (Mode::Apply, None)] {
            assert!(!scaler.wakes(&Policy { mode, command, ..policy.clone() }), "nobody would bring one");
        }
        for second in 100..110 {
            scaler.tick(clock(second), &[sample(second, 0, 0)], std::slice::from_ref(&policy));
        }
        assert_eq!(scaler.status()[0].desired_replicas, Some(0));
        let asked = BTreeSet::from([("shop".to_owned(), "web".to_owned())]);
        assert!(scaler.knock(asked.clone(), Duration::from_secs(110)), "news");
        assert!(!scaler.knock(asked, Duration::from_secs(111)));
        ended(&mut scaler, clock(111), &sample(111, 0, 0), &policy).await;
        assert_eq!(std::fs::read_to_string(folder.path().join("runs")).unwrap(), "web 0 1\n");
    }

    #[tokio::test]
    async fn the_agents_command_serves_policies_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let fallback = ["/bin/sh", "-c", &script(folder.path()), "sh"].map(str::to_owned).to_vec();
        let mut scaler = Scaler::new(Some(fallback), TIME_LIMIT);
        scaler.tick(clock(1), &[sample(1, 0, 0)], &[policy(None)]);
        ended(&mut scaler, clock(6), &sample(6, 0, 0), &policy(None)).await;
        assert_eq!(std::fs::read_to_string(folder.path().join("runs")).unwrap(), "web 0 1\n");
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_said() {
        let mut scaler = Scaler::new(None, TIME_LIMIT);
        let policy = policy(None);
        scaler.tick(clock(1), &[], std::slice::from_ref(&policy));
        let problem = scaler.status()[0].problem.clone().unwrap();
        assert_eq!(problem, "spec.serviceRef.name: there is no Service shop/web");
        scaler.tick(clock(2), &[sample(2, 1, 0)], std::slice::from_ref(&policy));
        let problem = scaler.status()[0].problem.clone().unwrap();
        assert!(problem.contains("--scale-command"), "{problem}");
        scaler.tick(clock(3), &[sample(3, 1, 0)], &[]);
        assert_eq!(scaler.status(), []);
    }

    #[tokio::test]
    async fn a_service_that_vanishes_is_stale() {
        let mut scaler = Scaler::new(None, TIME_LIMIT);
        let policy = policy(None);
        scaler.tick(clock(1), &[sample(1, 2, 6)], std::slice::from_ref(&policy));
        for second in 4..9 {
            scaler.tick(clock(second), &[], std::slice::from_ref(&policy));
        }
        let status = &scaler.status()[0];
        assert_eq!(status.desired_replicas, Some(2));
        let reason = &status.last_decision.as_ref().unwrap().reason;
        assert!(reason.contains("activeConnections is 7 s old"), "{reason}");
    }
}
