//! An object while it is checked, and what was found wrong with it: of a file's document or of the API server, in the same words.

use std::{cell::LazyCell, collections::BTreeMap, path::Path};

use k8s_openapi::{Metadata, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use lb_common::Protocol;
use serde::Serialize;
use serde_json::Value;

use super::{Origin, Problem, annotations::Invalid, document::Document, problem::ObjectRef};

/// So many problems of one object are told: an object of thousands of wrong endpoints must not fill the log.
const MAX_PROBLEMS: usize = 20;

type Serialised<'a> = LazyCell<Value, Box<dyn FnOnce() -> Value + 'a>>;

enum Source<'a> {
    Document(&'a Path, &'a Document),
    /// Made into JSON only when a problem asks for a value.
    Object(Serialised<'a>),
}

/// An object while it is checked.
pub(super) struct Context<'a> {
    source: Source<'a>,
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl<'a> Context<'a> {
    /// A document of a file. Anything wrong with it refuses the whole file.
    pub(super) fn document(file: &'a Path, document: &'a Document) -> Self {
        let text = |path: &[&str]| document.text(path).unwrap_or_default();
        let namespace = Some(text(&["metadata", "namespace"])).filter(|n| !n.is_empty());
        let object = ObjectRef {
            kind: text(&["kind"]),
            namespace: namespace.unwrap_or_else(|| "default".into()),
            name: text(&["metadata", "name"]),
        };
        Self { source: Source::Document(file, document), object, problems: Vec::new() }
    }

    /// An object of the API server. What is wrong with it is left out, and the rest of it is used.
    pub(super) fn object<K>(object: &'a K) -> Self
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize,
    {
        let meta = object.metadata();
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        let serialise = move || serde_json::to_value(object).unwrap_or_default();
        Self {
            source: Source::Object(LazyCell::new(Box::new(serialise))),
            object: ObjectRef::new(K::KIND, &name(&meta.namespace), &name(&meta.name)),
            problems: Vec::new(),
        }
    }

    /// Where a field stands.
    pub(super) fn origin(&self, path: &[&str]) -> Origin {
        match &self.source {
            Source::Document(file, document) => Origin::file(*file, document.line(path)),
            Source::Object(_) => Origin::Api,
        }
    }

    fn text(&self, path: &[&str]) -> Option<String> {
        match &self.source {
            Source::Document(_, document) => document.text(path),
            Source::Object(value) => scalar(value, path),
        }
    }

    /// Notes that a field is wrong.
    pub(super) fn problem(&mut self, path: &[&str], cause: &str, remedy: &str) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let mut problem = Problem {
            origin: self.origin(path),
            object: self.object.clone(),
            field: path.join("."),
            value: self.text(path).unwrap_or_default(),
            cause: cause.to_owned(),
            remedy: remedy.to_owned(),
        };
        if self.problems.len() + 1 == MAX_PROBLEMS {
            problem.remedy += "; what else may be wrong with the object is not listed";
        }
        self.problems.push(problem);
    }

    /// The value, or none and its problem noted.
    pub(super) fn accept<T>(&mut self, path: &[&str], value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|invalid| self.problem(path, &invalid.cause, &invalid.remedy)).ok()
    }

    /// An annotation's value as this reader understands it; none if it is absent or wrong.
    pub(super) fn annotation<T>(
        &mut self,
        annotations: &BTreeMap<String, String>,
        name: &str,
        reader: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        let text = annotations.get(name)?;
        self.accept(&["metadata", "annotations", name], reader(text))
    }

    /// Namespace and name.
    pub(super) fn identity(&mut self) -> (String, String) {
        if self.object.name.is_empty() {
            self.problem(&["metadata", "name"], "the object has no name", "add metadata.name");
        }
        (self.object.namespace.clone(), self.object.name.clone())
    }

    /// Whether the object is the API server's.
    pub(super) const fn is_api(&self) -> bool {
        matches!(self.source, Source::Object(_))
    }

    /// Whether what was found may be used.
    pub(super) fn is_usable(&self) -> bool {
        self.is_api() || self.problems.is_empty()
    }

    /// All that is wrong.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

fn scalar(root: &Value, path: &[&str]) -> Option<String> {
    let found = path.iter().try_fold(root, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })?;
    match found {
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
        other => Some(other.to_string()),
    }
}

/// A port number from Kubernetes' signed one.
pub(super) fn port(number: i32) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Invalid { cause: "not a port".into(), remedy: "use a whole number from 1 to 65535".into() }),
    }
}

/// A protocol; Kubernetes' default is TCP.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, Invalid> {
    match name {
        None | Some("TCP" | "") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some(_) => Err(Invalid { cause: "this protocol is not balanced".into(), remedy: "use TCP or UDP".into() }),
    }
}
