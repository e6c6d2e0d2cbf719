//! What came of a load that a fleet of pods has answered: from the clients' answers and from what was seen of the pods. Pure functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::replay::{Arrival, Outcome};

/// Over so many seconds is asked load a mean, the busiest pod looked for, and a quantile taken for the picture.
pub const WINDOW: f64 = 10.0;

/// What a fleet may have.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// CPUs of one pod.
    pub pod_cpus: f64,
    /// At most so many pods.
    pub most: u32,
}

/// The pods at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds from the start.
    pub at: f64,
    /// All pods, those that end included.
    pub pods: Vec<Seen>,
}

/// A pod at that time.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Whether it takes new requests.
    pub ready: bool,
    /// Whether it is to end.
    pub ends: bool,
    /// CPU time so far, in seconds; unknown before it runs.
    pub cpu: Option<f64>,
}

/// What came of a load; times in seconds. A quantile of nothing is not a number.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    /// Requests of all clients.
    pub requests: usize,
    /// Those without an answer.
    pub failed: usize,
    /// Why the first that failed did.
    pub first_failure: Option<String>,
    /// The median of the time until an answer.
    pub p50: f64,
    /// Its 95th percentile.
    pub p95: f64,
    /// Its 99th percentile.
    pub p99: f64,
    /// Answered requests in a second, to the last answer.
    pub throughput: f64,
    /// Of the CPU that all pods may use.
    pub mean_utilisation: f64,
    /// The same of whichever pod is the busiest in each ten seconds, of those that are ready in the whole of them.
    pub busiest_utilisation: f64,
    /// Pods by the seconds that they were there, from their making to their end.
    pub replica_seconds: f64,
    /// All time with fewer ready pods than the requests need.
    pub shortage: f64,
    /// The longest such time.
    pub longest_shortage: f64,
    /// Changes of the number of pods.
    pub actions: usize,
    /// Ready pods in each second.
    pub ready: Vec<u32>,
    /// The 95th percentile of the requests that came in each ten seconds.
    pub p95_by_window: Vec<f64>,
}

impl Numbers {
    /// Reckons everything.
    pub fn of(fleet: Fleet, seconds: f64, outcomes: &[Outcome], samples: &[Sample]) -> Result<Self> {
        let samples: Vec<_> = samples.iter().filter(|sample| sample.at <= seconds).collect();
        ensure!(samples.len() as f64 > seconds / 2.0, "the pods were seen {} times only", samples.len());
        let took = |outcome: &Outcome| outcome.took as f64 / 1e6;
        let end = outcomes.iter().map(|outcome| outcome.arrival.at as f64 / 1e6 + took(outcome)).fold(0.0, f64::max);
        let answered: Vec<f64> = outcomes.iter().filter(|outcome| outcome.answer.is_ok()).map(took).collect();
        let mut failures = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().err());
        let arrivals: Vec<_> = outcomes.iter().map(|outcome| outcome.arrival).collect();
        let count = |wanted: fn(&Seen) -> bool| {
            move |sample: &Sample| sample.pods.iter().filter(|pod| wanted(pod)).count() as u32
        };
        let ready = by_second(&samples, seconds, count(|pod| pod.ready));
        let (shortage, longest_shortage) = shortages(&ready, &asked(&arrivals, seconds), fleet);
        let replica_seconds = f64::from(by_second(&samples, seconds, count(|_| true)).iter().sum::<u32>());
        let wanted: Vec<_> = samples.iter().map(|sample| count(|pod| !pod.ends)(sample)).collect();
        Ok(Self {
            requests: outcomes.len(),
            failed: outcomes.len() - answered.len(),
            first_failure: failures.next().cloned(),
            p50: quantile(&answered, 0.50),
            p95: quantile(&answered, 0.95),
            p99: quantile(&answered, 0.99),
            throughput: answered.len() as f64 / end.max(1.0),
            mean_utilisation: used(&samples) / (replica_seconds.max(1.0) * fleet.pod_cpus),
            busiest_utilisation: busiest(&samples, seconds, fleet),
            replica_seconds,
            shortage,
            longest_shortage,
            actions: wanted.windows(2).filter(|pair| pair[0] != pair[1]).count(),
            ready,
            p95_by_window: by_window(outcomes, seconds),
        })
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99, failed, requests, replica_seconds, longest_shortage, .. } = self;
        write!(f, "p50 {p50:.2} s, p95 {p95:.2} s, p99 {p99:.2} s, {failed} of {requests} failed, ")?;
        write!(f, "{replica_seconds:.0} replica-seconds, too few replicas for {longest_shortage:.0} s at most")?;
        self.first_failure.as_ref().map_or(Ok(()), |why| write!(f, "; {why}"))
    }
}

