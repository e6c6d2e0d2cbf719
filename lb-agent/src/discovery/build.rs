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

/// The model, and what of the objects could not be part of it.
pub fn build(objects: &Objects, node: &NodeView, default_algorithm: Algorithm) -> (Model, Vec<Problem>) {
    let mut problems = Vec::new();
    let services = by_age(&objects.services, &mut problems);
    let slices = by_service(objects, &mut problems);
    let mut builder = Builder { node, default_algorithm, owners: BTreeMap::new(), problems, model: Model::default() };
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

    /// The frontends of a port that no older Service has.
    fn frontends(&mut self, service: &'a ServiceObject, port: &PortObject) -> BTreeSet<SocketKey> {
        let own = service.addresses.iter().map(|ip| (*ip, port.port));
        let node = port.node_port.iter().flat_map(|number| self.node.frontend_addresses().map(|ip| (ip, *number)));
        let wanted: BTreeSet<SocketKey> =
            own.chain(node).map(|(ip, number)| SocketKey::new(SocketAddr::new(ip, number), port.protocol)).collect();
        wanted.into_iter().filter(|key| self.claim(service, *key)).collect()
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
                    "the frontend is claimed by Service {}/{} ({}) already, which is older and keeps it",
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
        source: if local { None } else { node.source_for(endpoint.address) },
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
mod tests {
    use std::path::Path;

    use lb_common::Protocol;

    use super::*;
    use crate::{discovery::object, model::Feedback, node::Route};

    fn objects(texts: &[&str]) -> Objects {
        let mut all = Objects::default();
        for (index, text) in texts.iter().enumerate() {
            all.extend(object::read(Path::new(&format!("{index}.yaml")), text).unwrap());
        }
        all
    }

    fn node() -> NodeView {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        NodeView {
            name: "here".into(),
            addresses: [ip("127.0.0.1"), ip("192.0.2.1")].into(),
            uplinks: ["eth0".to_owned()].into(),
            interfaces: Default::default(),
            routes: [
                (ip("10.0.0.1"), Route { interface: "veth1".into(), source: Some(ip("192.0.2.1")), on_link: true }),
                (ip("10.9.0.1"), Route { interface: "eth0".into(), source: Some(ip("192.0.2.1")), on_link: false }),
            ]
            .into(),
        }
    }

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {weir.dev/algorithm: random, weir.dev/feedback: connections, weir.dev/slow-start: 30s,
    weir.dev/health-check: 'http:/ok', weir.dev/health-check-interval: 2s}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00::10']
  externalIPs: [198.51.100.1]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}
";

    const SLICES: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}, annotations: {weir.dev/weight: '5', service.cilium.io/weight: '7'}}
  addressType: IPv4
  ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
  endpoints:
  - {addresses: [10.0.0.1]}
  - {addresses: [10.0.0.9], nodeName: there, conditions: {ready: false}}
  - {addresses: [10.0.0.8], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}, annotations: {service.cilium.io/weight: '0'}}
  addressType: IPv4
  ports: [{name: http, port: 8080}]
  endpoints:
  - {addresses: [10.9.0.1], nodeName: there, conditions: {ready: true}}
