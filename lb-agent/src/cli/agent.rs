//! What only a running agent knows, asked through its control socket.

use std::path::Path;

use serde_json::Value;

use super::Error;
use crate::telemetry::control::{self, ControlError};

/// The agent's answer to `/v1/...`.
pub fn ask(pin_path: &Path, what: &str) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(control::get(pin_path, what)).map_err(|error| Error::NoAgent {
        path: pin_path.to_owned(),
        reason: match error {
            ControlError::NoAgent { socket, source, .. } => format!("{socket}: {source}"),
            other => other.to_string(),
        },
    })
}

/// The items of the agent's answer to `/v1/policies` or `/v1/nodes`.
pub fn items(pin_path: &Path, what: &str) -> Result<Vec<Value>, Error> {
    match ask(pin_path, what)?.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err(Error::Answer { path: what.to_owned(), reason: "it has no items".into() }),
    }
}

/// A field of an answer as a text; empty where it is null, or an older agent does not know it.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A field of an answer as a short text, whatever its type.
pub fn brief(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if !number.is_u64() && !number.is_i64() => format!("{float:.2}"),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

/// A field of an answer as a list; empty where it is none.
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn without_an_agent_the_error_says_so() {
        let error = items(Path::new("/nowhere/weir-cli-test"), "/v1/policies").unwrap_err();
        assert!(error.to_string().starts_with("no agent answers for /nowhere/weir-cli-test: "), "{error}");
        assert!(error.remedy().contains("weir run"));
    }

    #[test]
    fn fields_are_read_whatever_they_are() {
        let value = json!({"a": "x", "n": 3, "f": 1.239, "b": true, "l": [1], "z": null});
        let briefs = ["a", "n", "f", "b", "z", "none"].map(|field| brief(&value, field));
        assert_eq!(briefs, ["x", "3", "1.24", "true", "", ""]);
        assert_eq!(
            (text(&value, "a"), text(&value, "n"), list(&value, "l").len(), list(&value, "a").len()),
            ("x", "", 1, 0)
        );
    }
}
