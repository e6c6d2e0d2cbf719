//! Feedback `connections`: moves the shares of a service's backends until each carries as many connections as its weight deserves.
//!
//! A slow server holds its connections longer; with equal shares it holds more of them. Every second a backend's *factor* goes a
//! bounded step down if it holds more than its due and up if it holds less. Counts are smoothed, and what chance alone explains
//! moves nothing. Data that is too old moves every factor back to 1.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

/// Part of a new count in the smoothed one.
const SMOOTHING: f64 = 0.2;
/// Part of the (logarithmic) error that one step makes good.
const GAIN: f64 = 0.25;
/// The largest step: about 10 %.
const LARGEST_STEP: f64 = 0.1;
/// A backend this near to its due is left alone.
const DEAD_BAND: f64 = 0.15;
/// How far a factor may go from 1, each way.
const LARGEST_FACTOR: f64 = 16.0;
/// Counts older than this say nothing.
const STALE: Duration = Duration::from_secs(5);

/// What is seen of a backend that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Connections open now.
    pub active: u64,
    /// Connections ever.
    pub connections: u64,
    /// Its static weight, not 0.
    pub weight: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Track {
    smoothed: f64,
    connections: u64,
    factor: f64,
    /// It has left the dead band and is not back at its due yet.
    moving: bool,
}

/// The state of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionFeedback {
    tracks: BTreeMap<SocketAddr, Track>,
    seen: Option<Duration>,
}

impl ConnectionFeedback {
    /// The factors: 1 is the static weight.
    pub fn factors(&self) -> BTreeMap<SocketAddr, f64> {
        self.tracks.iter().map(|(at, track)| (*at, track.factor)).collect()
    }

    /// Takes in what was seen at a time of any monotonic clock; none if nothing could be seen.
    pub fn step(&mut self, now: Duration, seen: Option<&BTreeMap<SocketAddr, Observation>>) {
        if self.seen.is_some_and(|last| now.saturating_sub(last) > STALE) {
            self.tracks.clear();
        }
        let Some(seen) = seen else { return };
        self.seen = Some(now);
        let moved = self.observe(seen);
        // Shares decide about new connections only: without any, open ones say nothing new.
        if moved && seen.len() > 1 {
            self.adjust(seen);
        }
    }

    /// Smooths the counts. Returns whether there were new connections.
    fn observe(&mut self, seen: &BTreeMap<SocketAddr, Observation>) -> bool {
        let mut moved = false;
        self.tracks.retain(|at, _| seen.contains_key(at));
        for (at, now) in seen {
            let fresh = Track { smoothed: now.active as f64, connections: now.connections, factor: 1.0, moving: false };
            let track = self.tracks.entry(*at).or_insert(fresh);
            moved |= now.connections != track.connections;
            track.connections = now.connections;
            track.smoothed += SMOOTHING * (now.active as f64 - track.smoothed);
        }
        moved
    }

    fn adjust(&mut self, seen: &BTreeMap<SocketAddr, Observation>) {
        let total: f64 = self.tracks.values().map(|t| t.smoothed).sum();
        let weights: f64 = seen.values().map(|o| f64::from(o.weight)).sum();
        let mut anybody = false;
        for (at, track) in &mut self.tracks {
            let due = total * seen.get(at).map_or(0.0, |o| f64::from(o.weight)) / weights;
            track.moving = is_off(track.smoothed, due, track.moving);
            if track.moving {
                track.factor *= step(track.smoothed, due).exp();
                anybody = true;
            }
        }
        if !anybody {
            return;
        }
        self.keep_mean(seen, weights);
    }

    /// Only relations matter: keeps the weighted mean of the factors at 1, so that they do not drift to a bound together.
    fn keep_mean(&mut self, seen: &BTreeMap<SocketAddr, Observation>, weights: f64) {
        let weight = |at: &SocketAddr| seen.get(at).map_or(0.0, |o| f64::from(o.weight));
        let mean: f64 = self.tracks.iter().map(|(at, t)| t.factor * weight(at)).sum::<f64>() / weights;
        for track in self.tracks.values_mut() {
            track.factor = (track.factor / mean).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR);
        }
    }
}

/// Whether a backend that carries `load` is off its `due`. The dead band is at least what chance makes of a smoothed count (three of
/// its standard deviations, if it is a Poisson one); who has left it moves until it is well inside, so that nobody sits at its edge.
fn is_off(load: f64, due: f64, moving: bool) -> bool {
    let band = (DEAD_BAND * due).max(due.sqrt()).max(0.75);
    (load - due).abs() > if moving { band / 3.0 } else { band }
}

