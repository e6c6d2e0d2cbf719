//! The size of a policy's replicas in words, from the agent's answer: short in `weir get policies -o wide`, whole in `weir explain policy`.

use serde_json::Value;

use super::agent::{brief, list, text};

/// The size that replicas should have, and how many have it; empty for a policy that does not ask.
pub fn in_short(policy: &Value) -> String {
    let size = &policy["recommendation"];
    if !size.is_object() {
        return String::new();
    }
    let amount = |resource: &str| size[resource].as_str().map(|amount| format!("{resource} {amount}"));
    let mut parts: Vec<String> = ["cpu", "memory"].into_iter().filter_map(amount).collect();
    if parts.is_empty() {
        parts.push("nothing yet".to_owned());
    }
    parts.push(match size["resizedPods"].as_u64() {
        Some(resized) => format!("{resized} of {} pods", brief(size, "pods")),
        None => "only recommended".to_owned(),
    });
    format!("{}: {}", text(size, "container"), parts.join(", "))
}

/// All that is known of it; nothing for a policy that does not ask.
pub fn in_words(policy: &Value) -> Vec<String> {
    let size = &policy["recommendation"];
    if !size.is_object() {
        return Vec::new();
    }
    let last =
        Some(text(size, "lastChange")).filter(|last| !last.is_empty()).map(|last| format!("last change: {last}"));
    let sized = list(policy, "conditions").iter().find(|condition| text(condition, "type") == "Sized");
    let standing = sized.map(|sized| format!("{}: {}", text(sized, "reason"), text(sized, "message")));
    let why = Some(text(size, "message").to_owned()).filter(|why| !why.is_empty());
    [Some(in_short(policy)), last, standing, why].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_only_recommended_says_so() {
        let of = |recommendation: Value| in_short(&json!({"recommendation": recommendation}));
        assert_eq!(
            of(json!({"container": "app", "cpu": "1000m", "resizedPods": null})),
            "app: cpu 1000m, only recommended"
        );
        assert_eq!(of(json!({"container": "app"})), "app: nothing yet, only recommended");
        assert_eq!(of(Value::Null), "");
        assert!(in_words(&json!({"recommendation": null})).is_empty());
    }
}
