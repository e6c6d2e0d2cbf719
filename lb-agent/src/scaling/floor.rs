//! Decides how few replicas there may be now: `replicas.min`, the schedule's entries that are in force, and one where a client has just
//! asked for a Service without any, or where the last one is not known to be idle.

use std::time::{Duration, SystemTime};

use super::{
    checked::{Entry, Policy},
    holds::is_idle,
    observation::{Clock, Observation},
    restraint::Restraint,
};

/// How long at least a Service that a client has asked for keeps its replica.
pub const AWAKE: Duration = Duration::from_secs(60);

/// The least replicas, and what says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Floor {
    /// The least replicas.
    pub replicas: u32,
    /// What says so.
    pub why: Restraint,
}

/// The highest of the floors that are in force; never above `replicas.max`.
pub fn floor(policy: &Policy, seen: &Observation, base: u32, clock: Clock) -> Floor {
    let mut floor = Floor { replicas: policy.min, why: Restraint::Min(policy.min) };
    for (index, min) in in_force(&policy.schedule, clock.wall) {
        if min > floor.replicas {
            floor = Floor { replicas: min, why: Restraint::Schedule { index, min } };
        }
    }
    let awake = policy.down.window.max(AWAKE);
    if floor.replicas == 0 && seen.knocked.is_some_and(|at| clock.now.saturating_sub(at) < awake) {
        floor = Floor { replicas: 1, why: Restraint::Awake };
    }
    if floor.replicas == 0 && base > 0 && !is_idle(seen, clock.now) {
        floor = Floor { replicas: 1, why: Restraint::NotIdle };
    }
    floor
}

/// The entries that are in force, by their places. One without an end ends where any entry begins.
fn in_force(schedule: &[Entry], wall: SystemTime) -> impl Iterator<Item = (usize, u32)> {
    let began: Vec<_> = schedule.iter().map(|entry| entry.began(wall)).collect();
    let last = began.iter().flatten().max().copied();
    schedule.iter().enumerate().filter_map(move |(index, entry)| {
        let began = began[index]?;
        let in_force = match entry.lasts {
            Some(lasts) => wall.duration_since(began).is_ok_and(|since| since < lasts),
            None => Some(began) == last,
        };
        in_force.then_some((index, entry.min))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::scaling::testing;

    fn policy(schedule: &Value) -> Policy {
        let targets = json!([{"signal": "inFlight", "perReplica": 1}]);
        testing::policy(json!({"replicas": {"min": 0, "max": 20}, "targets": targets}), &json!({"schedule": schedule}))
    }

    #[test]
    #[rustfmt::skip]
    fn the_schedule_says_how_few_there_may_be() {
        let days = json!([{"cron": "0 8 * * 1-5", "minReplicas": 10}, {"cron": "0 20 * * *", "minReplicas": 2}]);
        let berlin = json!([{"cron": "30 9 * * *", "for": "90m", "minReplicas": 7, "timezone": "Europe/Berlin"}]);
        let overlap = json!([{"cron": "0 6 * * *", "for": "6h", "minReplicas": 4}, {"cron": "0 8 * * *", "for": "1h", "minReplicas": 9}]);
        let mixed = json!([{"cron": "0 6 * * *", "minReplicas": 3}, {"cron": "0 8 * * *", "for": "1h", "minReplicas": 9}]);
        let never = json!([{"cron": "0 0 31 2 *", "minReplicas": 5}]);
        // 2026-11-23 is a Monday.
        for (name, schedule, at, expected) in [
            ("before the first hour of the week", &days, "2026-11-23T07:59:59Z", 2),
            ("from the minute on", &days, "2026-11-23T08:00:00Z", 10),
            ("until the other one begins", &days, "2026-11-23T19:59:59Z", 10),
            ("in the evening", &days, "2026-11-23T20:00:00Z", 2),
            ("at the weekend", &days, "2026-11-28T12:00:00Z", 2),
            ("Berlin is ahead by an hour in winter", &berlin, "2026-11-23T08:29:59Z", 0),
            ("from half past nine there", &berlin, "2026-11-23T08:30:00Z", 7),
            ("for ninety minutes", &berlin, "2026-11-23T09:59:59Z", 7),
            ("and no longer", &berlin, "2026-11-23T10:00:00Z", 0),
            ("ahead by two hours in summer", &berlin, "2026-07-01T07:30:00Z", 7),
            ("the higher of two", &overlap, "2026-11-23T08:30:00Z", 9),
            ("then the other", &overlap, "2026-11-23T09:30:00Z", 4),
            ("an open one ends where another begins", &mixed, "2026-11-23T09:30:00Z", 0),
            ("an open one until then", &mixed, "2026-11-23T07:30:00Z", 3),
            ("a day that never comes", &never, "2026-11-23T07:30:00Z", 0),
        ] {
            let wall = SystemTime::from(at.parse::<jiff::Timestamp>().unwrap());
            let floor = floor(&policy(schedule), &Observation::default(), 0, Clock { now: Duration::from_secs(9), wall });
            assert_eq!(floor.replicas, expected, "{name}");
        }
    }

    #[test]
    fn a_client_that_asks_keeps_one() {
        let policy = policy(&json!([]));
        for (after, expected) in [(0, 1), (299, 1), (300, 0)] {
            let seen = Observation { knocked: Some(Duration::from_secs(10)), ..Observation::default() };
            let clock = Clock { now: Duration::from_secs(10 + after), wall: SystemTime::UNIX_EPOCH };
            assert_eq!(floor(&policy, &seen, 0, clock).replicas, expected, "after {after} s");
        }
    }
}
