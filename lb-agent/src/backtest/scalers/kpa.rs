//! Knative's pod autoscaler on concurrency, with its defaults: every 2 s, the mean of the last 60 s, or of the last 6 s where that
//! asks for twice the ready pods (panic, which only raises and lasts 60 s after its last cause); at most 1000 times and at least half
//! of the ready pods at a time. Its queue proxies report every second.

use std::collections::VecDeque;

use crate::backtest::replay::{Observation, Scaler};

const TICK: u64 = 2;
const STABLE: usize = 60;
const PANIC: usize = 6;
const PANIC_THRESHOLD: f64 = 2.0;
const MAX_SCALE_UP: f64 = 1000.0;
const MAX_SCALE_DOWN: f64 = 2.0;

/// The KPA.
#[derive(Clone, Debug)]
pub struct Kpa {
    target: f64,
    seen: VecDeque<f64>,
    panic: Option<u64>,
    most: u32,
}

impl Kpa {
    /// For `target` requests in flight per pod.
    pub const fn new(target: f64) -> Self {
        Self { target, seen: VecDeque::new(), panic: None, most: 0 }
    }

    fn pods(&self, window: usize) -> f64 {
        let values = self.seen.iter().rev().take(window);
        let sum: f64 = values.clone().sum();
        (sum / values.len().max(1) as f64 / self.target).ceil()
    }
}

impl Scaler for Kpa {
    fn desired(&mut self, seen: &Observation) -> u32 {
        if self.seen.is_empty() && seen.ready > 1 {
            (self.panic, self.most) = (Some(seen.second), seen.ready);
        }
        self.seen.push_back(f64::from(seen.in_flight));
        if self.seen.len() > STABLE {
            self.seen.pop_front();
        }
        if !seen.second.is_multiple_of(TICK) {
            return seen.replicas;
        }
        let ready = f64::from(seen.ready.max(1));
        let (least, most) = ((ready / MAX_SCALE_DOWN).floor(), (ready * MAX_SCALE_UP).ceil());
        let stable = self.pods(STABLE).max(least).min(most) as u32;
        let burst = self.pods(PANIC);
        if burst / ready >= PANIC_THRESHOLD {
            self.panic = Some(seen.second);
        } else if self.panic.is_some_and(|since| since + (STABLE as u64) < seen.second) {
            (self.panic, self.most) = (None, 0);
        }
        if self.panic.is_none() {
            return stable.max(1);
        }
        self.most = self.most.max(stable).max(burst.max(least).min(most) as u32);
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(load: impl Fn(u64) -> u32, mut replicas: u32, seconds: u64) -> Vec<u32> {
        let mut kpa = Kpa::new(1.0);
        let mut followed = Vec::new();
        for second in 0..seconds {
            let seen = Observation { second, replicas, ready: replicas, in_flight: load(second), arrived: 0 };
            replicas = kpa.desired(&seen);
            followed.push(replicas);
        }
        followed
    }

    #[test]
    fn a_slow_rise_is_followed_by_the_mean_of_a_minute() {
        let numbers = follow(|second| if second < 100 { 10 } else { 15 }, 10, 300);
        assert_eq!(numbers[99], 10);
        // 12 and a half of the minute's 60 values are of the new load when its mean passes 11.
        assert_eq!(numbers.iter().position(|pods| *pods == 12), Some(112));
        assert_eq!(numbers.iter().position(|pods| *pods == 15), Some(148));
    }

    #[test]
    fn a_burst_of_twice_the_pods_is_panic() {
        let numbers = follow(|second| if (100..103).contains(&second) { 60 } else { 5 }, 5, 400);
        // 60 in 2 of 6 seconds is more than twice what 5 pods are for; 3 of 6 is more yet.
        assert_eq!([numbers[98], numbers[100], numbers[102]], [5, 15, 33]);
        let calm = numbers.iter().skip(103).position(|pods| *pods < 33).unwrap() + 103;
        // Panic ends when its last cause, at 106 s at the latest, is over a minute ago.
        assert!((162..=168).contains(&calm), "{calm}");
    }

    #[test]
    fn it_halves_at_most() {
        let numbers = follow(|second| if second < 10 { 16 } else { 0 }, 16, 400);
        let mut steps = numbers.clone();
        steps.dedup();
        assert_eq!(steps.last(), Some(&1));
        assert!(steps.windows(2).all(|pair| pair[1] * 2 + 1 >= pair[0]), "{steps:?}");
    }

    #[test]
    fn it_starts_in_panic_with_more_than_one_pod() {
        assert_eq!(follow(|_| 1, 8, 60)[59], 8);
        assert_eq!(follow(|_| 1, 1, 60)[59], 1);
    }
}
