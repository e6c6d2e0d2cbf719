//! What a container of a replica should request, from what the containers of all replicas use: the 90th percentile with decaying weights
//! and a margin is the least (of CPU over 15 s, of memory over the day's peaks, as the Kubernetes vertical pod autoscaler does), and a
//! regression on the load of a replica says what it takes to carry the load that a replica is meant to carry.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    Resource,
    histogram::{Histogram, Weights},
};
use crate::scaling::{
    forecast::{capacity::Pairs, engine::figure, series::STEP},
    signals::UsageSample,
};

/// The part of what was used that has to fit.
const PART: f64 = 0.9;
/// What is requested beyond what is used.
const MARGIN: f64 = 1.15;
/// What is used beyond the line in one case of ten, in standard deviations.
const ABOVE: f64 = 1.28;
/// The time of which memory has one peak.
const DAY: u64 = 24 * 3600;
/// The first buckets: a hundredth of a CPU, ten megabytes.
const FIRST: [f64; 2] = [10.0, 1e7];

/// What the containers of a policy's replicas use.
#[derive(Clone, Debug)]
pub struct Estimator {
    used: [Histogram; 2],
    on_load: [Pairs; 2],
    tracks: HashMap<String, Track>,
    /// When the first of what is known was seen, since 1970.
    since: Option<Duration>,
    /// The step of 15 s that is under way, and the loads that were seen in it: their sum and number.
    step: Option<u64>,
    loads: (f64, u32),
}

/// One container.
#[derive(Clone, Copy, Debug)]
struct Track {
    first: UsageSample,
    last: UsageSample,
    /// The day that is under way, and the most memory in it.
    day: u64,
    peak: u64,
}

/// What an estimate is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// The load that a replica is meant to carry; none: the greatest that was seen.
    pub per_replica: Option<f64>,
}

/// What should be requested of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The least: what covers nine of ten samples, with a margin.
    pub floor: u64,
    /// What should be requested.
    pub amount: u64,
    /// From what.
    pub why: String,
}

impl Estimator {
    /// Knows nothing, or what an earlier leader has kept.
    pub fn new(kept: Option<(&[Weights; 2], u64)>) -> Self {
        let used = match kept {
            Some(([cpu, memory], _)) => [Histogram::kept(FIRST[0], cpu), Histogram::kept(FIRST[1], memory)],
            None => FIRST.map(Histogram::new),
        };
        let since = kept.map(|(_, since)| Duration::from_secs(since));
        Self { used, on_load: Default::default(), tracks: HashMap::new(), since, step: None, loads: (0.0, 0) }
    }

    /// What is to be kept: the weights of CPU and memory, and since when they are counted, in seconds since 1970.
    pub fn keep(&self, wall: Duration) -> Option<([Weights; 2], u64)> {
        let [cpu, memory] = &self.used;
        self.since.map(|since| ([cpu.keep(wall), memory.keep(wall)], since.as_secs()))
    }

    /// How long it has watched.
    pub fn watched(&self, wall: Duration) -> Duration {
        self.since.map_or(Duration::ZERO, |since| wall.saturating_sub(since))
    }

    /// Takes in what containers use, by what tells them apart, and the load of one replica; `wall` is the time since 1970.
    pub fn observe<'a>(
        &mut self,
        wall: Duration,
        samples: impl Iterator<Item = (&'a str, UsageSample)>,
        load: Option<f64>,
    ) {
        let step = wall.as_secs() / STEP.as_secs();
        let is_over = self.step.is_some_and(|known| known != step);
        self.step = Some(step);
        let mut seen = HashSet::new();
        for (name, sample) in samples {
            self.since.get_or_insert(wall);
            self.take(name, sample, wall);
            seen.insert(name);
        }
        if let Some(load) = load.filter(|load| load.is_finite()) {
            self.loads = (self.loads.0 + load, self.loads.1 + 1);
        }
        if is_over {
            self.tracks.retain(|name, _| seen.contains(name.as_str()));
            self.end_step(wall);
        }
    }

