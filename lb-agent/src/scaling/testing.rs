//! Policies for tests.

use serde_json::{Value, json};

use super::{Policy, validate};

/// A policy that has these fields of a spec over the least that one has, each instead of the same of `least`; `annotations` are its object's.
pub(crate) fn policy(mut least: Value, fields: &Value) -> Policy {
    let mut metadata = json!({"name": "web"});
    least["serviceRef"] = json!({"name": "web"});
    for (field, value) in fields.as_object().expect("fields") {
        let place = if field == "annotations" { &mut metadata } else { &mut least };
        place[field] = value.clone();
    }
    let resource =
        json!({"apiVersion": "weir.dev/v1alpha1", "kind": "ScalePolicy", "metadata": metadata, "spec": least});
    validate(&serde_json::from_value(resource).expect("a policy")).expect("a policy that makes sense")
}
