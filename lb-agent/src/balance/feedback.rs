//! Feedback: moves the shares of a service's backends until each carries what its weight deserves, of connections (`connections`) or of
//! requests in flight (`inflight`), or until all begin to answer equally fast (`latency`).
//!
//! A slow server holds its connections longer; with equal shares it holds more of them. Every second a backend's *factor* goes a
//! bounded step down if it has more than its due and up if it has less. What is seen is smoothed, and what chance alone explains
//! moves nothing. Data that is too old moves every factor back to 1.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::signals::requests::grown;

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
/// Data older than this says nothing.
const STALE: Duration = Duration::from_secs(5);
/// Of fewer answers lately there is no mean that says anything.
const FEWEST_ANSWERS: f64 = 3.0;
/// Three standard deviations of a mean over `n` answers are this part of it, by the root of `n`: times that are spread as exponential ones,
/// and older answers that count less.
const CHANCE: f64 = 2.2;

/// What is seen of a backend that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it has.
    pub has: Has,
    /// Its static weight, not 0.
    pub weight: u16,
}

/// What a backend has of what is to be shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    /// Connections or requests.
    Open {
        /// Open now.
        now: u64,
        /// Begun, ever.
        ever: u64,
    },
    /// Answers.
    Answered {
        /// Begun, ever.
        ever: u64,
        /// All times until they began, together.
        nanoseconds: u64,
    },
}

impl Has {
    /// A counter that moves with everything that is new.
    const fn ever(self) -> u64 {
        match self {
            Self::Open { ever, .. } | Self::Answered { ever, .. } => ever,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Track {
    last: Has,
    load: Load,
    factor: f64,
    /// It has left the dead band and is not back at its due yet.
    moving: bool,
}

/// What a backend has had lately.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    /// So many open, smoothed.
    Open(f64),
    /// So many answers, and nanoseconds of all of them; older ones count less.
    Answers { count: f64, nanoseconds: f64 },
}

/// The state of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightFeedback {
    tracks: BTreeMap<SocketAddr, Track>,
    seen: Option<Duration>,
}

impl WeightFeedback {
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
        // Shares decide about what is new only: without any, what is open says nothing new.
        if moved && seen.len() > 1 {
            self.adjust(seen);
        }
    }

    /// Smooths what was seen. Returns whether there was anything new.
    fn observe(&mut self, seen: &BTreeMap<SocketAddr, Observation>) -> bool {
        let mut moved = false;
        self.tracks.retain(|at, _| seen.contains_key(at));
        for (at, now) in seen {
            let fresh = Track { last: now.has, load: Load::first(now.has), factor: 1.0, moving: false };
            let track = self.tracks.entry(*at).or_insert(fresh);
            moved |= now.has.ever() != track.last.ever();
            track.load = track.load.and(track.last, now.has);
            track.last = now.has;
        }
        moved
    }

    fn adjust(&mut self, seen: &BTreeMap<SocketAddr, Observation>) {
        let weight = |at: &SocketAddr| seen.get(at).map_or(0.0, |o| f64::from(o.weight));
        let weights: f64 = seen.values().map(|o| f64::from(o.weight)).sum();
        let loads: Vec<_> = self.tracks.iter().filter_map(|(at, t)| Some((weight(at), t.load.amount()?))).collect();
        let total: f64 = loads.iter().map(|(_, load)| load).sum();
        let mean = total / loads.len().max(1) as f64;
        let mut anybody = false;
        for (at, track) in &mut self.tracks {
            let Some(amount) = track.load.amount() else { continue };
            let due = match track.load {
                Load::Open(_) => total * weight(at) / weights,
                Load::Answers { .. } => mean,
            };
            track.moving = track.load.is_off(amount, due, track.moving);
            if track.moving {
                track.factor *= track.load.step(amount, due).exp();
                anybody = true;
            }
        }
        if anybody {
            self.keep_mean(seen, weights);
        }
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

impl Load {
    const fn first(has: Has) -> Self {
        match has {
            Has::Open { now, .. } => Self::Open(now as f64),
            Has::Answered { .. } => Self::Answers { count: 0.0, nanoseconds: 0.0 },
        }
    }

    /// With what has come since the last look; a counter that is less than before has started again from 0.
    fn and(self, last: Has, now: Has) -> Self {
        let (load, kept) = (Self::first(now), 1.0 - SMOOTHING);
        match (self, now, last) {
            (Self::Open(smoothed), Has::Open { now, .. }, _) => {
                Self::Open(smoothed + SMOOTHING * (now as f64 - smoothed))
            }
            (
                Self::Answers { count, nanoseconds },
                Has::Answered { ever, nanoseconds: time },
                Has::Answered { ever: before, nanoseconds: time_before },
            ) => Self::Answers {
                count: count * kept + grown(before, ever) as f64,
                nanoseconds: nanoseconds * kept + grown(time_before, time) as f64,
            },
            // Something else is shared out now.
            _ => load,
        }
    }

    /// What is compared; none where there is too little of it.
    fn amount(self) -> Option<f64> {
        match self {
            Self::Open(open) => Some(open),
            Self::Answers { count, nanoseconds } => (count >= FEWEST_ANSWERS).then(|| nanoseconds / count),
        }
    }

    /// Whether a backend that has this amount is off its `due`. The dead band is at least what chance makes of it (three standard
    /// deviations; of a smoothed count, if it is a Poisson one); who has left it moves until it is well inside, so that nobody sits at
    /// its edge.
    fn is_off(self, amount: f64, due: f64, moving: bool) -> bool {
        let band = match self {
            Self::Open(_) => (DEAD_BAND * due).max(due.sqrt()).max(0.75),
            Self::Answers { count, .. } => due * DEAD_BAND.max(CHANCE / count.sqrt()),
        };
        (amount - due).abs() > if moving { band / 3.0 } else { band }
    }

    /// The logarithmic step that makes good a part of the error.
    fn step(self, amount: f64, due: f64) -> f64 {
        let ratio = match self {
            Self::Open(_) => (due + 1.0) / (amount + 1.0),
            Self::Answers { .. } => due / amount.max(1.0),
        };
        (GAIN * ratio.ln()).clamp(-LARGEST_STEP, LARGEST_STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n as u8], 80))
    }

