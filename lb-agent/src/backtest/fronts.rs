//! Fronts: each scaler over the range of its one free number, and how ours compares with another's: at each point of ours, with the
//! fewest violations that the other reaches at no more replica-seconds.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    run::{NO_FORECAST, Peer, Progress, Trial},
    scalers::weir::UnknownSignal,
    score::Score,
};
use crate::scaling::Policy;

/// The range of a target, as a share of a replica's slots.
pub fn shares() -> impl Iterator<Item = f64> {
    (5..=40_u32).map(|step| f64::from(step) * 0.05)
}

/// Points of ours with violations in this range are compared.
const COMPARED: std::ops::RangeInclusive<f64> = 0.0005..=0.2;

/// So few violations count as none.
const NONE: f64 = 0.001;

/// Every scaler over its range: ours with and without its forecast, then the peers.
pub fn sweep(trial: &Trial, policy: &Policy, progress: Progress<'_>) -> Result<Vec<Score>, UnknownSignal> {
    let mut scores = ours(trial, policy, progress)?;
    let without = match policy.forecast {
        Some(_) => ours(trial, &Policy { forecast: None, ..policy.clone() }, progress)?,
        None => scores.clone(),
    };
    scores.extend(without.into_iter().map(|score| Score { scaler: NO_FORECAST, ..score }));
    let points: Vec<_> = Peer::ALL.into_iter().flat_map(|peer| shares().map(move |share| (peer, share))).collect();
    scores.extend(parallel(&points, |(peer, share)| trial.peer(*peer, *share, progress).score));
    Ok(scores)
}

/// A policy of ours over the range of its first target.
pub fn ours(trial: &Trial, policy: &Policy, progress: Progress<'_>) -> Result<Vec<Score>, UnknownSignal> {
    let points: Vec<f64> = shares().collect();
    let run = |share: &f64| trial.weir(&at(policy, share * f64::from(trial.concurrency())), progress);
    parallel(&points, run).into_iter().map(|run| run.map(|run| run.score)).collect()
}

/// A policy with another first target. A forecast that takes what a replica carries from this target goes on to do so.
pub fn at(policy: &Policy, per_replica: f64) -> Policy {
    let mut policy = policy.clone();
    let Some(target) = policy.targets.first_mut() else {
        return policy;
    };
    let before = std::mem::replace(&mut target.per_replica, per_replica);
    if let Some(forecast) = &mut policy.forecast
        && forecast.signal == target.signal
        && forecast.per_replica == Some(before)
    {
        forecast.per_replica = Some(per_replica);
    }
    policy
}

/// How ours compares with another, in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The geometric mean of our violations over the other's; none where no point can be compared.
    pub ratio: Option<f64>,
    /// Points that were compared.
    pub points: u32,
    /// Points of ours that are cheaper than any of the other's.
    pub cheaper: u32,
    /// Points where the other has no violations at no more cost.
    pub beaten: u32,
    /// Our replica-seconds for nearly no violations over the other's, where both have such a point.
    pub cost: Option<f64>,
}

/// Compares our front with another's.
pub fn compare(ours: &[Score], other: &[Score]) -> Comparison {
    let mut comparison = Comparison::default();
    let mut logs = 0.0;
    for point in ours.iter().filter(|point| COMPARED.contains(&point.slo_violation_ratio)) {
        let affordable = other.iter().filter(|score| score.replica_seconds <= point.replica_seconds);
        match affordable.map(|score| score.slo_violation_ratio).min_by(f64::total_cmp) {
            None => comparison.cheaper += 1,
            Some(fewest) if fewest <= 0.0 => comparison.beaten += 1,
            Some(fewest) => {
                comparison.points += 1;
                logs += (point.slo_violation_ratio / fewest).ln();
            }
        }
    }
    comparison.ratio = (comparison.points > 0).then(|| (logs / f64::from(comparison.points)).exp());
    comparison.cost = cheapest(ours).zip(cheapest(other)).map(|(ours, other)| ours / other);
    comparison
}

fn cheapest(front: &[Score]) -> Option<f64> {
    let good = front.iter().filter(|score| score.slo_violation_ratio <= NONE);
    good.map(|score| score.replica_seconds).min_by(f64::total_cmp)
}

