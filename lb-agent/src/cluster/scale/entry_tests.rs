use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use lb_common::Protocol;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::counts::Counts,
    scaling::{Failure, Reading, holds::RESPECT},
};

/// A policy with its Service and workload, followed second by second.
struct Stage {
    entry: Entry,
    second: u64,
    workload: Result<Workload, TargetError>,
    /// Active connections of each pod.
    pods: Vec<(&'static str, u64)>,
    claimed: Option<&'static str>,
    rival: Option<&'static str>,
    knocked: Option<Duration>,
    sized: Option<&'static str>,
    /// Why nothing can be done.
    fails: Option<TargetError>,
    /// CPU time that each pod uses in a second, in milliseconds.
    cpu: u64,
    /// What others have answered.
    answers: Answers,
}

fn policy(change: Value) -> ScalePolicy {
    let mut object = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "ScalePolicy",
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "generation": 3},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "serviceRef": {"name": "web"}, "replicas": {"min": 1, "max": 9},
            "targets": [{"signal": "activeConnections", "perReplica": 10}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    });
    for (part, fields) in change.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            object[part][field] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn workload(set: u32) -> Workload {
    Workload { set, version: "1".into(), ..Workload::default() }
}

impl Stage {
    fn new(change: Value, pods: &[(&'static str, u64)]) -> Self {
        Self {
            entry: Entry::new(policy(change)),
            second: 1000,
            workload: Ok(workload(pods.len() as u32)),
            pods: pods.to_vec(),
            claimed: None,
            rival: None,
            knocked: None,
            sized: None,
            fails: None,
            cpu: 0,
            answers: Answers::default(),
        }
    }

    /// A second later; what is to be set is set, and new pods are there at once.
    fn next(&mut self) -> Vec<Action> {
        self.second += 1;
        let now = Duration::from_secs(self.second);
        let clock = Clock { now, wall: SystemTime::UNIX_EPOCH + now };
        let socket = |at: usize| SocketKey::new(SocketAddr::from(([10, 0, 0, at as u8], 80)), Protocol::Tcp);
        let replica = |(at, (name, _)): (usize, &(&str, u64))| Replica {
            name: (*name).to_owned(),
            is_pod: true,
            uid: Some((*name).to_owned()),
            node: Some("n".to_owned()),
            sockets: [socket(at)].into(),
            ready: true,
            terminating: false,
        };
        let replicas: Vec<Replica> = self.pods.iter().enumerate().map(replica).collect();
        let counts =
            |(at, (_, active)): (usize, &(&str, u64))| (socket(at), Counts { active: *active, ..Counts::default() });
        let counts = ServiceCounts { backends: self.pods.iter().enumerate().map(counts).collect(), at: now };
        let used = UsageSample { cpu: Duration::from_millis(self.cpu * self.second), memory: 0, at: now };
        let usage = self.pods.iter().map(|(name, _)| ((*name).to_owned(), used)).collect();
        let sight = Sight {
            clock,
            replicas: &replicas,
            counts: &counts,
            usage: &usage,
            answers: self.answers.clone(),
            workload: Some(self.workload.as_ref()),
            claimed: self.claimed,
            rival: self.rival,
            knocked: self.knocked,
            sized: self.sized,
        };
        let actions = self.entry.tick(&sight);
        for action in &actions {
            self.entry.acted(action, self.fails.as_ref().map_or(Ok(()), Err), clock);
            if self.fails.is_some() {
                continue;
            }
            if let (Action::Scale { to, .. }, Ok(workload)) = (action, &mut self.workload) {
                workload.set = *to;
            }
        }
        actions
    }

    fn follow(&mut self, seconds: u64) -> Vec<Action> {
        (0..seconds).flat_map(|_| self.next()).collect()
    }

    fn ready(&self) -> (String, String) {
        let ready = self.entry.report.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.reason.clone())
    }

    fn events(&mut self) -> Vec<&'static str> {
        self.entry.report.take_events().iter().map(|told| told.reason).collect()
    }
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[test]
fn load_becomes_replicas_and_goes_away_without_a_lost_connection() {
    let mut stage = Stage::new(json!({}), &[("a", 15), ("b", 15)]);
    let up = stage.next();
    assert_eq!(up, [Action::Scale { from: 2, to: 3, mark: vec![] }]);
    assert_eq!((stage.ready(), stage.events()), (is("True", "Deciding"), vec!["ScaledOut"]));
    stage.pods = vec![("a", 10), ("b", 10), ("c", 10)];
    assert_eq!(stage.follow(5), []);
    stage.pods = vec![("a", 9), ("b", 1), ("c", 5)];
    assert_eq!(stage.next(), []);
    assert_eq!(stage.entry.report.status.draining, ["b"]);
    assert_eq!(stage.entry.draining().count(), 1);
    assert_eq!(stage.follow(9), [], "b has a connection");
    stage.pods[1].1 = 0;
    assert_eq!(stage.next(), [Action::Scale { from: 3, to: 2, mark: vec!["b".into()] }]);
    stage.pods.remove(1);
    assert_eq!(stage.follow(3), []);
    let status = &stage.entry.report.status;
    assert_eq!((status.current_replicas, status.desired_replicas, status.draining.len()), (Some(2), Some(2), 0));
    assert_eq!(stage.events(), ["Draining", "ScaledIn"]);
}

#[test]
fn who_may_not_scale_does_nothing_and_says_why() {
    type Change = fn(&mut Stage);
    let cases: [(&str, &str, Change); 7] = [
        ("False", "TargetTaken", |stage| stage.claimed = Some("HorizontalPodAutoscaler web")),
        ("False", "TargetTaken", |stage| stage.rival = Some("older")),
        ("False", "TargetOwned", |stage| {
            stage.workload = Ok(Workload { owner: Some("Deployment web".into()), ..workload(2) });
        }),
        ("False", "TargetNotFound", |stage| {
            stage.workload = Err(TargetError::Missing { kind: "Deployment".into(), name: "web".into() });
        }),
        ("Unknown", "ApiServerUnreachable", |stage| stage.workload = Err(TargetError::Silent)),
        ("False", "Paused", |stage| stage.workload = Ok(workload(0))),
        ("False", "InvalidSpec", |stage| {
            stage.entry.adopt(&policy(json!({"spec": {"actuator": "Command", "targetRef": null, "command": ["x"]}})));
        }),
    ];
    for (status, reason, change) in cases {
        let mut stage = Stage::new(json!({}), &[("a", 90), ("b", 90)]);
        change(&mut stage);
        assert_eq!(stage.follow(3), [], "{reason}");
        assert_eq!(stage.ready(), is(status, reason));
        assert_eq!(stage.events(), [reason], "once");
        assert_eq!(stage.entry.report.status.observed_generation, Some(3));
    }
    let mut stage = Stage::new(json!({"metadata": {"annotations": {"weir.dev/paused": "true"}}}), &[("a", 90)]);
    assert_eq!((stage.follow(3), stage.ready()), (vec![], is("False", "Paused")));
}

#[test]
fn what_may_not_be_done_is_tried_again_and_told_once() {
    let mut stage = Stage::new(json!({}), &[("a", 15), ("b", 15)]);
    stage.fails = Some(TargetError::Forbidden { verb: "patch", resource: "deployments/scale".into() });
    let wanted = Action::Scale { from: 2, to: 3, mark: vec![] };
    assert_eq!(stage.follow(3), [wanted.clone(), wanted.clone(), wanted.clone()]);
    assert_eq!((stage.ready(), stage.events()), (is("False", "Forbidden"), vec!["Forbidden"]));
    stage.fails = None;
    assert_eq!(stage.next(), [wanted]);
    stage.pods.push(("c", 0));
    stage.next();
    assert_eq!((stage.ready(), stage.events()), (is("True", "Deciding"), vec!["ScaledOut"]));
}

#[test]
fn percent_of_cpu_needs_a_request() {
    let mut stage =
        Stage::new(json!({"spec": {"targets": [{"signal": "cpu", "perReplica": 50}]}}), &[("a", 0), ("b", 0)]);
    stage.cpu = 400;
    assert_eq!((stage.follow(20), stage.ready()), (vec![], is("False", "RequestMissing")));
    assert_eq!(stage.events(), ["RequestMissing"]);
    stage.workload = Ok(Workload { requests: Requests { cpu: Some(500), memory: None }, ..workload(2) });
    assert_eq!(stage.follow(2), [Action::Scale { from: 2, to: 4, mark: vec![] }], "80 % of it, and 50 % are wanted");
    assert_eq!(stage.ready(), is("True", "Deciding"));
}

#[test]
fn others_carry_out_what_is_not_for_scale() {
    for change in [
        json!({"spec": {"mode": "Recommend"}}),
        json!({"spec": {"actuator": "Keda"}}),
        json!({"spec": {"actuator": "Metric"}}),
    ] {
        let mut stage = Stage::new(change.clone(), &[("a", 15), ("b", 15)]);
        stage.claimed = Some("ScaledObject web");
        assert_eq!(stage.follow(3), [], "{change}");
        let status = &stage.entry.report.status;
        assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), Some(3)), "{change}");
    }
    let mut keda = Stage::new(json!({"spec": {"actuator": "Keda"}}), &[("a", 15), ("b", 15)]);
    keda.follow(2);
    keda.workload = Ok(workload(3));
    keda.pods = vec![("a", 20), ("b", 20), ("c", 20)];
    keda.follow(20);
    assert_eq!(keda.entry.report.status.desired_replicas, Some(6), "it goes on from what was set");
}

