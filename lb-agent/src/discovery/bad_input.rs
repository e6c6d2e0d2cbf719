//! What users get wrong, as a table: the manifest, the line and field that must be named, and words of the message.

use std::path::Path;

use super::{object, object::Objects};

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

fn read(text: &str) -> Result<Objects, Vec<super::Problem>> {
    object::read(Path::new("m/web.yaml"), text)
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
            "none or connections",
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
            (problem.origin.line, problem.field.as_str(), problem.value.as_str()),
            (line, field, value),
            "{problem}"
        );
        assert!(problem.remedy.contains(remedy), "{problem}");
        assert!(problem.to_string().starts_with(&format!("m/web.yaml:{line}: ")), "{problem}");
        assert!(!problem.to_string().contains('\n'), "one line: {problem}");
    }
}

#[test]
fn one_bad_document_refuses_its_file_and_all_its_mistakes_are_told() {
    let text =
        format!("{}---\n{}", service("weir.dev/algorithm: x", "clusterIP: a"), service("a: b", "ports: [{port: 0}]"));
    let fields: Vec<String> =
        read(&text).unwrap_err().into_iter().map(|p| format!("{}:{}", p.origin.line, p.field)).collect();
    assert_eq!(fields, ["8:spec.clusterIP", "6:metadata.annotations.weir.dev/algorithm", "17:spec.ports.0.port"]);
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
        assert_eq!((problems[0].origin.line, problems[0].field.as_str()), (8, field), "{}", problems[0]);
        assert_eq!(problems[0].object, "ScalePolicy default/web");
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
