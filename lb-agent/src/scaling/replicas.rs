//! Decides how many replicas there are, from what was last set and what is seen, and whether somebody else has changed the number.
//!
//! Where the number can be asked for (the scale subresource), it is what was answered. Where nobody can be asked, it is the one last
//! set with success. Endpoints that move towards it are its effect and may take [`SETTLE`] for each step; endpoints that move elsewhere
//! were changed by somebody else. Once their count has stayed, it is the number. It must stay for [`CONFIRM`] at least: a file that is
//! being written may show few endpoints for a moment, and a command that is told of a number too low would stop what serves.

use std::time::Duration;

/// How long the endpoints may take between two steps towards the number that was set.
pub const SETTLE: Duration = Duration::from_secs(60);

/// How long a count of endpoints that nobody asked for must stay before it is believed.
pub const CONFIRM: Duration = Duration::from_secs(5);

/// The number of replicas, as last set and as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    current: u32,
    desired: u32,
    /// What was wanted before: it may have been on its way when another number came to be wanted.
    before: u32,
    present: u32,
    steady_since: Duration,
    expected: bool,
    foreign: Option<Foreign>,
}

/// A change of the number by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The number before.
    pub from: u32,
    /// The number after.
    pub to: u32,
    /// When it was noticed.
    pub at: Duration,
}

impl Replicas {
    /// The endpoints that are there at first are the replicas.
    pub const fn new(present: u32, now: Duration) -> Self {
        Self {
            current: present,
            desired: present,
            before: present,
            present,
            steady_since: now,
            expected: true,
            foreign: None,
        }
    }

    /// Replicas as last set.
    pub const fn current(&self) -> u32 {
        self.current
    }

    /// Replicas as last wanted.
    pub const fn desired(&self) -> u32 {
        self.desired
    }

    /// Whether a wanted number is not set yet.
    pub const fn changing(&self) -> bool {
        self.current != self.desired
    }

    /// The last change by somebody else.
    pub const fn foreign(&self) -> Option<Foreign> {
        self.foreign
    }

    /// Whether the endpoints have stayed for long enough to be believed.
    pub const fn steady(&self, now: Duration) -> bool {
        now.saturating_sub(self.steady_since).as_secs() >= CONFIRM.as_secs()
    }

    /// Takes the number that is set, from where it can be asked for. One between the last and the wanted one is on its way.
    pub const fn told(&mut self, set: u32, now: Duration) {
        if set == self.current {
            return;
        }
        if !is_between(self.current, set, self.desired) && set != self.before {
            self.foreign = Some(Foreign { from: self.current, to: set, at: now });
            self.desired = set;
            self.before = set;
        }
        self.current = set;
    }

    /// Takes the number of endpoints, where nobody can be asked.
    pub fn observe(&mut self, present: u32, now: Duration) {
        if present != self.present {
            self.expected = is_between(self.present, present, self.desired);
            self.present = present;
            self.steady_since = now;
        }
        let done = !self.expected || !self.changing();
        let patience = if self.expected { SETTLE } else { CONFIRM };
        if present != self.current && done && now.saturating_sub(self.steady_since) >= patience {
            self.take(present);
        }
    }

    /// What is seen are the replicas, whatever was wanted.
    pub const fn take(&mut self, present: u32) {
        self.current = present;
        self.desired = present;
        self.before = present;
    }

    /// Wants another number.
    pub const fn want(&mut self, desired: u32) {
        if desired != self.desired {
            self.before = self.desired;
            self.desired = desired;
        }
    }

    /// A number was set.
    pub const fn set(&mut self, replicas: u32, now: Duration) {
        self.current = replicas;
        self.steady_since = now;
    }
}
const fn is_between(from: u32, at: u32, to: u32) -> bool {
    (from <= at && at <= to) || (to <= at && at <= from)
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Seen(u32),
        Want(u32),
        Set(u32),
        Wait(u64),
    }
    use Step::{Seen, Set, Wait, Want};

    #[test]
    fn the_number_is_what_was_set_until_the_endpoints_say_otherwise() {
        let cases: [(&str, &[Step], (u32, u32)); 13] = [
            ("at first, the endpoints", &[], (2, 2)),
            ("somebody adds one", &[Seen(3), Wait(5), Seen(3)], (3, 3)),
            ("somebody removes one", &[Seen(1), Wait(5), Seen(1)], (1, 1)),
            ("not believed yet", &[Seen(0), Wait(4), Seen(0)], (2, 2)),
            ("a file that is being written", &[Seen(0), Wait(1), Seen(2), Wait(90), Seen(2)], (2, 2)),
            ("wanted, not set", &[Want(4)], (2, 4)),
            ("set, nothing seen yet", &[Want(4), Set(4), Wait(59), Seen(2)], (4, 4)),
            ("set, on its way", &[Want(4), Set(4), Seen(3)], (4, 4)),
            ("seen before the command ends", &[Want(4), Seen(3), Seen(4), Set(4)], (4, 4)),
            ("set, then one dies", &[Want(4), Set(4), Seen(4), Seen(3), Wait(5), Seen(3)], (3, 3)),
            ("changed by hand while the command fails", &[Want(4), Seen(1), Wait(5), Seen(1)], (1, 1)),
            ("set, but it stops half way", &[Want(4), Set(4), Seen(3), Wait(60), Seen(3)], (3, 3)),
            ("not set: the command is tried again", &[Want(4), Wait(600), Seen(2)], (2, 4)),
        ];
        for (name, steps, expected) in cases {
            let mut now = Duration::from_secs(1000);
            let mut replicas = Replicas::new(2, now);
            for step in steps {
                match step {
                    Seen(present) => replicas.observe(*present, now),
                    Want(desired) => replicas.want(*desired),
                    Set(current) => replicas.set(*current, now),
                    Wait(seconds) => now += Duration::from_secs(*seconds),
                }
            }
            assert_eq!((replicas.current(), replicas.desired()), expected, "{name}");
        }
    }

    #[test]
    fn a_number_that_is_told_is_ours_on_its_way_and_else_somebodys() {
        type Case = (&'static str, &'static [Step], (u32, u32), Option<(u32, u32)>);
        let cases: [Case; 8] = [
            ("nothing happens", &[Seen(2)], (2, 2), None),
            ("ours", &[Want(4), Seen(4)], (4, 4), None),
            ("ours, in steps", &[Want(4), Seen(3)], (3, 4), None),
            ("not yet", &[Want(4), Wait(600), Seen(2)], (2, 4), None),
            ("one that was wanted a moment ago", &[Want(6), Want(5), Seen(6)], (6, 5), None),
            ("somebody's", &[Seen(7)], (7, 7), Some((2, 7))),
            ("somebody's, against ours", &[Want(4), Seen(1)], (1, 1), Some((2, 1))),
            ("somebody's, beyond ours", &[Want(4), Seen(9)], (9, 9), Some((2, 9))),
        ];
        for (name, steps, expected, foreign) in cases {
            let mut now = Duration::from_secs(1000);
            let mut replicas = Replicas::new(2, now);
            for step in steps {
                match step {
                    Seen(set) => replicas.told(*set, now),
                    Want(desired) => replicas.want(*desired),
                    Set(current) => replicas.set(*current, now),
                    Wait(seconds) => now += Duration::from_secs(*seconds),
                }
            }
            assert_eq!((replicas.current(), replicas.desired()), expected, "{name}");
            assert_eq!(replicas.foreign().map(|change| (change.from, change.to)), foreign, "{name}");
        }
    }
}
