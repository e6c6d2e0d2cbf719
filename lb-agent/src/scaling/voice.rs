//! What each part of a policy answers, and why, as data: put in words only where somebody reads it.

use std::{fmt, sync::Arc, time::Duration};

use super::{checked::Bound, observation::Failure, signal::Signal};

/// What a part of a policy answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Voice {
    /// Which one.
    pub who: Who,
    /// What it asks for.
    pub stance: Stance,
    /// Why.
    pub why: Why,
}

/// A part of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A rule, by its name.
    Rule(Arc<str>),
    /// A target, by what it reads.
    Target(Signal),
    /// The forecast.
    Forecast,
}

/// What a part of a policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stance {
    /// Nothing.
    Silent,
    /// What is there: its signal is missing or too old.
    Blind,
    /// What is there.
    Keep,
    /// So many at least: it never lowers the number.
    AtLeast(u32),
    /// Another number.
    Ask(u32),
}

/// Why a part of a policy asks for what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// Its signal cannot be read.
    Unread(Unread),
    /// Its signal is a rule's number.
    Compared {
        /// What is read.
        signal: Signal,
        /// Its value.
        value: f64,
        /// What it is compared with.
        bound: Bound,
        /// How long the rule has held, if it holds.
        held: Option<Duration>,
        /// How long it must.
        hold: Duration,
        /// What the rule waits for besides.
        waits: Waits,
    },
    /// Its signal is a target's mean.
    Measured {
        /// What is read.
        signal: Signal,
        /// Its value.
        value: f64,
        /// What it counts as, over its windows or with its variation.
        counts: f64,
        /// The wanted one.
        per_replica: f64,
        /// Ready replicas.
        ready: u32,
        /// What follows.
        verdict: Verdict,
    },
    /// What the forecast says.
    Foreseen(Arc<str>),
    /// The forecast is too old.
    OldForecast(Duration),
}

/// Why a signal cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Unread {
    /// There is none, since nothing is ready.
    NoneReady(Signal),
    /// There is none yet.
    Missing(Signal),
    /// There is none, and it is known why.
    Failed(Signal, Failure),
    /// It is too old.
    Old(Signal, Duration),
    /// It is no number that a load can be.
    Nonsense(Signal, f64),
    /// So many replicas did not say, without whom nothing is removed.
    Partial(Signal, u32),
    /// The replicas have just been resized, and percentages mean something else.
    Resized(Signal, Duration),
}

/// What a rule waits for besides its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing.
    Nothing,
    /// The last change is not done.
    Change,
    /// It has acted and cools down for so long.
    Cooldown(Duration),
}

/// What follows from a target's mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is on target, within this part of it.
    Near(f64),
    /// So many are enough once all are ready.
    EnoughOnceReady(u32),
    /// So many are needed.
    Needs(u32),
    /// So many would be needed, but there is a burst.
    Burst(u32),
}

impl Voice {
    /// The replicas it asks for, where there are `base`; none if it asks for nothing.
    pub const fn asks(&self, base: u32) -> Option<u32> {
        match self.stance {
            Stance::Silent | Stance::AtLeast(_) => None,
            Stance::Blind | Stance::Keep => Some(base),
            Stance::Ask(wanted) => Some(wanted),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(name) => write!(f, "rule {name}"),
            Self::Target(signal) => write!(f, "target {signal}"),
            Self::Forecast => f.write_str("forecast"),
        }
    }
}

impl fmt::Display for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(unread) => unread.fmt(f),
            Self::Compared { signal, value, bound, held, hold, waits } => {
                write!(f, "{signal} {} {}", Short(*value), Compared(*bound, held.is_some()))?;
                match (held, waits) {
                    (_, Waits::Change) => f.write_str(", waits for the last change to be done"),
                    (Some(_), Waits::Cooldown(left)) => write!(f, ", cools down for {}", Whole(*left)),
                    (Some(held), Waits::Nothing) if held < hold => {
                        write!(f, " for {} of {}", Whole(*held), Whole(*hold))
                    }
                    (Some(held), Waits::Nothing) => write!(f, " for {}", Whole(*held)),
                    (None, _) => Ok(()),
                }
            }
            Self::Measured { signal, value, counts, per_replica, ready, verdict } => {
                write!(f, "{signal} {}", Short(*value))?;
                if Short(*counts).to_string() != Short(*value).to_string() {
                    write!(f, ", taken as {},", Short(*counts))?;
                }
                write!(f, " of {}", Short(*per_replica))?;
                match verdict {
                    Verdict::Near(part) => write!(f, " is within {} %", Short(part * 100.0)),
                    Verdict::EnoughOnceReady(base) => write!(f, " on {ready} ready: {base} are enough once all are"),
                    Verdict::Needs(wanted) => write!(f, " on {ready} ready needs {wanted}"),
                    Verdict::Burst(wanted) => write!(f, " on {ready} ready needs {wanted}, but there is a burst"),
                }
            }
            Self::Foreseen(why) => f.write_str(why),
            Self::OldForecast(age) => write!(f, "the last one is {} s old, too old to decide from", age.as_secs()),
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneReady(signal) => write!(f, "{signal} is missing (no backend is ready)"),
            Self::Missing(signal) => write!(f, "{signal} is missing (no value yet)"),
            Self::Failed(signal, failure) => write!(f, "{signal} is missing ({})", failure.text),
            Self::Old(signal, age) => write!(f, "{signal} is {} s old, too old to decide from", age.as_secs()),
            Self::Nonsense(signal, value) => write!(f, "{signal} is {value}, which is no load"),
            Self::Partial(signal, missing) => write!(f, "{signal} is missing of {missing} ready replicas"),
            Self::Resized(signal, left) => {
                write!(f, "{signal} counts again in {}: the replicas were resized", Whole(*left))
            }
        }
    }
}

struct Compared(Bound, bool);

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.1 { "" } else { "not " };
        match self.0 {
            Bound::Above(above) => write!(f, "is {not}above {}", Short(above)),
            Bound::Below(below) => write!(f, "is {not}below {}", Short(below)),
        }
    }
}

/// A number without digits that say nothing.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A duration of whole seconds.
pub(super) struct Whole(pub(super) Duration);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_secs(self.0.as_secs())).fmt(f)
    }
}