/// CPUs that arriving requests ask for in each second: the mean of the last ten.
pub fn asked(arrivals: &[Arrival], seconds: f64) -> Vec<f64> {
    let mut each = vec![0.0; seconds.ceil().max(1.0) as usize];
    let last = each.len() - 1;
    for arrival in arrivals {
        each[((arrival.at / 1_000_000) as usize).min(last)] += arrival.work as f64 / 1e6;
    }
    let mean = |end: usize| {
        let window = &each[(end + 1).saturating_sub(WINDOW as usize)..=end];
        window.iter().sum::<f64>() / window.len() as f64
    };
    (0..each.len()).map(mean).collect()
}

/// The smallest of the values that this share of them does not exceed; not a number of none.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A number for each second: that of the last sample before it.
fn by_second(samples: &[&Sample], seconds: f64, number: impl Fn(&Sample) -> u32) -> Vec<u32> {
    let mut samples = samples.iter().peekable();
    let mut last = samples.peek().map_or(0, |first| number(first));
    (0..seconds as u32)
        .map(|second| {
            while let Some(sample) = samples.next_if(|sample| sample.at <= f64::from(second) + 1.0) {
                last = number(sample);
            }
            last
        })
        .collect()
}

/// All time, and the longest, in which fewer pods are ready than what is asked for needs, or than there may be.
fn shortages(ready: &[u32], asked: &[f64], fleet: Fleet) -> (f64, f64) {
    let (mut all, mut longest, mut current) = (0.0, 0.0_f64, 0.0);
    for (ready, asked) in ready.iter().zip(asked) {
        let needed = ((asked / fleet.pod_cpus).ceil() as u32).clamp(1, fleet.most);
        current = if *ready < needed { current + 1.0 } else { 0.0 };
        all += f64::from(u8::from(*ready < needed));
        longest = longest.max(current);
    }
    (all, longest)
}

/// CPU time of all pods from the first sample to the last, in seconds.
fn used(samples: &[&Sample]) -> f64 {
    let mut of_pods: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for pod in samples.iter().flat_map(|sample| &sample.pods) {
        if let Some(cpu) = pod.cpu {
            of_pods.entry(&pod.name).or_insert((cpu, cpu)).1 = cpu;
        }
    }
    of_pods.values().map(|(first, last)| last - first).sum()
}

/// The mean over all windows of the utilisation of the pod that is the busiest in it, of those that are ready in the whole of it.
fn busiest(samples: &[&Sample], seconds: f64, fleet: Fleet) -> f64 {
    let windows = (seconds / WINDOW) as usize;
    let highest = (0..windows).filter_map(|number| {
        let from = number as f64 * WINDOW;
        let inside: Vec<_> = samples.iter().filter(|sample| (from..from + WINDOW).contains(&sample.at)).collect();
        let (first, last) = (inside.first()?, inside.last()?);
        let time = last.at - first.at;
        let names: BTreeSet<_> = first.pods.iter().filter(|pod| pod.ready).map(|pod| &pod.name).collect();
        let used = last.pods.iter().filter(|pod| pod.ready && names.contains(&pod.name)).filter_map(|pod| {
            let before = first.pods.iter().find(|before| before.name == pod.name)?.cpu?;
            Some((pod.cpu? - before) / (time * fleet.pod_cpus))
        });
        (time > WINDOW / 2.0).then(|| used.fold(0.0, f64::max))
    });
    let highest: Vec<f64> = highest.collect();
    highest.iter().sum::<f64>() / highest.len().max(1) as f64
}

