//! A decision, with all that led to it. It is data; its words are made where somebody reads them.

use std::time::Duration;

use super::{
    restraint::Restraint,
    signal::Signal,
    voice::{Stance, Voice},
};

/// How many replicas there should be, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Replicas as last set.
    pub current: u32,
    /// Replicas as wanted before.
    pub base: u32,
    /// Replicas as asked for now, before what limits it.
    pub wanted: u32,
    /// Replicas as wanted.
    pub desired: u32,
    /// What every rule, target and forecast said.
    pub voices: Vec<Voice>,
    /// What the signals were.
    pub inputs: Vec<Input>,
    /// What kept it from what was asked for.
    pub limited_by: Vec<Restraint>,
}

/// A signal at the time of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Which.
    pub signal: Signal,
    /// Its value, if known.
    pub value: Option<f64>,
    /// How old it was.
    pub age: Option<Duration>,
}

/// What was asked for and not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Who asked for how many.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// What makes a decision worth telling: another number, another signal that is missing, another limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Replicas as wanted.
    pub desired: u32,
    /// Who could not say anything.
    pub blind: Vec<String>,
    /// The fields of the policy that kept it from what was asked for.
    pub limits: Vec<&'static str>,
}

impl Decision {
    /// What of it is worth telling when it changes.
    pub fn summary(&self) -> Summary {
        let blind = self.voices.iter().filter(|voice| voice.stance == Stance::Blind);
        Summary {
            desired: self.desired,
            blind: blind.map(|voice| voice.who.to_string()).collect(),
            limits: self.limited_by.iter().map(Restraint::field).collect(),
        }
    }

    /// Why, in one line.
    pub fn reason(&self) -> String {
        let Self { base, wanted, desired, .. } = *self;
        let held = self.limited_by.iter().any(Restraint::is_hold);
        let decisive = |voice: &&Voice| !held && (wanted == base || says(voice, wanted));
        let said = self.voices.iter().filter(decisive).map(Voice::to_string);
        let limits = self.limited_by.iter().map(Restraint::to_string);
        let verb = if desired == base { format!("stays at {base}") } else { format!("{base} -> {desired}") };
        format!("{verb}: {}", said.chain(limits).collect::<Vec<_>>().join("; "))
    }

    /// What was asked for and is not what was decided, with the voice or the limit that decided against it.
    pub fn rejected(&self) -> Vec<Rejected> {
        let asked = self.voices.iter().filter_map(|voice| match voice.stance {
            Stance::Ask(asked) => Some((voice, asked)),
            Stance::AtLeast(asked) if asked > self.desired => Some((voice, asked)),
            _ => None,
        });
        let rejected = asked.filter(|(_, asked)| *asked != self.desired);
        rejected.map(|(voice, asked)| self.reject(voice, asked)).collect()
    }

    fn reject(&self, voice: &Voice, asked: u32) -> Rejected {
        let held = self.limited_by.iter().any(Restraint::is_hold);
        let why: Vec<_> = if asked == self.wanted || held {
            self.limited_by.iter().map(Restraint::to_string).collect()
        } else {
            let winners = self
                .voices
                .iter()
                .filter(|other| says(other, self.wanted) || other.asks(self.base) == Some(self.wanted));
            winners.map(Voice::to_string).collect()
        };
        Rejected { what: format!("{}: {} -> {asked}", voice.who, self.base), why: why.join("; ") }
    }
}

/// Whether it asks for this other number.
fn says(voice: &Voice, wanted: u32) -> bool {
    matches!(voice.stance, Stance::Ask(asked) | Stance::AtLeast(asked) if asked == wanted)
}
