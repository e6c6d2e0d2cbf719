//! The model from the objects of all sources and what is known of the node: who serves what, and which frontend is whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{Algorithm, SocketKey};

use super::{
    Objects, Origin, Problem, ServiceObject, SliceObject,
    object::{EndpointObject, PolicyObject, PortObject},
};
use crate::{
    balance::weights,
    model::{BackendSpec, Feedback, Model, ServiceId, ServicePort},
    node::NodeView,
    scaling::{Policy, PolicyId},
};

/// The weight of a backend that names none.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Whose each frontend is now: the Service's namespace and name.
pub type Holders = BTreeMap<SocketKey, (String, String)>;

/// The model, and what of the objects could not be part of it.
///
/// Of two Services that claim one frontend the older one gets it. Files tell no age: there the one that holds it keeps it, so that a
/// newcomer breaks nothing, and of two newcomers the first by name gets it.
pub fn build(
    objects: &Objects,
    node: &NodeView,
    default_algorithm: Algorithm,
    holders: &Holders,
) -> (Model, Vec<Problem>) {
    let mut problems = Vec::new();
    let services = by_age(&objects.services, &mut problems);
    let slices = by_service(objects, &mut problems);
    let mut builder = Builder { node, default_algorithm, owners: BTreeMap::new(), problems, model: Model::default() };
    builder.keep(&services, holders);
    for service in services {
        let slices = slices.get(&(&service.namespace, &service.name)).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            builder.service_port(service, port, slices);
        }
    }
    (builder.model, builder.problems)
}

/// The addresses of every endpoint: what a [`NodeView`] has to know the routes of.
pub fn backend_addresses(objects: &Objects) -> BTreeSet<IpAddr> {
    objects.slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address).collect()
}

/// The policies, each only once.
pub fn policies(objects: &Objects) -> (Vec<Policy>, Vec<Problem>) {
    let (mut unique, mut problems) = (BTreeMap::<&PolicyId, &PolicyObject>::new(), Vec::new());
    for object in &objects.policies {
        let id = &object.policy.id;
        let first = *unique.entry(id).or_insert(object);
        if !std::ptr::eq(first, object) {
            problems.push(written_twice(&object.origin, "ScalePolicy", &id.namespace, &id.name, &first.origin));
        }
    }
    (unique.into_values().map(|object| object.policy.clone()).collect(), problems)
}

/// The Services, oldest first (without a time after those with one, then by namespace and name), each only once.
fn by_age<'a>(services: &'a [ServiceObject], problems: &mut Vec<Problem>) -> Vec<&'a ServiceObject> {
    let mut unique: BTreeMap<(&str, &str), &ServiceObject> = BTreeMap::new();
    for service in services {
        let first = *unique.entry((&service.namespace, &service.name)).or_insert(service);
        if !std::ptr::eq(first, service) {
            problems.push(written_twice(&service.origin, "Service", &service.namespace, &service.name, &first.origin));
        }
    }
    let mut sorted: Vec<&ServiceObject> = unique.into_values().collect();
    sorted.sort_by_key(|s| (s.created.is_none(), s.created));
    sorted
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
            problems.push(written_twice(&slice.origin, "EndpointSlice", &slice.namespace, &slice.name, &first.origin));
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

fn written_twice(origin: &Origin, kind: &str, namespace: &str, name: &str, first: &Origin) -> Problem {
    Problem {
        origin: origin.clone(),
        object: format!("{kind} {namespace}/{name}"),
        field: "metadata.name".into(),
        value: name.into(),
        cause: format!("this {kind} is in {first} already, which stays in force"),
        remedy: "remove one of the two".into(),
    }
}

fn no_service(slice: &SliceObject) -> Problem {
    Problem {
        origin: slice.origin.clone(),
        object: format!("EndpointSlice {}/{}", slice.namespace, slice.name),
        field: "metadata.labels.kubernetes.io/service-name".into(),
        value: slice.service.clone(),
        cause: format!("there is no Service {}/{}", slice.namespace, slice.service),
        remedy: "add the Service, or correct the label".into(),
    }
}

struct Builder<'a> {
    node: &'a NodeView,
    default_algorithm: Algorithm,
    /// Whose each frontend is: the first to claim it.
    owners: BTreeMap<SocketKey, &'a ServiceObject>,
    problems: Vec<Problem>,
    model: Model,
}

impl<'a> Builder<'a> {
    fn service_port(&mut self, service: &'a ServiceObject, port: &PortObject, slices: &[&SliceObject]) {
        let frontends = self.frontends(service, port);
        if frontends.is_empty() {
            return;
        }
        let backends = self.backends(service, port, slices);
        let id = ServiceId {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: port.port,
            protocol: port.protocol,
        };
        let port = ServicePort {
            port_name: port.name.clone(),
            frontends,
            algorithm: service.algorithm.unwrap_or(self.default_algorithm),
            affinity: service.affinity,
            maglev_size: service.maglev_size,
            feedback: service.feedback,
            slow_start: service.slow_start,
            health_check: service.health_check.clone(),
            backends,
        };
        if port.feedback != Feedback::None && !weights::is_moved(&port) {
            self.problems.push(idle_feedback(service, port.algorithm));
        }
        self.model.services.insert(id, port);
    }

