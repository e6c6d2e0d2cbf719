//! What a replay was worth: how many requests waited too long, what the replicas cost, and how the supply followed the demand.
//!
//! Under- and over-provisioning accuracy and time share, and the elastic speed-up, are those of the SPEC research group (Herbst et al.,
//! "Quantifying Cloud Performance and Dependability", ACM TOMPECS 3(4), 2018), as shares and not as percentages. The demand at a time
//! is the least number of replicas on which no request would wait; the supply is what is ready.

use serde::Serialize;

use super::{
    replay::Record,
    workload::{Nanos, SECOND, seconds},
};

/// A scale-in so soon after a scale-out is a quick reversal.
const QUICK: u64 = 120;

/// The result of one scaler.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Who decided.
    pub scaler: &'static str,
    /// Its one free number: the target as a share of a replica's slots; replicas of a fixed fleet.
    pub parameter: Option<f64>,
    /// Requests that were scored.
    pub requests: usize,
    /// The share of them that waited for longer than the SLO.
    pub slo_violation_ratio: f64,
    /// The median waiting time.
    pub p50_wait_seconds: f64,
    /// The waiting time that one in a hundred exceeds.
    pub p99_wait_seconds: f64,
    /// What the replicas cost, from the decision to start one until it is gone.
    pub replica_seconds: f64,
    /// The share of that in which a slot served a request.
    pub mean_utilisation: f64,
    /// Changes of the number of replicas.
    pub actions: usize,
    /// Scale-ins within two minutes of a scale-out.
    pub quick_reversals: usize,
    /// How much of the demand was missing, on average over time.
    pub under_provisioning: f64,
    /// How much more than the demand there was, on average over time and as a share of the demand.
    pub over_provisioning: f64,
    /// The share of time with less than the demand.
    pub under_provisioned_time: f64,
    /// The share of time with more than the demand.
    pub over_provisioned_time: f64,
    /// How much better the four numbers above are than those of the fixed fleet of equal cost: the mean of the four ratios, geometric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elastic_speedup: Option<f64>,
}

/// By what a replay is judged.
#[derive(Clone, Copy, Debug)]
pub struct Yardstick<'a> {
    /// The longest waiting time that is no violation.
    pub slo: Nanos,
    /// The time at the start that is not scored.
    pub warmup: Nanos,
    /// Slots of a replica.
    pub concurrency: u32,
    /// Replicas on which no request would wait, at each second.
    pub demand: &'a [u32],
}

impl Yardstick<'_> {
    /// Judges a replay.
    pub fn score(&self, scaler: &'static str, parameter: Option<f64>, record: &Record) -> Score {
        let mut waits: Vec<Nanos> = record.waits.iter().map(|(_, waited)| *waited).collect();
        let late = waits.iter().filter(|waited| **waited > self.slo).count();
        let slots = record.replica_seconds * f64::from(self.concurrency);
        let warm = self.warmup / SECOND;
        let actions = record.changes.iter().filter(|change| change.0 >= warm).count();
        let [under, over, under_time, over_time] = self.elasticity(record);
        Score {
            scaler,
            parameter,
            requests: waits.len(),
            slo_violation_ratio: share(late as f64, waits.len() as f64),
            p50_wait_seconds: quantile(&mut waits, 0.5),
            p99_wait_seconds: quantile(&mut waits, 0.99),
            replica_seconds: record.replica_seconds,
            mean_utilisation: share(record.busy_seconds, slots),
            actions,
            quick_reversals: quick_reversals(&record.changes, warm),
            under_provisioning: under,
            over_provisioning: over,
            under_provisioned_time: under_time,
            over_provisioned_time: over_time,
            elastic_speedup: None,
        }
    }

    fn elasticity(&self, record: &Record) -> [f64; 4] {
        let warm = usize::try_from(self.warmup / SECOND).unwrap_or(usize::MAX);
        let pairs = self.demand.iter().zip(&record.ticks).skip(warm);
        let mut sums = [0.0; 4];
        let mut count = 0.0;
        for (demand, tick) in pairs {
            let (demand, supply) = (f64::from(*demand), f64::from(tick.ready));
            let step = [(demand - supply).max(0.0) / demand, (supply - demand).max(0.0) / demand];
            sums[0] += step[0];
            sums[1] += step[1];
            sums[2] += f64::from(u8::from(step[0] > 0.0));
            sums[3] += f64::from(u8::from(step[1] > 0.0));
            count += 1.0;
        }
        sums.map(|sum| share(sum, count))
    }
}

