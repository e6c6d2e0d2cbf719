//! Policies that make sense, and policies that do not.

use serde_json::{Value, json};

use super::*;
use crate::scaling::SignalName;

fn resource(spec: Value) -> Result<ScalePolicy, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "ScalePolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }))
}

fn base() -> Value {
    json!({
        "command": ["/bin/scale", "--fast"],
        "serviceRef": {"name": "web"},
        "replicas": {"min": 2, "max": 9},
        "rules": [
            {"name": "busy", "signal": "activeConnections", "above": 80, "for": "30s", "add": 2},
            {"name": "idle", "signal": "activeConnections", "below": 30.5, "for": "5m", "remove": 1},
        ],
        "targets": [{"signal": "bytesPerSecond", "perReplica": 1e6}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
    })
}

/// `base` with the value at a JSON pointer replaced, or removed where it is null.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = base();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        Value::Object(fields) if value.is_null() => drop(fields.remove(last)),
        Value::Object(fields) => drop(fields.insert(last.to_owned(), value)),
        other => panic!("{pointer} leads to {other}"),
    }
    spec
}

#[test]
fn a_whole_policy_is_checked_and_completed() {
    let policy = validate(&resource(base()).unwrap()).unwrap();
    assert_eq!(policy.id.to_string(), "shop/web");
    assert_eq!(policy.service, "web");
    assert_eq!((policy.min, policy.max, policy.mode), (2, 9, Mode::Apply));
    assert_eq!((policy.rules[0].bound, policy.rules[0].action), (Bound::Above(80.0), Step::Replicas(2)));
    assert_eq!(policy.rules[0].hold, Duration::from_secs(30));
    assert_eq!((policy.rules[1].bound, policy.rules[1].action), (Bound::Below(30.5), Step::Replicas(1)));
    assert_eq!(policy.rules[1].hold, Duration::from_secs(300));
    assert_eq!(policy.targets, [Target { signal: SignalName::BytesPerSecond.into(), per_replica: 1e6 }]);
    assert_eq!(policy.up, behavior::default_up());
    assert_eq!(policy.down, Pace { window: Duration::from_secs(60), ..behavior::default_down() });
    assert_eq!(policy.command.as_deref(), Some(["/bin/scale".to_owned(), "--fast".to_owned()].as_slice()));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let spec = json!({
        "serviceRef": {"name": "web"},
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "replicas": {"max": 3},
        "rules": [{"name": "busy", "signal": "activeConnections", "above": 1, "add": 1}],
    });
    let policy = validate(&resource(spec).unwrap()).unwrap();
    assert_eq!((policy.min, policy.rules[0].hold), (1, Duration::ZERO));
    assert_eq!(policy.up.window, Duration::ZERO);
    assert_eq!(policy.down.window, Duration::from_secs(300));
}

