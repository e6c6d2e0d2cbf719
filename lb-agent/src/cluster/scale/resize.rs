//! Gives pods the size that was decided, one after the other, as a pure state machine: a pod is resized in place and waited for; one that
//! cannot be resized is left as it was, and nobody is until later.

use std::{collections::BTreeMap, time::Duration};

use super::{
    pods::{Progress, Seen, Size},
    target::TargetError,
};
use crate::scaling::{Requests, vertical::Resource};

/// So long a resize may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a failure nothing is tried for so long.
const RETRY: Duration = Duration::from_secs(600);

/// Who resizes pods, and how far it is.
#[derive(Clone, Debug, Default)]
pub struct Resizer {
    /// The pod that is resized, by its UID, and since when.
    at_work: Option<(String, Duration)>,
    failure: Option<Failure>,
    /// When a pod was last resized.
    last: Option<Duration>,
}

/// Why nobody is resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why, in a word.
    pub reason: &'static str,
    /// Why.
    pub message: String,
    /// When another attempt is made.
    until: Duration,
}

/// A pod that is to have another size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// The container.
    pub container: String,
    /// The size.
    pub size: Size,
}

/// How many pods there are, and how many have the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that are known and run.
    pub pods: u32,
    /// Those of them that have the size.
    pub sized: u32,
}

impl Resizer {
    /// When a pod was last resized.
    pub const fn last(&self) -> Option<Duration> {
        self.last
    }

    /// Why nobody is resized.
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Whether this pod is being resized.
    pub fn is_at_work(&self, uid: &str) -> bool {
        self.at_work.as_ref().is_some_and(|(of, _)| of == uid)
    }

    /// Another size is wanted, or the policy has changed: what failed may be tried again.
    pub fn renew(&mut self) {
        self.failure = None;
    }

    /// Looks at pods, by their UIDs, and says which is to be resized now.
    pub fn step(
        &mut self,
        container: &str,
        wanted: &Requests,
        pods: &BTreeMap<&str, &Seen>,
        now: Duration,
    ) -> Option<Order> {
        if let Some((uid, since)) = self.at_work.clone() {
            match pods.get(uid.as_str()).map(|seen| (*seen, &seen.progress)) {
                // Its answer is not known yet, or it is gone.
                None if now.saturating_sub(since) < PATIENCE / 4 => return None,
                None => self.at_work = None,
                Some((_, Progress::Done)) => (self.at_work, self.last, self.failure) = (None, Some(now), None),
                Some((_, Progress::Unseen | Progress::Acting(_))) if now.saturating_sub(since) < PATIENCE => {
                    return None;
                }
                Some((seen, progress)) => {
                    self.at_work = None;
                    let undo = undo(container, &uid, seen);
                    self.fail(reason(progress), format!("pod {}: {}", seen.name, words(progress)), now);
                    return undo;
                }
            }
        }
        if self.failure.as_ref().is_some_and(|failure| now < failure.until) {
            return None;
        }
        // What an earlier leader has begun, or what was not done in time, is waited for.
        if let Some((uid, _)) =
            pods.iter().find(|(_, seen)| seen.container.is_some() && seen.progress != Progress::Done)
        {
            self.at_work = Some(((*uid).to_owned(), now));
            return None;
        }
        let (uid, seen) = pods.iter().find(|(_, seen)| lacks(seen, wanted))?;
        let size = seen.size?;
        let restarts = |resource: &&Resource| resource.of(&size.with(wanted).requests) != resource.of(&size.requests);
        if let Some(resource) = seen.restarts.iter().find(restarts) {
            let message = format!(
                "pod {}: the resizePolicy of {resource} restarts container {container}; let it be NotRequired",
                seen.name
            );
            self.fail("RestartRequired", message, now);
            return None;
        }
        self.at_work = Some(((*uid).to_owned(), now));
        let (pod, container) = (seen.name.clone(), container.to_owned());
        Some(Order { pod, uid: (*uid).to_owned(), container, size: size.with(wanted) })
    }

