//! Tables of decisions on sizes. A row is a name and steps `SECOND:SEEN,SEEN,...>CPU/MEMORY`, thousandths and mebibytes; between two steps
//! everything is seen each second as in the last one. What is seen:
//! - `p90` signal cpu, `m90` signal memory; `p?` none;
//! - `u200` thousandths of a CPU that a replica uses, `v64` mebibytes, `a8` its active connections;
//! - `roll` replicas that do not have the size yet, until `done`; `sized` they were resized now.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::scaling::{Load, Reading, signals::UsageSample, testing};

const START: u64 = 1_795_413_600;

fn policy(rules: Value, vertical: Value) -> Policy {
    let least =
        json!({"replicas": {"min": 1, "max": 20}, "targets": [{"signal": "activeConnections", "perReplica": 10}]});
    let mut sizes = json!({"mode": "Apply", "container": "app"});
    vertical.as_object().unwrap().iter().for_each(|(field, value)| sizes[field] = value.clone());
    testing::policy(least, &json!({"rules": rules, "vertical": sizes}))
}

fn bounds() -> Value {
    json!({"cpu": {"min": "100m", "max": "2"}, "memory": {"min": "64Mi", "max": "1Gi"}})
}

fn cpu_rules() -> Value {
    json!([
        {"name": "grow", "signal": "cpu", "above": 80, "for": "30s", "addCpu": "500m"},
        {"name": "shrink", "signal": "cpu", "below": 20, "for": "60s", "removeCpu": "200m", "cooldown": "5m"},
    ])
}

struct World {
    sizes: Sizes,
    estimator: Estimator,
    template: Requests,
    applies: bool,
    at: u64,
    percent: [Option<f64>; 2],
    uses: (f64, u64),
    spent: Duration,
    active: f64,
    changing: bool,
    resized: Option<Duration>,
    last: Decision,
}

impl World {
    fn new() -> Self {
        Self {
            sizes: Sizes::default(),
            estimator: Estimator::new(None),
            template: Requests { cpu: Some(250), memory: Some(128 << 20) },
            applies: true,
            at: 0,
            percent: [Some(50.0), Some(50.0)],
            uses: (0.0, 0),
            spent: Duration::ZERO,
            active: 1.0,
            changing: false,
            resized: None,
            last: Decision::default(),
        }
    }

    fn word(&mut self, word: &str) {
        let (kind, rest) = word.split_at(1);
        let number = || rest.parse::<f64>().unwrap_or_else(|_| panic!("{word}: no number"));
        match (kind, word) {
            (_, "roll") => self.changing = true,
            (_, "done") => self.changing = false,
            (_, "sized") => self.resized = Some(Duration::from_secs(START + self.at)),
            (_, "p?") => self.percent[0] = None,
            ("p", _) => self.percent[0] = Some(number()),
            ("m", _) => self.percent[1] = Some(number()),
            ("u", _) => self.uses.0 = number(),
            ("v", _) => self.uses.1 = number() as u64,
            ("a", _) => self.active = number(),
            _ => panic!("{word}: what is that"),
        }
    }

    fn second(&mut self, policy: &Policy) {
        let now = Duration::from_secs(START + self.at);
        let clock = Clock { now, wall: SystemTime::UNIX_EPOCH + now };
        self.spent += Duration::from_secs_f64(self.uses.0 / 1000.0);
        if self.uses != (0.0, 0) {
            let sample = UsageSample { cpu: self.spent, memory: self.uses.1 << 20, at: now };
            self.estimator.observe(now, [("a", sample)].into_iter(), Some(self.active));
        }
        let mut load = Load { replicas: 1, ready: 1, ..Load::default() };
        let names = [SignalName::Cpu, SignalName::Memory];
        let readings = names.into_iter().zip(self.percent).filter_map(|(name, value)| Some((name, value?)));
        load.readings = readings.map(|(name, value)| (name.into(), Reading::new(value, now))).collect();
        let load = Observation { resized: self.resized, ..load.into() };
        let seen = Seen {
            load: &load,
            template: self.template,
            estimator: &self.estimator,
            changing: self.changing,
            applies: self.applies,
            clock,
        };
        let vertical = policy.vertical.as_ref().unwrap();
        self.last = decide(policy, vertical, &mut self.sizes, seen);
    }
}

fn follow(name: &str, mut world: World, policy: &Policy, steps: &str) -> World {
    for text in steps.split_whitespace() {
        let (at, rest) = text.split_once(':').unwrap();
        let (words, wanted) = rest.split_once('>').unwrap();
        let at: u64 = at.parse().unwrap();
        while world.at < at {
            world.second(policy);
            world.at += 1;
        }
        words.split(',').filter(|word| !word.is_empty()).for_each(|word| world.word(word));
        world.second(policy);
        world.at += 1;
        let shown =
            |amount: Option<u64>, unit: u64| amount.map_or_else(|| "-".to_owned(), |it| (it / unit).to_string());
        let got = format!("{}/{}", shown(world.last.wanted.cpu, 1), shown(world.last.wanted.memory, 1 << 20));
        assert_eq!(got, wanted, "{name}, {text}: {:?}", world.last);
    }
    world
}

fn table(policy: &Policy, rows: &[(&str, &str)]) {
    for (name, steps) in rows {
        follow(name, World::new(), policy, steps);
    }
}

