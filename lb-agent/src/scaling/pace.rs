//! Decides how much of a wanted change may happen now, from what was wanted and done before: the stabilisation windows and the
//! limits of `behavior`, as the HorizontalPodAutoscaler of autoscaling/v2 computes them, and the bounds of `replicas`.

use std::{cmp::Ordering, collections::VecDeque, time::Duration};

use super::{
    checked::{Limit, Pace, Policy},
    floor::Floor,
    policy::{ChangeKind, SelectPolicy},
    restraint::Restraint,
};

/// What was recommended and what was changed, as far back as any window reaches.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: VecDeque<(Duration, u32)>,
    changes: VecDeque<(Duration, i64)>,
}

/// The longest window or period a policy may have.
const MEMORY: Duration = Duration::from_secs(3600);

impl History {
    /// Notes that the number of replicas was changed.
    pub fn changed(&mut self, from: u32, to: u32, now: Duration) {
        self.changes.push_back((now, i64::from(to) - i64::from(from)));
    }

    /// How many replicas there may be now where `wanted` are wanted and `base` are, of which `current` are there; and what held it back.
    pub fn pace(
        &mut self,
        policy: &Policy,
        floor: &Floor,
        (current, base): (u32, u32),
        wanted: u32,
        now: Duration,
    ) -> (u32, Vec<Restraint>) {
        self.recommend(base, wanted, now);
        let mut restraints = Vec::new();
        let stable = self.stabilise(policy, base, wanted, now, &mut restraints);
        let limited = self.limit(policy, (current, base), stable, now, &mut restraints);
        (clamp(policy, floor, limited, &mut restraints), restraints)
    }

    /// Notes that nothing was decided: the windows begin again.
    pub fn held(&mut self, base: u32, now: Duration) {
        self.recommend(base, base, now);
    }

    fn recommend(&mut self, base: u32, wanted: u32, now: Duration) {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, base));
        }
        self.recommendations.push_back((now, wanted));
        while self.recommendations.front().is_some_and(|(at, _)| *at + MEMORY < now) {
            self.recommendations.pop_front();
        }
        while self.changes.front().is_some_and(|(at, _)| *at + MEMORY < now) {
            self.changes.pop_front();
        }
    }

    fn within(&self, window: Duration, now: Duration) -> impl Iterator<Item = u32> {
        self.recommendations.iter().rev().take_while(move |(at, _)| *at + window > now).map(|(_, n)| *n)
    }

    fn stabilise(
        &self,
        policy: &Policy,
        base: u32,
        wanted: u32,
        now: Duration,
        restraints: &mut Vec<Restraint>,
    ) -> u32 {
        let lowest = self.within(policy.up.window, now).min().unwrap_or(wanted).min(wanted);
        let highest = self.within(policy.down.window, now).max().unwrap_or(wanted).max(wanted);
        let stable = base.max(lowest).min(highest);
        if stable < wanted {
            restraints.push(Restraint::StableUp { window: policy.up.window, lowest });
        } else if stable > wanted {
            restraints.push(Restraint::StableDown { window: policy.down.window, highest });
        }
        stable
    }

    fn limit(
        &self,
        policy: &Policy,
        (current, base): (u32, u32),
        wanted: u32,
        now: Duration,
        restraints: &mut Vec<Restraint>,
    ) -> u32 {
        let up_to = wanted > base;
        let (pace, allowed) = match wanted.cmp(&base) {
            Ordering::Equal => return wanted,
            Ordering::Greater => {
                // What is still there may stay.
                let most = self.reach(&policy.up, base, now, up, i64::max).max(base).max(current);
                (&policy.up, wanted.min(most))
            }
            Ordering::Less => {
                let least = self.reach(&policy.down, base, now, down, i64::min).min(base);
                (&policy.down, wanted.max(least))
            }
        };
        if allowed != wanted {
            restraints.push(match pace.select {
                SelectPolicy::Disabled => Restraint::Disabled { up: up_to },
                _ => Restraint::Policies { up: up_to, allowed },
            });
        }
        allowed
    }

    /// How far the limits of one direction let the number go; `farther` of two reaches is the one that allows more.
    fn reach(
        &self,
        pace: &Pace,
        base: u32,
        now: Duration,
        step: fn(i64, Limit) -> i64,
        farther: fn(i64, i64) -> i64,
    ) -> u32 {
        let reaches = pace.limits.iter().map(|limit| {
            let recent = self.changes.iter().filter(|(at, _)| *at + limit.period > now);
            let start = i64::from(base) - recent.map(|(_, change)| change).sum::<i64>();
            step(start, *limit)
        });
        let reach = match pace.select {
            SelectPolicy::Max => reaches.reduce(farther),
            SelectPolicy::Min => reaches.reduce(|a, b| if farther(a, b) == a { b } else { a }),
            SelectPolicy::Disabled => None,
        };
        reach.map_or(base, |reach| u32::try_from(reach.max(0)).unwrap_or(u32::MAX))
    }
}

