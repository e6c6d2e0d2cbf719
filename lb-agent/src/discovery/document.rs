//! YAML and JSON text as documents whose every value knows its line.
//!
//! Typed deserialisation runs over these, so that an error of any layer (syntax, schema, meaning) can name the line of its field.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value of a document.
#[derive(Clone, Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

/// One document, or one part of it.
#[derive(Clone, Debug)]
pub struct Document {
    root: Arc<Spanned<Node>>,
}

/// Why a text is not a sequence of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The line, if known.
    pub line: Option<u64>,
    /// What is wrong there.
    pub cause: String,
}

/// The documents of a text; empty ones are left out, the items of a `kind: List` are documents of their own.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let roots: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text).map_err(|error| syntax_error(&error))?;
    let documents = roots.into_iter().map(|root| Document { root: Arc::new(root) });
    Ok(documents.flat_map(Document::items).filter(|d| !matches!(d.root.value, Node::Scalar(Value::Null))).collect())
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let error = error.without_snippet();
    let text = error.to_string();
    SyntaxError {
        line: error.location().map(|l| l.line()).filter(|line| *line > 0),
        cause: text.lines().next().unwrap_or_default().to_owned(),
    }
}

impl Document {
    /// The document as plain JSON.
    pub fn value(&self) -> Value {
        self.root.value.value()
    }

    /// The text at a path, if there is a scalar.
    pub fn text(&self, path: &[&str]) -> Option<String> {
        match &descend(&self.root, path)?.0.value {
            Node::Scalar(Value::String(text)) => Some(text.clone()),
            Node::Scalar(other) => Some(other.to_string()),
            _ => None,
        }
    }

    /// The line of a path's value, or of the nearest value around it that exists.
    pub fn line(&self, path: &[&str]) -> u64 {
        (0..=path.len()).rev().find_map(|n| descend(&self.root, &path[..n])).map_or(0, |(_, line)| line)
    }

    fn items(self) -> Vec<Self> {
        let kind = self.text(&["kind"]).unwrap_or_default();
        let Some((Spanned { value: Node::List(items), .. }, _)) = descend(&self.root, &["items"]) else {
            return vec![self];
        };
        if !kind.ends_with("List") {
            return vec![self];
        }
        items.iter().map(|item| Self { root: Arc::new(item.clone()) }).collect()
    }
}

/// The node at a path, and the line of its key (or of itself, in a list).
fn descend<'a>(root: &'a Spanned<Node>, path: &[&str]) -> Option<(&'a Spanned<Node>, u64)> {
    path.iter().try_fold((root, root.referenced.line()), |(node, _), step| {
        let child = match &node.value {
            Node::Map(fields) => &fields.iter().find(|(key, _)| key == step)?.1,
            Node::List(items) => items.get(step.parse::<usize>().ok()?)?,
            Node::Scalar(_) => return None,
        };
        Some((child, child.referenced.line()))
    })
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => Value::Array(items.iter().map(|item| item.value.value()).collect()),
            Self::Map(fields) => {
                Value::Object(fields.iter().map(|(key, node)| (key.clone(), node.value.value())).collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: Service
metadata:
  annotations:
    weir.dev/weight: \"70000\"
spec:
  ports:
  - port: 80
    name: http
---
---
kind: ServiceList
items:
- kind: Service
  metadata: {name: a}
- kind: Service
  metadata:
    name: b
";

    #[test]
    fn values_know_their_lines() {
        let documents = parse(TEXT).unwrap();
        assert_eq!(documents.len(), 3);
        let first = &documents[0];
        assert_eq!(first.line(&["metadata", "annotations", "weir.dev/weight"]), 4);
        assert_eq!(first.line(&["spec", "ports", "0", "name"]), 8);
        assert_eq!(first.line(&["spec", "ports", "0", "missing"]), 7, "the nearest value that exists");
        assert_eq!(first.text(&["metadata", "annotations", "weir.dev/weight"]).as_deref(), Some("70000"));
        assert_eq!(documents[2].line(&["metadata", "name"]), 17);
        assert_eq!(documents[1].value()["metadata"]["name"], "a");
    }

    #[test]
    fn scalars_keep_their_types() {
        let value =
            parse("a: 80\nb: \"80\"\nc: true\nd: null\ne: 1.5\nf: text\ng: 2024-01-01T00:00:00Z\n").unwrap()[0].value();
        assert_eq!(
            value,
            serde_json::json!({"a": 80, "b": "80", "c": true, "d": null, "e": 1.5, "f": "text", "g": "2024-01-01T00:00:00Z"})
        );
    }

    #[test]
    fn json_is_yaml() {
        let documents = parse("{\n \"kind\": \"Service\",\n \"spec\": {\"ports\": [\n  {\"port\": 80}]}}").unwrap();
        assert_eq!(documents[0].line(&["spec", "ports", "0", "port"]), 4);
    }

    #[test]
    fn syntax_errors_name_their_line() {
        for (text, line) in [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\nb: *x\n", 2), ("a: 1\na: 2\n", 2)] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, Some(line), "{text:?}: {error:?}");
            assert!(!error.cause.is_empty());
        }
    }
}
