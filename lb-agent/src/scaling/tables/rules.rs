//! Rules: thresholds, times, percentages and cooldowns.

use super::*;

fn rules() -> Value {
    json!([
        {"name": "busy", "signal": "activeConnections", "above": 80, "for": "3s", "add": 2},
        {"name": "idle", "signal": "activeConnections", "below": 30, "for": "5s", "remove": 1},
    ])
}

#[test]
#[rustfmt::skip]
fn a_rule_acts_once_it_has_held_for_its_time() {
    table(&policy(json!({"rules": rules()})), &[
        ("quiet", 4, "0:a50>4 99:a50>4"),
        ("at the threshold is not above it", 4, "0:a80>4 9:a80>4"),
        ("at the threshold is not below it", 4, "0:a30>4 9:a30>4"),
        ("hardly above", 4, "0:a80.01>4 3:a80.01>6"),
        ("hardly below", 4, "0:a29.99>4 5:a29.99>3"),
        ("a second too early", 4, "0:a99>4 2:a99>4"),
        ("in time", 4, "0:a99>4 2:a99>4 3:a99>6"),
        ("late ticks act as well", 4, "0:a99>4 60:a99>6"),
        ("a break starts it again", 4, "0:a99>4 2:a80>4 3:a99>4 5:a99>4 6:a99>6"),
        ("flapping every second", 4, "0:a99>4 1:a50>4 2:a99>4 3:a50>4 4:a99>4 5:a50>4 6:a99>4 7:a50>4"),
        ("it starts again after it has acted", 2, "0:a99>2 3:a99>4 4:a99>4 6:a99>4 7:a99>6"),
        ("the other one's action starts it again too", 4, "0:a99>4 3:a99>6 4:a1>6 9:a1>5"),
        ("from above to below at once", 4, "0:a99>4 2:a1>4 6:a1>4 7:a1>3"),
        ("up to the most", 19, "0:a99>19 3:a99>20 20:a99>20"),
        ("nothing above the most", 20, "0:a99>20 3:a99>20"),
        ("down to the least", 2, "0:a1>2 5:a1>1 10:a1>1 60:a1>1"),
        ("one step at a time", 5, "0:a1>5 5:a1>4 6:a1>4 11:a1>3 12:a1>3 17:a1>2"),
        ("0 is below", 4, "0:a0>4 5:a0>3"),
        ("more than any number", 4, "0:ainf>4 9:ainf>4"),
        ("not a number", 4, "0:anan>4 9:anan>4"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_percentage_counts_from_what_is_there_and_is_one_at_least() {
    let spec = json!([
        {"name": "busy", "signal": "activeConnections", "above": 80, "add": "50%"},
        {"name": "idle", "signal": "activeConnections", "below": 30, "remove": "25%"},
    ]);
    table(&policy(json!({"rules": spec})), &[
        ("half of 1 is 1", 1, "0:a99>2"),
        ("half of 2", 2, "0:a99>3"),
        ("half of 3, rounded up", 3, "0:a99>5"),
        ("half of 4", 4, "0:a99>6"),
        ("half of 9, rounded up", 9, "0:a99>14"),
        ("half of 16, up to the most", 16, "0:a99>20"),
        ("a quarter of 2 is 1", 2, "0:a1>1"),
        ("a quarter of 4", 4, "0:a1>3"),
        ("a quarter of 5, rounded up", 5, "0:a1>3"),
        ("a quarter of 16", 16, "0:a1>12"),
        ("again and again", 16, "0:a1>12 1:a1>9 2:a1>6 3:a1>4 4:a1>3"),
        ("growing, as far as behavior lets it", 2, "0:a99>3 1:a99>5 2:a99>6"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_rule_that_has_acted_cools_down() {
    let spec = json!([
        {"name": "busy", "signal": "activeConnections", "above": 80, "cooldown": "10s", "add": 1},
        {"name": "idle", "signal": "activeConnections", "below": 30, "cooldown": "20s", "remove": 1},
    ]);
    let policy = policy(json!({"rules": spec}));
    table(&policy, &[
        ("at once, then not for 10 s", 4, "0:a99>5 1:a99>5 9:a99>5 10:a99>6 19:a99>6 20:a99>7"),
        ("down cools down by itself", 4, "0:a1>3 10:a1>3 19:a1>3 20:a1>2"),
        ("the other rule does not cool down", 4, "0:a99>5 1:a1>4 2:a99>4 10:a99>5"),
        ("what limits it is no action", 20, "0:a99>20 1:a1>19 2:a99>20"),
    ]);
    told(&policy, &[("says so", 4, "0:a99>5 4:a99>5", "activeConnections 99 is above 80, cools down for 6s")]);
}

#[test]
#[rustfmt::skip]
fn the_highest_wins_up_and_all_must_agree_down() {
    let spec = json!([
        {"name": "busy", "signal": "activeConnections", "above": 80, "add": 1},
        {"name": "very-busy", "signal": "activeConnections", "above": 90, "add": 3},
        {"name": "idle", "signal": "activeConnections", "below": 30, "remove": 2},
        {"name": "slow", "signal": "connectionsPerSecond", "below": 10, "remove": 1},
    ]);
    table(&policy(json!({"rules": spec})), &[
        ("one of two", 4, "0:a85,c50>5"),
        ("the larger of two", 4, "0:a95,c50>7"),
        ("only one agrees", 4, "0:a1,c50>4"),
        ("only the other one agrees", 4, "0:a50,c1>4"),
        ("both agree: the higher number", 4, "0:a1,c1>3"),
        ("up wins over down", 4, "0:a85,c1>5"),
        ("what cannot be read keeps the rest from going down", 4, "0:a1>4 9:a1>4"),
        ("and not from going up", 4, "0:a95>7"),
    ]);
}

#[test]
#[rustfmt::skip]
fn rules_wait_until_the_last_change_is_done_but_call_back_what_is_to_go() {
    let policy = policy(json!({"rules": [
        {"name": "busy", "signal": "activeConnections", "above": 80, "add": 2},
        {"name": "idle", "signal": "activeConnections", "below": 30, "remove": 2},
    ]}));
    table(&policy, &[
        ("not set: nothing on top of it", 4, "0:a99,x>6 1:a99,x>6 60:a99,x>6 600:a99,x>6"),
        ("then it is set", 4, "0:a99,x>6 9:a99,x>6 10:a99>6 11:a99>8"),
        ("drained, and load comes back", 6, "0:s,a1,x>4 30:a1,x>4 31:a99,x>6"),
        ("drained, and no load comes back", 6, "0:s,a1,x>4 30:a50,x>4 60:a50>4 61:a1>2"),
        ("drained, and more load comes than ever", 6, "0:s,a1,x>4 31:a99,x>6 32:a99>8"),
    ]);
}
