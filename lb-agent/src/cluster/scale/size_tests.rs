use std::time::SystemTime;

use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::scale::pods::Size,
    scaling::{Load, Reading, SignalName, testing},
};

const START: u64 = 1_795_413_600;

fn policy(change: &Value) -> Policy {
    let least = json!({
        "replicas": {"min": 1, "max": 9},
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "rules": [{"name": "grow", "signal": "cpu", "above": 80, "for": "2s", "addCpu": "500m"}],
        "vertical": {"mode": "Apply", "container": "app", "cpu": {"min": "100m", "max": "1"}},
    });
    testing::policy(least, change)
}

fn requests(cpu: u64) -> Requests {
    Requests { cpu: Some(cpu), memory: None }
}

fn pod(name: &str, cpu: u64) -> Seen {
    let size = Size { requests: requests(cpu), limits: requests(2 * cpu) };
    Seen {
        name: name.into(),
        container: Some(format!("id-{name}")),
        size: Some(size),
        given: Some(requests(cpu)),
        requests: requests(cpu),
        ..Seen::default()
    }
}

/// A policy whose pods are resized at once, followed second by second.
struct World {
    policy: Policy,
    sizer: Sizer,
    told: Option<RecommendationStatus>,
    replicas: Vec<Replica>,
    template: Option<Requests>,
    rival: Option<&'static str>,
    percent: f64,
    second: u64,
}

impl World {
    fn new(change: &Value, pods: &[&str]) -> Self {
        let policy = policy(change);
        let replica = |name: &&str| Replica {
            name: (*name).to_owned(),
            is_pod: true,
            uid: Some(format!("uid-{name}")),
            ready: true,
            ..Replica::default()
        };
        let sizer = Sizer::of(&policy, None).unwrap();
        let replicas = pods.iter().map(replica).collect();
        let mut world = Self {
            policy,
            sizer,
            told: None,
            replicas,
            template: Some(requests(250)),
            rival: None,
            percent: 50.0,
            second: 0,
        };
        pods.iter().for_each(|name| world.saw(name, 250));
        world
    }

    fn saw(&mut self, name: &str, cpu: u64) {
        self.sizer.saw(&format!("uid-{name}"), Some(pod(name, cpu)), Duration::from_secs(START + self.second));
    }

    fn next(&mut self) -> Outcome {
        self.second += 1;
        let now = Duration::from_secs(START + self.second);
        let count = self.replicas.len() as u32;
        let readings = [(SignalName::Cpu.into(), Reading::new(self.percent, now))].into();
        let load =
            Observation { resized: self.sizer.resized(), ..Load { replicas: count, ready: count, readings }.into() };
        let size = |requests| Size { requests, limits: Requests::default() };
        let containers = self.template.map(|template| ("app".to_owned(), size(template)));
        let workload = Workload { containers: containers.into_iter().collect(), ..Workload::default() };
        let view = View {
            policy: &self.policy,
            clock: Clock { now, wall: SystemTime::UNIX_EPOCH + now },
            load: &load,
            replicas: &self.replicas,
            leaving: &[],
            usage: &HashMap::new(),
            workload: self.policy.target.as_ref().map(|_| &workload),
            rival: self.rival,
        };
        self.sizer.tick(&view, &mut self.told)
    }

    /// Carries out what is said for so many seconds; returns who was resized to what.
    fn follow(&mut self, seconds: u64) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            let now = Duration::from_secs(START + self.second);
            if let Some(order) = self.next().order {
                let cpu = order.size.requests.cpu.unwrap();
                self.sizer.ordered(&order, Ok(()), now);
                self.saw(&order.pod, cpu);
                all.push((order.pod, cpu));
            }
        }
        all
    }
}

fn resized(names: &[(&str, u64)]) -> Vec<(String, u64)> {
    names.iter().map(|(name, cpu)| ((*name).to_owned(), *cpu)).collect()
}

#[test]
fn a_rule_resizes_all_pods_one_after_the_other_and_new_ones_too() {
    let mut world = World::new(&json!({}), &["a", "b"]);
    assert_eq!(world.next().standing.reason, "AsDecided");
    world.percent = 90.0;
    assert_eq!(world.follow(6), resized(&[("a", 750), ("b", 750)]));
    let told = world.told.clone().unwrap();
    assert_eq!((told.cpu.as_deref(), told.memory, told.applied), (Some("750m"), None, true));
    assert_eq!((told.pods, told.resized_pods), (2, Some(2)));
    assert_eq!(told.last_change.as_deref(), Some("cpu 250m -> 750m: rule grow: cpu 90 is above 80 for 2s"));
    let standing = world.next().standing;
    assert!(standing.sized && standing.message.contains("the template is left as it is"), "{standing:?}");
    assert_eq!(world.follow(55), [], "percentages mean something else for a minute");
    world.percent = 50.0;
    world.replicas.push(Replica { name: "c".into(), uid: Some("uid-c".into()), ..world.replicas[0].clone() });
    world.saw("c", 250);
    assert_eq!(world.sizer.requests(requests(250)), requests((750 + 750 + 250) / 3));
    assert_eq!(world.follow(3), resized(&[("c", 750)]));
}

