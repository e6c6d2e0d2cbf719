//! Bursts: the long window decides until the short one asks for twice of what is ready.

use super::*;

fn policy_of(panic: Value) -> Policy {
    policy(json!({"targets": target("inFlight", 8.0), "panic": panic}))
}

/// So many seconds of the same, a step each.
fn seconds(from: u64, to: u64, seen: &str, desired: u32) -> String {
    (from..to).map(|second| format!("{second}:{seen}>{desired} ")).collect()
}

#[test]
fn calm_times_are_decided_by_the_long_window() {
    let policy = policy_of(json!({}));
    follow("steady", &policy, 4, &seconds(0, 120, "i8", 4));
    follow("a short peak is not seen", &policy, 4, &[seconds(0, 60, "i8", 4), seconds(60, 62, "i20", 4)].concat());
    let dip = [seconds(0, 60, "i8", 4), seconds(60, 65, "i0", 4), seconds(65, 120, "i8", 4)].concat();
    follow("nor is a short dip", &policy, 4, &dip);
}

#[test]
fn a_burst_is_decided_by_the_short_window_and_removes_nothing() {
    let policy = policy_of(json!({}));
    let burst = [seconds(0, 60, "i8", 4), "60:i80>8 ".to_owned()].concat();
    follow("seen at once", &policy, 4, &burst);
    let after = [burst, seconds(61, 120, "i0", 8)].concat();
    let decision = follow("nothing goes for the long window", &policy, 4, &after);
    assert!(decision.reason().contains("but there is a burst"), "{}", decision.reason());
    follow("but then", &policy, 4, &[after.as_str(), "121:i0>1"].concat());
}

#[test]
#[rustfmt::skip]
fn windows_and_threshold_can_be_set() {
    let quick = policy_of(json!({"shortWindow": "1s", "longWindow": "10s", "threshold": 3}));
    table(&quick, &[
        ("twice is no burst", 4, "0:i8>4 1:i16>6"),
        ("three times is", 4, "0:i8>4 1:i40>8"),
        ("calm for ten seconds", 4, "0:i8>4 1:i40>8 2:i8>8 10:i1>8 30:i1>1"),
    ]);
}