#[test]
fn a_number_of_somebody_elses_is_left_alone_for_a_while() {
    let mut stage = Stage::new(json!({}), &[("a", 15), ("b", 15), ("c", 0)]);
    assert_eq!(stage.follow(2), []);
    stage.workload = Ok(workload(2));
    stage.pods.pop();
    assert_eq!(stage.follow(RESPECT.as_secs()), []);
    assert_eq!(stage.events(), ["ChangedByOthers"]);
    let later = stage.follow(20);
    assert_eq!(later, [Action::Scale { from: 2, to: 3, mark: vec![] }], "then the load counts again");
}

#[test]
fn a_new_leader_goes_on_with_a_drain() {
    let mut stage = Stage::new(json!({}), &[("a", 9), ("b", 2), ("c", 1)]);
    let object = policy(json!({"status": {"draining": ["b"], "desiredReplicas": 2, "currentReplicas": 3}}));
    stage.entry = Entry::new(object);
    stage.next();
    assert_eq!(stage.entry.report.status.draining, ["b"], "not c, though it has fewer connections");
}

#[test]
fn what_is_in_the_api_is_not_written_again() {
    let mut stage = Stage::new(json!({}), &[("a", 5), ("b", 5)]);
    stage.next();
    let written = stage.entry.news().cloned().expect("something new");
    let read: ScalePolicyStatus = serde_json::from_value(serde_json::to_value(&written).unwrap()).unwrap();
    assert_eq!(read, written, "as it comes back");
    stage.entry.object.status = Some(read);
    stage.follow(30);
    assert_eq!(stage.entry.news(), None);
}

