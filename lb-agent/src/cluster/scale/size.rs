//! The size of a policy's replicas: what their containers use, which size they should have, and who is resized next. Without I/O.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    pods::{Progress, Seen},
    replicas::Replica,
    resize::{Order, Resizer, Tally, tally},
    target::{TargetError, Workload},
};
use crate::scaling::{
    Clock, Observation, Policy, Requests, UsageSample,
    checked::Vertical,
    policy::{Mode, Per, RecommendationStatus, UsageHistoryStatus, VerticalMode},
    rules::read,
    vertical::{Estimator, Resource, Sizes, decide, in_words},
};

/// A pod that nothing happens to is looked at so often.
const LOOK: Duration = Duration::from_secs(60);
/// One that starts, or is not resized yet, so often.
const SOON: Duration = Duration::from_secs(2);
/// So many pods of a policy are looked at in a second.
const AT_ONCE: usize = 16;
/// What was used is kept so often.
const KEEP: Duration = Duration::from_secs(600);
/// A size that differs by less is told as the one that was told last.
const NEWS: f64 = 0.1;

/// Sizes the replicas of a policy.
#[derive(Clone, Debug)]
pub struct Sizer {
    vertical: Vertical,
    estimator: Estimator,
    sizes: Sizes,
    resizer: Resizer,
    /// What pods say, by their UIDs, and when they were asked.
    pods: BTreeMap<String, (Seen, Duration)>,
    kept: Option<Duration>,
}

/// What is seen of a policy's replicas and workload.
pub struct View<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The time.
    pub clock: Clock,
    /// What the replicas carry.
    pub load: &'a Observation,
    /// The replicas.
    pub replicas: &'a [Replica],
    /// Those that are about to go.
    pub leaving: &'a [String],
    /// What containers use, by the UID of their pod and their id.
    pub usage: &'a HashMap<String, UsageSample>,
    /// What is scaled.
    pub workload: Option<&'a Workload>,
    /// The vertical pod autoscaler that has the workload.
    pub rival: Option<&'a str>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What is to be done.
    pub order: Option<Order>,
    /// How it stands.
    pub standing: Standing,
    /// Which size was decided just now, and why.
    pub news: Option<String>,
}

/// How it stands with the sizes of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether all have the size that was decided.
    pub sized: bool,
    /// Whether something is in the way.
    pub problem: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

impl Sizer {
    /// For a policy that sizes its replicas; goes on from what an earlier leader has told.
    pub fn of(policy: &Policy, told: Option<&RecommendationStatus>) -> Option<Self> {
        let vertical = policy.vertical.as_ref().filter(|vertical| vertical.mode != VerticalMode::Off)?;
        let told = told.filter(|told| told.container == vertical.container);
        let kept = told.and_then(|told| told.history.as_ref()).map(|kept| (&kept.weights, kept.since_seconds));
        let decided = told.filter(|told| told.applied).map(RecommendationStatus::requests);
        let mut sizes = Sizes::new(decided.unwrap_or_default());
        sizes.policy_changed(vertical);
        Some(Self {
            vertical: vertical.clone(),
            estimator: Estimator::new(kept),
            sizes,
            resizer: Resizer::default(),
            pods: BTreeMap::new(),
            kept: None,
        })
    }

    /// For the policy after a change: what the same container has used is kept.
    pub fn changed(before: Option<Self>, policy: &Policy, told: Option<&RecommendationStatus>) -> Option<Self> {
        let new = Self::of(policy, told)?;
        match before {
            Some(mut sizer) if sizer.vertical.container == new.vertical.container => {
                sizer.sizes.policy_changed(&new.vertical);
                sizer.resizer.renew();
                Some(Self { vertical: new.vertical, ..sizer })
            }
            _ => Some(new),
        }
    }

    /// The container that is sized.
    pub fn container(&self) -> &str {
        &self.vertical.container
    }