/// The elastic speed-up over a baseline, where all numbers are greater than 0.
pub fn speedup(of: &Score, over: &Score) -> Option<f64> {
    let numbers = |score: &Score| {
        [score.under_provisioning, score.over_provisioning, score.under_provisioned_time, score.over_provisioned_time]
    };
    let ratios = numbers(of).into_iter().zip(numbers(over)).map(|(of, over)| over / of);
    let product: f64 = ratios.product();
    (product.is_finite() && product > 0.0).then(|| product.powf(0.25))
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn quantile(waits: &mut [Nanos], quantile: f64) -> f64 {
    let Some(last) = waits.len().checked_sub(1) else {
        return 0.0;
    };
    let (_, value, _) = waits.select_nth_unstable((last as f64 * quantile).ceil() as usize);
    seconds(*value)
}

fn quick_reversals(changes: &[(u64, u32, u32)], from: u64) -> usize {
    let mut out = None;
    let mut quick = 0;
    for (second, before, after) in changes {
        if after > before {
            out = Some(*second);
        } else if *second >= from && out.is_some_and(|out| second - out < QUICK) {
            quick += 1;
        }
    }
    quick
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::replay::Tick;

    fn judge(demand: &[u32], ready: &[u32], waits: &[f64]) -> Score {
        let tick = |ready: &u32| Tick { ready: *ready, present: *ready };
        let record = Record {
            waits: waits.iter().map(|wait| (0, (wait * 1e9) as Nanos)).collect(),
            ticks: ready.iter().map(tick).collect(),
            replica_seconds: 10.0,
            busy_seconds: 12.0,
            changes: vec![(0, 1, 2), (100, 2, 1), (300, 1, 3), (420, 3, 2)],
        };
        Yardstick { slo: SECOND, warmup: 0, concurrency: 2, demand }.score("fixed", None, &record)
    }

    #[test]
    fn elasticity_is_that_of_spec() {
        let score = judge(&[4, 4, 2, 1], &[2, 4, 3, 3], &[]);
        assert!((score.under_provisioning - 0.5 / 4.0).abs() < 1e-12);
        assert!((score.over_provisioning - (0.5 + 2.0) / 4.0).abs() < 1e-12);
        assert_eq!((score.under_provisioned_time, score.over_provisioned_time), (0.25, 0.5));
        let double = judge(&[4, 4, 2, 1], &[4, 4, 4, 1], &[]);
        assert_eq!(speedup(&double, &score), None, "nothing was missing");
        assert_eq!(speedup(&score, &score), Some(1.0));
    }

    #[test]
    fn waits_and_costs_are_counted() {
        let score = judge(&[1], &[1], &[0.0, 0.5, 1.0, 1.5, 9.0]);
        assert_eq!((score.requests, score.slo_violation_ratio), (5, 0.4), "a wait as long as the SLO is none");
        assert_eq!((score.p50_wait_seconds, score.p99_wait_seconds), (1.0, 9.0));
        assert!((score.mean_utilisation - 0.6).abs() < 1e-12);
        assert_eq!((score.actions, score.quick_reversals), (4, 1), "within 120 s, not after 120 s");
    }

    #[test]
    fn nothing_scored_is_no_division_by_zero() {
        let score = judge(&[], &[], &[]);
        assert_eq!((score.slo_violation_ratio, score.p99_wait_seconds, score.under_provisioning), (0.0, 0.0, 0.0));
    }
}