fn by_window(outcomes: &[Outcome], seconds: f64) -> Vec<f64> {
    let windows = (seconds / WINDOW).ceil() as usize;
    let mut took = vec![Vec::new(); windows];
    for outcome in outcomes {
        let window = (outcome.arrival.at as f64 / 1e6 / WINDOW) as usize;
        if let Some(took) = took.get_mut(window) {
            took.push(outcome.took as f64 / 1e6);
        }
    }
    took.iter().map(|took| quantile(took, 0.95)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet { pod_cpus: 0.2, most: 5 };

    fn outcome(at: u64, work: u64, took: u64, answer: Result<&str, &str>) -> Outcome {
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        Outcome { arrival: Arrival { at: at * 1000, work: work * 1000 }, took: took * 1000, answer }
    }

    /// Forty seconds: one pod, and from the twentieth on a second one that is ready ten seconds later.
    fn samples() -> Vec<Sample> {
        let seen = |name: &str, from: u32, at: u32, busy: f64| {
            let cpu = Some(f64::from(at - from) * 0.2 * busy);
            (at >= from).then(|| Seen { name: name.to_owned(), ready: at >= from + 10 || from == 0, ends: false, cpu })
        };
        let sample = |at: u32| {
            let pods = [seen("a", 0, at, 0.9), at.checked_sub(20).and_then(|_| seen("b", 20, at, 0.1))];
            Sample { at: f64::from(at), pods: pods.into_iter().flatten().collect() }
        };
        (0..=40).map(sample).collect()
    }

    #[test]
    fn numbers_are_of_answers_and_of_pods() {
        let answers = (0..100).map(|n| outcome(n * 400, 30, n + 1, Ok("a")));
        let outcomes: Vec<_> = answers.chain([outcome(100, 1, 30_000, Err("no answer"))]).collect();
        let numbers = Numbers::of(FLEET, 40.0, &outcomes, &samples()).unwrap();
        assert_eq!((numbers.requests, numbers.failed, numbers.first_failure.as_deref()), (101, 1, Some("no answer")));
        assert_eq!([numbers.p50, numbers.p95, numbers.p99], [0.050, 0.095, 0.099]);
        assert_eq!((numbers.replica_seconds, numbers.actions), (40.0 + 21.0, 1));
        assert_eq!((numbers.ready[0], numbers.ready[28], numbers.ready[39]), (1, 1, 2));
        // 36 s by 0.2 of the first pod, 2 s by 0.2 of the second.
        assert!((numbers.mean_utilisation - (0.9 * 40.0 + 0.1 * 20.0) / 61.0).abs() < 1e-9);
        assert!((numbers.busiest_utilisation - 0.9).abs() < 1e-9);
        assert_eq!(numbers.p95_by_window.len(), 4);
        assert!((numbers.throughput - 100.0 / 39.7).abs() < 0.01, "{}", numbers.throughput);
        assert!(Numbers::of(FLEET, 400.0, &outcomes, &samples()).is_err(), "nobody looked");
    }

    #[test]
    fn replicas_are_short_until_as_many_are_ready_as_the_load_needs() {
        // 0.3 CPUs from the first second on: two pods; the second is ready after 30 s.
        let outcomes: Vec<_> = (0..40).map(|second| outcome(second * 1000, 300, 1, Ok("a"))).collect();
        let numbers = Numbers::of(FLEET, 40.0, &outcomes, &samples()).unwrap();
        assert_eq!((numbers.shortage, numbers.longest_shortage), (29.0, 29.0));
        // More than may be there is not needed.
        assert_eq!(shortages(&[5, 5], &[9.0, 9.0], FLEET), (0.0, 0.0));
        assert_eq!(shortages(&[1, 2, 1, 1], &[0.3; 4], FLEET), (3.0, 2.0));
    }

    #[test]
    fn what_is_asked_for_is_a_mean_of_ten_seconds() {
        let arrivals: Vec<_> =
            (0..20).map(|second| Arrival { at: second * 1_000_000, work: second * 100_000 }).collect();
        let asked = asked(&arrivals, 20.0);
        assert_eq!((asked[0], asked.len()), (0.0, 20));
        assert!((asked[1] - 0.05).abs() < 1e-9 && (asked[19] - 1.45).abs() < 1e-9, "{asked:?}");
    }
}
