//! The model from checked objects and what is known of the node: who serves what, and which frontend is whose.
//!
//! [`service`] makes the ports of one Service and is all that a change of it or of its slices costs; [`build`] makes the whole model of files.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Algorithm, Protocol, SocketKey};

pub use super::owners::Holders;
use super::{
    ObjectRef, Objects, Origin, Problem, ServiceObject, SliceObject, backends, frontends,
    node_ports::{NodeInfo, NodePortAddresses},
    object::{PolicyObject, PortObject},
    owners::Owners,
};
use crate::{
    balance::weights,
    model::{Feedback, FrontendSpec, Model, ServiceId, ServicePort},
    node::NodeView,
    scaling::{Policy, PolicyId},
};

/// The weight of a backend that names none.
pub const DEFAULT_WEIGHT: u16 = 100;

/// What the model depends on besides Services and slices.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The node as its kernel says.
    pub node: &'a NodeView,
    /// The node as the API server says.
    pub info: &'a NodeInfo,
    /// `--nodeport-addresses`.
    pub node_ports: &'a NodePortAddresses,
    /// `--default-algorithm`.
    pub default_algorithm: Algorithm,
    /// The annotation `weir.dev/weight` of a Pod, by namespace and name; it comes before the slice's.
    pub pod_weight: &'a dyn Fn(&str, &str) -> Option<u16>,
}

/// Every frontend that a Service wants: what [`Owners::set`] has to know before [`service`] is called, also for the Services it returns.
pub fn claims(service: &ServiceObject, setting: &Setting<'_>) -> BTreeSet<SocketKey> {
    frontends::keys(service, setting)
}

/// The ports of one Service with their frontends and backends, and what could not be part of them.
pub fn service(
    service: &ServiceObject,
    slices: &[&SliceObject],
    setting: &Setting<'_>,
    owners: &Owners,
) -> (Vec<(ServiceId, ServicePort)>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut taken = BTreeSet::new();
    let mut ports = Vec::new();
    for port in &service.ports {
        let mut frontends = BTreeMap::new();
        for (key, spec) in frontends::of_port(service, port, setting) {
            match owners.refusal(service, &key) {
                // Whose they are makes no difference.
                Some(_) if key.is_of_address() => {}
                Some(refusal) => problems.push(refusal),
                None if taken.insert(key) => drop(frontends.insert(key, spec)),
                None => problems.push(taken_by_itself(service, port, &key.to_string())),
            }
        }
        if !frontends.is_empty() {
            ports.push(service_port(service, port, frontends, slices, setting, &mut problems));
        }
    }
    problems.extend(idle_feedback(service, ports.first().map(|(_, port)| port)));
    problems.extend(feedback_without_requests(service, &ports));
    (ports, problems)
}

fn service_port(
    service: &ServiceObject,
    port: &PortObject,
    frontends: BTreeMap<SocketKey, FrontendSpec>,
    slices: &[&SliceObject],
    setting: &Setting<'_>,
    problems: &mut Vec<Problem>,
) -> (ServiceId, ServicePort) {
    let backends = backends::of_port(service, port, slices, setting);
    // In a cluster the slices follow the Service, a little later.
    let written = service.origin != Origin::Api;
    if backends.is_none() && written && slices.iter().any(|slice| !slice.endpoints.is_empty()) {
        problems.push(unmatched_port(service, port));
    }
    let id = ServiceId {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        port: port.port,
        protocol: port.protocol,
    };
    let port = ServicePort {
        port_name: port.name.clone(),
        frontends,
        algorithm: service.algorithm.unwrap_or(setting.default_algorithm),
        affinity: service.affinity,
        maglev_size: service.maglev_size,
        forwarding: service.forwarding,
        feedback: service.feedback,
        measure: service.measure,
        response_idle: service.response_idle,
        slow_start: service.slow_start,
        health_check: service.health_check.clone(),
        limits: service.limits,
        health_check_node_port: service.health_check_node_port,
        backends: backends.unwrap_or_default(),
        resting: backends::resting(port, slices),
    };
    (id, port)
}

/// The model of files, and what of the objects could not be part of it. `holders` say whose each frontend is now.
pub fn build(objects: &Objects, setting: &Setting<'_>, holders: &Holders) -> (Model, Vec<Problem>) {
    let mut problems = Vec::new();
    let services = services(objects, &mut problems);
    let slices = by_service(objects, &mut problems);
    let mut owners = Owners::default();
    for service in services.values() {
        owners.set(service, claims(service, setting), holders);
    }
    let mut model = Model::default();
    for (name, object) in services {
        let slices = slices.get(&name).map_or(&[][..], Vec::as_slice);
        let (ports, mut more) = service(object, slices, setting, &owners);
        model.services.extend(ports);
        problems.append(&mut more);
    }
    (model, problems)
}

