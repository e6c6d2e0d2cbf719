//! A file's text as checked objects: a document is one of the kinds Weir reads and in order, or its problems are told.
//!
//! The schema is Kubernetes' own. Kinds that Weir does not read are skipped with a note, so that a folder may hold whole applications.

use std::path::Path;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Objects, Origin, Problem,
    context::Context,
    document::{self, Document},
    object::PolicyObject,
    service, slice,
};
use crate::scaling::{self, ScalePolicy};

/// The objects of one file's text, or all that is wrong with it.
pub fn read(file: &Path, text: &str) -> Result<Objects, Vec<Problem>> {
    let documents = document::parse(text).map_err(|error| {
        vec![Problem {
            origin: Origin::file(file, error.line.unwrap_or(0)),
            cause: format!("not valid YAML: {}", error.cause),
            remedy: "correct the file; what it said before stays in force".into(),
            ..Problem::default()
        }]
    })?;
    let (mut objects, mut problems) = (Objects::default(), Vec::new());
    for document in documents {
        let mut context = Context::document(file, &document);
        read_document(&mut context, &document, &mut objects);
        problems.append(&mut context.into_problems());
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

fn read_document(context: &mut Context<'_>, document: &Document, objects: &mut Objects) {
    let field = |name| document.text(&[name]).unwrap_or_default();
    match (field("apiVersion").as_str(), field("kind").as_str()) {
        ("v1", "Service") => {
            if let Some(service) = typed::<Service>(context, document) {
                objects.services.extend(service::check(context, &service));
            }
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            if let Some(slice) = typed::<EndpointSlice>(context, document) {
                objects.slices.extend(slice::check(context, &slice));
            }
        }
        ("weir.dev/v1alpha1", "ScalePolicy") => {
            if let Some(policy) = of_value::<ScalePolicy>(context, without_nulls(document.value())) {
                objects.policies.extend(check_policy(context, &policy));
            }
        }
        (_, "") => {
            context.problem(&["kind"], "the document names no kind", "add apiVersion and kind, or remove the document")
        }
        (version, kind @ ("Service" | "EndpointSlice" | "ScalePolicy")) if !is_foreign(version, kind) => {
            let wanted = match kind {
                "Service" => "v1",
                "EndpointSlice" => "discovery.k8s.io/v1",
                _ => "weir.dev/v1alpha1",
            };
            let cause = format!("{kind} is not read in API version {version:?}");
            context.problem(&["apiVersion"], &cause, &format!("use apiVersion: {wanted}"));
        }
        (_, kind) => objects.notes.push(format!("{}: kind {kind} is not for Weir: skipped", context.origin(&[]))),
    }
}

/// A kind of another project that happens to have the name of one of ours, such as Knative's Service.
fn is_foreign(version: &str, kind: &str) -> bool {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match kind {
        "Service" => !group.is_empty(),
        "EndpointSlice" => !matches!(group, "" | "discovery.k8s.io"),
        _ => !matches!(group, "" | "weir.dev"),
    }
}

fn check_policy(context: &mut Context<'_>, policy: &ScalePolicy) -> Option<PolicyObject> {
    match scaling::validate(policy) {
        Ok(policy) => Some(PolicyObject { origin: context.origin(&[]), policy }),
        Err(error) => {
            let path = error.path.replace('[', ".").replace(']', "");
            let steps: Vec<&str> = path.split('.').collect();
            context.problem(&steps, &error.problem, &error.remedy);
            None
        }
    }
}

/// As the API server, which drops fields of custom resources that are null before it looks at them.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(given.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn typed<T: DeserializeOwned>(context: &mut Context<'_>, document: &Document) -> Option<T> {
    of_value(context, document.value())
}

fn of_value<T: DeserializeOwned>(context: &mut Context<'_>, value: Value) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(typed) => Some(typed),
        Err(error) => {
            let steps: Vec<String> = error.path().iter().map(segment).collect();
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            context.problem(
                &steps,
                &error.inner().to_string(),
                "correct the field (numbers in labels and annotations need quotes)",
            );
            None
        }
    }
}

fn segment(segment: &serde_path_to_error::Segment) -> String {
    match segment {
        serde_path_to_error::Segment::Seq { index } => index.to_string(),
        serde_path_to_error::Segment::Map { key } => key.clone(),
        serde_path_to_error::Segment::Enum { variant } => variant.clone(),
        serde_path_to_error::Segment::Unknown => "?".into(),
    }
}
