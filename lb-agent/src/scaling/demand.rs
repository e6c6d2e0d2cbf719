//! How much load to be ready for, from how it was: a mean, and so many deviations for what varies faster than replicas can start.
//!
//! Requests come at random, so the number in flight varies around its mean even where nothing changes; what the replicas must carry is
//! the mean and the variation. The deviation is that of differences over 5 s, so that a rise of the mean, which the mean follows, is
//! not taken for noise. Both look back as far as the policy's stabilisation of scale-downs does, and no farther than 300 s. The numbers
//! are those with which policies of one default do best over the traces of docs/scaling.md.

use std::{collections::VecDeque, time::Duration};

/// A load that is there for so long counts at once.
const SHORT: Duration = Duration::from_secs(5);
/// The distance of the loads whose difference is variation.
const LAG: Duration = Duration::from_secs(5);
/// The longest window, for policies that scale down later: what is older says little of what comes.
const MOST: Duration = Duration::from_secs(300);
/// So many deviations are kept free.
const DEVIATIONS: f64 = 3.5;
/// The part of the window that the mean is over.
const MEAN_OF_WINDOW: u32 = 2;

/// The loads of a window.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    loads: VecDeque<(Duration, f64)>,
}

impl Demand {
    /// Takes the load that is there now, and says how much to be ready for.
    pub fn see(&mut self, load: f64, window: Duration, now: Duration) -> f64 {
        let window = window.min(MOST);
        self.loads.push_back((now, load));
        while self.loads.front().is_some_and(|(at, _)| now.saturating_sub(*at) > window + LAG) {
            self.loads.pop_front();
        }
        let usual = self.mean(window / MEAN_OF_WINDOW, now) + DEVIATIONS * self.deviation(window, now);
        usual.max(self.mean(SHORT.min(window), now))
    }

    /// The mean of the loads that are newer than a window, the newest included.
    fn mean(&self, window: Duration, now: Duration) -> f64 {
        let recent = self.loads.iter().rev().enumerate();
        let within = recent.take_while(|(index, (at, _))| *index == 0 || now.saturating_sub(*at) < window);
        let (count, sum) = within.fold((0.0, 0.0), |(count, sum), (_, (_, load))| (count + 1.0, sum + load));
        sum / f64::max(count, 1.0)
    }

    /// The standard deviation of loads, from their differences over a lag.
    fn deviation(&self, window: Duration, now: Duration) -> f64 {
        let mut earlier = self.loads.iter().rev().peekable();
        let (mut count, mut sum) = (0.0, 0.0);
        for (at, load) in self.loads.iter().rev().take_while(|(at, _)| now.saturating_sub(*at) < window) {
            while earlier.next_if(|(before, _)| *before + LAG > *at).is_some() {}
            let Some((_, before)) = earlier.peek() else { break };
            count += 1.0;
            sum += (load - before) * (load - before) / 2.0;
        }
        f64::sqrt(sum / f64::max(count, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn follow(window: Duration, seconds: u64, load: impl Fn(u64) -> f64) -> Vec<f64> {
        let mut demand = Demand::default();
        (0..seconds).map(|second| demand.see(load(second), window, Duration::from_secs(1000 + second))).collect()
    }

    #[test]
    fn a_load_that_does_not_vary_is_itself() {
        assert!(follow(WINDOW, 700, |_| 16.0).iter().all(|demand| (demand - 16.0).abs() < 1e-9));
    }

    #[test]
    fn without_a_window_the_load_counts_as_it_is() {
        let load = |second: u64| (second % 7) as f64;
        let demand = follow(Duration::ZERO, 100, load);
        assert!(demand.iter().enumerate().all(|(second, demand)| *demand == load(second as u64)));
    }

    #[test]
    fn a_step_counts_within_seconds_and_is_not_doubled() {
        let demand = follow(WINDOW, 700, |second| if second < 100 { 0.0 } else { 16.0 });
        assert!(demand[99] == 0.0 && demand[105] >= 16.0, "{}", demand[105]);
        let most = demand.iter().copied().fold(0.0, f64::max);
        assert!(most < 16.0 * 1.6, "{most}");
        assert!((demand[699] - 16.0).abs() < 1e-9, "nothing is left of the step");
    }

    #[test]
    fn variation_is_kept_free() {
        let mut rng = fastrand::Rng::with_seed(3);
        let loads: Vec<f64> = (0..700).map(|_| 20.0 + if rng.bool() { 4.0 } else { -4.0 }).collect();
        let demand = follow(WINDOW, 700, |second| loads[second as usize]);
        assert!((demand[699] - (20.0 + DEVIATIONS * 4.0)).abs() < 2.0, "{}", demand[699]);
    }

    #[test]
    fn samples_far_apart_differ_from_the_one_before() {
        let mut demand = Demand::default();
        let step = |step: u32| {
            demand.see(if step.is_multiple_of(2) { 4.0 } else { 6.0 }, WINDOW, Duration::from_secs(40) * step)
        };
        let last = (0..20).map(step).last().unwrap();
        assert!((last - (5.0 + DEVIATIONS * f64::sqrt(2.0))).abs() < 1e-9, "{last}");
    }
}
