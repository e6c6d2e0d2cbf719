//! What users get wrong, as a table: the manifest, the line and field that must be named, and words of the message.

use std::path::Path;

use super::{Objects, Origin, Problem, document, object, read};

fn service(annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations:\n    {annotations}\nspec:\n  {spec}\n"
    )
}

fn slice(meta: &str, family: &str, endpoint: &str, ports: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  labels: {{kubernetes.io/service-name: web}}\n  \
         annotations: {{{meta}}}\naddressType: {family}\nendpoints:\n- {endpoint}\nports:\n- {ports}\n"
    )
}

fn read(text: &str) -> Result<Objects, Vec<Problem>> {
    read::read(Path::new("m/web.yaml"), text)
}

/// The problems of the same object of the API server; none if it is no object of its kind, which the API server would have refused.
fn from_api(text: &str) -> Option<Vec<Problem>> {
    let mut value = document::parse(text).unwrap()[0].value();
    value["metadata"]["namespace"] = "default".into();
    match value["kind"].as_str()? {
        "Service" => Some(object::service(&serde_json::from_value(value).ok()?).1),
        _ => Some(object::slice(&serde_json::from_value(value).ok()?).1),
    }
}

#[test]
fn every_mistake_names_line_field_value_and_remedy() {
    let good = "clusterIP: 10.96.0.1";
    let endpoint = "addresses: [10.0.0.1]";
    let port = "{name: http, port: 80}";
    let cases = [
        (
            service("weir.dev/algorithm: fastest", good),
            6,
            "metadata.annotations.weir.dev/algorithm",
            "fastest",
            "use one of random",
        ),
        (
            service("weir.dev/maglev-size: \"1000\"", good),
            6,
            "metadata.annotations.weir.dev/maglev-size",
            "1000",
            "a prime",
        ),
        (
            service("weir.dev/health-check: ping", good),
            6,
            "metadata.annotations.weir.dev/health-check",
            "ping",
            "use tcp",
        ),
        (
            service("weir.dev/health-check-interval: often", good),
            6,
            "metadata.annotations.weir.dev/health-check-interval",
            "often",
            "30s",
        ),
        (service("weir.dev/slow-start: 30h", good), 6, "metadata.annotations.weir.dev/slow-start", "30h", "24h"),
        (
            service("weir.dev/feedback: psychic", good),
            6,
            "metadata.annotations.weir.dev/feedback",
            "psychic",
            "none, connections, inflight or latency",
        ),
        (service("a: 5", good), 6, "metadata.annotations.a", "5", "quotes"),
        (service("a: b", "clusterIP: 10.96.0.300"), 8, "spec.clusterIP", "10.96.0.300", "one IPv4 or IPv6 address"),
        (
            service("a: b", "externalIPs: [\"224.0.0.1\"]"),
            8,
            "spec.externalIPs.0",
            "224.0.0.1",
            "one IPv4 or IPv6 address",
        ),
        (service("a: b", "ports: [{port: 70000}]"), 8, "spec.ports.0.port", "70000", "1 to 65535"),
        (service("a: b", "ports: [{port: http}]"), 8, "spec.ports.0.port", "http", "correct the field"),
        (service("a: b", "ports: [{port: 80, protocol: SCTP}]"), 8, "spec.ports.0.protocol", "SCTP", "TCP or UDP"),
        (service("a: b", "ports: [{port: 80}, {port: 80}]"), 8, "spec.ports.1.port", "80", "keep one"),
        (
            service("service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0", good),
            6,
            "metadata.annotations.service.beta.kubernetes.io/load-balancer-source-ranges",
            "10.0.0.0",
            "192.0.2.0/24",
        ),
        (
            service("a: b", "loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.0/99]"),
            8,
            "spec.loadBalancerSourceRanges.1",
            "10.0.0.0/99",
            "192.0.2.0/24",
        ),
        (service("a: b", "externalTrafficPolicy: local"), 8, "spec.externalTrafficPolicy", "local", "Cluster or Local"),
        (service("a: b", "internalTrafficPolicy: Any"), 8, "spec.internalTrafficPolicy", "Any", "Cluster or Local"),
        (service("a: b", "ipFamilies: [IPv4, IPv5]"), 8, "spec.ipFamilies.1", "IPv5", "IPv4 or IPv6"),
        (
            service("a: b", "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: -1}"),
            8,
            "spec.healthCheckNodePort",
            "-1",
            "1 to 65535",
        ),
        (service("a: b", "sessionAffinity: Cookie"), 8, "spec.sessionAffinity", "Cookie", "ClientIP"),
        (
            slice("weir.dev/weight: \"-1\"", "IPv4", endpoint, port),
            6,
            "metadata.annotations.weir.dev/weight",
            "-1",
            "0 (draining) to 65535",
        ),
        (
            slice("weir.dev/weight: \"70000\"", "IPv4", endpoint, port),
            6,
            "metadata.annotations.weir.dev/weight",
            "70000",
            "0 (draining) to 65535",
        ),
        (
            slice("service.cilium.io/weight: x", "IPv4", endpoint, port),
            6,
            "metadata.annotations.service.cilium.io/weight",
            "x",
            "0 (draining) to 65535",
        ),
        (
            slice("", "IPv4", "addresses: [\"fd00::1\"]", port),
            9,
            "endpoints.0.addresses.0",
            "fd00::1",
            "addressType: IPv6",
        ),
        (slice("", "IPv6", endpoint, port), 9, "endpoints.0.addresses.0", "10.0.0.1", "addressType: IPv4"),
        (slice("", "IPX", endpoint, port), 7, "addressType", "IPX", "IPv4 or IPv6"),
        (slice("", "IPv4", endpoint, "{name: http, port: 0}"), 11, "ports.0.port", "0", "1 to 65535"),
        (slice("", "IPv4", "addresses: 10.0.0.1", port), 9, "endpoints.0.addresses", "10.0.0.1", "correct the field"),
    ];
    for (text, line, field, value, remedy) in cases {
        let problems = read(&text).expect_err(&text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        let problem = &problems[0];
        assert_eq!(
            (problem.origin.clone(), problem.field.as_str(), problem.value.as_str()),
            (Origin::file("m/web.yaml", line), field, value),
            "{problem}"
        );
        assert!(problem.remedy.contains(remedy), "{problem}");
        assert!(problem.to_string().starts_with(&format!("m/web.yaml:{line}: ")), "{problem}");
        assert!(!problem.to_string().contains('\n'), "one line: {problem}");
        if let Some(problems_of_api) = from_api(&text) {
            assert_eq!(
                problems_of_api,
                [Problem { origin: Origin::Api, ..problem.clone() }],
                "the same of the API server's object"
            );
        }
    }
}

#[test]
fn one_bad_document_refuses_its_file_and_all_its_mistakes_are_told() {
    let text =
        format!("{}---\n{}", service("weir.dev/algorithm: x", "clusterIP: a"), service("a: b", "ports: [{port: 0}]"));
    let fields: Vec<String> =
        read(&text).unwrap_err().into_iter().map(|p| format!("{}:{}", p.origin, p.field)).collect();
    let wanted = ["8:spec.clusterIP", "6:metadata.annotations.weir.dev/algorithm", "17:spec.ports.0.port"];
    assert_eq!(fields, wanted.map(|field| format!("m/web.yaml:{field}")));
}

fn policy(rule: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: ScalePolicy\nmetadata: {{name: web}}\nspec:\n  serviceRef: {{name: web}}\n  \
         replicas: {{min: 1, max: 4}}\n  rules:\n  - {rule}\n"
    )
}

