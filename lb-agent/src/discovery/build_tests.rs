//! The model from manifests, and what cannot be part of it.

use std::path::Path;

use lb_common::Protocol;

use super::*;
use crate::{discovery::read, model::Feedback};

fn objects(texts: &[&str]) -> Objects {
    let mut all = Objects::default();
    for (index, text) in texts.iter().enumerate() {
        all.extend(read::read(Path::new(&format!("{index}.yaml")), text).unwrap());
    }
    all
}

fn node() -> NodeView {
    use crate::node::{
        state::Event,
        testing::{address, link, pair, route, view},
    };
    view(
        "here",
        "eth0",
        vec![
            Event::Link(link(2, "eth0")),
            Event::Link(pair(3, "veth1")),
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.1/24"),
            route("10.0.0.1/32", 3, None),
            route("10.9.0.0/24", 2, Some("192.0.2.254")),
        ],
    )
}

fn build_at(texts: &[&str], holders: &Holders) -> (Model, Vec<Problem>) {
    with_setting(|setting| build(&objects(texts), setting, holders))
}

fn with_setting<T>(work: impl FnOnce(&Setting<'_>) -> T) -> T {
    work(&Setting {
        node: &node(),
        info: &NodeInfo { name: "here".into(), zone: Some("a".into()), ..NodeInfo::default() },
        node_ports: &NodePortAddresses::All,
        default_algorithm: Algorithm::Maglev,
        pod_weight: &|_, _| None,
    })
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
    let (model, problems) = build_at(&[SERVICE, SLICES], &Holders::new());
    assert_eq!(problems, []);
    let ids: Vec<String> = model.services.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["shop/web:53/UDP", "shop/web:80/TCP"]);
    let web = model.services.values().nth(1).unwrap();
    let leads = web.frontends.keys().filter(|key| !key.is_of_address());
    let frontends: BTreeSet<String> = leads.map(ToString::to_string).collect();
    let wanted =
        ["10.96.0.1:80/TCP", "198.51.100.1:80/TCP", "203.0.113.1:80/TCP", "192.0.2.1:30080/TCP", "[fd00::10]:80/TCP"];
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
            ("10.0.0.1:8080".into(), true, 5, false, Some("192.0.2.1".parse().unwrap())),
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
        let (model, problems) = build_at(&[&texts[0], &texts[1]], &Holders::new());
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
fn who_holds_a_frontend_keeps_it_from_a_newcomer_of_unknown_age() {
    let key = SocketKey::new("10.96.0.1:80".parse().unwrap(), Protocol::Tcp);
    let holders = Holders::from([(key, ("default".to_owned(), "b".to_owned()))]);
    let keeper = |texts: &[&str]| {
        let (model, _) = build_at(texts, &holders);
        model.services.into_keys().map(|id| id.name).collect::<Vec<_>>()
    };
    let (a, b) = (claim("a", "null"), claim("b", "null"));
    assert_eq!(keeper(&[&a, &b]), ["b"], "the holder, though it comes later by name");
    assert_eq!(keeper(&[&a]), ["a"], "nobody keeps what it no longer wants");
    let old = claim("b", "2024-02-01T00:00:00Z");
    assert_eq!(keeper(&[&claim("a", "2024-01-01T00:00:00Z"), &old]), ["a"], "where age is known, it decides");
}

#[test]
fn what_does_not_fit_together_is_told() {
    let other = SLICES
        .replace("name: http,", "name: web,")
        .replace("service-name: web}, annotations: {service", "service-name: wab}, annotations: {service");
    let (model, problems) = build_at(&[SERVICE, &other], &Holders::new());
    let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(fields, ["metadata.labels.kubernetes.io/service-name", "spec.ports.name"], "{problems:?}");
    assert!(model.services.values().nth(1).unwrap().backends.is_empty());
    let (_, problems) = build_at(&[SERVICE, SERVICE, SLICES], &Holders::new());
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .to_string()
            .starts_with("1.yaml:2: Service shop/web: metadata.name: \"web\": this Service is in 0.yaml:2")
    );
}

#[test]
fn feedback_without_weights_to_move_is_told() {
    let (model, problems) = build_at(&[&SERVICE.replace(": random", ": maglev"), SLICES], &Holders::new());
    assert_eq!((model.services.len(), problems.len()), (2, 1), "told once, and in force all the same");
    assert!(problems[0].remedy.contains("weighted-round-robin"));
}

#[test]
fn headless_and_external_names_have_no_frontends() {
    for spec in ["{clusterIP: None, ports: [{port: 80}]}", "{type: ExternalName, externalName: example.org}"] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
        let (model, problems) = build_at(&[&text], &Holders::new());
        assert_eq!((model, problems), (Model::default(), vec![]));
    }
}

#[test]
fn node_ports_need_their_type() {
    let text = SERVICE.replace("type: NodePort", "type: ClusterIP");
    let (model, _) = build_at(&[&text], &Holders::new());
    let key = SocketKey::new("192.0.2.1:30080".parse().unwrap(), Protocol::Tcp);
    assert!(model.services.values().all(|port| !port.frontends.contains_key(&key)));
}