    /// Gives frontends of Services that tell no age to those that hold them and still want them.
    fn keep(&mut self, services: &[&'a ServiceObject], holders: &Holders) {
        for service in services.iter().filter(|service| service.created.is_none()) {
            let holds = |key: &SocketKey| {
                holders
                    .get(key)
                    .is_some_and(|(namespace, name)| (namespace, name) == (&service.namespace, &service.name))
            };
            let kept: Vec<_> = service.ports.iter().flat_map(|port| self.wanted(service, port)).filter(holds).collect();
            self.owners.extend(kept.into_iter().map(|key| (key, *service)));
        }
    }

    /// The frontends of a port that no other Service has.
    fn frontends(&mut self, service: &'a ServiceObject, port: &PortObject) -> BTreeSet<SocketKey> {
        self.wanted(service, port).into_iter().filter(|key| self.claim(service, *key)).collect()
    }

    fn wanted(&self, service: &ServiceObject, port: &PortObject) -> BTreeSet<SocketKey> {
        let own = service.addresses.iter().map(|ip| (*ip, port.port));
        let node = port.node_port.iter().flat_map(|number| self.node.frontend_addresses().map(|ip| (ip, *number)));
        own.chain(node).map(|(ip, number)| SocketKey::new(SocketAddr::new(ip, number), port.protocol)).collect()
    }

    fn claim(&mut self, service: &'a ServiceObject, key: SocketKey) -> bool {
        let owner = *self.owners.entry(key).or_insert(service);
        let granted = std::ptr::eq(owner, service);
        if !granted {
            self.problems.push(Problem {
                origin: service.origin.clone(),
                object: format!("Service {}/{}", service.namespace, service.name),
                field: "spec".into(),
                value: key.to_string(),
                cause: format!(
                    "the frontend is claimed by Service {}/{} ({}) already, which keeps it",
                    owner.namespace, owner.name, owner.origin
                ),
                remedy: "give one of the two another address or port".into(),
            });
        }
        granted
    }

    fn backends(
        &mut self,
        service: &ServiceObject,
        port: &PortObject,
        slices: &[&SliceObject],
    ) -> BTreeMap<SocketAddr, BackendSpec> {
        let mut backends: BTreeMap<SocketAddr, BackendSpec> = BTreeMap::new();
        let mut matched = false;
        for slice in slices {
            let numbers = slice.ports.iter().filter(|(name, _, proto)| *name == port.name && *proto == port.protocol);
            for (_, number, _) in numbers {
                matched = true;
                for endpoint in &slice.endpoints {
                    let spec = backend(self.node, endpoint, slice.weight.unwrap_or(DEFAULT_WEIGHT));
                    insert(&mut backends, SocketAddr::new(endpoint.address, *number), spec);
                }
            }
        }
        if !matched && slices.iter().any(|slice| !slice.endpoints.is_empty()) {
            self.problems.push(unmatched_port(service, port));
        }
        backends
    }
}

fn idle_feedback(service: &ServiceObject, algorithm: Algorithm) -> Problem {
    Problem {
        origin: service.origin.clone(),
        object: format!("Service {}/{}", service.namespace, service.name),
        field: "metadata.annotations.weir.dev/feedback".into(),
        value: "connections".into(),
        cause: format!("feedback does not move the weights of {}", algorithm.name()),
        remedy: "set weir.dev/algorithm to random or weighted-round-robin, or remove the annotation".into(),
    }
}

/// Adds a backend; of the same one in two slices the one that takes connections counts, else the first.
fn insert(backends: &mut BTreeMap<SocketAddr, BackendSpec>, key: SocketAddr, spec: BackendSpec) {
    let known = backends.entry(key).or_insert_with(|| spec.clone());
    if known.terminating && !spec.terminating {
        *known = spec;
    }
}

fn backend(node: &NodeView, endpoint: &EndpointObject, weight: u16) -> BackendSpec {
    let local = node.is_local(endpoint.node.as_deref(), endpoint.address);
    BackendSpec {
        node: endpoint.node.clone(),
        local,
        // A local backend needs one too, where two frontends lead one client port to it.
        source: node.source_for(endpoint.address),
        weight,
        terminating: endpoint.terminating,
    }
}

fn unmatched_port(service: &ServiceObject, port: &PortObject) -> Problem {
    Problem {
        origin: service.origin.clone(),
        object: format!("Service {}/{}", service.namespace, service.name),
        field: "spec.ports.name".into(),
        value: port.name.clone(),
        cause: format!("no EndpointSlice of the Service has a {} port of this name", port.protocol.name()),
        remedy: "give the port the same name in the Service and in its EndpointSlices".into(),
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