#[test]
fn policies_are_read_and_their_mistakes_named() {
    let good = read(&policy("{name: up, signal: activeConnections, above: 10, for: 5s, add: 1}")).unwrap();
    assert_eq!(good.policies[0].policy.id.to_string(), "default/web");
    let cases = [
        ("{name: up, signal: mood, above: 10, for: 5s, add: 1}", "spec.rules.0.signal"),
        ("{name: up, signal: activeConnections, above: 10, for: never, add: 1}", "spec.rules.0.for"),
        ("{name: up, signal: activeConnections, above: high, for: 5s, add: 1}", "spec.rules.0.above"),
    ];
    for (rule, field) in cases {
        let problems = read(&policy(rule)).unwrap_err();
        assert_eq!(
            (&problems[0].origin, problems[0].field.as_str()),
            (&Origin::file("m/web.yaml", 8), field),
            "{}",
            problems[0]
        );
        assert_eq!(problems[0].object.to_string(), "ScalePolicy default/web");
    }
}

/// The documents of a file of `tests/data/policies`, which the API server answers alike (`cargo xtask test kubernetes -- scale_policies`).
fn documents(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("---\n").map(|document| {
        let name = document.split_once("{name: ").and_then(|(_, rest)| rest.split([',', '}']).next());
        (name.unwrap_or("no name"), document)
    })
}

#[test]
fn every_field_of_a_policy_is_read_in_its_forms() {
    for (name, document) in documents(include_str!("../../../tests/data/policies/good.yaml")) {
        let objects = read(document).unwrap_or_else(|problems| panic!("{name}: {}", problems[0]));
        assert_eq!(objects.policies[0].policy.id.name, name);
    }
}

#[test]
fn the_sample_for_clusters_is_a_policy() {
    let sample = include_str!("../../../deploy/kubernetes/my-app.yaml");
    let policies = documents(sample).map(|(_, document)| read(document).unwrap().policies.len());
    assert_eq!(policies.sum::<usize>(), 1);
}

#[test]
fn every_mistake_of_a_policy_is_told_with_its_field_and_a_remedy() {
    for (name, document) in documents(include_str!("../../../tests/data/policies/bad.yaml")) {
        let problems = read(document).err().unwrap_or_else(|| panic!("{name} is taken"));
        let Problem { field, cause, remedy, .. } = &problems[0];
        assert!(field.starts_with("spec") && !cause.is_empty() && !remedy.is_empty(), "{name}: {}", problems[0]);
    }
}

#[test]
fn other_kinds_are_skipped_with_a_note() {
    let objects = read("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n").unwrap();
    assert_eq!(objects.notes, ["m/web.yaml:1: kind Deployment is not for Weir: skipped"]);
    for (text, field) in [("apiVersion: v1\n", "kind"), ("apiVersion: v2\nkind: Service\n", "apiVersion")] {
        assert_eq!(read(text).unwrap_err()[0].field, field);
    }
    let knative = read("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n").unwrap();
    assert_eq!((knative.services.len(), knative.notes.len()), (0, 1));
}

#[test]
fn names_and_slices_without_service_are_asked_for() {
    let nameless = read("apiVersion: v1\nkind: Service\nspec: {}\n").unwrap_err();
    assert_eq!(nameless[0].field, "metadata.name");
    let orphan =
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\nendpoints: []\n";
    assert!(read(orphan).unwrap_err()[0].remedy.contains("kubernetes.io/service-name"));
}