    /// The pods that are to be looked at now: names and UIDs.
    pub fn due<'a>(&self, replicas: &'a [Replica], now: Duration) -> Vec<(&'a str, &'a str)> {
        let is_due = |uid: &str| match self.pods.get(uid) {
            None => true,
            Some(_) if self.resizer.is_at_work(uid) => true,
            Some((seen, at)) => {
                let calm = seen.container.is_some() && seen.progress == Progress::Done;
                now.saturating_sub(*at) >= if calm { LOOK } else { SOON }
            }
        };
        let pods = replicas.iter().filter(|replica| replica.is_pod);
        let pods = pods.filter_map(|replica| Some((replica.name.as_str(), replica.uid.as_deref()?)));
        pods.filter(|(_, uid)| is_due(uid)).take(AT_ONCE).collect()
    }

    /// Takes in what a pod says; none if it is gone.
    pub fn saw(&mut self, uid: &str, seen: Option<Seen>, now: Duration) {
        match seen {
            Some(seen) => drop(self.pods.insert(uid.to_owned(), (seen, now))),
            None => drop(self.pods.remove(uid)),
        }
    }

    /// The container of a pod, as its usage is asked for.
    pub fn measured(&self, uid: &str) -> Option<String> {
        Some(format!("{uid}/{}", self.pods.get(uid)?.0.container.as_ref()?))
    }

    /// What a pod requests, as a mean over those that are known; where none is, what the template says.
    pub fn requests(&self, template: Requests) -> Requests {
        let mean = |resource: Resource| {
            let known: Vec<u64> = self.pods.values().filter_map(|(seen, _)| resource.of(&seen.requests)).collect();
            (!known.is_empty()).then(|| known.iter().sum::<u64>() / known.len() as u64)
        };
        Requests {
            cpu: template.cpu.and(mean(Resource::Cpu)).or(template.cpu),
            memory: template.memory.and(mean(Resource::Memory)).or(template.memory),
        }
    }

    /// When a pod was last resized.
    pub const fn resized(&self) -> Option<Duration> {
        self.resizer.last()
    }

    /// Looks, decides, and says who is to be resized; tells of it in `told`.
    pub fn tick(&mut self, view: &View<'_>, told: &mut Option<RecommendationStatus>) -> Outcome {
        self.measure(view);
        let obstacle = self.obstacle(view);
        let applies = obstacle.is_none();
        let template = view.workload.and_then(|workload| workload.containers.get(self.container())).copied();
        let before = self.sizes.wanted();
        let changing = applies && !is_done(&tally(&before, &present(&self.pods, view)));
        let seen = decide::Seen {
            load: view.load,
            template: template.map(|size| size.requests).unwrap_or_default(),
            estimator: &self.estimator,
            changing,
            applies,
            clock: view.clock,
        };
        let decision = decide(view.policy, &self.vertical, &mut self.sizes, seen);
        if self.sizes.wanted() != before {
            self.resizer.renew();
        }
        let wanted = self.sizes.wanted();
        let container = self.vertical.container.clone();
        let pods = present(&self.pods, view);
        let order = applies.then(|| self.resizer.step(&container, &wanted, &pods, view.clock.now)).flatten();
        let tally = tally(&wanted, &pods);
        let standing = obstacle.unwrap_or_else(|| self.standing(&wanted, tally));
        let is_news = self.tell(told, &decision, tally, applies, view.clock);
        let news = (is_news && !decision.changes.is_empty()).then(|| decision.reason());
        Outcome { order, standing, news }
    }

    /// An order was given, or could not be.
    pub fn ordered(&mut self, order: &Order, result: Result<(), &TargetError>, now: Duration) {
        // What is known of the pod is of before.
        self.pods.remove(&order.uid);
        if let Err(error) = result {
            self.resizer.refused(order, error, now);
        }
    }

    fn measure(&mut self, view: &View<'_>) {
        let known = |replica: &Replica| replica.uid.as_ref().is_some_and(|uid| self.pods.contains_key(uid));
        let left: Vec<&str> =
            view.replicas.iter().filter(|one| known(one)).filter_map(|one| one.uid.as_deref()).collect();
        self.pods.retain(|uid, _| left.contains(&uid.as_str()));
        let names: Vec<String> = self.pods.keys().filter_map(|uid| self.measured(uid)).collect();
        let samples = names.iter().filter_map(|name| Some((name.as_str(), *view.usage.get(name)?)));
        let wall = view.clock.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let ready = f64::from(view.load.load.ready.max(1));
        let load = decide::load(view.policy).and_then(|signal| {
            let value = read(signal, view.load, view.clock.now).ok()?.value;
            Some(if signal.per() == Per::Service { value / ready } else { value })
        });
        self.estimator.observe(wall, samples, load);
    }

    /// Why sizes are only recommended.
    fn obstacle(&self, view: &View<'_>) -> Option<Standing> {
        let standing = |problem, reason, message: String| Some(Standing { sized: false, problem, reason, message });
        if self.vertical.mode == VerticalMode::Recommend || view.policy.mode == Mode::Recommend {
            return standing(false, "Recommending", "sizes are only shown".into());
        }
        if view.policy.paused {
            return standing(false, "Paused", format!("annotation {}", crate::scaling::checked::PAUSED));
        }
        if let Some(rival) = view.rival {
            let message =
                format!("spec.vertical: {rival} sizes spec.targetRef too; delete that, or use vertical.mode Recommend");
            return standing(true, "TargetTaken", message);
        }
        let Some(workload) = view.workload else {
            let message = "spec.vertical: sizes are applied to the pods of a workload; give spec.targetRef, or use vertical.mode Recommend";
            return standing(true, "NoTarget", message.into());
        };
        let container = self.container();
        let Some(size) = workload.containers.get(container) else {
            let message = format!(
                "spec.vertical.container: spec.targetRef's template has no container {container:?}; name one that it has"
            );
            return standing(true, "ContainerNotFound", message);
        };
        let lacks = |resource: &Resource| self.bounded(*resource) && resource.of(&size.requests).is_none();
        let missing = Resource::ALL.into_iter().find(lacks)?;
        let message = format!(
            "spec.vertical.{missing}: container {container} requests no {missing}, and a request cannot be added to a pod that runs; \
             write resources.requests.{missing} into spec.targetRef's template"
        );
        standing(true, "RequestMissing", message)
    }

    const fn bounded(&self, resource: Resource) -> bool {
        match resource {
            Resource::Cpu => self.vertical.cpu.is_some(),
            Resource::Memory => self.vertical.memory.is_some(),
        }
    }

    fn standing(&self, wanted: &Requests, tally: Tally) -> Standing {
        if let Some(failure) = self.resizer.failure() {
            let message = format!("{}; sizes are only recommended until it is tried again", failure.message);
            return Standing { sized: false, problem: true, reason: failure.reason, message };
        }
        if !is_done(&tally) {
            return Standing { reason: "Resizing", message: "one pod after the other".into(), ..Standing::default() };
        }
        let size = if *wanted == Requests::default() { "what the template says".to_owned() } else { in_words(wanted) };
        let message =
            format!("pods have {size}; the template is left as it is, and new pods are resized once they run");
        Standing { sized: true, problem: false, reason: "AsDecided", message }
    }

    /// Writes what is new. Returns whether another size is told.
    fn tell(
        &mut self,
        told: &mut Option<RecommendationStatus>,
        decision: &decide::Decision,
        tally: Tally,
        applies: bool,
        clock: Clock,
    ) -> bool {
        let container = self.vertical.container.clone();
        let mut new = told.take().filter(|told| told.container == container).unwrap_or_default();
        let is_first = new.container.is_empty();
        new.container = container;
        (new.applied, new.pods, new.resized_pods) = (applies, tally.pods, applies.then_some(tally.sized));
        let before = new.requests();
        let near = |resource: Resource| match (resource.of(&before), resource.of(&decision.wanted)) {
            (Some(old), Some(new)) if !applies => (new as f64 / old.max(1) as f64 - 1.0).abs() < NEWS,
            (old, new) => old == new,
        };
        let is_news = !Resource::ALL.into_iter().all(near);
        if is_news || is_first || (new.message.is_empty() && !decision.whys.is_empty()) {
            let words = |resource: Resource| resource.of(&decision.wanted).map(|amount| resource.quantity(amount));
            (new.cpu, new.memory) = (words(Resource::Cpu), words(Resource::Memory));
            new.message = decision.whys.join("; ");
        }
        if is_news && !decision.changes.is_empty() {
            new.last_change = Some(decision.reason());
        }
        self.keep(&mut new, clock);
        *told = Some(new);
        is_news
    }

    fn keep(&mut self, told: &mut RecommendationStatus, clock: Clock) {
        if self.kept.is_some_and(|at| clock.now.saturating_sub(at) < KEEP) {
            return;
        }
        let wall = clock.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        if let Some((weights, since_seconds)) = self.estimator.keep(wall) {
            told.history = Some(UsageHistoryStatus { since_seconds, weights });
            self.kept = Some(clock.now);
        }
    }
}

/// The pods that are there and stay.
fn present<'a>(pods: &'a BTreeMap<String, (Seen, Duration)>, view: &View<'_>) -> BTreeMap<&'a str, &'a Seen> {
    let stays = |seen: &Seen| !view.leaving.contains(&seen.name);
    let pods = pods.iter().map(|(uid, (seen, _))| (uid.as_str(), seen));
    pods.filter(|(_, seen)| stays(seen)).collect()
}

const fn is_done(tally: &Tally) -> bool {
    tally.sized == tally.pods
}

#[cfg(test)]
#[path = "size_tests.rs"]
mod tests;