#[test]
fn what_makes_no_sense_is_refused_by_field_value_and_remedy() {
    let policies = |value: Value| json!({"scaleUp": {"policies": value}});
    #[rustfmt::skip]
    let cases: Vec<(&str, Value, &str, &str, &str)> = vec![
        ("/actuator", json!("Keda"), "spec.command", "command goes with actuator Command, not with Keda", "remove"),
        ("/serviceRef/name", json!(""), "spec.serviceRef.name", "empty", "name"),
        ("/command", json!([]), "spec.command", "empty", "write the program"),
        ("/command/0", json!(" "), "spec.command[0]", "empty", "write the program"),
        ("/command/1", json!("a\0b"), "spec.command[1]", "zero byte", "write the program"),
        ("/replicas/max", json!(0), "spec.replicas.max", "0 is out of range", "1 to"),
        ("/replicas/min", json!(-1), "spec.replicas.min", "-1 is out of range", "0 to"),
        ("/replicas/min", json!(10), "spec.replicas.max", "9 is less than spec.replicas.min, 10", "not less"),
        ("/replicas/max", json!(-3), "spec.replicas.max", "-3 is out of range", "1 to"),
        ("/rules/0/name", json!(""), "spec.rules[0].name", "empty", "name"),
        ("/rules/1/name", json!("busy"), "spec.rules[1].name", "two rules are named \"busy\"", "own"),
        ("/rules/0/for", json!("soon"), "spec.rules[0].for", "\"soon\" is not a duration", "30s or 5m"),
        ("/rules/0/for", json!("30"), "spec.rules[0].for", "\"30\" is not a duration", "30s or 5m"),
        ("/rules/0/for", json!("48h"), "spec.rules[0].for", "is more than 1day", "1day or less"),
        ("/rules/0/above", Value::Null, "spec.rules[0]", "neither above nor below", "above with add"),
        ("/rules/0/below", json!(3), "spec.rules[0]", "above and below are both given", "above with add"),
        ("/rules/0/add", Value::Null, "spec.rules[0]", "neither add nor remove", "above with add"),
        ("/rules/0/remove", json!(1), "spec.rules[0]", "add and remove are both given", "above with add"),
        ("/rules/0", json!({"name": "x", "signal": "activeConnections", "above": 1, "remove": 1}), "spec.rules[0].remove", "remove goes with below", "above with add"),
        ("/rules/1", json!({"name": "x", "signal": "activeConnections", "below": 1, "add": 1}), "spec.rules[1].add", "add goes with above", "above with add"),
        ("/rules/0/add", json!(0), "spec.rules[0].add", "0 is not a number of replicas", "1 or more"),
        ("/rules/1/remove", json!(-2), "spec.rules[1].remove", "-2 is not a number of replicas", "1 or more"),
        ("/rules/0/above", json!(-1), "spec.rules[0].above", "-1 is not a load", "not negative"),
        ("/rules/1/below", json!(90), "spec.rules[1]", "both hold between 80 and 90", "higher"),
        ("/targets/0/perReplica", json!(0), "spec.targets[0].perReplica", "0 is not a load", "greater than 0"),
        ("/targets", json!([{"signal": "bytesPerSecond", "perReplica": 1}, {"signal": "bytesPerSecond", "perReplica": 2}]), "spec.targets[1].signal", "two targets read bytesPerSecond", "keep one"),
        ("/behavior/scaleDown/stabilizationWindowSeconds", json!(3601), "spec.behavior.scaleDown.stabilizationWindowSeconds", "3601 is out of range", "0 to 3600"),
        ("/behavior/scaleDown/stabilizationWindowSeconds", json!(-1), "spec.behavior.scaleDown.stabilizationWindowSeconds", "-1 is out of range", "0 to 3600"),
        ("/behavior", policies(json!([])), "spec.behavior.scaleUp.policies", "empty", "leave"),
        ("/behavior", policies(json!([{"type": "Pods", "value": 0, "periodSeconds": 15}])), "spec.behavior.scaleUp.policies[0].value", "0 is out of range", "1 to"),
        ("/behavior", policies(json!([{"type": "Pods", "value": 1, "periodSeconds": 1801}])), "spec.behavior.scaleUp.policies[0].periodSeconds", "1801 is out of range", "1 to 1800"),
    ];
    for (pointer, value, path, problem, remedy) in cases {
        let resource = resource(with(pointer, value.clone())).unwrap();
        let error = validate(&resource).expect_err(&format!("{pointer} = {value}"));
        assert_eq!(error.path, path, "{pointer} = {value}: {error}");
        assert!(error.problem.contains(problem), "{pointer} = {value}: {error}");
        assert!(error.remedy.contains(remedy), "{pointer} = {value}: {error}");
    }
}

#[test]
fn a_policy_that_decides_from_nothing_is_refused() {
    let mut spec = with("/rules", json!([]));
    spec["targets"] = json!([]);
    let error = validate(&resource(spec).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "spec: neither rules nor targets are given; give at least one of them");
}

#[test]
fn unknown_fields_are_refused_by_name() {
    for (pointer, field) in [
        ("/replica", "replica"),
        ("/rules/0/addGpu", "addGpu"),
        ("/targets/0/perPod", "perPod"),
        ("/replicas/minimum", "minimum"),
        ("/behavior/scaleDown/window", "window"),
        ("/serviceRef/port", "port"),
    ] {
        let error = resource(with(pointer, json!(1))).unwrap_err().to_string();
        assert!(error.contains(&format!("unknown field `{field}`")), "{pointer}: {error}");
    }
}

#[test]
fn the_definition_is_a_structural_schema_with_a_status() {
    use kube::CustomResourceExt;
    let definition = serde_json::to_value(ScalePolicy::crd()).unwrap();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(definition["metadata"]["name"], "scalepolicies.weir.dev");
    assert_eq!(definition["spec"]["scope"], "Namespaced");
    assert_eq!(version["subresources"], json!({"status": {}}));
    let whole = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let spec = &whole["properties"];
    assert_eq!(spec["rules"]["items"]["properties"]["add"]["x-kubernetes-int-or-string"], json!(true));
    assert_eq!(spec["rules"]["items"]["properties"]["for"]["type"], "string");
    assert_eq!(whole.to_string().matches("additionalProperties").count(), 1, "{whole}");
}