#[test]
fn a_new_leader_goes_on_with_what_was_told() {
    let mut world = World::new(&json!({}), &["a", "b"]);
    world.percent = 90.0;
    world.follow(6);
    world.sizer = Sizer::of(&world.policy, world.told.as_ref()).unwrap();
    world.percent = 50.0;
    world.saw("a", 750);
    world.saw("b", 250);
    assert_eq!(world.follow(3), resized(&[("b", 750)]));
    let recommended = RecommendationStatus { applied: false, ..world.told.clone().unwrap() };
    world.sizer = Sizer::of(&world.policy, Some(&recommended)).unwrap();
    assert_eq!(world.sizer.sizes.wanted(), Requests::default(), "nobody was given that");
}

#[test]
fn who_may_not_size_only_recommends_and_says_why() {
    let vertical =
        |mode: &str| json!({"vertical": {"mode": mode, "container": "app", "cpu": {"min": "100m", "max": "1"}}});
    type Change = fn(&mut World);
    let nothing: Change = |_| {};
    let cases: [(Value, Change, bool, &str); 7] = [
        (vertical("Recommend"), nothing, false, "Recommending"),
        (json!({"mode": "Recommend"}), nothing, false, "Recommending"),
        (json!({"annotations": {"weir.dev/paused": "true"}}), nothing, false, "Paused"),
        (json!({"targetRef": null}), nothing, true, "NoTarget"),
        (json!({}), |world| world.rival = Some("VerticalPodAutoscaler web"), true, "TargetTaken"),
        (json!({}), |world| world.template = None, true, "ContainerNotFound"),
        (json!({}), |world| world.template = Some(Requests::default()), true, "RequestMissing"),
    ];
    for (change, make, problem, reason) in cases {
        let mut world = World::new(&change, &["a"]);
        make(&mut world);
        world.percent = 90.0;
        assert_eq!(world.follow(100), [], "{reason}");
        let standing = world.next().standing;
        assert_eq!((standing.reason, standing.problem, standing.sized), (reason, problem, false));
        let told = world.told.unwrap();
        let asked =
            (reason != "ContainerNotFound" && reason != "RequestMissing" && reason != "NoTarget").then_some("750m");
        assert_eq!((told.cpu.as_deref(), told.applied, told.resized_pods), (asked, false, None), "{reason}");
    }
    let off = policy(&vertical("Off"));
    assert!(Sizer::of(&off, None).is_none());
}

#[test]
fn what_fails_is_told_and_the_size_stays_recommended() {
    let mut world = World::new(&json!({}), &["a", "b"]);
    world.percent = 90.0;
    let order = (0..5).find_map(|_| world.next().order).unwrap();
    let refused = TargetError::Refused { reason: "Forbidden", message: "pods/resize".into() };
    world.sizer.ordered(&order, Err(&refused), Duration::from_secs(START + world.second));
    world.saw("a", 250);
    assert_eq!(world.follow(20), []);
    let standing = world.next().standing;
    assert_eq!((standing.reason, standing.problem), ("Forbidden", true));
    assert!(standing.message.contains("pod a") && standing.message.contains("pods/resize"), "{}", standing.message);
    let told = world.told.clone().unwrap();
    assert_eq!((told.cpu.as_deref(), told.resized_pods), (Some("750m"), Some(0)), "and not more and more");
    let changed = policy(&json!({"drainTimeout": "5s"}));
    world.sizer = Sizer::changed(Some(world.sizer), &changed, world.told.as_ref()).unwrap();
    assert_eq!(world.follow(3), resized(&[("a", 750), ("b", 750)]), "a change of the policy is a reason to try again");
}

#[test]
fn pods_are_looked_at_when_something_may_have_happened() {
    let mut world = World::new(&json!({}), &["a", "b"]);
    world.replicas.push(Replica { name: "c".into(), uid: Some("uid-c".into()), ..world.replicas[0].clone() });
    let due = |world: &World, second: u64| {
        let due = world.sizer.due(&world.replicas, Duration::from_secs(START + second));
        due.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(due(&world, 1), ["c"], "nobody has seen it");
    world.sizer.saw("uid-c", Some(Seen { container: None, ..pod("c", 250) }), Duration::from_secs(START));
    assert_eq!((due(&world, 1), due(&world, 2)), (vec![], vec!["c".to_owned()]), "it starts");
    assert_eq!(due(&world, 60), ["a", "b", "c"]);
    assert_eq!(world.sizer.measured("uid-a").as_deref(), Some("uid-a/id-a"));
    assert_eq!(world.sizer.measured("uid-c"), None);
    world.percent = 90.0;
    let order = (0..5).find_map(|_| world.next().order).unwrap();
    assert_eq!(order.pod, "a");
    assert!(due(&world, world.second).contains(&"a".to_owned()), "it is resized");
}
