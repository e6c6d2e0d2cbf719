//! An upper bound around any forecast, from how far its own earlier forecasts were off: the split conformal quantile of a rolling
//! window of residuals, its level steered by adaptive conformal inference (Gibbs and Candes, "Adaptive Conformal Inference Under
//! Distribution Shift", NeurIPS 2021), so that in the long run the wanted part of what comes is within the bound, whatever the load does.

use std::collections::VecDeque;

/// Below so many residuals there is no bound.
const LEAST: usize = 9;

/// Keeps the bounds of one forecaster.
#[derive(Clone, Debug, PartialEq)]
pub struct Conformal {
    quantile: f64,
    /// The part that may be above the bound, as steered.
    alpha: f64,
    residuals: VecDeque<f32>,
    sorted: Vec<f32>,
}

/// A forecast that waits for what comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Issued {
    /// What is foreseen.
    pub point: f64,
    /// What is not exceeded with the wanted probability.
    pub upper: Option<f64>,
}

/// How good a bound was: its pinball loss, and whether it held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Pinball loss (Koenker and Bassett, Econometrica 46, 1978), in the load's unit.
    pub loss: f64,
    /// The load was not above the bound.
    pub held: bool,
}

/// How many residuals a quantile is taken from: 50 beyond it, within 500 and 5000.
pub fn window(quantile: f64) -> usize {
    (50.0 / (1.0 - quantile)).clamp(500.0, 5000.0) as usize
}

impl Conformal {
    /// Knows nothing yet.
    pub fn new(quantile: f64) -> Self {
        Self { quantile, alpha: 1.0 - quantile, residuals: VecDeque::new(), sorted: Vec::new() }
    }

    /// What has to be remembered of it.
    pub(super) fn parts(&self) -> (f64, impl Iterator<Item = f32> + '_) {
        (self.alpha, self.residuals.iter().copied())
    }

    /// As it was remembered.
    pub(super) fn from_parts(quantile: f64, alpha: f64, residuals: impl Iterator<Item = f32>) -> Self {
        let mut conformal = Self::new(quantile);
        residuals.filter(|residual| residual.is_finite()).for_each(|residual| conformal.add(residual));
        conformal.alpha = conformal.within(alpha);
        conformal
    }

    /// How many residuals there are.
    pub fn known(&self) -> usize {
        self.sorted.len()
    }

    /// How many residuals a bound takes.
    pub fn wanted(&self) -> usize {
        LEAST.max((self.quantile / (1.0 - self.quantile) - 1e-9).ceil() as usize)
    }

    /// A forecast with its bound.
    pub fn issue(&self, point: f64) -> Issued {
        let known = self.sorted.len();
        let upper = (known >= self.wanted()).then(|| {
            let rank = ((known as f64 + 1.0) * (1.0 - self.alpha)).ceil() as usize;
            (point + f64::from(self.sorted[rank.clamp(1, known) - 1])).max(0.0)
        });
        Issued { point, upper }
    }

    /// Learns what came after a forecast was issued, and says how good its bound was.
    pub fn learn(&mut self, issued: Issued, came: f64) -> Option<Score> {
        self.add((came - issued.point) as f32);
        let upper = issued.upper?;
        let held = came <= upper;
        // A step of a tenth of what may be above: fast enough for a change of the load's nature within an hour.
        let part = 1.0 - self.quantile;
        self.alpha = self.within(self.alpha + 0.1 * part * (part - f64::from(u8::from(!held))));
        let loss = if held { part * (upper - came) } else { self.quantile * (came - upper) };
        Some(Score { loss, held })
    }

    fn within(&self, alpha: f64) -> f64 {
        let part = 1.0 - self.quantile;
        if alpha.is_finite() { alpha.clamp(part / 10.0, (5.0 * part).min(0.5)) } else { part }
    }

    fn add(&mut self, residual: f32) {
        self.residuals.push_back(residual);
        let at = self.sorted.partition_point(|other| *other < residual);
        self.sorted.insert(at, residual);
        if self.residuals.len() > window(self.quantile)
            && let Some(oldest) = self.residuals.pop_front()
        {
            let at = self.sorted.partition_point(|other| *other < oldest);
            self.sorted.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_bound_before_there_are_residuals_enough() {
        for (quantile, wanted) in [(0.5, 9), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)] {
            let mut conformal = Conformal::new(quantile);
            assert_eq!(conformal.wanted(), wanted);
            for residual in 0..wanted {
                let issued = conformal.issue(0.0);
                assert_eq!(issued.upper, None, "{residual} of {wanted}");
                assert_eq!(conformal.learn(issued, residual as f64), None);
            }
            assert!(conformal.issue(0.0).upper.is_some());
        }
    }

    #[test]
    fn the_bound_is_a_quantile_of_the_residuals() {
        let residuals = (1..=99).map(|residual| residual as f32);
        let conformal = Conformal::from_parts(0.9, 0.1, residuals);
        assert_eq!(conformal.issue(1000.0).upper, Some(1090.0));
        assert_eq!(conformal.issue(-5000.0).upper, Some(0.0), "a load is never negative");
    }

    #[test]
    fn misses_raise_the_bound_and_hits_lower_it() {
        let start = Conformal::from_parts(0.9, 0.1, (0..200).map(|residual| residual as f32));
        let bound = |conformal: &Conformal| conformal.issue(0.0).upper.unwrap();
        let mut missed = start.clone();
        (0..3).for_each(|_| assert!(!missed.learn(missed.issue(0.0), 195.0).unwrap().held));
        assert!(bound(&missed) > bound(&start) + 5.0);
        let mut held = start.clone();
        (0..50).for_each(|_| assert!(held.learn(held.issue(0.0), 100.0).unwrap().held));
        assert!(bound(&held) < bound(&start));
    }

    #[test]
    fn the_loss_is_the_pinball_loss() {
        let mut conformal = Conformal::new(0.9);
        let issued = Issued { point: 0.0, upper: Some(10.0) };
        let score = |conformal: &mut Conformal, came| {
            conformal.learn(issued, came).map(|score| (score.loss * 1e6).round() / 1e6)
        };
        assert_eq!(score(&mut conformal, 4.0), Some(0.6));
        assert_eq!(score(&mut conformal, 12.0), Some(1.8));
    }

    proptest! {
        /// Whatever comes, about nine in ten are within a bound of 0.9.
        #[test]
        fn coverage_holds_for_loads_that_change_their_nature(
            steps in prop::collection::vec((0.0..1.0f64, 1.0..100.0f64), 3..6), seed in 1..u64::MAX
        ) {
            let mut random = seed;
            let mut noise = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 11) as f64 / (1u64 << 53) as f64
            };
            let (mut conformal, mut scored, mut held) = (Conformal::new(0.9), 0, 0);
            for (base, spread) in steps {
                for _ in 0..600 {
                    let issued = conformal.issue(50.0);
                    if let Some(score) = conformal.learn(issued, 50.0 + base * 100.0 + spread * noise()) {
                        scored += 1;
                        held += u32::from(score.held);
                    }
                }
            }
            let coverage = f64::from(held) / f64::from(scored);
            prop_assert!((0.85..=0.97).contains(&coverage), "{coverage}");
        }
    }
}