    /// Servers that each hold a connection for their own time, and random arrivals shared by weight x factor.
    #[derive(Clone)]
    struct Simulation {
        hold: Vec<f64>,
        weights: Vec<u16>,
        open: Vec<Vec<f64>>,
        connections: Vec<u64>,
        nanoseconds: Vec<u64>,
        /// What is fed back is how long they hold, which grows with what each has open.
        latency: bool,
        random: u64,
        now: f64,
        feedback: WeightFeedback,
    }

    impl Simulation {
        fn new(hold: &[f64], weights: &[u16]) -> Self {
            let n = hold.len();
            Self {
                hold: hold.to_vec(),
                weights: weights.to_vec(),
                open: vec![Vec::new(); n],
                connections: vec![0; n],
                nanoseconds: vec![0; n],
                latency: false,
                random: 7,
                now: 0.0,
                feedback: WeightFeedback::default(),
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
                self.open[chosen].retain(|until| *until > self.now);
                // A server that works at all requests at once is the slower the more it has.
                let crowd = if self.latency { 1.0 + self.open[chosen].len() as f64 } else { 1.0 };
                let hold = -(1.0 - self.uniform()).ln() * self.hold[chosen] * crowd;
                self.nanoseconds[chosen] += (hold * 1e9) as u64;
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
            let has = |n: usize| match self.latency {
                false => Has::Open { now: active[n], ever: self.connections[n] },
                true => Has::Answered { ever: self.connections[n], nanoseconds: self.nanoseconds[n] },
            };
            (0..active.len()).map(|n| (at(n), Observation { has: has(n), weight: self.weights[n] })).collect()
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
        let mut feedback = WeightFeedback::default();
        let seen = |now, ever| Observation { has: Has::Open { now, ever }, weight: 100 };
        let seen: BTreeMap<_, _> = [(at(0), seen(1000, 1000)), (at(1), seen(0, 0))].into();
        for second in 0..30 {
            feedback.step(Duration::from_secs(second), Some(&seen));
        }
        assert!(feedback.factors().values().all(|f| *f == 1.0));
    }

    #[test]
    fn servers_answer_equally_fast_in_the_end() {
        let mut simulation = Simulation { latency: true, ..Simulation::new(&[0.002, 0.002, 0.002, 0.006], &[100; 4]) };
        let mean = |simulation: &Simulation, n: usize, before: &Simulation| {
            (simulation.nanoseconds[n] - before.nanoseconds[n]) as f64
                / (simulation.connections[n] - before.connections[n]) as f64
        };
        let slowness = |from: &Simulation, to: &Simulation| mean(to, 3, from) / mean(to, 0, from);
        let start = simulation.clone();
        (0..5).for_each(|_| drop(simulation.second(500.0)));
        let first = slowness(&start, &simulation);
        (0..120).for_each(|_| drop(simulation.second(500.0)));
        let learned = simulation.clone();
        (0..60).for_each(|_| drop(simulation.second(500.0)));
        let last = slowness(&learned, &simulation);
        assert!(first > 4.0 && last < first / 1.5, "{first} times as slow before, {last} after");
        assert!(simulation.shares()[3] < 0.15, "{:?}", simulation.shares());
    }

    #[test]
    fn a_server_that_is_slow_whatever_it_has_ends_at_the_bound_and_a_few_answers_move_nothing() {
        let mut feedback = WeightFeedback::default();
        let seen = |second: u64, each: u64| -> BTreeMap<_, _> {
            let has = |time: u64| Has::Answered { ever: second * each, nanoseconds: second * each * time };
            [(at(0), has(1_000_000)), (at(1), has(9_000_000))]
                .map(|(at, has)| (at, Observation { has, weight: 1 }))
                .into()
        };
        (0..300).for_each(|second| feedback.step(Duration::from_secs(second), Some(&seen(second, 20))));
        let factors = feedback.factors();
        assert!(factors[&at(1)] < 0.13 && factors[&at(0)] > 1.8, "{factors:?}");
        let mut seldom = WeightFeedback::default();
        for second in 0..300 {
            // One answer in ten seconds.
            seldom.step(Duration::from_secs(second), Some(&seen(second / 10, 1)));
        }
        assert!(seldom.factors().values().all(|factor| *factor == 1.0));
    }
}