    /// An order could not be given.
    pub fn refused(&mut self, order: &Order, error: &TargetError, now: Duration) {
        if self.is_at_work(&order.uid) {
            self.at_work = None;
        }
        if error.is_lasting() {
            self.fail(error.reason(), format!("pod {}: {error}", order.pod), now);
        }
    }

    fn fail(&mut self, reason: &'static str, message: String, now: Duration) {
        self.failure = Some(Failure { reason, message, until: now + RETRY });
    }
}

/// How many have the size.
pub fn tally(wanted: &Requests, pods: &BTreeMap<&str, &Seen>) -> Tally {
    let running = pods.values().filter(|seen| seen.container.is_some());
    let (sized, others): (Vec<&&Seen>, Vec<_>) =
        running.partition(|seen| !lacks(seen, wanted) && seen.progress == Progress::Done);
    Tally { pods: (sized.len() + others.len()) as u32, sized: sized.len() as u32 }
}

/// Whether it runs and has another size.
fn lacks(seen: &Seen, wanted: &Requests) -> bool {
    seen.container.is_some() && seen.size.is_some_and(|size| size.with(wanted) != size)
}

/// A pod that cannot be given a size gets back what it has: what waits for room would be done whenever there is some.
fn undo(container: &str, uid: &str, seen: &Seen) -> Option<Order> {
    let pends = matches!(seen.progress, Progress::Deferred(_) | Progress::Infeasible(_));
    let (size, given) = (seen.size.filter(|_| pends)?, seen.given?);
    let (pod, container) = (seen.name.clone(), container.to_owned());
    Some(Order { pod, uid: uid.to_owned(), container, size: size.with(&given) })
}

const fn reason(progress: &Progress) -> &'static str {
    match progress {
        Progress::Deferred(_) => "Deferred",
        Progress::Infeasible(_) => "Infeasible",
        Progress::Done | Progress::Unseen | Progress::Acting(_) => "NotInTime",
    }
}