#[test]
#[rustfmt::skip]
fn rules_change_the_size() {
    table(&policy(cpu_rules(), bounds()), &[
        ("quiet", "0:p50>250/128 900:p50>250/128"),
        ("not for long enough", "0:p90>250/128 29:p90>250/128"),
        ("more", "0:p90>250/128 30:p90>750/128"),
        ("a break starts it again", "0:p90>250/128 20:p50>250/128 21:p90>250/128 50:>250/128 51:>750/128"),
        ("again, up to the most", "0:p90>250/128 30:>750/128 60:>750/128 61:>1250/128 92:>1750/128 123:>2000/128 300:>2000/128"),
        ("not while replicas are resized", "0:p90>250/128 30:>750/128 31:roll>750/128 300:>750/128 301:done>750/128 331:>1250/128"),
        ("not within a window after a resize", "0:p90>250/128 30:>750/128 31:sized>750/128 90:>750/128 91:>750/128 121:>1250/128"),
        ("less, down to the least", "0:p10>250/128 60:>100/128 600:>100/128"),
        ("it cools down", "0:p90>250/128 30:>750/128 31:p10>750/128 91:>550/128 390:>550/128 391:>350/128"),
        ("nobody knows", "0:p?>250/128 600:>250/128"),
        ("not a number", "0:pNaN>250/128 600:>250/128"),
    ]);
}

#[test]
#[rustfmt::skip]
fn rules_go_no_lower_than_what_is_used() {
    table(&policy(cpu_rules(), json!({"cpu": {"min": "10m", "max": "2"}})), &[
        ("what is used is the least", "0:p10,u100,v10>250/- 60:>127/- 900:>127/-"),
        ("and is raised to", "0:p50,u700,v10>250/- 59:>250/- 61:>814/-"),
    ]);
}

#[test]
#[rustfmt::skip]
fn without_rules_the_estimate_is_followed() {
    let both = policy(json!([]), bounds());
    table(&both, &[
        ("nothing is known", "0:>250/128 4000:>250/128"),
        ("up after a minute", "0:u500,v200>250/128 59:>250/128 61:>588/237"),
        ("near enough", "0:u210,v108>250/128 4000:>250/128"),
        ("down after an hour", "0:u100,v100>250/128 3599:>250/128 3601:>127/128"),
        ("down to the least", "0:u10,v10>250/128 3601:>100/64"),
        ("up to the most", "0:u5000,v5000>250/128 61:>2000/1024"),
        ("not again within five minutes", "0:u500,v100>250/128 61:>588/128 62:u2000>588/128 359:>588/128 361:>2000/128"),
        ("not while replicas are resized", "0:u500,v100,roll>250/128 400:>250/128 401:done>588/128"),
    ]);
    table(&policy(json!([]), json!({"cpu": {"min": "500m", "max": "2"}})), &[
        ("the bounds hold at once, and of cpu alone", "0:>500/- 600:>500/-"),
    ]);
}

#[test]
fn what_a_target_lets_a_replica_carry_is_provided_for() {
    let policy = policy(json!([]), json!({"cpu": {"min": "10m", "max": "4"}}));
    let mut world = World::new();
    for step in 0..40 {
        let load = f64::from(1 + step % 8);
        world.word(&format!("a{load}"));
        world.word(&format!("u{}", 50.0 + 40.0 * load));
        world.word("v10");
        for _ in 0..15 {
            world.second(&policy);
            world.at += 1;
        }
    }
    let estimated = world.last.estimated.cpu.unwrap();
    assert!(
        (518..600).contains(&estimated),
        "450m at ten connections, with a margin: {estimated} {:?}",
        world.last.whys
    );
    assert!(world.last.whys[0].contains("a load of 10"), "{:?}", world.last.whys);
}

#[test]
fn what_is_only_recommended_is_counted_from_what_there_is() {
    let policy = policy(cpu_rules(), bounds());
    let world = World { applies: false, ..World::new() };
    let world = follow("recommended", world, &policy, "0:p90>250/128 30:>750/128 600:>750/128");
    assert_eq!(world.sizes.wanted(), Requests::default());
}

#[test]
fn what_is_not_requested_is_not_sized() {
    let policy = policy(cpu_rules(), bounds());
    let world = World { template: Requests { cpu: None, memory: Some(1 << 27) }, ..World::new() };
    follow("no request", world, &policy, "0:p90>-/128 600:>-/128");
}

#[test]
fn a_new_leader_goes_on_and_a_change_says_why() {
    let policy = policy(cpu_rules(), bounds());
    let sizes = Sizes::new(Requests { cpu: Some(900), memory: None });
    let world = follow("goes on", World { sizes, ..World::new() }, &policy, "0:p90>900/128 30:>1400/128");
    assert_eq!(world.last.reason(), "cpu 900m -> 1400m: rule grow: cpu 90 is above 80 for 30s");
    let world = follow("the most", world, &policy, "61:>1900/128 92:>2000/128");
    assert!(world.last.reason().ends_with("for 30s; spec.vertical.cpu allows no other"), "{}", world.last.reason());
}

#[test]
fn the_load_is_what_clients_bring() {
    let of = |spec: Value| {
        let policy = testing::policy(json!({"replicas": {"min": 1, "max": 2}}), &spec);
        load(&policy).map(ToString::to_string)
    };
    let rule = |signal: &str| json!([{"name": "r", "signal": signal, "above": 1, "add": 1}]);
    assert_eq!(of(json!({"rules": rule("cpuCores")})), None);
    assert_eq!(of(json!({"rules": rule("bytesPerSecond")})).as_deref(), Some("bytesPerSecond"));
    let target = json!([{"signal": "inFlight", "perReplica": 2}]);
    assert_eq!(of(json!({"rules": rule("bytesPerSecond"), "targets": target})).as_deref(), Some("inFlight"));
}
