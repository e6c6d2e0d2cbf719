//! Texts of a policy as values: names, durations, changes and quantities.

use std::{sync::LazyLock, time::Duration};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use regex::Regex;

use super::{
    Step,
    error::{Checked, wrong},
};
use crate::scaling::policy::text;

/// A pattern of the schema.
pub(super) struct Pattern(LazyLock<Regex>);

impl Pattern {
    const fn new(regex: fn() -> Regex) -> Self {
        Self(LazyLock::new(regex))
    }
}

macro_rules! patterns {
    ($($name:ident),*) => {$(
        pub(super) static $name: Pattern = Pattern::new(|| Regex::new(text::$name).expect("the patterns are tested"));
    )*};
}

patterns!(API_VERSION, CPU, CRON, DURATION, FEATURE, MEMORY, METRIC, NAME, PATH, PERCENT, SERVER, TIMEZONE, WORD);

/// A text of this form that is not too long.
pub(super) fn of_form(path: &str, value: &str, form: &Pattern, most: usize, remedy: &str) -> Checked<String> {
    if value.is_empty() {
        return wrong(path, "it is empty", remedy);
    }
    // The API server counts characters.
    if value.chars().count() > most {
        return wrong(path, format!("it is longer than {most} characters"), remedy);
    }
    if !form.0.is_match(value) {
        return wrong(path, format!("{value:?} is not of this form"), remedy);
    }
    Ok(value.to_owned())
}

/// The name of a Kubernetes object.
pub(super) fn name(path: &str, value: &str, most: usize) -> Checked<String> {
    of_form(path, value, &NAME, most, "give a name of small letters, digits, - and .")
}

const DAY: Duration = Duration::from_secs(86_400);

/// A duration of a day at most.
pub(super) fn duration(path: &str, text: Option<&str>, default: Duration) -> Checked<Duration> {
    duration_within(path, text, default, Duration::ZERO, DAY)
}

/// A duration from `low` to `high`.
pub(super) fn duration_within(
    path: &str,
    text: Option<&str>,
    default: Duration,
    low: Duration,
    high: Duration,
) -> Checked<Duration> {
    let Some(text) = text else {
        return Ok(default);
    };
    let value = parse_duration(path, text)?;
    let show = humantime::format_duration;
    if value > high && low.is_zero() {
        return wrong(path, format!("{text:?} is more than {}", show(high)), &format!("use {} or less", show(high)));
    }
    if value < low || value > high {
        return wrong(path, format!("{text:?} is out of range"), &format!("use {} to {}", show(low), show(high)));
    }
    Ok(value)
}

/// A duration as Go writes it, of whole units.
pub(super) fn parse_duration(path: &str, text: &str) -> Checked<Duration> {
    let remedy = "write it like 30s or 5m";
    let problem = || format!("{text:?} is not a duration");
    if text.len() > 16 || !DURATION.0.is_match(text) {
        return wrong(path, problem(), remedy);
    }
    humantime::parse_duration(text).or_else(|_| wrong(path, problem(), remedy))
}

/// Replicas, or a part of those there are.
pub(super) fn step(path: &str, value: &IntOrString) -> Checked<Step> {
    let remedy = "use 1 or more replicas, or a part of them such as 50%";
    match value {
        IntOrString::Int(replicas) => match u32::try_from(*replicas) {
            Ok(replicas) if replicas > 0 => Ok(Step::Replicas(replicas)),
            _ => wrong(path, format!("{replicas} is not a number of replicas"), remedy),
        },
        IntOrString::String(text) => {
            let percent = of_form(path, text, &PERCENT, 16, remedy)?;
            let percent = percent.trim_end_matches('%').parse();
            percent.map(Step::Percent).or_else(|_| wrong(path, format!("{text:?} is not a percentage"), remedy))
        }
    }
}

/// CPU in thousandths, rounded up.
pub(super) fn millicores(path: &str, value: &IntOrString) -> Checked<u64> {
    let remedy = "write CPUs, as 2, 0.5 or 500m";
    quantity(path, value, &CPU, remedy, 1000.0)
}

/// Memory in bytes, rounded up.
pub(super) fn bytes(path: &str, value: &IntOrString) -> Checked<u64> {
    quantity(path, value, &MEMORY, "write bytes, as 512Mi or 2Gi", 1.0)
}

/// A quantity in parts of which `parts` are one.
fn quantity(path: &str, value: &IntOrString, form: &Pattern, remedy: &str, parts: f64) -> Checked<u64> {
    let text = match value {
        IntOrString::Int(number) if *number < 0 => {
            return wrong(path, format!("{number} is negative"), remedy);
        }
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => of_form(path, text, form, 16, remedy)?,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => 1.0,
    };
    match digits.parse::<f64>() {
        // What the division by ten leaves behind the last digit must not become one more.
        Ok(number) => Ok((number * unit * parts - 1e-6).ceil().max(0.0) as u64),
        Err(_) => wrong(path, format!("{text:?} is not a quantity"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        for (value, expected) in [
            (IntOrString::Int(4), 4000),
            (text("4"), 4000),
            (text("0.5"), 500),
            (text("100m"), 100),
            (text("1.001"), 1001),
            (text("0"), 0),
        ] {
            assert_eq!(millicores("x", &value), Ok(expected), "{value:?}");
        }
        for (value, expected) in [
            (IntOrString::Int(4096), 4096),
            (text("128Mi"), 128 << 20),
            (text("1.5Gi"), 3 << 29),
            (text("2G"), 2_000_000_000),
            (text("1.001k"), 1001),
        ] {
            assert_eq!(bytes("x", &value), Ok(expected), "{value:?}");
        }
        for value in [IntOrString::Int(-1), text(""), text("1Gi"), text("-1"), text("1 "), text("1e3"), text("m")] {
            assert!(millicores("x", &value).is_err(), "{value:?}");
        }
    }
}
