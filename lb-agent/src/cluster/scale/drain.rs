//! Scaling in without a lost connection, as a pure state machine: who goes gets no new connections, is waited for, is marked so that
//! the workload's controller removes it and nobody else, and is looked for afterwards.

use std::{collections::BTreeSet, time::Duration};

use lb_common::SocketKey;

use super::resize::Order;

/// Every node has heard that a victim gets no new connections, and no count of it is older than that.
const SETTLE: Duration = Duration::from_secs(3);
/// So long a controller may take to remove the victims; who is still there then stays.
const LEAVE: Duration = Duration::from_secs(60);

/// A replica that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The pod.
    pub name: String,
    /// It takes connections.
    pub ready: bool,
    /// What it has open or in flight.
    pub connections: u64,
    /// Where it listens.
    pub sockets: BTreeSet<SocketKey>,
}

/// What is seen of a workload.
#[derive(Clone, Debug, Default)]
pub struct View<'a> {
    /// Replicas that are set.
    pub set: u32,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// The replicas that are there.
    pub candidates: &'a [Candidate],
    /// The highest ordinal goes first, whoever is marked: a StatefulSet.
    pub ordered: bool,
    /// Why nobody may go now.
    pub held: Option<&'a str>,
    /// How long a victim may keep its connections.
    pub timeout: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The number of replicas is set; where it falls, these pods are marked before.
    Scale {
        /// The number that is set now: if it is another one, somebody else has changed it.
        from: u32,
        /// The new number.
        to: u32,
        /// Who is to go.
        mark: Vec<String>,
    },
    /// These pods are to stay.
    Unmark(Vec<String>),
    /// A pod gets another size.
    Resize(Order),
}

/// What has happened that is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Victims were chosen.
    Draining(Vec<String>),
    /// Victims kept connections for longer than they may.
    TimedOut(Vec<(String, u64)>),
    /// They are needed after all.
    Cancelled(Vec<String>),
    /// Others have gone instead of them.
    Stayed(Vec<String>),
}

/// How far scaling in is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// Nobody is to go.
    #[default]
    Idle,
    /// Victims get no new connections.
    Draining {
        /// Who.
        victims: Vec<Candidate>,
        /// Since when.
        since: Duration,
    },
    /// The number is set, victims have to go.
    Leaving {
        /// Who.
        victims: Vec<Candidate>,
        /// Since when.
        since: Duration,
    },
}

impl Drain {
    /// Goes on with what an earlier leader has begun.
    pub fn resume(victims: &[String], candidates: &[Candidate], now: Duration) -> Self {
        let is_victim = |candidate: &&Candidate| victims.contains(&candidate.name);
        let victims: Vec<Candidate> = candidates.iter().filter(is_victim).cloned().collect();
        if victims.is_empty() { Self::Idle } else { Self::Draining { victims, since: now } }
    }

    /// Who is to go.
    pub fn victims(&self) -> &[Candidate] {
        match self {
            Self::Idle => &[],
            Self::Draining { victims, .. } | Self::Leaving { victims, .. } => victims,
        }
    }

    /// Looks and says what is to be done. [`Self::done`] is told when a [`Action::Scale`] was.
    pub fn step(&mut self, view: &View<'_>, now: Duration) -> (Vec<Action>, Vec<Note>) {
        let mut notes = Vec::new();
        let mut actions = Vec::new();
        if let Self::Leaving { victims, since } = self {
            victims.retain(|victim| view.candidates.iter().any(|candidate| candidate.name == victim.name));
            let late = now.saturating_sub(*since) >= LEAVE;
            if late && !victims.is_empty() {
                let names = names(victims);
                actions.extend((!view.ordered).then(|| Action::Unmark(names.clone())));
                notes.push(Note::Stayed(names));
            }
            if late || victims.is_empty() {
                *self = Self::Idle;
            } else if view.wanted <= view.set {
                return (actions, notes);
            }
        }
        if view.wanted >= view.set {
            self.cancel(view, &mut actions, &mut notes);
            let rise = view.wanted > view.set;
            actions.extend(rise.then(|| Action::Scale { from: view.set, to: view.wanted, mark: Vec::new() }));
            return (actions, notes);
        }
        if view.held.is_some() {
            self.cancel(view, &mut actions, &mut notes);
            return (actions, notes);
        }
        self.choose(view, now, &mut notes);
        actions.extend(self.finish(view, now, &mut notes));
        (actions, notes)
    }

