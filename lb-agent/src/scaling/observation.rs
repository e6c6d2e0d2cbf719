//! Everything that a decision is made from, as plain values. Whoever measures fills it in; [`super::decide()`] reads nothing else.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::signal::Signal;

/// The time, on both clocks: decisions are made by the monotonic one; people and schedules read the other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The monotonic clock.
    pub now: Duration,
    /// The wall clock.
    pub wall: SystemTime,
}

/// A signal's value, and when it was true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The value.
    pub value: f64,
    /// When it was true.
    pub at: Duration,
    /// Ready replicas that did not say: the value is of the others.
    pub missing: u32,
}

impl Reading {
    /// A value that every ready replica has its part in.
    pub const fn new(value: f64, at: Duration) -> Self {
        Self { value, at, missing: 0 }
    }
}

/// What a Service's replicas carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Replicas there are.
    pub replicas: u32,
    /// Those that take new connections.
    pub ready: u32,
    /// The signals that can be known.
    pub readings: BTreeMap<Signal, Reading>,
}

/// Why a signal cannot be known, or not of every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In a word, for a condition.
    pub reason: &'static str,
    /// The policy's field, what is wrong with its value, and what to do.
    pub text: Arc<str>,
}

/// Replicas that do not get to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// How many.
    pub replicas: u32,
    /// Since when the first of them waits.
    pub since: Duration,
}

/// What a forecast says.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The replicas that the foreseen load needs; none while the forecast is off.
    pub replicas: Option<u32>,
    /// From what, or why it is off.
    pub why: Arc<str>,
    /// When it was made; one that is older than [`Forecast::STALE`] counts for nothing.
    pub at: Duration,
}

impl Forecast {
    /// The age at which a forecast counts for nothing.
    pub const STALE: Duration = Duration::from_secs(60);
}

/// All that is seen of a policy's Service and target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// What the replicas carry.
    pub load: Load,
    /// Why signals that others are asked for are missing.
    pub failures: BTreeMap<Signal, Failure>,
    /// The number of replicas that is set, where somebody can be asked: `spec.replicas` of the scale subresource. Without it, the
    /// number follows the endpoints and what was set with success ([`super::State::set`]).
    pub set: Option<u32>,
    /// What is rolled out, while a rollout is under way.
    pub rollout: Option<Arc<str>>,
    /// Replicas that do not get to run.
    pub pending: Option<Pending>,
    /// When a client last asked for a Service that has no replica.
    pub knocked: Option<Duration>,
    /// When a replica was last resized: signals in percent of its size mean something else then.
    pub resized: Option<Duration>,
    /// The last forecast.
    pub forecast: Option<Forecast>,
}

impl From<Load> for Observation {
    fn from(load: Load) -> Self {
        Self { load, ..Self::default() }
    }
}
