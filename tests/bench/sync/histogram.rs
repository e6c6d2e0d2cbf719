//! Histograms of Prometheus' text format: what came between two looks.

use anyhow::{Context as _, Result, ensure};

/// A histogram at one moment: the counts up to each bound in seconds, the last of them infinity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

impl Histogram {
    /// That of this name, summed over the series in whose labels this text is; empty where there is none yet, as before the first value.
    pub(crate) fn read(page: &str, name: &str, label: &str) -> Result<Self> {
        let mut histogram = Self { buckets: Vec::new(), sum: 0.0 };
        for line in page.lines().filter_map(|line| line.strip_prefix(name)).filter(|line| line.contains(label)) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.starts_with("_bucket{") {
                let (_, bound) = series.split_once("le=\"").context("a bucket without bound")?;
                let bound = bound.split('"').next().unwrap_or_default();
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
                let count: f64 = value.parse()?;
                match histogram.buckets.iter_mut().find(|(known, _)| *known == bound) {
                    Some((_, known)) => *known += count,
                    None => histogram.buckets.push((bound, count)),
                }
            } else if series.starts_with("_sum") {
                histogram.sum += value.parse::<f64>()?;
            }
        }
        Ok(histogram)
    }

    /// The same, of which there must be something.
    pub(crate) fn of_something(self, name: &str) -> Result<Self> {
        ensure!(!self.buckets.is_empty(), "the metrics have no histogram {name}");
        Ok(self)
    }

    /// How many there were.
    pub(crate) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// What has come since an earlier look at the same histogram.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| before.buckets.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        let buckets = self.buckets.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
        Self { buckets, sum: self.sum - before.sum }
    }

    /// The value in seconds that this share does not exceed; within a bucket by its share of it, as Prometheus does.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = share * self.count();
        let mut below = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank && count > below.1 {
                let width = if bound.is_finite() { bound - below.0 } else { 0.0 };
                return below.0 + width * (rank - below.1) / (count - below.1);
            }
            below = (bound, count);
        }
        f64::NAN
    }

    /// The mean in seconds.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count()
    }
}
