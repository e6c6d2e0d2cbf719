//! The load that one replica carries: from a regression of a signal that saturates, such as CPU, on the load of a replica, solved for
//! the value at which the policy wants more replicas.

use std::collections::VecDeque;

use super::ols::{self, Column, Regression};

/// Pairs that are remembered: six hours of samples.
pub const ROOM: usize = 1440;

/// Pairs below which nothing is concluded.
const LEAST: usize = 30;

/// Standard errors that the slope must be away from nothing.
const CLEAR: f64 = 4.0;

/// How far beyond the greatest load that was seen the line is believed.
const BEYOND: f64 = 1.5;

/// What the load of one replica was, and the signal at that time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    pairs: VecDeque<(f32, f32)>,
}

/// The load that one replica carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// The load, in its unit.
    pub per_replica: f64,
    /// From what; none where the policy says it.
    pub regression: Option<Regression>,
}

/// A signal that rises with the load of a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The regression of the signal on the load.
    pub regression: Regression,
    /// By how much the signal rises with the load; greater than 0.
    pub slope: f64,
    /// The greatest load that was seen.
    pub most: f64,
}

impl Line {
    /// The signal at a load.
    pub fn at(&self, load: f64) -> f64 {
        self.regression.intercept.estimate + self.slope * load
    }

    /// The greatest load at which it is believed.
    pub fn reach(&self) -> f64 {
        self.most * BEYOND
    }
}

/// Why the capacity is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Too few pairs.
    #[error("the capacity of a replica is not known yet: {found} of {LEAST} samples with load")]
    TooFew {
        /// How many there are.
        found: usize,
    },
    /// The signal does not follow the load.
    #[error("the capacity of a replica is not known: the signal does not rise with the load (R2 {r_squared})")]
    NoSlope {
        /// How much of the signal the load explains, in words.
        r_squared: String,
    },
    /// The signal is above its limit without any load.
    #[error(
        "the capacity of a replica is not known: without load the signal would be {idle}, which is not below {limit}"
    )]
    Idle {
        /// The signal without load.
        idle: String,
        /// The limit.
        limit: String,
    },
}

impl Pairs {
    /// Pairs that were remembered.
    pub(super) fn from_parts(pairs: impl Iterator<Item = (f32, f32)>) -> Self {
        Self { pairs: pairs.filter(|(load, signal)| load.is_finite() && signal.is_finite()).take(ROOM).collect() }
    }

    /// All pairs, oldest first.
    pub(super) fn parts(&self) -> impl ExactSizeIterator<Item = (f32, f32)> + '_ {
        self.pairs.iter().copied()
    }

    /// Takes a pair. One without load says nothing of what a load costs beside others, and is left out.
    pub fn record(&mut self, load: f64, signal: f64) {
        let pair = (load as f32, signal as f32);
        if load > 0.0 && pair.0.is_finite() && pair.1.is_finite() {
            self.pairs.push_back(pair);
            self.pairs.drain(..self.pairs.len().saturating_sub(ROOM));
        }
    }

    /// The line by which the signal rises with the load.
    pub fn line(&self) -> Result<Line, Unknown> {
        let column = |name: &str, values: Vec<f64>| Column { name: name.into(), values };
        let load = column("load", self.pairs.iter().map(|pair| f64::from(pair.0)).collect());
        let signal = column("signal", self.pairs.iter().map(|pair| f64::from(pair.1)).collect());
        let found = self.pairs.len();
        let most = load.values.iter().copied().fold(0.0, f64::max);
        let regression = ols::fit(&[load], &signal).map_err(|_| Unknown::TooFew { found })?;
        if found < LEAST {
            return Err(Unknown::TooFew { found });
        }
        let no_slope = || Unknown::NoSlope { r_squared: format!("{:.2}", regression.r_squared) };
        let slope = regression.terms.first().ok_or_else(no_slope)?;
        if slope.estimate <= CLEAR * slope.standard_error {
            return Err(no_slope());
        }
        Ok(Line { slope: slope.estimate, regression, most })
    }

    /// The load of one replica at which the signal reaches the limit.
    pub fn capacity(&self, limit: f64) -> Result<Capacity, Unknown> {
        let line = self.line()?;
        let idle = line.at(0.0);
        if idle >= limit {
            return Err(Unknown::Idle { idle: format!("{idle:.3}"), limit: format!("{limit:.3}") });
        }
        let per_replica = ((limit - idle) / line.slope).min(line.reach());
        Ok(Capacity { per_replica, regression: Some(line.regression) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(signal: impl Fn(f64) -> f64) -> Pairs {
        let mut pairs = Pairs::default();
        (0..60).for_each(|load| pairs.record(f64::from(load), signal(f64::from(load))));
        pairs
    }

    #[test]
    fn where_the_line_meets_the_limit() {
        let noisy = |load: f64| 10.0 + 2.0 * load + if load % 2.0 == 0.0 { 3.0 } else { -3.0 };
        let capacity = pairs(noisy).capacity(80.0).unwrap();
        assert!((capacity.per_replica - 35.0).abs() < 1.0, "{capacity:?}");
    }

    #[test]
    fn the_line_is_not_believed_far_beyond_what_was_seen() {
        assert_eq!(pairs(|load| 0.1 * load).capacity(80.0).unwrap().per_replica, 59.0 * BEYOND);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut few = Pairs::default();
        (1..10).for_each(|load| few.record(f64::from(load), f64::from(load)));
        few.record(0.0, 50.0);
        for (pairs, said) in [
            (few, "9 of 30 samples"),
            (pairs(|load| (load * 7.0) % 5.0), "does not rise with the load (R2 0.0"),
            (pairs(|_| 5.0), "does not rise with the load (R2 1.00)"),
            (pairs(|load| 90.0 + load), "without load the signal would be 90.000, which is not below 80.000"),
        ] {
            let error = pairs.capacity(80.0).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
