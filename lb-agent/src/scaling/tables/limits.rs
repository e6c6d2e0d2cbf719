//! What limits a decision: bounds, `behavior`, the schedule; and the forecast, which only raises.

use super::*;

#[test]
#[rustfmt::skip]
fn equal_bounds_leave_nothing_to_decide() {
    table(&policy(json!({"replicas": {"min": 3, "max": 3}, "targets": target("activeConnections", 8.0)})), &[
        ("busy", 3, "0:a99>3 60:a99>3"),
        ("idle", 3, "0:a0>3 60:a0>3"),
        ("fewer", 2, "0:s2,a8>3"),
        ("more", 5, "0:s5,a8>3"),
        ("blind", 2, "0:s2>3"),
    ]);
}

#[test]
#[rustfmt::skip]
fn bounds_that_change_move_the_number_at_once() {
    let target = target("activeConnections", 8.0);
    table(&policy(json!({"replicas": {"min": 5, "max": 9}, "targets": target, "behavior": {}})), &[
        ("below the least", 1, "0:s1,a8>5"),
        ("below the least and busy: as far as it may go", 1, "0:s1,a80>5 1:a80>5 15:a80>9"),
        ("above the most", 30, "0:s30,a8>9"),
        ("above the most and blind", 30, "0:s30>9"),
        ("above the most and idle: down to the most first", 30, "0:s30,a0>9 60:a0>9 301:a0>5"),
    ]);
}

#[test]
#[rustfmt::skip]
fn the_default_behavior_is_that_of_autoscaling_v2() {
    table(&policy(json!({"targets": target("activeConnections", 8.0), "behavior": {}})), &[
        ("up at once", 4, "0:a16>8"),
        ("up by 4 in 15 s where that is more than double", 1, "0:a800>5 14:a800>5 15:a800>10 30:a800>20"),
        ("down after five minutes", 8, "0:a8>8 1:a1>8 299:a1>8 300:a1>1"),
        ("down to the highest of them", 8, "0:a8>8 1:a1>8 100:a4>8 300:a1>4"),
        ("up resets nothing that was seen", 8, "0:a4>8 100:a16>16 101:a1>16 399:a1>16 400:a1>2"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_direction_can_be_disabled() {
    let down = json!({"scaleDown": {"selectPolicy": "Disabled"}});
    let up = json!({"scaleUp": {"selectPolicy": "Disabled"}, "scaleDown": {"stabilizationWindowSeconds": 0}});
    table(&policy(json!({"targets": target("activeConnections", 8.0), "behavior": down})), &[
        ("never down", 8, "0:a0>8 9000:a0>8"),
        ("but up", 8, "0:a16>16"),
    ]);
    table(&policy(json!({"targets": target("activeConnections", 8.0), "behavior": up})), &[
        ("never up", 8, "0:a80>8 9000:a80>8"),
        ("but down", 8, "0:a4>4"),
        ("the least comes first", 0, "0:s0,b0/0>0"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_schedule_keeps_a_least_number_while_it_is_in_force() {
    // The tables begin on a Monday at six.
    let schedule = json!([{"cron": "0 7 * * 1-5", "for": "2h", "minReplicas": 6}]);
    let policy = policy(json!({"targets": target("activeConnections", 8.0), "schedule": schedule}));
    table(&policy, &[
        ("before it", 2, "0:a8>2 3599:a8>2"),
        ("from its minute on", 2, "0:a8>2 3600:a8>6"),
        ("nothing below it", 2, "3600:a8>6 3700:a0>6 10799:a0>6"),
        ("more where the load asks for it", 2, "3600:a32>6 3700:a16>12"),
        ("after it, what the load needs", 2, "3600:a8>6 10800:a1>1"),
        ("blind, too", 2, "0:>2 3600:>6 10800:>6"),
        ("paused by hand", 2, "0:s2,a8>2 3600:s0>0"),
    ]);
    told(&policy, &[("says so", 2, "3600:a8>6", "schedule: entry 0 keeps at least 6")]);
}

#[test]
#[rustfmt::skip]
fn a_forecast_only_raises() {
    let fields = json!({"targets": target("activeConnections", 8.0), "forecast": {"features": ["lag:1m"]}});
    let with = policy(fields);
    table(&with, &[
        ("it raises", 4, "0:a8,f6>6"),
        ("as far as behavior lets it", 4, "0:a8,f20>8 15:a8,f20>16 30:a8,f20>20"),
        ("it does not lower", 4, "0:a8,f1>4"),
        ("the load needs more", 4, "0:a16,f6>8"),
        ("it keeps what the load does not need", 8, "0:a1,f6>6"),
        ("it is below what the load needs", 8, "0:a4,f2>4"),
        ("it is off", 4, "0:a8,f?>4 1:a1,f?>1"),
        ("it is old", 4, "0:a8,F9>4"),
        ("nothing can be measured, but foreseen", 4, "0:f6>6"),
        ("nothing can be measured, and less is foreseen", 4, "0:f2>4"),
        ("up to the most", 16, "0:a8,f99>20"),
        ("nothing runs", 4, "0:a8,f6,wait61>4"),
    ]);
    told(&with, &[
        ("says so", 4, "0:a8,f6>6", "4 -> 6: forecast: the load that comes"),
        ("says that it is old", 4, "0:a8,F9>4", "the last one is 120 s old"),
    ]);
    table(&policy(json!({"targets": target("activeConnections", 8.0)})), &[("not asked for", 4, "0:a8,f9>4")]);
}