    fn take(&mut self, name: &str, sample: UsageSample, wall: Duration) {
        let day = wall.as_secs() / DAY;
        let weigh = |memory: &mut Histogram, bytes: u64, weight| {
            memory.add(bytes as f64, weight, Duration::from_secs(day * DAY));
        };
        let Some(track) = self.tracks.get_mut(name) else {
            weigh(&mut self.used[1], sample.memory, 1.0);
            let track = Track { first: sample, last: sample, day, peak: sample.memory };
            self.tracks.insert(name.to_owned(), track);
            return;
        };
        track.last = sample;
        if track.day != day {
            (track.day, track.peak) = (day, sample.memory);
            weigh(&mut self.used[1], sample.memory, 1.0);
        } else if sample.memory > track.peak {
            weigh(&mut self.used[1], track.peak, -1.0);
            weigh(&mut self.used[1], sample.memory, 1.0);
            track.peak = sample.memory;
        }
    }

    /// The CPU that each has used in the step is one sample; their mean with the mean load is one of the regression.
    fn end_step(&mut self, wall: Duration) {
        let (mut cpu, mut memory, mut count) = (0.0, 0.0, 0.0);
        for track in self.tracks.values_mut() {
            let elapsed = track.last.at.saturating_sub(track.first.at);
            let spent = track.last.cpu.checked_sub(track.first.cpu);
            track.first = track.last;
            let Some(spent) = spent.filter(|_| elapsed >= STEP / 3) else { continue };
            let millicores = spent.as_secs_f64() / elapsed.as_secs_f64() * 1000.0;
            self.used[0].add(millicores, 1.0, wall);
            (cpu, memory, count) = (cpu + millicores, memory + track.last.memory as f64, count + 1.0);
        }
        let (sum, loads) = std::mem::take(&mut self.loads);
        if count > 0.0 && loads > 0 {
            let load = sum / f64::from(loads);
            self.on_load[0].record(load, cpu / count);
            self.on_load[1].record(load, memory / count);
        }
    }

