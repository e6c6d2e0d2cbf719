//! What is wrong with a policy, and the checks that many fields share.

use std::{fmt, time::Duration};

/// What is wrong with a policy, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}; {remedy}")]
pub struct PolicyError {
    /// The field, from the object's root: `spec.rules[0].for`.
    pub path: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// What came of a check.
pub(super) type Checked<T> = Result<T, PolicyError>;

pub(super) fn wrong<T>(path: impl fmt::Display, problem: impl fmt::Display, remedy: &str) -> Checked<T> {
    Err(PolicyError { path: path.to_string(), problem: problem.to_string(), remedy: remedy.to_owned() })
}

/// A list that is not too long.
pub(super) fn at_most<T>(path: &str, list: &[T], most: usize) -> Checked<()> {
    if list.len() > most {
        return wrong(path, format!("{} entries are too many", list.len()), &format!("give {most} or fewer"));
    }
    Ok(())
}

/// A number from `low` to `high`.
pub(super) fn within<T: PartialOrd + fmt::Display + Copy>(path: &str, value: T, low: T, high: T) -> Checked<T> {
    // A number that is none is in no range.
    if value >= low && value <= high {
        return Ok(value);
    }
    wrong(path, format!("{value} is out of range"), &format!("use {low} to {high}"))
}

/// A number of replicas or seconds from `low`, which is not negative, to `high`.
pub(super) fn count(path: &str, value: i32, low: i32, high: i32) -> Checked<u32> {
    within(path, value, low, high).map(|value| u32::try_from(value).unwrap_or(0))
}

/// So many seconds, from `low`, which is not negative, to `high`.
pub(super) fn seconds(path: &str, value: i32, low: i32, high: i32) -> Checked<Duration> {
    count(path, value, low, high).map(|value| Duration::from_secs(value.into()))
}

/// A number that a load can be.
pub(super) fn load(path: &str, value: f64) -> Checked<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    wrong(path, format!("{value} is not a load"), "use a number that is not negative")
}

/// A load that can be divided by.
pub(super) fn share(path: &str, value: f64) -> Checked<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    wrong(path, format!("{value} is not a load"), "use a number greater than 0")
}