/// Does the same for every point, on all processors.
fn parallel<T: Sync, R: Send>(points: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(points.len()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(points.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(point) = points.get(index) else { break };
                    let result = work(point);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backtest::{
        fleet::{Queue, Shape},
        run::Conditions,
        trace::{self, Place, Replay, ServiceTime},
        workload::SECOND,
    };

    fn front(points: &[(f64, f64)]) -> Vec<Score> {
        let score = |(cost, violations): &(f64, f64)| Score {
            scaler: "weir",
            parameter: None,
            requests: 0,
            slo_violation_ratio: *violations,
            p50_wait_seconds: 0.0,
            p99_wait_seconds: 0.0,
            replica_seconds: *cost,
            mean_utilisation: 0.0,
            actions: 0,
            quick_reversals: 0,
            under_provisioning: 0.0,
            over_provisioning: 0.0,
            under_provisioned_time: 0.0,
            over_provisioned_time: 0.0,
            elastic_speedup: None,
        };
        points.iter().map(score).collect()
    }

    #[test]
    fn fronts_are_compared_at_equal_cost() {
        let ours = front(&[(5.0, 0.3), (10.0, 0.1), (20.0, 0.01), (40.0, 0.0009), (50.0, 0.0001)]);
        let other = front(&[(9.0, 0.2), (11.0, 0.01), (20.0, 0.04), (38.0, 0.0), (80.0, 0.0)]);
        let comparison = compare(&ours, &other);
        // At 10: 0.1 to 0.2; at 20: 0.01 to 0.01, which the other has for 11; at 40 the other has none.
        assert!((comparison.ratio.unwrap() - 0.5_f64.sqrt()).abs() < 1e-12);
        assert_eq!((comparison.points, comparison.cheaper, comparison.beaten), (2, 0, 1));
        assert!((comparison.cost.unwrap() - 40.0 / 38.0).abs() < 1e-12);
        assert_eq!(compare(&front(&[(1.0, 0.1)]), &other).cheaper, 1);
    }

    /// A part of the conversation trace, short enough for every run of the tests.
    fn trial(slots: u32, queue: Queue) -> Trial {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces/AzureLLMInferenceTrace_conv.csv.gz");
        let service = ServiceTime { constant: None, prefill: 0.25e-3, decode: 25e-3 };
        let to = Some(Place::After(2100.0));
        let workload =
            trace::workload(&trace::read(&file).unwrap(), &Replay { from: None, to, scale: 1.0, service, seed: 1 });
        let shape = Shape { concurrency: slots, startup: 30 * SECOND, queue };
        let conditions =
            Conditions { shape, initial: None, target: 0.7, warmup: 600 * SECOND, slo: SECOND, metrics_delay: 22 };
        Trial::new(workload.unwrap(), &conditions)
    }

    #[test]
    fn fewer_violations_than_the_hpa_and_knative_and_about_as_few_as_a_mean_of_a_minute() {
        let policy =
            crate::cli::backtest::policy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces/policy.yaml"));
        let scores = sweep(&trial(8, Queue::Replica), &policy.unwrap(), &|_| ()).unwrap();
        let of = |name: &str| scores.iter().filter(|score| score.scaler == name).cloned().collect::<Vec<_>>();
        let ours = of("weir");
        assert_eq!(ours.iter().map(|score| score.quick_reversals).sum::<usize>(), 0);
        for (peer, most) in [(Peer::Hpa, 0.6), (Peer::Kpa, 0.4), (Peer::HpaMinute, 1.4)] {
            let compared = compare(&ours, &of(peer.name()));
            let ratio = compared.ratio.unwrap_or(0.0);
            assert!(compared.points + compared.cheaper > 3 && ratio <= most, "{}: {compared:?}", peer.name());
        }
    }

    #[test]
    fn the_oracle_is_never_late_and_the_same_replay_is_the_same() {
        let trial = trial(2, Queue::Central);
        let oracle = trial.oracle(&|_| ());
        assert!(oracle.score.slo_violation_ratio < 0.001, "{:?}", oracle.score);
        let hpa = || trial.peer(Peer::Hpa, 1.0, &|_| ()).score;
        assert_eq!(hpa(), hpa());
    }
}
