//! Documents as checked objects: a document is one of the kinds Weir reads and in order, or its problems are told.
//!
//! The schema is Kubernetes' own. Kinds that Weir does not read are skipped with a note, so that a folder may hold whole applications.

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use lb_common::{Algorithm, Protocol};
use serde::de::DeserializeOwned;

use super::{
    Origin, Problem,
    annotations::Invalid,
    document::{self, Document},
    service, slice,
};
use crate::{
    model::{Feedback, HealthCheck},
    scaling::{self, Policy, ScalePolicy},
};

/// The objects of one or all files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// The Services.
    pub services: Vec<ServiceObject>,
    /// The EndpointSlices.
    pub slices: Vec<SliceObject>,
    /// The ScalePolicies.
    pub policies: Vec<PolicyObject>,
    /// Documents that were skipped, and why.
    pub notes: Vec<String>,
}

impl Objects {
    /// Adds those of another file.
    pub fn extend(&mut self, other: Self) {
        self.services.extend(other.services);
        self.slices.extend(other.slices);
        self.policies.extend(other.policies);
        self.notes.extend(other.notes);
    }
}

/// A Service, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceObject {
    /// Where it was read.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was created, in nanoseconds since 1970, if it says so.
    pub created: Option<i128>,
    /// Its ports.
    pub ports: Vec<PortObject>,
    /// The addresses clients use: cluster, external and load balancer addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// `weir.dev/algorithm`.
    pub algorithm: Option<Algorithm>,
    /// `sessionAffinity: ClientIP`: its timeout.
    pub affinity: Option<Duration>,
    /// `weir.dev/maglev-size`.
    pub maglev_size: Option<u32>,
    /// `weir.dev/feedback`.
    pub feedback: Feedback,
    /// `weir.dev/slow-start`.
    pub slow_start: Option<Duration>,
    /// `weir.dev/health-check` and its companions.
    pub health_check: Option<HealthCheck>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortObject {
    /// Its name, may be empty.
    pub name: String,
    /// What clients use.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on every address of the node.
    pub node_port: Option<u16>,
}

/// An EndpointSlice, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceObject {
    /// Where it was read.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Service it belongs to, in its namespace.
    pub service: String,
    /// The weight of its endpoints.
    pub weight: Option<u16>,
    /// Port name, number and protocol.
    pub ports: Vec<(String, u16, Protocol)>,
    /// Its endpoints that are ready or terminating.
    pub endpoints: Vec<EndpointObject>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointObject {
    /// Its address.
    pub address: IpAddr,
    /// `nodeName`.
    pub node: Option<String>,
    /// It is terminating: keeps its connections, gets no new ones.
    pub terminating: bool,
}

/// A ScalePolicy, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    /// Where it was read.
    pub origin: Origin,
    /// What it says.
    pub policy: Policy,
}

/// The objects of one file's text, or all that is wrong with it.
pub fn read(file: &Path, text: &str) -> Result<Objects, Vec<Problem>> {
    let documents = document::parse(text).map_err(|error| {
        vec![Problem {
            origin: Origin { file: file.to_owned(), line: error.line.unwrap_or(0) },
            cause: format!("not valid YAML: {}", error.cause),
            remedy: "correct the file; what it said before stays in force".into(),
            ..Problem::default()
        }]
    })?;
    let (mut objects, mut problems) = (Objects::default(), Vec::new());
    for document in documents {
        let mut context = Context::new(file, document);
        read_document(&mut context, &mut objects);
        problems.append(&mut context.problems);
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

fn read_document(context: &mut Context<'_>, objects: &mut Objects) {
    let field = |name| context.document.text(&[name]).unwrap_or_default();
    match (field("apiVersion").as_str(), field("kind").as_str()) {
        ("v1", "Service") => {
            if let Some(service) = context.typed::<Service>() {
                objects.services.extend(service::check(context, service));
            }
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            if let Some(slice) = context.typed::<EndpointSlice>() {
                objects.slices.extend(slice::check(context, slice));
            }
        }
        ("weir.dev/v1alpha1", "ScalePolicy") => {
            if let Some(policy) = context.typed::<ScalePolicy>() {
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

/// A document while it is checked, and what was found wrong with it.
pub(super) struct Context<'a> {
    file: &'a Path,
    document: Document,
    label: String,
    problems: Vec<Problem>,
}

impl<'a> Context<'a> {
    fn new(file: &'a Path, document: Document) -> Self {
        let text = |path: &[&str]| document.text(path);
        let namespace = text(&["metadata", "namespace"]).unwrap_or_else(|| "default".into());
        let label = match (text(&["kind"]), text(&["metadata", "name"])) {
            (Some(kind), Some(name)) => format!("{kind} {namespace}/{name}"),
            (Some(kind), None) => kind,
            _ => String::new(),
        };
        Self { file, document, label, problems: Vec::new() }
    }

    /// Where a field stands.
    pub(super) fn origin(&self, path: &[&str]) -> Origin {
        Origin { file: self.file.to_owned(), line: self.document.line(path) }
    }

    /// Notes that a field is wrong.
    pub(super) fn problem(&mut self, path: &[&str], cause: &str, remedy: &str) {
        self.problems.push(Problem {
            origin: self.origin(path),
            object: self.label.clone(),
            field: path.join("."),
            value: self.document.text(path).unwrap_or_default(),
            cause: cause.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// The value, or none and its problem noted.
    pub(super) fn accept<T>(&mut self, path: &[&str], value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|invalid| self.problem(path, &invalid.cause, &invalid.remedy)).ok()
    }

    /// An annotation's value as this reader understands it; none if it is absent or wrong.
    pub(super) fn annotation<T>(&mut self, name: &str, reader: impl Fn(&str) -> Result<T, Invalid>) -> Option<T> {
        let path = ["metadata", "annotations", name];
        let text = self.document.text(&path)?;
        self.accept(&path, reader(&text))
    }

    /// Namespace and name.
    pub(super) fn identity(&mut self, namespace: Option<String>, name: Option<String>) -> (String, String) {
        if name.as_deref().unwrap_or_default().is_empty() {
            self.problem(&["metadata", "name"], "the object has no name", "add metadata.name");
        }
        (namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()), name.unwrap_or_default())
    }

    /// Whether nothing was found wrong.
    pub(super) fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn typed<T: DeserializeOwned>(&mut self) -> Option<T> {
        let value = self.document.value();
        match serde_path_to_error::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let steps: Vec<String> = error.path().iter().map(segment).collect();
                let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
                self.problem(
                    &steps,
                    &error.inner().to_string(),
                    "correct the field (numbers in labels and annotations need quotes)",
                );
                None
            }
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
