//! No replicas at all: the last one goes when it is known to be idle, and comes back when a client asks.

use super::*;

fn sleepy(fields: Value) -> Policy {
    let mut all = json!({"replicas": {"min": 0, "max": 20}, "targets": target("inFlight", 8.0)});
    for (field, value) in fields.as_object().expect("fields") {
        all[field] = value.clone();
    }
    policy(all)
}

#[test]
#[rustfmt::skip]
fn the_last_replica_goes_when_it_is_known_to_be_idle() {
    table(&sleepy(json!({})), &[
        ("idle", 1, "0:i0,a0,c0>0"),
        ("idle from many", 9, "0:i0,a0,c0>0"),
        ("a connection is open", 1, "0:i0,a1,c0>1"),
        ("from many to the last", 9, "0:i0,a1,c0>1"),
        ("connections still come", 1, "0:i0,a0,c0.1>1"),
        ("connections are not known", 1, "0:i0>1"),
        ("connections were known", 1, "0:i0,a0@2001>1"),
        ("one replica did not say", 2, "0:i0,a0-1>1"),
        ("a request is in flight", 1, "0:i0.1,a0,c0>1"),
        ("blind", 1, "0:a0,c0>1"),
        ("a rollout", 1, "0:i0,a0,c0,roll>1"),
    ]);
    table(&sleepy(json!({"behavior": {}})), &[
        ("idle for as long as its variation counts, and five minutes", 1, "0:i1,a1,c0>1 1:i0,a0,c0>1 299:i0,a0,c0>1 601:i0,a0,c0>0"),
        ("a break in it", 1, "0:i1,a1,c0>1 1:i0,a0,c0>1 200:i1,a1,c0>1 301:i0,a0,c0>1 802:i0,a0,c0>0"),
    ]);
    let rule = json!({"targets": [], "rules": [{"name": "idle", "signal": "activeConnections", "below": 5, "remove": 1}]});
    table(&sleepy(rule), &[
        ("a rule removes the last but one", 2, "0:a1,c0>1"),
        ("but not one that serves", 1, "0:a1,c0>1"),
        ("the last, once it is idle", 1, "0:a0,c0>0"),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_client_that_asks_brings_one_back() {
    let policy = sleepy(json!({}));
    table(&policy, &[
        ("nobody asks", 0, "0:>0 3600:>0"),
        ("somebody asks", 0, "0:>0 9:knock>1"),
        ("and one stays until it has had its time", 0, "0:>0 9:knock>1 10:i0,a0,c0>0"),
        ("at once where nobody can be asked", 0, "0:s0>0 9:s0,knock>1"),
        ("a paused one sleeps on", 0, "0:s0>0 9:s0>0"),
    ]);
    told(&policy, &[("says so", 0, "0:>0 9:knock>1", "wake-up: a client has asked for it")]);
    table(&sleepy(json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}})), &[
        ("whatever behavior says", 0, "0:>0 9:knock>1"),
    ]);
    table(&sleepy(json!({"annotations": {"weir.dev/paused": "true"}})), &[("but not a paused one", 0, "0:>0 9:knock>0")]);
}

#[test]
#[rustfmt::skip]
fn a_queue_or_a_schedule_or_a_forecast_brings_some_back() {
    let queue = sleepy(json!({"targets": [{"prometheus": queue(), "perReplica": 10}]}));
    table(&queue, &[
        ("an empty queue", 0, "0:q0>0"),
        ("one that waits", 0, "0:q1>1"),
        ("many that wait", 0, "0:q25>3"),
        ("far too many, as far as it may go", 0, "0:q500>4 15:q500,b4/4>8"),
        ("an old number", 0, "0:q25@30001>0"),
    ]);
    let schedule = sleepy(json!({"schedule": [{"cron": "0 7 * * *", "for": "1h", "minReplicas": 2}]}));
    table(&schedule, &[("the hour comes", 0, "0:>0 3600:>2"), ("and goes", 0, "3600:>2 7200:i0,a0,c0>0")]);
    let forecast = sleepy(json!({"forecast": {"features": ["lag:1m"]}}));
    table(&forecast, &[("load is foreseen", 0, "0:f3>3"), ("none is", 0, "0:f0>0")]);
}
