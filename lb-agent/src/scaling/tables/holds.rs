//! What keeps the number where it is: pauses, hands, rollouts, and replicas that do not get to run.

use super::*;

fn of_connections(fields: Value) -> Policy {
    let mut all = json!({"targets": target("activeConnections", 8.0)});
    for (field, value) in fields.as_object().expect("fields") {
        all[field] = value.clone();
    }
    policy(all)
}

#[test]
#[rustfmt::skip]
fn a_paused_policy_decides_nothing() {
    let paused = of_connections(json!({"annotations": {"weir.dev/paused": "true"}}));
    table(&paused, &[
        ("busy", 4, "0:a99>4 99:a99>4"),
        ("idle", 4, "0:a0>4 99:a0>4"),
        ("below the least", 0, "0:s0>0 9:s0>0"),
        ("above the most", 30, "0:s30,a8>30"),
    ]);
    let not = of_connections(json!({"annotations": {"weir.dev/paused": "false"}}));
    table(&not, &[("a pause that is none", 4, "0:a16>8")]);
    told(&paused, &[("says so", 4, "0:a99>4", "stays at 4: annotation weir.dev/paused: nothing is decided until it is removed")]);
}

#[test]
#[rustfmt::skip]
fn nothing_by_hand_means_paused() {
    let policy = of_connections(json!({}));
    told(&policy, &[
        ("at first", 0, "0:s0>0 99:s0>0", "0 replicas by hand"),
        ("later", 4, "0:s4,a8>4 1:s0>0 600:s0>0", "0 replicas by hand"),
    ]);
    table(&policy, &[
        ("until it is 1", 4, "0:s4,a8>4 1:s0>0 600:s0>0 601:s1,a8>1 900:s1,a80>1 902:s1,a80>5"),
        ("nobody can be asked: the least, once it is sure", 0, "0:>0 4:>0 5:>1"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_number_that_somebody_sets_is_left_alone_for_five_minutes() {
    let policy = of_connections(json!({}));
    told(&policy, &[
        ("more", 4, "0:s4,a8>4 1:s9,a1>9 300:s9,a1>9", "changed by someone else: 4 -> 9, left alone for 1s"),
        ("less", 4, "0:s4,a8>4 1:s2,a80>2 300:s2,a80>2", "changed by someone else: 4 -> 2"),
        ("more than the most", 4, "0:s4,a8>4 1:s30,a8>30", "changed by someone else: 4 -> 30"),
        ("again", 4, "0:s4,a8>4 1:s9,a1>9 200:s7,a1>7 480:s7,a1>7", "changed by someone else: 9 -> 7"),
    ]);
    table(&policy, &[
        ("and then decided upon", 4, "0:s4,a8>4 1:s9,a1>9 301:s9,a1>2"),
        ("up too", 4, "0:s4,a8>4 1:s2,a80>2 301:s2,a80>6"),
        ("what is beyond the bounds comes back", 4, "0:s4,a8>4 1:s30,a8>30 301:s30,a8>20"),
        ("one's own is not somebody's", 4, "0:s4,a16>8 1:s8,a8>8 2:s8,a4>4"),
        ("one's own that comes in steps", 4, "0:s4,a16,x>8 1:s6,a8>8 2:s8,a8>8 3:s8,a4>4"),
        ("one's own that comes late", 4, "0:s4,a16,x>8 1:s4,a20,x>8 2:s8,a8>8 17:s8,a16>16"),
        ("a failing write is tried for ever", 4, "0:s4,a16,x>8 60:s4,a16,x>8 600:s4,a16,x>8"),
    ]);
    let keda = of_connections(json!({"actuator": "Keda"}));
    table(&keda, &[
        ("KEDA carries it out in its own time", 4, "0:s4,a16,x>8 30:s5,a12,x>8 60:s8,a8>8 61:s8,a16>16"),
        ("what is wanted stays wanted", 4, "0:s4,a16,x>8 30:s5,a8,x>8 60:s5,a4>3"),
    ]);
}

#[test]
#[rustfmt::skip]
fn nothing_is_removed_during_a_rollout() {
    let policy = of_connections(json!({}));
    table(&policy, &[
        ("not down", 4, "0:a1,roll>4 99:a1,roll>4"),
        ("but up", 4, "0:a16,roll>8"),
        ("and down after it", 4, "0:a1,roll>4 9:a1>1"),
        ("below the least", 0, "0:s2,a8,roll>2"),
    ]);
    told(&policy, &[("says so", 4, "0:a1,roll>4", "rollout: nothing is removed while deployment web is rolled out")]);
}

#[test]
#[rustfmt::skip]
fn nothing_is_added_to_replicas_that_do_not_get_to_run() {
    let policy = of_connections(json!({}));
    table(&policy, &[
        ("for a minute they may wait", 4, "0:a16,wait60>8"),
        ("no longer", 4, "0:a16,wait61>4 60:a16,wait121>4"),
        ("down is free", 4, "0:a1,wait61>1"),
        ("and up after it", 4, "0:a16,wait61>4 9:a16>8"),
    ]);
    told(&policy, &[("says so", 4, "0:a16,wait90>4", "pending replicas: nothing is added while 1 wait to run, for 1m 30s")]);
}

#[test]
#[rustfmt::skip]
fn recommendations_are_shown_and_not_followed() {
    table(&of_connections(json!({"mode": "Recommend"})), &[
        ("from what is there", 4, "0:a16>8 60:a16>8 61:a8>4"),
        ("somebody may do what they like", 4, "0:s4,a16>8 1:s6,a8>6 2:s3,a16>6"),
    ]);
}