/// The logarithmic step that makes good a part of the error.
fn step(load: f64, due: f64) -> f64 {
    (GAIN * ((due + 1.0) / (load + 1.0)).ln()).clamp(-LARGEST_STEP, LARGEST_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n as u8], 80))
    }

    /// Servers that each hold a connection for their own time, and random arrivals shared by weight x factor.
    struct Simulation {
        hold: Vec<f64>,
        weights: Vec<u16>,
        open: Vec<Vec<f64>>,
        connections: Vec<u64>,
        random: u64,
        now: f64,
        feedback: ConnectionFeedback,
    }

    impl Simulation {
        fn new(hold: &[f64], weights: &[u16]) -> Self {
            let n = hold.len();
            Self {
                hold: hold.to_vec(),
                weights: weights.to_vec(),
                open: vec![Vec::new(); n],
                connections: vec![0; n],
                random: 7,
                now: 0.0,
                feedback: ConnectionFeedback::default(),
            }
        }

        fn uniform(&mut self) -> f64 {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (lb_common::hash::mix(self.random) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn shares(&self) -> Vec<f64> {
            let factors = self.feedback.factors();
            let raw = |n: usize| f64::from(self.weights[n]) * factors.get(&at(n)).copied().unwrap_or(1.0);
            let total: f64 = (0..self.hold.len()).map(raw).sum();
            (0..self.hold.len()).map(|n| raw(n) / total).collect()
        }

        /// One second of random arrivals, then one step of the feedback. Returns the connections open at its end.
        fn second(&mut self, rate: f64) -> Vec<u64> {
            let (shares, end) = (self.shares(), self.now + 1.0);
            loop {
                self.now -= (1.0 - self.uniform()).ln() / rate;
                if self.now >= end {
                    break;
                }
                let mut draw = self.uniform();
                let chosen = shares
                    .iter()
                    .position(|share| {
                        draw -= share;
                        draw < 0.0
                    })
                    .unwrap_or(0);
                let hold = -(1.0 - self.uniform()).ln() * self.hold[chosen];
                self.open[chosen].push(self.now + hold);
                self.connections[chosen] += 1;
            }
            self.now = end;
            self.open.iter_mut().for_each(|open| open.retain(|until| *until > end));
            let active: Vec<u64> = self.open.iter().map(|open| open.len() as u64).collect();
            let seen = self.observations(&active);
            self.feedback.step(Duration::from_secs_f64(self.now), Some(&seen));
            active
        }

        fn observations(&self, active: &[u64]) -> BTreeMap<SocketAddr, Observation> {
            let of =
                |n: usize| Observation { active: active[n], connections: self.connections[n], weight: self.weights[n] };
            (0..active.len()).map(|n| (at(n), of(n))).collect()
        }
    }

    #[test]
    fn a_server_four_times_slower_gets_a_quarter() {
        for (rate, weights) in [(400.0, [100, 100, 100, 100]), (1000.0, [1, 1, 1, 1]), (1000.0, [100, 200, 100, 100])] {
            let mut simulation = Simulation::new(&[0.1, 0.1, 0.1, 0.4], &weights);
            let mut mean = [0.0; 4];
            for second in 0..180 {
                let active = simulation.second(rate);
                if second >= 120 {
                    active.iter().zip(&mut mean).for_each(|(a, m)| *m += *a as f64 / 60.0);
                }
            }
            let loads: Vec<f64> = mean.iter().zip(weights).map(|(m, w)| m / f64::from(w)).collect();
            let average: f64 = mean.iter().sum::<f64>() / weights.iter().map(|w| f64::from(*w)).sum::<f64>();
            let shares = simulation.shares();
            for load in &loads {
                assert!((load / average - 1.0).abs() < 0.3, "rate {rate}: loads {loads:?}, shares {shares:?}");
            }
            let slow = shares[3] / shares[0] * f64::from(weights[0]) / f64::from(weights[3]);
            assert!((0.18..0.36).contains(&slow), "rate {rate}: the slow server gets {slow} of a fast one's share");
        }
    }

    #[test]
    fn equal_servers_are_left_alone() {
        let mut simulation = Simulation::new(&[0.1; 4], &[100; 4]);
        (0..10).for_each(|_| drop(simulation.second(400.0)));
        let mut changes = 0;
        for _ in 0..300 {
            let before = simulation.feedback.factors();
            simulation.second(400.0);
            changes += u32::from(!before.is_empty() && before != simulation.feedback.factors());
        }
        assert!(changes <= 15, "{changes} changes in 300 s of chance");
        assert!(simulation.feedback.factors().values().all(|f| (0.8..1.25).contains(f)));
    }

    #[test]
    fn a_step_is_bounded() {
        let mut simulation = Simulation::new(&[0.1, 4.0], &[100, 100]);
        for _ in 0..60 {
            let before = simulation.feedback.factors();
            simulation.second(500.0);
            for (at, factor) in simulation.feedback.factors() {
                let ratio = factor / before.get(&at).copied().unwrap_or(1.0);
                assert!((0.8..=1.25).contains(&ratio), "{ratio}");
                assert!((1.0 / LARGEST_FACTOR..=LARGEST_FACTOR).contains(&factor));
            }
        }
    }

    #[test]
    fn stale_data_means_static_weights() {
        let mut simulation = Simulation::new(&[0.1, 0.8], &[100, 100]);
        (0..60).for_each(|_| drop(simulation.second(500.0)));
        let learned = simulation.feedback.factors();
        assert!(learned[&at(1)] < 0.5);
        simulation.feedback.step(Duration::from_secs(64), None);
        assert_eq!(simulation.feedback.factors(), learned, "a gap of a few seconds is nothing");
        simulation.feedback.step(Duration::from_secs(66), None);
        assert!(simulation.feedback.factors().is_empty());
    }

    #[test]
    fn without_new_connections_nothing_moves() {
        let mut feedback = ConnectionFeedback::default();
        let seen = |active, connections| Observation { active, connections, weight: 100 };
        let seen: BTreeMap<_, _> = [(at(0), seen(1000, 1000)), (at(1), seen(0, 0))].into();
        for second in 0..30 {
            feedback.step(Duration::from_secs(second), Some(&seen));
        }
        assert!(feedback.factors().values().all(|f| *f == 1.0));
    }
}
