//! `weir explain policy`: the last decision of a scaling policy, as its agent tells it.

use std::fmt::Write;

use serde_json::Value;

use crate::cli::{
    Error,
    agent::{brief, list, text},
    forecast,
    output::{self, Format},
    size,
};

/// The one policy of this name.
pub fn choose(items: Vec<Value>, name: &str, namespace: Option<&str>) -> Result<Value, Error> {
    let full = |item: &Value| format!("{}/{}", text(item, "namespace"), text(item, "name"));
    let known = items.iter().map(full).collect();
    let matches =
        |item: &Value| text(item, "name") == name && namespace.is_none_or(|wanted| text(item, "namespace") == wanted);
    let mut found: Vec<Value> = items.into_iter().filter(matches).collect();
    match (found.len(), found.pop()) {
        (1, Some(policy)) => Ok(policy),
        (_, None) => Err(Error::UnknownPolicy { name: name.to_owned(), known }),
        (_, Some(last)) => {
            let namespaces = found.iter().chain([&last]).map(|item| text(item, "namespace").to_owned()).collect();
            Err(Error::AmbiguousPolicy { name: name.to_owned(), namespaces })
        }
    }
}

/// The policy in this form.
pub fn show(policy: &Value, format: Format) -> Result<String, Error> {
    match format {
        Format::Json => output::json(policy),
        Format::Table => Ok(in_words(policy)),
    }
}

fn in_words(policy: &Value) -> String {
    let mut out = String::new();
    let decision = &policy["lastDecision"];
    let or_none = |value: String| if value.is_empty() { "none".to_owned() } else { value };
    for (name, value) in [
        ("Policy", format!("{}/{}", text(policy, "namespace"), text(policy, "name"))),
        ("Service", text(policy, "service").to_owned()),
        ("Mode", text(policy, "mode").to_owned()),
        (
            "Replicas",
            format!(
                "{} now, {} wanted, {} to {} allowed",
                or_none(brief(policy, "currentReplicas")),
                or_none(brief(policy, "desiredReplicas")),
                brief(policy, "minReplicas"),
                brief(policy, "maxReplicas")
            ),
        ),
        ("Decided", or_none(text(decision, "at").to_owned())),
        ("Why", or_none(text(decision, "reason").to_owned())),
        ("Problem", or_none(brief(policy, "problem"))),
        ("Failure", or_none(brief(&policy["actuator"], "lastError"))),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<10}{value}", format!("{name}:"));
    }
    section(&mut out, "Inputs", list(decision, "inputs"), |input| {
        format!(
            "{} = {}, {}s old",
            text(input, "signal"),
            or_none(brief(input, "value")),
            or_none(brief(input, "ageSeconds"))
        )
    });
    section(&mut out, "Answers", list(decision, "answers"), |answer| {
        let asks = match brief(answer, "replicas") {
            replicas if replicas.is_empty() => "asks for nothing".to_owned(),
            replicas => format!("asks for {replicas}"),
        };
        format!("{} {asks}: {}", text(answer, "from"), text(answer, "why"))
    });
    section(&mut out, "Forecast", &forecast::in_words(policy), String::clone);
    section(&mut out, "Size", &size::in_words(policy), String::clone);
    section(&mut out, "Rejected", list(decision, "rejected"), |item| {
        format!("{}: {}", text(item, "what"), text(item, "why"))
    });
    section(&mut out, "Limits", list(decision, "limitedBy"), |limit| {
        format!("{}: {}", text(limit, "field"), text(limit, "why"))
    });
    out
}

fn section<T>(out: &mut String, name: &str, items: &[T], line: impl Fn(&T) -> String) {
    if !items.is_empty() {
        let _ = writeln!(out, "{name}:");
    }
    for item in items {
        let _ = writeln!(out, "  {}", line(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::get::agents::tests::answer;

    #[test]
    fn a_name_alone_has_to_be_unique() {
        let error = choose(answer(), "web", None).unwrap_err();
        assert_eq!(error.to_string(), "policy \"web\" is in several namespaces: shop, default");
        assert!(error.remedy().contains("-n NAMESPACE"));
        assert_eq!(choose(answer(), "web", Some("shop")).unwrap()["desiredReplicas"], 4);
        let unknown = choose(answer(), "api", None).unwrap_err();
        assert_eq!(unknown.to_string(), "the agent knows no policy \"api\"");
        assert!(unknown.remedy().contains("shop/web, default/web"), "{}", unknown.remedy());
    }

    #[test]
    fn a_decision_is_told_with_inputs_answers_and_limits() {
        let expected = "\
Policy:   shop/web
Service:  web
Mode:     Apply
Replicas: 3 now, 4 wanted, 1 to 20 allowed
Decided:  2026-01-02T03:04:05Z
Why:      busy asks for 4
Problem:  none
Failure:  none
Inputs:
  activeConnections = 81.50, 0.40s old
Answers:
  rule busy asks for 4: 81.5 is above 80 for 30s
Forecast:
  off: it is early
  intercept = 1.5, standard error 0.25
Size:
  app: cpu 480m, memory 64Mi, 2 of 3 pods
  last change: cpu 250m -> 480m: rule grow
  Resizing: one pod after the other
  cpu: 9 of 10 samples
Rejected:
  target asks for 5: not within its window
Limits:
  replicas.max: at most 20
";
        assert_eq!(show(&answer()[0], Format::Table).unwrap(), expected);
        let json: Value = serde_json::from_str(&show(&answer()[0], Format::Json).unwrap()).unwrap();
        assert_eq!(json, answer()[0]);
    }
}
