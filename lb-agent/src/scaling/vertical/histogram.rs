//! A histogram whose weights halve with time, so that its percentiles follow what is used lately: the estimator of the Kubernetes vertical
//! pod autoscaler's recommender (`pkg/recommender/util/decaying_histogram.go`), with its buckets, each 5 % wider than the one before.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// After so long a sample has half its weight.
pub const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How much wider each bucket is than the one before.
const RATIO: f64 = 1.05;
/// Buckets, the last of which is open: from thousandths of a CPU to thousands, from megabytes to terabytes.
const BUCKETS: u16 = 400;
/// After so many half-lives weights are brought back to where they can be added to.
const RESCALE: f64 = 100.0;
/// Weights below this part of a sample count for nothing.
const NOTHING: f64 = 1e-4;

/// What was used, by how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The width of the first bucket.
    first: f64,
    /// Weights as of `reference`.
    weights: BTreeMap<u16, f64>,
    /// When a sample has the weight that it is added with.
    reference: Duration,
}

/// A histogram as it is kept where it outlives its leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// When the weights were right, in seconds since 1970.
    pub at_seconds: u64,
    /// Thousandths of samples, by bucket.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub weights: BTreeMap<u16, u64>,
}

impl Histogram {
    /// An empty one, whose first bucket ends at `first`.
    pub const fn new(first: f64) -> Self {
        Self { first, weights: BTreeMap::new(), reference: Duration::ZERO }
    }

    /// Whether it has samples.
    pub fn is_empty(&self) -> bool {
        self.weights.values().all(|weight| *weight < NOTHING)
    }

    /// Takes a sample of `weight` samples (of a negative one: takes it back), made at `at`, a time since 1970.
    pub fn add(&mut self, value: f64, weight: f64, at: Duration) {
        if self.weights.is_empty() {
            self.reference = at;
        }
        if halves(self.reference, at) > RESCALE {
            let factor = (-halves(self.reference, at)).exp2();
            self.weights.values_mut().for_each(|weight| *weight *= factor);
            self.weights.retain(|_, weight| *weight >= NOTHING);
            self.reference = at;
        }
        let part = self.weights.entry(self.bucket(value)).or_default();
        *part = (*part + weight * halves(self.reference, at).exp2()).max(0.0);
    }

    /// The amount below which this part of the weight is: the end of its bucket. None without samples.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let total: f64 = self.weights.values().sum();
        let mut sum = 0.0;
        let reaches = |(bucket, weight): (&u16, &f64)| {
            sum += weight;
            (*weight > NOTHING && sum >= part * total).then(|| self.end(*bucket))
        };
        self.weights.iter().find_map(reaches).filter(|_| total > NOTHING)
    }

    /// To be kept.
    pub fn keep(&self, at: Duration) -> Weights {
        let factor = (-halves(self.reference, at)).exp2() * 1000.0;
        let weights = self.weights.iter().map(|(bucket, weight)| (*bucket, (weight * factor).round() as u64));
        Weights { at_seconds: at.as_secs(), weights: weights.filter(|(_, weight)| *weight > 0).collect() }
    }

    /// As it was kept.
    pub fn kept(first: f64, kept: &Weights) -> Self {
        let known = kept.weights.iter().filter(|(bucket, _)| **bucket < BUCKETS);
        let weights = known.map(|(bucket, weight)| (*bucket, *weight as f64 / 1000.0)).collect();
        Self { first, weights, reference: Duration::from_secs(kept.at_seconds) }
    }

    fn bucket(&self, value: f64) -> u16 {
        let at = (value.max(0.0) * (RATIO - 1.0) / self.first + 1.0).log(RATIO).floor();
        at.clamp(0.0, f64::from(BUCKETS - 1)) as u16
    }

    fn end(&self, bucket: u16) -> f64 {
        self.first * (RATIO.powi(i32::from(bucket) + 1) - 1.0) / (RATIO - 1.0)
    }
}

/// Half-lives from one time to another.
fn halves(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) / HALF_LIFE.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1_800_000_000);

    /// Of samples (value, count, hours after the first), the percentile.
    fn percentile(samples: &[(f64, u32, u64)], part: f64) -> f64 {
        let mut histogram = Histogram::new(10.0);
        for (value, count, hours) in samples {
            histogram.add(*value, f64::from(*count), T0 + Duration::from_secs(hours * 3600));
        }
        histogram.percentile(part).unwrap()
    }

    #[test]
    fn a_percentile_is_the_end_of_its_bucket() {
        type Case = (&'static str, &'static [(f64, u32, u64)], f64, f64);
        let cases: [Case; 7] = [
            ("one sample", &[(200.0, 1, 0)], 0.9, 200.0),
            ("nine of ten", &[(100.0, 90, 0), (400.0, 10, 0)], 0.9, 100.0),
            ("more than one of ten", &[(100.0, 89, 0), (400.0, 11, 0)], 0.9, 400.0),
            ("the middle", &[(100.0, 50, 0), (400.0, 50, 0)], 0.5, 100.0),
            ("a day ago it was twice as much", &[(400.0, 21, 0), (100.0, 90, 24)], 0.9, 400.0),
            ("two days ago it was", &[(400.0, 21, 0), (100.0, 90, 48)], 0.9, 100.0),
            ("half a year ago it was", &[(400.0, 1_000_000, 0), (100.0, 1, 5000)], 0.9, 100.0),
        ];
        for (name, samples, part, wanted) in cases {
            let got = percentile(samples, part);
            assert!(got >= wanted && got <= wanted * 1.05 + 10.0, "{name}: {got} is not a little more than {wanted}");
        }
        assert_eq!(Histogram::new(10.0).percentile(0.9), None);
    }

    #[test]
    fn a_sample_can_be_taken_back() {
        let mut histogram = Histogram::new(10.0);
        histogram.add(100.0, 1.0, T0);
        histogram.add(900.0, 1.0, T0);
        histogram.add(900.0, -1.0, T0);
        assert!(histogram.percentile(1.0).unwrap() < 120.0);
        histogram.add(100.0, -1.0, T0);
        assert_eq!((histogram.percentile(0.9), histogram.is_empty()), (None, true));
    }

    #[test]
    fn what_is_kept_decides_the_same_afterwards() {
        let mut histogram = Histogram::new(10.0);
        (0..300).for_each(|n| histogram.add(f64::from(n), 1.0, T0 + Duration::from_secs(600 * n as u64)));
        let at = T0 + Duration::from_secs(300 * 600);
        let text = serde_json::to_string(&histogram.keep(at)).unwrap();
        assert!(text.len() < 2000, "{} bytes", text.len());
        let kept = Histogram::kept(10.0, &serde_json::from_str(&text).unwrap());
        for part in [0.1, 0.5, 0.9, 0.99] {
            assert_eq!(kept.percentile(part), histogram.percentile(part), "{part}");
        }
        assert_eq!(kept.keep(at), histogram.keep(at));
    }
}