fn up(start: i64, limit: Limit) -> i64 {
    let value = i64::from(limit.value);
    match limit.kind {
        ChangeKind::Pods => start + value,
        ChangeKind::Percent => start + (start * value + 99) / 100,
    }
}

fn down(start: i64, limit: Limit) -> i64 {
    let value = i64::from(limit.value);
    match limit.kind {
        ChangeKind::Pods => start - value,
        ChangeKind::Percent => start * (100 - value).max(0) / 100,
    }
}

fn clamp(policy: &Policy, floor: &Floor, wanted: u32, restraints: &mut Vec<Restraint>) -> u32 {
    if wanted > policy.max {
        restraints.push(Restraint::Max(policy.max));
    } else if wanted < floor.replicas {
        restraints.push(floor.why.clone());
    }
    wanted.max(floor.replicas).min(policy.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::testing;
    use serde_json::{Value, json};

    fn policy(behavior: &Value) -> Policy {
        let targets = json!([{"signal": "activeConnections", "perReplica": 1}]);
        testing::policy(json!({"replicas": {"min": 2, "max": 50}, "targets": targets}), &json!({"behavior": behavior}))
    }

    /// Follows a number of replicas through (second, wanted, expected) steps, each carried out at once.
    fn follow(name: &str, behavior: &Value, start: u32, steps: &[(u64, u32, u32)]) {
        let policy = policy(behavior);
        let (mut history, mut base) = (History::default(), start);
        for (second, wanted, expected) in steps {
            let now = Duration::from_secs(1000 + second);
            let floor = Floor { replicas: policy.min, why: Restraint::Min(policy.min) };
            let (paced, restraints) = history.pace(&policy, &floor, (base, base), *wanted, now);
            assert_eq!(paced, *expected, "{name} at {second} s: {restraints:?}");
            assert_eq!(restraints.is_empty(), paced == *wanted, "{name} at {second} s");
            if paced != base {
                history.changed(base, paced, now);
                base = paced;
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn numbers_move_as_autoscaling_v2_lets_them() {
        let none = json!({});
        let quick = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        let window = json!({"scaleUp": {"stabilizationWindowSeconds": 10}});
        let pods = |value: u32, period: u32| json!([{"type": "Pods", "value": value, "periodSeconds": period}]);
        let slow = json!({"scaleUp": {"policies": pods(1, 30)}, "scaleDown": {"stabilizationWindowSeconds": 0, "policies": pods(2, 30)}});
        let both = |select: &str| json!({
            "scaleUp": {"selectPolicy": select, "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 50, "periodSeconds": 60},
            ]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 10, "periodSeconds": 60},
            ]},
        });
        follow("up at once", &none, 3, &[(0, 5, 5)]);
        follow("up by 4 or by double in 15 s", &none, 3, &[(0, 50, 7), (1, 50, 7), (14, 50, 7), (15, 50, 14), (30, 50, 28)]);
        follow("down waits 300 s", &none, 5, &[(0, 3, 5), (299, 3, 5), (300, 3, 3)]);
        follow("down takes the highest of 300 s", &none, 5, &[(0, 2, 5), (200, 4, 5), (301, 2, 4), (499, 2, 4), (500, 2, 2)]);
        follow("flapping does not move it", &none, 5, &[(0, 2, 5), (100, 5, 5), (200, 2, 5), (300, 5, 5), (400, 2, 5)]);
        follow("down at once where asked", &quick, 8, &[(0, 3, 3)]);
        follow("up takes the lowest of its window", &window, 2, &[(0, 4, 2), (5, 4, 2), (9, 6, 2), (10, 6, 4), (14, 6, 4), (15, 6, 6)]);
        follow("one in 30 s up", &slow, 4, &[(0, 9, 5), (29, 9, 5), (30, 9, 6)]);
        follow("two in 30 s down", &slow, 9, &[(0, 2, 7), (29, 2, 7), (30, 2, 5)]);
        follow("the larger change up", &both("Max"), 10, &[(0, 50, 15), (30, 50, 15)]);
        follow("the smaller change up", &both("Min"), 10, &[(0, 50, 12), (59, 50, 12), (60, 50, 14)]);
        follow("the larger change down", &both("Max"), 40, &[(0, 2, 36), (60, 2, 32)]);
        follow("the smaller change down", &both("Min"), 40, &[(0, 2, 38)]);
        follow("disabled", &both("Disabled"), 10, &[(0, 50, 10), (1, 3, 10)]);
        follow("the most", &quick, 30, &[(0, 60, 50)]);
        follow("the least", &quick, 3, &[(0, 0, 2)]);
        follow("below the least it rises at once", &slow, 0, &[(0, 0, 2)]);
        follow("above the most it falls at once", &none, 60, &[(0, 60, 50)]);
    }
}
