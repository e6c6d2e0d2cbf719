//! What is missing, old or nonsense never scales in, and never to the most.

use super::*;

#[test]
#[rustfmt::skip]
fn what_cannot_be_read_holds() {
    let both = policy(json!({
        "rules": [
            {"name": "busy", "signal": "activeConnections", "above": 80, "for": "3s", "add": 2},
            {"name": "idle", "signal": "activeConnections", "below": 30, "for": "3s", "remove": 1},
        ],
        "targets": target("connectionsPerSecond", 10.0),
    }));
    told(&both, &[
        ("nothing from the start", 4, "0:>4 99:>4", "activeConnections is missing (no value yet)"),
        ("nothing is ready", 4, "0:b4/0>4", "activeConnections is missing (no backend is ready)"),
        ("two seconds old", 4, "0:a99,c10>4 3:a99@2000,c10@2000>6", "is above 80"),
        ("older, going up", 4, "0:a99@2001,c10>4 3:a99@2001,c10>4", "activeConnections is 2 s old, too old"),
        ("older, going down", 4, "0:a1@9000,c1@9000>4 9:a1@18000,c1@18000>4", "activeConnections is 18 s old"),
        ("a target too old to go up", 4, "0:a50,c99@2001>4", "connectionsPerSecond is 2 s old"),
        ("a target too old to go down", 4, "0:a50,c1@2001>4", "connectionsPerSecond is 2 s old"),
        ("a gap breaks the rule's time", 4, "0:a99,c10>4 2:c10>4 3:a99,c10>4 5:a99,c10>4 6:a99,c10>6", "is above 80 for 3s"),
        ("one blind part keeps the others from going down", 4, "0:a1>4 3:a1>4 50:a1>4", "connectionsPerSecond is missing"),
        ("one blind part does not keep the others from going up", 4, "0:a99>4 3:a99>6", "is above 80"),
        ("not a number", 4, "0:anan,c10>4 3:anan,c10>4", "activeConnections is NaN, which is no load"),
        ("without end", 4, "0:ainf,c10>4 3:ainf,c10>4", "activeConnections is inf, which is no load"),
        ("a target without end", 4, "0:a50,cinf>4", "connectionsPerSecond is inf, which is no load"),
        ("less than nothing", 4, "0:a50,c-1>4", "connectionsPerSecond is -1, which is no load"),
        ("one replica did not say: a rule does not remove", 4, "0:a1-1,c10>4 3:a1-1,c10>4", "activeConnections is missing of 1 ready replicas"),
        ("one replica did not say: it counts as idle going up", 4, "0:a99-1,c10>4 3:a99-1,c10>4", "74.25 is not above 80"),
        ("two replicas did not say, the others are far above", 4, "0:a199-2,c10>4 3:a199-2,c10>6", "99.5 is above 80 for 3s"),
    ]);
}

#[test]
#[rustfmt::skip]
fn an_outage_of_what_is_measured_changes_nothing_and_ends_well() {
    let policy = policy(json!({"targets": target("activeConnections", 8.0), "behavior": {}}));
    table(&policy, &[
        ("while it lasts", 6, "0:a8>6 1:>6 60:>6 3600:>6"),
        ("and goes on after it", 6, "0:a8>6 1:>6 600:a16>12"),
        ("nothing is removed before a window of what was seen has passed", 6, "0:a8>6 1:>6 599:>6 600:a1>6 898:a1>6"),
        ("but then", 6, "0:a8>6 1:>6 599:>6 600:a1>6 899:a1>1"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_clock_that_jumps_scales_nothing() {
    let policy = policy(json!({"targets": target("activeConnections", 8.0), "behavior": {}}));
    table(&policy, &[
        ("an hour forward, with what is seen still old", 6, "0:a8>6 3600:a1@3600000>6"),
        ("and then it is seen again", 6, "0:a8>6 3600:a1@3600000>6 3601:a1>6"),
    ]);
}