/// The policies, each only once.
pub fn policies(objects: &Objects) -> (Vec<Policy>, Vec<Problem>) {
    let (mut unique, mut problems) = (BTreeMap::<&PolicyId, &PolicyObject>::new(), Vec::new());
    for object in &objects.policies {
        let id = &object.policy.id;
        let first = *unique.entry(id).or_insert(object);
        if !std::ptr::eq(first, object) {
            let twice = ObjectRef::new("ScalePolicy", &id.namespace, &id.name);
            problems.push(written_twice(&object.origin, twice, &first.origin));
        }
    }
    (unique.into_values().map(|object| object.policy.clone()).collect(), problems)
}

/// The Services by namespace and name, each only once.
fn services<'a>(objects: &'a Objects, problems: &mut Vec<Problem>) -> BTreeMap<(&'a str, &'a str), &'a ServiceObject> {
    let mut unique = BTreeMap::new();
    for service in &objects.services {
        let first = *unique.entry((service.namespace.as_str(), service.name.as_str())).or_insert(service);
        if !std::ptr::eq(first, service) {
            problems.push(written_twice(&service.origin, object_of(service), &first.origin));
        }
    }
    unique
}

/// The slices of each Service by name, each only once.
fn by_service<'a>(
    objects: &'a Objects,
    problems: &mut Vec<Problem>,
) -> BTreeMap<(&'a str, &'a str), Vec<&'a SliceObject>> {
    let mut unique: BTreeMap<(&str, &str), &SliceObject> = BTreeMap::new();
    for slice in &objects.slices {
        let first = *unique.entry((&slice.namespace, &slice.name)).or_insert(slice);
        if !std::ptr::eq(first, slice) {
            let twice = ObjectRef::new("EndpointSlice", &slice.namespace, &slice.name);
            problems.push(written_twice(&slice.origin, twice, &first.origin));
        }
    }
    let services: BTreeSet<(&str, &str)> =
        objects.services.iter().map(|s| (s.namespace.as_str(), s.name.as_str())).collect();
    let mut grouped: BTreeMap<(&str, &str), Vec<&SliceObject>> = BTreeMap::new();
    for slice in unique.into_values() {
        if !services.contains(&(slice.namespace.as_str(), slice.service.as_str())) {
            problems.push(no_service(slice));
        }
        grouped.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    grouped
}

fn object_of(service: &ServiceObject) -> ObjectRef {
    ObjectRef::new("Service", &service.namespace, &service.name)
}

fn written_twice(origin: &Origin, object: ObjectRef, first: &Origin) -> Problem {
    Problem {
        origin: origin.clone(),
        field: "metadata.name".into(),
        value: object.name.clone(),
        cause: format!("this {} is in {first} already, which stays in force", object.kind),
        object,
        remedy: "remove one of the two".into(),
    }
}

fn no_service(slice: &SliceObject) -> Problem {
    Problem {
        origin: slice.origin.clone(),
        object: ObjectRef::new("EndpointSlice", &slice.namespace, &slice.name),
        field: "metadata.labels.kubernetes.io/service-name".into(),
        value: slice.service.clone(),
        cause: format!("there is no Service {}/{}", slice.namespace, slice.service),
        remedy: "add the Service, or correct the label".into(),
    }
}

fn taken_by_itself(service: &ServiceObject, port: &PortObject, frontend: &str) -> Problem {
    Problem {
        origin: service.origin.clone(),
        object: object_of(service),
        field: "spec.ports.port".into(),
        value: frontend.into(),
        cause: format!("another port of the Service has this frontend already, port {} goes without", port.port),
        remedy: "give one of the two another port or nodePort".into(),
    }
}

fn idle_feedback(service: &ServiceObject, port: Option<&ServicePort>) -> Option<Problem> {
    let port = port.filter(|port| port.feedback != Feedback::None && !weights::is_moved(port))?;
    Some(Problem {
        origin: service.origin.clone(),
        object: object_of(service),
        field: "metadata.annotations.weir.dev/feedback".into(),
        value: port.feedback.name().into(),
        cause: format!("feedback does not move the weights of {}", port.algorithm.name()),
        remedy: "set weir.dev/algorithm to random or weighted-round-robin, or remove the annotation".into(),
    })
}

/// A Service whose ports are all of UDP has no requests that could be measured.
fn feedback_without_requests(service: &ServiceObject, ports: &[(ServiceId, ServicePort)]) -> Option<Problem> {
    let asks = service.feedback.reads_requests() && !ports.is_empty();
    let has_requests = ports.iter().any(|(id, _)| id.protocol == Protocol::Tcp);
    (asks && !has_requests).then(|| Problem {
        origin: service.origin.clone(),
        object: object_of(service),
        field: "metadata.annotations.weir.dev/feedback".into(),
        value: service.feedback.name().into(),
        cause: "requests are measured over TCP only, and the Service has no such port".into(),
        remedy: "use connections, or remove the annotation".into(),
    })
}

fn unmatched_port(service: &ServiceObject, port: &PortObject) -> Problem {
    Problem {
        origin: service.origin.clone(),
        object: object_of(service),
        field: "spec.ports.name".into(),
        value: port.name.clone(),
        cause: format!("no EndpointSlice of the Service has a {} port of this name", port.protocol.name()),
        remedy: "give the port the same name in the Service and in its EndpointSlices".into(),
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