#[test]
fn what_others_do_not_answer_is_a_condition_and_the_number_stays() {
    let query = json!({"server": "http://prometheus:9090", "query": "queue", "per": "Service"});
    let mut stage =
        Stage::new(json!({"spec": {"targets": [{"prometheus": query, "perReplica": 10}]}}), &[("a", 0), ("b", 0)]);
    let signal = stage.entry.policy.as_ref().unwrap().0.targets[0].signal.clone();
    let answer = |value: f64| vec![(signal.clone(), Reading::new(value, Duration::from_secs(1001)))];
    stage.answers.readings = answer(35.0);
    assert_eq!(stage.next(), [Action::Scale { from: 2, to: 4, mark: vec![] }]);
    assert_eq!(stage.ready(), is("True", "Deciding"));

    let failure = |reason, text: &str| [(signal.clone(), Failure { reason, text: text.into() })].into();
    stage.answers.failures = failure("SourceUnreachable", "spec.targets[0].prometheus.server: it does not answer");
    stage.answers.readings = Vec::new();
    assert_eq!(stage.follow(9), []);
    assert_eq!(stage.ready(), is("True", "Deciding"), "a moment is no news");
    stage.events();
    assert_eq!(stage.follow(30), [], "nothing is known, and nothing is removed");
    assert_eq!((stage.ready(), stage.events()), (is("False", "SourceUnreachable"), vec!["SourceUnreachable"]));
    stage.answers.failures = failure("NotOneValue", "spec.targets[0].prometheus.query: it gives 2 series");
    stage.next();
    assert_eq!((stage.ready(), stage.events()), (is("False", "NotOneValue"), vec!["NotOneValue"]));
    let ready = stage.entry.report.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.message, "spec.targets[0].prometheus.query: it gives 2 series");
    let decision = stage.entry.report.status.last_decision.clone().unwrap();
    assert!(decision.reason.contains("is missing (spec.targets[0].prometheus.server: it"), "{}", decision.reason);

    stage.answers = Answers { readings: answer(35.0), ..Answers::default() };
    stage.answers.readings[0].1.at = Duration::from_secs(stage.second + 1);
    stage.next();
    assert_eq!(stage.ready(), is("True", "Deciding"));
}

#[test]
fn who_asks_in_vain_brings_a_replica_back_at_once() {
    let mut stage = Stage::new(json!({"spec": {"replicas": {"min": 0, "max": 9}}}), &[]);
    assert_eq!((stage.follow(20), stage.entry.wakes()), (vec![], true), "nobody asks");
    stage.knocked = Some(Duration::from_secs(stage.second));
    assert_eq!(stage.next(), [Action::Scale { from: 0, to: 1, mark: vec![] }]);
    stage.pods = vec![("a", 0)];
    assert_eq!(stage.follow(50), [], "it stays for a minute");
    stage.rival = Some("older");
    stage.next();
    assert!(!stage.entry.wakes(), "one that is refused brings nobody: who asks is refused too");
    stage.rival = None;
    stage.next();
    assert!(stage.entry.wakes());
    assert!(!Stage::new(json!({}), &[]).entry.wakes(), "there is always one");
}