fn words(progress: &Progress) -> String {
    match progress {
        Progress::Deferred(why) | Progress::Infeasible(why) => why.clone(),
        Progress::Acting(why) if !why.is_empty() => why.clone(),
        Progress::Done | Progress::Unseen | Progress::Acting(_) => {
            format!("its kubelet has not resized it within {} s", PATIENCE.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cpu: u64) -> Requests {
        Requests { cpu: Some(cpu), memory: None }
    }

    fn pod(name: &str, request: u64, progress: Progress) -> Seen {
        Seen {
            name: name.into(),
            container: Some("id".into()),
            size: Some(Size { requests: cpu(request), limits: cpu(2 * request) }),
            given: Some(cpu(250)),
            requests: cpu(request),
            restarts: Vec::new(),
            progress,
        }
    }

    /// Who is given which request and limit.
    type Given = (String, u64, u64);

    struct World {
        resizer: Resizer,
        pods: BTreeMap<&'static str, Seen>,
    }

    impl World {
        fn new(names: &[&'static str]) -> Self {
            let pods = names.iter().map(|name| (*name, pod(name, 250, Progress::Done)));
            Self { resizer: Resizer::default(), pods: pods.collect() }
        }

        fn step(&mut self, second: u64) -> Option<Given> {
            let pods = self.pods.iter().map(|(uid, seen)| (*uid, seen)).collect();
            let order = self.resizer.step("app", &cpu(750), &pods, Duration::from_secs(second))?;
            Some((order.pod, order.size.requests.cpu?, order.size.limits.cpu?))
        }

        fn set(&mut self, name: &'static str, request: u64, progress: Progress) {
            self.pods.insert(name, pod(name, request, progress));
        }

        fn failure(&self) -> Option<&'static str> {
            self.resizer.failure().map(|failure| failure.reason)
        }
    }

    fn order(name: &str, request: u64) -> Option<Given> {
        Some((name.to_owned(), request, 2 * request))
    }

    #[test]
    fn one_pod_at_a_time_and_new_ones_once_they_run() {
        let mut world = World::new(&["a", "b"]);
        world.pods.get_mut("b").unwrap().container = None;
        assert_eq!(world.step(0), order("a", 750));
        world.pods.remove("a");
        assert_eq!(world.step(1), None, "it has to be looked at again");
        world.set("a", 750, Progress::Acting(String::new()));
        assert_eq!(world.step(2), None);
        world.set("a", 750, Progress::Done);
        assert_eq!(world.step(3), None, "b does not run");
        assert_eq!(world.resizer.last(), Some(Duration::from_secs(3)));
        world.set("b", 250, Progress::Done);
        assert_eq!(world.step(4), order("b", 750));
        world.set("b", 750, Progress::Done);
        let pods = world.pods.iter().map(|(uid, seen)| (*uid, seen)).collect();
        assert_eq!(tally(&cpu(750), &pods), Tally { pods: 2, sized: 2 });
        assert_eq!((world.step(5), world.failure()), (None, None));
    }

    #[test]
    fn who_cannot_be_resized_is_left_as_it_was_and_nobody_else_is_for_a_while() {
        let acting = || Progress::Acting(String::new());
        let cases: [(&str, Progress, u64, Option<Given>); 5] = [
            ("Infeasible", Progress::Infeasible("too much".into()), 5, order("a", 250)),
            ("Deferred", Progress::Deferred("no room".into()), 5, order("a", 250)),
            ("NotInTime", acting(), 120, None),
            ("NotInTime", Progress::Acting("error".into()), 120, None),
            ("NotInTime", Progress::Unseen, 120, None),
        ];
        for (reason, progress, at, undone) in cases {
            let mut world = World::new(&["a", "b"]);
            assert_eq!(world.step(0), order("a", 750));
            world.set("a", 750, progress.clone());
            if at > 5 {
                assert_eq!(world.step(at - 1), None);
            }
            assert_eq!((world.step(at), world.failure()), (undone, Some(reason)), "{progress:?}");
            world.set("a", 250, Progress::Done);
            assert_eq!((world.step(at + 1), world.step(at + 599)), (None, None));
            assert_eq!(world.failure(), Some(reason), "it stays told");
            assert_eq!(world.step(at + 600), order("a", 750), "then it is tried again");
            world.set("a", 750, Progress::Done);
            assert_eq!((world.step(at + 601), world.failure()), (order("b", 750), None));
        }
    }

    #[test]
    fn what_the_api_refuses_is_told_and_what_fails_is_tried_again() {
        let refuse = |error: TargetError| {
            let mut world = World::new(&["a"]);
            let pods = world.pods.iter().map(|(uid, seen)| (*uid, seen)).collect();
            let given = world.resizer.step("app", &cpu(750), &pods, Duration::ZERO).unwrap();
            world.resizer.refused(&given, &error, Duration::from_secs(1));
            (world.failure(), world.step(2).is_some())
        };
        assert_eq!(
            refuse(TargetError::Refused { reason: "Forbidden", message: "no".into() }),
            (Some("Forbidden"), false)
        );
        assert_eq!(refuse(TargetError::Silent), (None, true));
    }

    #[test]
    fn a_restart_is_no_resize_in_place() {
        let mut world = World::new(&["a"]);
        world.pods.get_mut("a").unwrap().restarts = vec![Resource::Memory];
        assert_eq!(world.step(0), order("a", 750), "memory stays as it is");
        let mut world = World::new(&["a"]);
        world.pods.get_mut("a").unwrap().restarts = vec![Resource::Cpu];
        assert_eq!((world.step(0), world.failure()), (None, Some("RestartRequired")));
    }

    #[test]
    fn what_an_earlier_leader_has_begun_is_gone_on_with() {
        let mut world = World::new(&["a", "b"]);
        world.set("b", 750, Progress::Infeasible("too much".into()));
        assert_eq!(world.step(0), None, "b is at work");
        assert_eq!((world.step(1), world.failure()), (order("b", 250), Some("Infeasible")));
    }

    #[test]
    fn a_pod_that_goes_is_not_waited_for() {
        let mut world = World::new(&["a", "b"]);
        world.step(0);
        world.pods.remove("a");
        assert_eq!(world.step(5), None);
        assert_eq!(world.step(30), order("b", 750));
    }
}
