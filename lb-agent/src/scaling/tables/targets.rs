//! Targets: desired = ceil(ready x value / perReplica), within a tolerance.

use super::*;

#[test]
#[rustfmt::skip]
fn a_target_asks_for_what_the_load_needs() {
    let policy = policy(json!({"targets": target("activeConnections", 8.0)}));
    table(&policy, &[
        ("on target", 4, "0:a8>4"),
        ("10 % over is on target", 4, "0:a8.8>4"),
        ("10 % under is on target", 4, "0:a7.2>4"),
        ("a little more than 10 % over", 4, "0:a8.9>5"),
        ("a little more than 10 % under rounds up to what is there", 4, "0:a7.1>4"),
        ("a little less than three quarters", 4, "0:a5.9>3"),
        ("half of it", 4, "0:a4>2"),
        ("rounded up", 4, "0:a4.1>3"),
        ("twice of it", 4, "0:a16>8"),
        ("a fraction more than twice", 4, "0:a16.1>8 15:a16>16"),
        ("no load: the least", 4, "0:a0>1"),
        ("one connection", 4, "0:a0.25>1"),
        ("three times 1/3 is 1, not 2", 3, "0:a2.6666666666666665>1"),
        ("far too much: the most", 16, "0:a800>20"),
        ("at most by double or 4 at once", 2, "0:a400>6 1:a400>6 15:a400>12 30:a400>20"),
        ("as the load goes down", 10, "0:a4>5 1:a4>3 2:a4>2 3:a4>1"),
        ("as the load shrinks with more replicas", 2, "0:a24>6 1:a8>6"),
        ("negative is no load", 4, "0:a-3>4"),
        ("not a number", 4, "0:anan>4"),
        ("more than any number", 4, "0:ainf>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn replicas_that_are_not_ready_carry_nothing_going_up_and_are_left_out_going_down() {
    table(&policy(json!({"targets": target("activeConnections", 8.0)})), &[
        ("they will help", 4, "0:a16,b4/2>4"),
        ("they will be enough within the tolerance", 10, "0:a16.5,b10/5>10"),
        ("they will not be enough", 4, "0:a24,b4/2>6"),
        ("one of many is ready", 8, "0:a64,b8/1>8"),
        ("one of many is ready and far too busy", 8, "0:a96,b8/1>12"),
        ("left out going down", 4, "0:a4,b4/3>2"),
        ("on target", 4, "0:a8,b4/2>4"),
        ("none is ready", 4, "0:a8,b4/0>4"),
        ("none is ready and nothing is seen", 4, "0:b4/0>4"),
        ("they crash for ever", 4, "0:a16,b4/2>4 60:a16,b4/2>4 600:a16,b4/2>4"),
        ("all crash", 4, "0:b4/0>4 60:b4/0>4 3600:b4/0>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn replicas_that_do_not_say_are_idle_going_up_and_on_target_going_down() {
    table(&policy(json!({"targets": target("activeConnections", 8.0)})), &[
        ("all say", 4, "0:a16-0>8"),
        ("one of four is silent, the rest need more", 4, "0:a16-1>6"),
        ("two are silent: enough", 4, "0:a12-2>4"),
        ("three are silent: no way to know", 4, "0:a12-3>4"),
        ("one is silent, the rest need less", 4, "0:a2-1>2"),
        ("two are silent, the rest need nothing", 4, "0:a0-2>2"),
        ("three are silent, the rest needs nothing", 4, "0:a0-3>3"),
        ("all are silent", 4, "0:a0-4>4"),
        ("the rest is on target", 4, "0:a8-2>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn the_number_of_a_whole_service_is_divided_as_it_is() {
    let policy = policy(json!({"targets": [{"prometheus": queue(), "perReplica": 10}]}));
    table(&policy, &[
        ("on target", 4, "0:q40>4"),
        ("10 % over", 4, "0:q44>4"),
        ("more", 4, "0:q45>5"),
        ("far more", 4, "0:q75>8"),
        ("less", 4, "0:q20>2"),
        ("a little less", 4, "0:q31>4"),
        ("nothing", 4, "0:q0>1"),
        ("not ready ones will help", 4, "0:q40,b4/1>4"),
        ("none ready: enough once all are", 4, "0:q40,b4/0>4"),
        ("none ready: not enough", 4, "0:q80,b4/0>8"),
        ("none ready and nothing to do: they stay", 4, "0:q0,b4/0>4"),
        ("half a minute old", 4, "0:q80@30000>8"),
        ("older", 4, "0:q80@30001>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_tolerance_of_ones_own() {
    let behavior = json!({"scaleUp": {"tolerance": 0}, "scaleDown": {"tolerance": 0.3, "stabilizationWindowSeconds": 0}});
    table(&policy(json!({"targets": target("activeConnections", 8.0), "behavior": behavior})), &[
        ("up at once", 4, "0:a8.1>5"),
        ("down only far off", 4, "0:a5.7>4"),
        ("down", 4, "0:a5>3"),
        ("exactly on target", 4, "0:a8>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn targets_and_rules_together() {
    let policy = policy(json!({
        "rules": [{"name": "cpu", "signal": "cpu", "above": 80, "for": "3s", "add": 2}],
        "targets": [{"signal": "inFlight", "perReplica": 8}, {"signal": "connectionsPerSecond", "perReplica": 100}],
    }));
    table(&policy, &[
        ("the higher target", 4, "0:p50,i16,c150>8"),
        ("the other one", 4, "0:p50,i4,c150>6"),
        ("both lower: the higher", 4, "0:p50,i4,c75>3"),
        ("one on target keeps it", 4, "0:p50,i4,c100>4"),
        ("one that cannot be read keeps it", 4, "0:p50,i4>4"),
        ("one that cannot be read does not keep it from going up", 4, "0:p50,i16>8"),
        ("the rule above the targets", 4, "0:p90,i8,c100>4 3:p90,i8,c100>6"),
        ("a rule that holds and does not act yet keeps it", 4, "0:p90,i4,c50>4 2:p90,i4,c50>4"),
        ("a rule that does not hold does not keep it", 4, "0:p50,i4,c50>2"),
        ("percentages mean something else after a resize", 4, "0:p90,i8,c100,sized>4 3:p90,i8,c100,sized>4"),
        ("and keep what is there", 4, "0:p10,i4,c50,sized>4"),
    ]);
}