    /// What should be requested; none before anything was used.
    pub fn estimate(&self, resource: Resource, goal: Goal) -> Option<Estimate> {
        let index = resource as usize;
        let used = self.used[index].percentile(PART)?;
        let floor = resource.round_up(used * MARGIN);
        let of = match resource {
            Resource::Cpu => "samples of 15 s",
            Resource::Memory => "daily peaks",
        };
        let used = resource.quantity(resource.round_up(used));
        let why = format!("{resource}: 9 of 10 {of} are below {used}, x {MARGIN}");
        let Ok(line) = self.on_load[index].line() else { return Some(Estimate { floor, amount: floor, why }) };
        let load = goal.per_replica.map_or(line.most, |wanted| wanted.min(line.reach()));
        let expected = line.at(load) + ABOVE * line.regression.residual_deviation;
        let amount = resource.round_up(expected * MARGIN).max(floor);
        let fitted = resource.quantity(resource.round_up(expected));
        let r_squared = figure(line.regression.r_squared);
        let why = format!("{why}; a load of {} takes {fitted} (R2 {r_squared}), x {MARGIN}", figure(load));
        Some(Estimate { floor, amount, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_800_000_000;

    /// Two containers that use so many thousandths of a CPU and so many mebibytes at a load, second by second.
    fn watch(
        seconds: u64,
        load: impl Fn(u64) -> f64,
        cpu: impl Fn(f64) -> f64,
        memory: impl Fn(f64) -> f64,
    ) -> Estimator {
        let mut estimator = Estimator::new(None);
        let mut spent = Duration::ZERO;
        for second in 0..seconds {
            let now = Duration::from_secs(T0 + second);
            let load = load(second);
            spent += Duration::from_secs_f64(cpu(load) / 1000.0);
            let memory = (memory(load) * f64::from(1 << 20)) as u64;
            let sample = UsageSample { cpu: spent, memory, at: Duration::from_secs(second) };
            estimator.observe(now, [("a", sample), ("b", sample)].into_iter(), Some(load));
        }
        estimator
    }

    fn amounts(estimator: &Estimator, goal: Option<f64>) -> [u64; 2] {
        let goal = Goal { per_replica: goal };
        Resource::ALL.map(|resource| estimator.estimate(resource, goal).unwrap().amount)
    }

    /// Not less, and at most so much more.
    fn near(got: u64, wanted: f64, more: f64) -> bool {
        got as f64 >= wanted && got as f64 <= wanted * more
    }

    #[test]
    fn nothing_is_recommended_from_nothing() {
        assert_eq!(Estimator::new(None).estimate(Resource::Cpu, Goal::default()), None);
        let short = watch(10, |_| 1.0, |_| 100.0, |_| 50.0);
        assert_eq!(short.estimate(Resource::Cpu, Goal::default()), None, "no step is over");
    }

    #[test]
    fn without_a_line_it_is_what_covers_nine_of_ten_samples() {
        let constant = watch(300, |_| 1.0, |_| 200.0, |_| 100.0);
        let [cpu, memory] = amounts(&constant, Some(50.0));
        assert!(near(cpu, 230.0, 1.1), "{cpu}");
        assert!(near(memory, 115.0 * f64::from(1 << 20), 1.15), "{memory}");
        let bursts = watch(1500, |second| f64::from(second % 300 >= 285), |busy| 100.0 + busy * 800.0, |_| 100.0);
        let floor = bursts.estimate(Resource::Cpu, Goal::default()).unwrap().floor;
        assert!(near(floor, 115.0, 1.15), "one step of twenty is no reason: {floor}");
    }

    #[test]
    fn memory_follows_its_peak() {
        let spike = watch(600, |_| 0.0, |_| 100.0, |_| 50.0);
        let mut with = spike.clone();
        let sample = UsageSample { cpu: Duration::ZERO, memory: 400 << 20, at: Duration::from_secs(600) };
        with.observe(Duration::from_secs(T0 + 600), [("a", sample), ("b", sample)].into_iter(), None);
        let [before, after] = [amounts(&spike, None)[1] >> 20, amounts(&with, None)[1] >> 20];
        assert!(before < 80 && (460..520).contains(&after), "{before} -> {after}");
    }

    #[test]
    fn the_load_that_is_wanted_says_what_it_takes() {
        let swing = |second: u64| 5.0 + 4.0 * (second as f64 / 200.0).sin();
        let estimator = watch(3000, swing, |load| 50.0 + 40.0 * load, |load| 64.0 + 8.0 * load);
        let [at_eight, _] = amounts(&estimator, Some(8.0));
        let [at_twelve, memory] = amounts(&estimator, Some(12.0));
        assert!(at_twelve > at_eight && near(at_twelve, 1.15 * 530.0, 1.05), "{at_eight} {at_twelve}");
        assert!(near(memory >> 20, 1.15 * 160.0, 1.05), "{memory}");
        let [far, _] = amounts(&estimator, Some(1000.0));
        assert!(near(far, 1.15 * (50.0 + 40.0 * 13.5), 1.05), "the line is not believed far beyond: {far}");
        let why = estimator.estimate(Resource::Cpu, Goal { per_replica: Some(8.0) }).unwrap().why;
        assert!(why.contains("9 of 10") && why.contains("a load of 8 takes") && why.contains("R2"), "{why}");
    }

    #[test]
    fn what_is_kept_recommends_the_same_floor() {
        let before = watch(600, |_| 1.0, |_| 200.0, |_| 100.0);
        let (weights, since) = before.keep(Duration::from_secs(T0 + 600)).unwrap();
        let after = Estimator::new(Some((&weights, since)));
        assert_eq!(amounts(&after, None), amounts(&before, None));
        assert_eq!(after.watched(Duration::from_secs(T0 + 600)), Duration::from_secs(600));
    }
}