";

    #[test]
    fn a_service_and_its_slices() {
        let (model, problems) = build(&objects(&[SERVICE, SLICES]), &node(), Algorithm::Maglev);
        assert_eq!(problems, []);
        let ids: Vec<String> = model.services.keys().map(ToString::to_string).collect();
        assert_eq!(ids, ["shop/web:53/UDP", "shop/web:80/TCP"]);
        let web = model.services.values().nth(1).unwrap();
        let frontends: BTreeSet<String> = web.frontends.iter().map(ToString::to_string).collect();
        let wanted = [
            "10.96.0.1:80/TCP",
            "198.51.100.1:80/TCP",
            "203.0.113.1:80/TCP",
            "192.0.2.1:30080/TCP",
            "[fd00::10]:80/TCP",
        ];
        assert_eq!(frontends, wanted.map(str::to_owned).into());
        assert_eq!((web.algorithm, web.feedback), (Algorithm::Random, Feedback::Connections));
        assert_eq!(web.affinity.unwrap().as_secs(), 60);
        let check = web.health_check.as_ref().unwrap();
        assert_eq!((check.interval.as_secs(), check.threshold), (2, 3));
        let backends: Vec<_> =
            web.backends.iter().map(|(at, b)| (at.to_string(), b.local, b.weight, b.terminating, b.source)).collect();
        assert_eq!(
            backends,
            [
                ("10.0.0.1:8080".into(), true, 5, false, None),
                ("10.0.0.8:8080".into(), true, 5, true, None),
                ("10.9.0.1:8080".into(), false, 0, false, Some("192.0.2.1".parse().unwrap())),
            ]
        );
        assert_eq!(model.services.values().next().unwrap().backends.len(), 2, "web-2 has no port dns");
    }

    fn claim(name: &str, created: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, creationTimestamp: {created}}}\n\
             spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n"
        )
    }

    #[test]
    fn two_services_claim_one_frontend() {
        let cases = [
            (("a", "2024-02-01T00:00:00Z"), ("b", "2024-01-01T00:00:00Z"), "b", "the older one"),
            (("a", "null"), ("b", "2024-01-01T00:00:00Z"), "b", "the one with a time"),
            (("b", "null"), ("a", "null"), "a", "the first by name"),
        ];
        for (first, second, keeper, why) in cases {
            let texts = [claim(first.0, first.1), claim(second.0, second.1)];
            let (model, problems) = build(&objects(&[&texts[0], &texts[1]]), &node(), Algorithm::Maglev);
            assert_eq!(model.services.keys().map(|id| id.name.as_str()).collect::<Vec<_>>(), [keeper], "{why}");
            assert_eq!(problems.len(), 1, "{why}");
            let text = problems[0].to_string();
            assert!(
                text.contains("\"10.96.0.1:80/TCP\"") && text.contains(&format!("Service default/{keeper} (")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let other = SLICES
            .replace("name: http,", "name: web,")
            .replace("service-name: web}, annotations: {service", "service-name: wab}, annotations: {service");
        let (model, problems) = build(&objects(&[SERVICE, &other]), &node(), Algorithm::Maglev);
        let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["metadata.labels.kubernetes.io/service-name", "spec.ports.name"], "{problems:?}");
        assert!(model.services.values().nth(1).unwrap().backends.is_empty());
        let (_, problems) = build(&objects(&[SERVICE, SERVICE, SLICES]), &node(), Algorithm::Maglev);
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0]
                .to_string()
                .starts_with("1.yaml:2: Service shop/web: metadata.name: \"web\": this Service is in 0.yaml:2")
        );
    }

    #[test]
    fn feedback_without_weights_to_move_is_told() {
        let (model, problems) =
            build(&objects(&[&SERVICE.replace(": random", ": maglev"), SLICES]), &node(), Algorithm::Maglev);
        assert_eq!((model.services.len(), problems.len()), (2, 2), "told for each port, and in force all the same");
        assert!(problems[0].remedy.contains("weighted-round-robin"));
    }

    #[test]
    fn headless_and_external_names_have_no_frontends() {
        for spec in ["{clusterIP: None, ports: [{port: 80}]}", "{type: ExternalName, externalName: example.org}"] {
            let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
            let (model, problems) = build(&objects(&[&text]), &node(), Algorithm::Maglev);
            assert_eq!((model, problems), (Model::default(), vec![]));
        }
    }

    #[test]
    fn node_ports_need_their_type() {
        let text = SERVICE.replace("type: NodePort", "type: ClusterIP");
        let (model, _) = build(&objects(&[&text]), &node(), Algorithm::Maglev);
        let key = SocketKey::new("192.0.2.1:30080".parse().unwrap(), Protocol::Tcp);
        assert!(model.services.values().all(|port| !port.frontends.contains(&key)));
    }
}
