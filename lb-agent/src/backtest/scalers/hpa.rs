//! The HorizontalPodAutoscaler of autoscaling/v2 on a metric of its pods, with its defaults: a sync every 15 s, 10 % tolerance, up
//! by 4 pods or 100 % within 15 s, whichever is more, down to the highest recommendation of the last 300 s. Pods that are not ready,
//! or that the metric does not cover yet, count as carrying nothing on the way up; on the way down the former are left out and the
//! latter count as on target. The metric reaches it late: it was scraped, and then aggregated.

use std::collections::VecDeque;

use crate::backtest::replay::{Observation, Scaler};

const SYNC: u64 = 15;
const TOLERANCE: f64 = 0.1;
const STABILISATION: u64 = 300;
const PODS_UP: u32 = 4;

/// The HPA.
#[derive(Clone, Debug)]
pub struct Hpa {
    target: f64,
    delay: u64,
    window: u64,
    /// Ready pods and requests in flight at each second.
    seen: VecDeque<(u32, f64)>,
    recommendations: VecDeque<(u64, u32)>,
}

impl Hpa {
    /// On a gauge of requests in flight, `target` of them per pod, that it sees `delay` seconds late.
    pub fn on_gauge(target: f64, delay: u64) -> Self {
        Self::on_mean(target, delay, 1)
    }

    /// On the mean of that gauge over so many seconds.
    pub fn on_mean(target: f64, delay: u64, window: u64) -> Self {
        Self { target, delay, window, seen: VecDeque::new(), recommendations: VecDeque::new() }
    }

    /// The metric as it is seen now: how many pods it covers, and its mean over them.
    fn metric(&self) -> Option<(u32, f64)> {
        let shown = self.seen.len().checked_sub(self.delay as usize).filter(|shown| *shown > 0)?;
        let window = self.seen.iter().take(shown).rev().take(self.window as usize);
        let total = window.clone().map(|(_, total)| total).sum::<f64>() / window.len() as f64;
        let (pods, _) = self.seen.get(shown - 1)?;
        Some((*pods, total / f64::from((*pods).max(1))))
    }

    /// What the replica calculator says.
    fn recommend(&self, seen: &Observation) -> u32 {
        match self.metric() {
            Some((covered, mean)) => calculate(self.target, mean, covered, seen.ready, seen.replicas),
            None => seen.replicas,
        }
    }
}

/// The number of pods from a metric's mean over the pods that it covers.
fn calculate(target: f64, mean: f64, covered: u32, ready: u32, replicas: u32) -> u32 {
    let covered = covered.min(ready);
    let (missing, unready) = (ready - covered, replicas - ready);
    let near = |ratio: f64| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
    let first = mean / target;
    let (ratio, pods) = if first > 1.0 {
        let pods = covered + missing + unready;
        (first * f64::from(covered) / f64::from(pods.max(1)), pods)
    } else {
        let pods = covered + missing;
        ((first * f64::from(covered) + f64::from(missing)) / f64::from(pods.max(1)), pods)
    };
    if near(ratio) || covered == 0 || (first > 1.0 && ratio < 1.0) {
        return replicas;
    }
    let wanted = (ratio * f64::from(pods)).ceil() as u32;
    if (ratio > 1.0 && wanted < replicas) || (ratio < 1.0 && wanted > replicas) { replicas } else { wanted }
}

impl Scaler for Hpa {
    fn desired(&mut self, seen: &Observation) -> u32 {
        self.seen.push_back((seen.ready, f64::from(seen.in_flight)));
        if self.seen.len() as u64 > self.delay + self.window {
            self.seen.pop_front();
        }
        if !seen.second.is_multiple_of(SYNC) {
            return seen.replicas;
        }
        let now = seen.second;
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, seen.replicas));
        }
        self.recommendations.push_back((now, self.recommend(seen)));
        self.recommendations.retain(|(at, _)| at + STABILISATION > now);
        let (_, wanted) = self.recommendations.back().copied().unwrap_or((now, seen.replicas));
        let highest = self.recommendations.iter().map(|(_, pods)| *pods).max().unwrap_or(wanted);
        if wanted > seen.replicas {
            wanted.min((seen.replicas + PODS_UP).max(seen.replicas * 2))
        } else {
            highest.min(seen.replicas).max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_calculated_as_documented() {
        // (what, target, mean, covered, ready, replicas) -> pods
        let cases = [
            ("twice the target doubles", 100.0, 200.0, 3, 3, 3, 6),
            ("half the target halves", 100.0, 50.0, 4, 4, 4, 2),
            ("part of a pod is a pod", 100.0, 130.0, 3, 3, 3, 4),
            ("10 % more is on target", 100.0, 110.0, 5, 5, 5, 5),
            ("10 % less is on target", 100.0, 90.0, 10, 10, 10, 10),
            ("11 % more is not", 100.0, 111.0, 5, 5, 5, 6),
            ("pods that start count as 0 on the way up", 100.0, 200.0, 2, 2, 3, 4),
            ("they make it enough", 100.0, 150.0, 2, 2, 4, 4),
            ("they are left out on the way down", 100.0, 40.0, 4, 4, 5, 2),
            ("pods without a metric count as 0 on the way up", 100.0, 300.0, 2, 4, 4, 6),
            ("and as on target on the way down", 100.0, 50.0, 2, 4, 4, 3),
            ("no pod that says anything", 100.0, 50.0, 0, 4, 4, 4),
        ];
        for (what, target, mean, covered, ready, replicas, expected) in cases {
            assert_eq!(calculate(target, mean, covered, ready, replicas), expected, "{what}");
        }
    }

    /// Follows a load that all replicas share at once, `(from second, in flight)`; the number of replicas at each second.
    fn follow(mut hpa: Hpa, load: &[(u64, u32)], mut replicas: u32, seconds: u64) -> Vec<u32> {
        let mut followed = Vec::new();
        for second in 0..seconds {
            let in_flight = load.iter().rev().find(|(from, _)| *from <= second).map_or(0, |(_, load)| *load);
            let seen = Observation { second, replicas, ready: replicas, in_flight, arrived: 0 };
            replicas = hpa.desired(&seen);
            followed.push(replicas);
        }
        followed
    }

    #[test]
    fn it_syncs_every_15_seconds_on_an_old_metric_and_grows_by_4_or_to_the_double() {
        let numbers = follow(Hpa::on_gauge(1.0, 22), &[(0, 2), (40, 100)], 2, 140);
        // The load of second 40 is seen from second 62 on.
        assert_eq!([numbers[74], numbers[75], numbers[89], numbers[90]], [2, 6, 6, 12]);
        assert_eq!([numbers[105], numbers[120], numbers[135]], [24, 48, 96]);
    }

    #[test]
    fn it_shrinks_to_the_most_of_the_last_5_minutes() {
        let numbers = follow(Hpa::on_gauge(1.0, 0), &[(0, 10), (20, 2), (200, 5), (230, 2)], 10, 700);
        // 10 was last recommended at 15, 5 at 225.
        assert_eq!([numbers[314], numbers[315], numbers[524], numbers[525]], [10, 5, 5, 2]);
    }

    #[test]
    fn the_mean_of_a_minute_is_slower_than_the_gauge() {
        let load = [(0, 2), (100, 8)];
        let first = |hpa| follow(hpa, &load, 2, 400).iter().position(|pods| *pods == 8);
        assert_eq!(first(Hpa::on_gauge(1.0, 0)), Some(120), "6 at 105, then 8");
        // The mean is above 7 from 150 s on.
        assert_eq!(first(Hpa::on_mean(1.0, 0, 60)), Some(150));
    }
}