    /// The victims are needed after all.
    fn cancel(&mut self, view: &View<'_>, actions: &mut Vec<Action>, notes: &mut Vec<Note>) {
        match std::mem::take(self) {
            Self::Idle => {}
            Self::Draining { victims, .. } => notes.push(Note::Cancelled(names(&victims))),
            Self::Leaving { victims, .. } => {
                actions.extend((!view.ordered).then(|| Action::Unmark(names(&victims))));
                notes.push(Note::Cancelled(names(&victims)));
            }
        }
    }

    /// Chooses who goes; who was chosen stays so.
    fn choose(&mut self, view: &View<'_>, now: Duration, notes: &mut Vec<Note>) {
        let chosen: BTreeSet<String> = self.victims().iter().map(|victim| victim.name.clone()).collect();
        let victims = victims(view, &chosen);
        let is_new = victims.iter().any(|victim| !chosen.contains(&victim.name));
        let since = match self {
            Self::Draining { since, .. } if !is_new => *since,
            _ => now,
        };
        if is_new {
            notes.push(Note::Draining(names(&victims)));
        }
        *self = Self::Draining { victims, since };
    }

    /// Sets the number when nobody waits for a victim any more.
    fn finish(&self, view: &View<'_>, now: Duration, notes: &mut Vec<Note>) -> Option<Action> {
        let Self::Draining { victims, since } = self else { return None };
        let waited = now.saturating_sub(*since);
        let busy: Vec<_> = victims.iter().filter(|victim| victim.connections > 0).collect();
        let over = waited >= view.timeout;
        if !over && (!busy.is_empty() || (waited < SETTLE && !victims.is_empty())) {
            return None;
        }
        if !busy.is_empty() {
            notes.push(Note::TimedOut(busy.iter().map(|victim| (victim.name.clone(), victim.connections)).collect()));
        }
        let mark = if view.ordered { Vec::new() } else { names(victims) };
        Some(Action::Scale { from: view.set, to: view.wanted, mark })
    }

    /// The number was set.
    pub fn done(&mut self, now: Duration) {
        if let Self::Draining { victims, .. } = std::mem::take(self) {
            *self = Self::Leaving { victims, since: now };
        }
    }
}

fn names(victims: &[Candidate]) -> Vec<String> {
    victims.iter().map(|victim| victim.name.clone()).collect()
}

/// Who goes: who was chosen before, then who takes no connections, then who has the fewest. Replicas that were never there go by
/// themselves.
fn victims(view: &View<'_>, chosen: &BTreeSet<String>) -> Vec<Candidate> {
    if view.ordered {
        let goes = |candidate: &&Candidate| ordinal(&candidate.name).is_some_and(|ordinal| ordinal >= view.wanted);
        return view.candidates.iter().filter(goes).cloned().collect();
    }
    let absent = (view.set as usize).saturating_sub(view.candidates.len());
    let count = ((view.set - view.wanted) as usize).saturating_sub(absent);
    let mut candidates: Vec<&Candidate> = view.candidates.iter().collect();
    candidates.sort_by_key(|c| (!chosen.contains(&c.name), c.ready, c.connections, &c.name));
    candidates.into_iter().take(count).cloned().collect()
}

/// The number at the end of a StatefulSet's pod's name.
fn ordinal(name: &str) -> Option<u32> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
