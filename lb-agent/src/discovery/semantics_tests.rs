//! What Weir makes of every field of a Service and of its slices, as tables: the fields, and the frontends and backends that follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{Algorithm, Protocol, SocketKey};
use serde::de::DeserializeOwned;

use super::{
    Problem, ServiceObject, SliceObject,
    build::{self, Setting},
    document, frontends,
    node_ports::{NodeInfo, NodePortAddresses},
    object,
    owners::{Holders, Owners},
    read,
};
use crate::{
    model::{BackendSpec, FrontendSpec, Limits, Reach, ServiceId, ServicePort},
    node::{
        state::Event,
        testing::{address, link, view},
    },
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn parse<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(document::parse(text).unwrap()[0].value()).unwrap()
}

/// A Service of the API server. It has the cluster IP 10.96.0.1 and the port 80, unless it says otherwise.
fn service(fields: &str) -> ServiceObject {
    let (service, problems) = service_with(fields, "{}");
    assert_eq!(problems, []);
    service.unwrap()
}

fn service_with(fields: &str, annotations: &str) -> (Option<ServiceObject>, Vec<Problem>) {
    let (spec, status) = fields.split_once('|').unwrap_or((fields, ""));
    let own = |field: &str, text: &str| if spec.contains(field) { String::new() } else { format!("{text}, ") };
    let text = format!(
        "metadata: {{namespace: shop, name: web, creationTimestamp: '2024-01-01T00:00:00Z', annotations: {annotations}}}\n\
         spec: {{{}{}{spec}}}\nstatus: {{loadBalancer: {{ingress: [{status}]}}}}\n",
        own("clusterIP:", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1]"),
        own("ports:", "ports: [{port: 80, nodePort: 30080}]"),
    );
    object::service(&parse(&text))
}

/// A slice of the API server, of the given endpoints and ports.
fn slice(name: &str, ports: &str, endpoints: &str) -> SliceObject {
    let (slice, problems) = slice_with(name, "IPv4", ports, endpoints);
    assert_eq!(problems, []);
    slice
}

fn slice_with(name: &str, family: &str, ports: &str, endpoints: &str) -> (SliceObject, Vec<Problem>) {
    let text = format!(
        "metadata: {{namespace: shop, name: {name}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\n\
         ports: [{ports}]\nendpoints: [{endpoints}]\n"
    );
    let (slice, problems) = object::slice(&parse(&text));
    (slice.unwrap(), problems)
}

/// This node: `here` in zone `a`, with one address of its own, one of a bridge, and one of IPv6; pods of 10.0.0.0/24 are here.
fn with_setting<T>(work: impl FnOnce(&Setting<'_>) -> T) -> T {
    let node = view(
        "here",
        "eth0",
        vec![
            Event::Link(link(2, "eth0")),
            Event::Link(link(3, "br0")),
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.1/24"),
            address(2, "2001:db8::1/64"),
            address(2, "fe80::1/64"),
            address(3, "10.22.0.1/24"),
        ],
    );
    let info = NodeInfo {
        name: "here".into(),
        zone: Some("a".into()),
        addresses: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        leaving: false,
    };
    work(&Setting {
        node: &node,
        info: &info,
        node_ports: &NodePortAddresses::Primary,
        default_algorithm: Algorithm::Maglev,
        pod_weight: &|namespace, pod| (namespace == "shop" && pod == "web-heavy").then_some(300),
    })
}

fn built(service: &ServiceObject, slices: &[SliceObject]) -> (Vec<(ServiceId, ServicePort)>, Vec<Problem>) {
    with_setting(|setting| {
        let mut owners = Owners::default();
        owners.set(service, build::claims(service, setting), &Holders::new());
        build::service(service, &slices.iter().collect::<Vec<_>>(), setting, &owners)
    })
}

/// A frontend in words: where, how far clients inside and outside get (C or L), and who may.
fn in_words((key, spec): (&SocketKey, &FrontendSpec)) -> String {
    let reach = |reach: Reach| if reach == Reach::Local { 'L' } else { 'C' };
    let ranges = spec.ranges.iter().map(|ranges| {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        format!(" from {}", if ranges.is_empty() { "nowhere".into() } else { ranges.join(",") })
    });
    format!("{key} {}{}{}", reach(spec.inside), reach(spec.outside), ranges.collect::<String>())
}

fn all_frontends(service: &ServiceObject) -> BTreeSet<String> {
    with_setting(|setting| {
        let ports = service.ports.iter().map(|port| frontends::of_port(service, port, setting));
        let leads = |(key, _): &(&SocketKey, &FrontendSpec)| !key.is_of_address();
        ports.flat_map(|frontends| frontends.iter().filter(leads).map(in_words).collect::<Vec<_>>()).collect()
    })
}

#[test]
fn every_kind_of_frontend() {
    let vip = "{ip: 203.0.113.1}";
    let cases: [(&str, String, &[&str]); 21] = [
        ("cluster IP", "type: ClusterIP".into(), &["10.96.0.1:80/TCP CC"]),
        ("internal policy", "internalTrafficPolicy: Local".into(), &["10.96.0.1:80/TCP LL"]),
        (
            "dual stack",
            "clusterIP: fd00::10, clusterIPs: ['fd00::10', 10.96.0.1], ipFamilies: [IPv6, IPv4]".into(),
            &["10.96.0.1:80/TCP CC", "[fd00::10]:80/TCP CC"],
        ),
        ("headless", "clusterIP: None, externalIPs: [198.51.100.1]".into(), &[]),
        (
            "node port",
            "type: NodePort".into(),
            &["10.96.0.1:80/TCP CC", "192.0.2.1:30080/TCP CC", "[2001:db8::1]:30080/TCP CC"],
        ),
        (
            "node port of one family",
            "type: NodePort, ipFamilies: [IPv4]".into(),
            &["10.96.0.1:80/TCP CC", "192.0.2.1:30080/TCP CC"],
        ),
        (
            "node port, Local",
            "type: NodePort, ipFamilies: [IPv4], externalTrafficPolicy: Local".into(),
            &["10.96.0.1:80/TCP CC", "192.0.2.1:30080/TCP CL"],
        ),
        ("external IP", "externalIPs: [198.51.100.1]".into(), &["10.96.0.1:80/TCP CC", "198.51.100.1:80/TCP CC"]),
        (
            "external IP, both Local",
            "externalIPs: [198.51.100.1], externalTrafficPolicy: Local, internalTrafficPolicy: Local".into(),
            &["10.96.0.1:80/TCP LL", "198.51.100.1:80/TCP CL"],
        ),
        (
            "external IP of a family that the Service has not",
            "externalIPs: ['2001:db8:1::1'], ipFamilies: [IPv4]".into(),
            &["10.96.0.1:80/TCP CC"],
        ),
        (
            "load balancer without node ports, Local",
            format!("type: LoadBalancer, ports: [{{port: 80}}], externalTrafficPolicy: Local|{vip}"),
            &["10.96.0.1:80/TCP CC", "203.0.113.1:80/TCP CL"],
        ),
        (
            "ipMode VIP, ipMode Proxy, and a name",
            "ports: [{port: 80}]|{ip: 203.0.113.1, ipMode: VIP}, {ip: 203.0.113.2, ipMode: Proxy}, {hostname: lb.example.org}".into(),
            &["10.96.0.1:80/TCP CC", "203.0.113.1:80/TCP CC"],
        ),
        (
            "loadBalancerIP asks, it does not serve",
            "type: LoadBalancer, ports: [{port: 80}], loadBalancerIP: 203.0.113.9".into(),
            &["10.96.0.1:80/TCP CC"],
        ),
        (
            "source ranges bind load balancer addresses only",
            format!(
                "type: LoadBalancer, ipFamilies: [IPv4], externalIPs: [198.51.100.1], loadBalancerSourceRanges: [10.1.2.3/8]|{vip}"
            ),
            &[
                "10.96.0.1:80/TCP CC",
                "192.0.2.1:30080/TCP CC",
                "198.51.100.1:80/TCP CC",
                "203.0.113.1:80/TCP CC from 10.0.0.0/8",
            ],
        ),
        (
            "source ranges, by family",
            "ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/8, ' 172.16.0.0/12 ', 'fd00::/8']|{ip: 203.0.113.1}, {ip: '2001:db8:1::1'}"
                .into(),
            &[
                "10.96.0.1:80/TCP CC",
                "203.0.113.1:80/TCP CC from 10.0.0.0/8,172.16.0.0/12",
                "[2001:db8:1::1]:80/TCP CC from fd00::/8",
            ],
        ),
        (
            "source ranges of the other family only",
            "ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/8]|{ip: '2001:db8:1::1'}".into(),
            &["10.96.0.1:80/TCP CC", "[2001:db8:1::1]:80/TCP CC"],
        ),
        (
            "source ranges with everybody in them",
            format!("ports: [{{port: 80}}], loadBalancerSourceRanges: [10.0.0.0/8, 0.0.0.0/0]|{vip}"),
            &["10.96.0.1:80/TCP CC", "203.0.113.1:80/TCP CC"],
        ),
        (
            "an address that is external and the load balancer's",
            format!("ports: [{{port: 80}}], externalIPs: [203.0.113.1], loadBalancerSourceRanges: [10.0.0.0/8]|{vip}"),
            &["10.96.0.1:80/TCP CC", "203.0.113.1:80/TCP CC from 10.0.0.0/8"],
        ),
        (
            "several ports, one number over TCP and UDP",
            "ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: web, port: 80}]".into(),
            &["10.96.0.1:53/TCP CC", "10.96.0.1:53/UDP CC", "10.96.0.1:80/TCP CC"],
        ),
        ("no selector", "selector: {}".into(), &["10.96.0.1:80/TCP CC"]),
        ("no ports", "ports: []".into(), &[]),
    ];
    for (name, fields, wanted) in cases {
        let wanted: BTreeSet<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(all_frontends(&service(&fields)), wanted, "{name}: {fields}");
    }
}

/// The ports of a Service that keep keys of whole addresses of this kind, and these addresses.
fn keeping(service: &ServiceObject, of: fn(lb_common::Addr) -> SocketKey) -> Vec<(u16, Vec<String>)> {
    with_setting(|setting| {
        let addresses = |port| {
            let of_address =
                frontends::of_port(service, port, setting).into_iter().filter(|(key, _)| key.is_of_address());
            let nowhere = |(key, spec): (SocketKey, FrontendSpec)| {
                assert_eq!((spec.inside, spec.outside), (Reach::Nowhere, Reach::Nowhere));
                (key == of(key.addr)).then(|| key.addr.ip().to_string())
            };
            of_address.filter_map(nowhere).collect()
        };
        service.ports.iter().map(|port| (port.port, addresses(port))).collect()
    })
}

#[test]
fn other_ports_of_a_clusters_addresses_are_refused() {
    let dual = "clusterIP: fd00::10, clusterIPs: ['fd00::10', 10.96.0.1], ipFamilies: [IPv6, IPv4], \
                externalIPs: [198.51.100.1], ports: [{name: a, port: 80}, {name: b, port: 443}]|{ip: 203.0.113.1}";
    let addresses = ["10.96.0.1", "fd00::10"].map(str::to_owned).to_vec();
    assert_eq!(keeping(&service(dual), SocketKey::other_ports), [(80, addresses), (443, vec![])]);
    let text =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
    let in_files = read::read("a.yaml".as_ref(), text).unwrap();
    let refusing = keeping(&in_files.services[0], SocketKey::other_ports);
    assert_eq!(refusing, [(80, vec![])], "whose address it is, files do not tell");
}

#[test]
fn echo_is_answered_at_addresses_that_are_nobody_elses() {
    let fields = "clusterIP: 10.96.0.1, externalIPs: [198.51.100.1, 192.0.2.1], \
                  ports: [{name: a, port: 80}, {name: b, port: 443}]|{ip: 203.0.113.1}";
    let addresses = ["198.51.100.1", "203.0.113.1"].map(str::to_owned).to_vec();
    assert_eq!(keeping(&service(fields), SocketKey::echo), [(80, addresses), (443, vec![])]);
}

#[test]
fn in_files_the_load_balancer_ip_serves() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {loadBalancerIP: 203.0.113.9, ports: [{port: 80}]}\n";
    let objects = read::read("a.yaml".as_ref(), text).unwrap();
    assert_eq!(all_frontends(&objects.services[0]), ["203.0.113.9:80/TCP CC".to_owned()].into());
}

#[test]
fn an_external_name_is_nobodys() {
    assert_eq!(service_with("type: ExternalName, externalName: example.org", "{}"), (None, vec![]));
}

#[test]
fn source_ranges_by_the_old_annotation() {
    let annotation = "{service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, 192.168.0.0/16'}";
    let frontend = |fields: &str| {
        let (service, problems) =
            service_with(&format!("ports: [{{port: 80}}]{fields}|{{ip: 203.0.113.1}}"), annotation);
        assert_eq!(problems, []);
        all_frontends(&service.unwrap()).pop_last().unwrap()
    };
    assert_eq!(frontend(""), "203.0.113.1:80/TCP CC from 10.0.0.0/8,192.168.0.0/16");
    let field = ", loadBalancerSourceRanges: [172.16.0.0/12]";
    assert_eq!(frontend(field), "203.0.113.1:80/TCP CC from 172.16.0.0/12", "the field comes first");
}

#[test]
fn wrong_source_ranges_of_the_api_server_let_nobody_in() {
    let (service, problems) =
        service_with("ports: [{port: 80}], loadBalancerSourceRanges: [all]|{ip: 203.0.113.1}", "{}");
    assert_eq!(problems.len(), 1);
    assert!(all_frontends(&service.unwrap()).contains("203.0.113.1:80/TCP CC from nowhere"));
}

#[test]
fn a_bad_annotation_of_the_api_server_leaves_the_default_and_the_rest() {
    let annotations = "{weir.dev/algorithm: fastest, weir.dev/slow-start: 30s, weir.dev/maglev-size: '4096', \
                       weir.dev/measure: requests, weir.dev/response-idle: 250ms}";
    let (service, problems) = service_with("sessionAffinity: Cookie", annotations);
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    let wanted = [
        "metadata.annotations.weir.dev/algorithm",
        "spec.sessionAffinity",
        "metadata.annotations.weir.dev/maglev-size",
    ];
    assert_eq!(fields.iter().collect::<BTreeSet<_>>(), wanted.iter().collect());
    let algorithm = problems.iter().find(|problem| problem.value == "fastest").unwrap();
    assert!(
        algorithm.to_string().starts_with("Service shop/web: metadata.annotations.weir.dev/algorithm: \"fastest\": ")
    );
    assert!(algorithm.message().contains("use one of random"), "{}", algorithm.message());
    let (ports, _) = built(&service.unwrap(), &[]);
    let port = &ports[0].1;
    assert_eq!((port.algorithm, port.maglev_size, port.affinity), (Algorithm::Maglev, None, None));
    assert_eq!(port.slow_start.unwrap().as_secs(), 30);
    assert_eq!((port.measure, port.response_idle.unwrap().as_millis()), (true, 250));
}

#[test]
fn what_is_wrong_with_one_port_leaves_the_others() {
    let ports = "ports: [{port: 80}, {name: a, port: 80}, {name: sctp, port: 7, protocol: SCTP}, {name: b, port: 443}]";
    let (service, problems) = service_with(ports, "{}");
    assert_eq!(problems.len(), 2, "{problems:?}");
    let numbers: Vec<u16> = service.unwrap().ports.iter().map(|port| port.port).collect();
    assert_eq!(numbers, [80, 443]);
}

#[test]
fn session_affinity_and_its_change() {
    let affinity = |fields: &str| built(&service(fields), &[]).0[0].1.affinity.map(|time| time.as_secs());
    assert_eq!(affinity("sessionAffinity: None"), None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), Some(10_800));
    let timeout = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    assert_eq!(affinity(timeout), Some(60));
}

#[test]
fn the_health_check_node_port_needs_its_policy() {
    let port = |fields: &str| built(&service(fields), &[]).0[0].1.health_check_node_port;
    let number = "healthCheckNodePort: 31999";
    assert_eq!(port(&format!("type: LoadBalancer, externalTrafficPolicy: Local, {number}")), Some(31999));
    assert_eq!(port(&format!("type: LoadBalancer, {number}")), None);
    assert_eq!(port(&format!("type: NodePort, externalTrafficPolicy: Local, {number}")), None);
}

/// The backends of the first port in words: address and port, then what is true of it.
fn backends(service: &ServiceObject, slices: &[SliceObject]) -> Vec<String> {
    backends_in_words(&built(service, slices).0[0].1.backends)
}

fn backends_in_words(backends: &BTreeMap<std::net::SocketAddr, BackendSpec>) -> Vec<String> {
    let words = |spec: &BackendSpec| {
        let flags = [
            (spec.local, " local"),
            (spec.terminating, " terminating"),
            (spec.terminating && spec.serving, " serving"),
            (spec.far, " far"),
        ];
        flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<String>()
    };
    backends.iter().map(|(at, spec)| format!("{at}{}", words(spec))).collect()
}

const HTTP: &str = "{name: '', port: 8080}";

#[test]
fn conditions() {
    let cases = [
        ("", Some("")),
        ("ready: true", Some("")),
        ("ready: false", None),
        ("ready: false, serving: true", None),
        ("ready: false, serving: true, terminating: true", Some(" terminating serving")),
        ("ready: false, serving: false, terminating: true", Some(" terminating")),
        ("ready: false, terminating: true", Some(" terminating serving")),
        ("terminating: true", Some(" terminating serving")),
        // publishNotReadyAddresses: the controller says ready whatever the Pod says.
        ("ready: true, serving: false, terminating: true", Some("")),
        ("ready: true, serving: false", Some("")),
    ];
    for (conditions, wanted) in cases {
        let endpoint = format!("{{addresses: [10.9.0.1], conditions: {{{conditions}}}}}");
        let found = backends(&service(""), &[slice("web-1", HTTP, &endpoint)]);
        let wanted: Vec<String> = wanted.iter().map(|flags| format!("10.9.0.1:8080{flags}")).collect();
        assert_eq!(found, wanted, "{conditions}");
    }
}

#[test]
fn an_endpoint_that_is_not_ready_is_no_backend_and_still_there() {
    let endpoints = "{addresses: [10.9.0.1]}, {addresses: [10.9.0.2], conditions: {ready: false}}, \
                     {addresses: [10.9.0.3], conditions: {ready: false, terminating: true}}";
    let ports = "{name: '', port: 8080}, {name: other, port: 1}";
    let (ports, problems) = built(&service(""), &[slice("web-1", ports, endpoints)]);
    assert_eq!(problems, []);
    let found: Vec<String> = ports[0].1.resting.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.9.0.2:8080"]);
}

#[test]
fn limits_are_read_and_what_is_none_is_told() {
    let annotations = "{weir.dev/max-connections-per-backend: '100', weir.dev/max-new-per-second-per-client: '5', \
                       weir.dev/max-new-per-second: lots}";
    let (object, problems) = service_with("", annotations);
    let limits = Limits { connections: Some(100), client_rate: Some(5), rate: None };
    assert_eq!(object.unwrap().limits, limits);
    let told: Vec<_> = problems.iter().map(|problem| (problem.field.as_str(), problem.value.as_str())).collect();
    assert_eq!(told, [("metadata.annotations.weir.dev/max-new-per-second", "lots")]);
    assert!(problems[0].remedy.contains("1 to 1000000"), "{problems:?}");
}

#[test]
fn slices_of_one_service_are_one() {
    let slices = [
        slice("web-1", HTTP, "{addresses: [10.0.0.1], nodeName: here}, {addresses: [10.9.0.1], nodeName: there}"),
        slice("web-2", "{name: '', port: 9090}", "{addresses: [10.9.0.2], nodeName: there}"),
        slice("web-3", HTTP, "{addresses: [10.9.0.1], conditions: {ready: false, terminating: true}}"),
        slice("web-4", "{name: other, port: 1}", "{addresses: [10.9.0.4]}"),
        slice("web-5", "{name: '', port: 8080, protocol: UDP}", "{addresses: [10.9.0.5]}"),
    ];
    let wanted = ["10.0.0.1:8080 local", "10.9.0.1:8080", "10.9.0.2:9090"];
    assert_eq!(
        backends(&service(""), &slices),
        wanted,
        "by name and protocol, whatever the number; the ready one of two"
    );
    let reversed: Vec<SliceObject> = slices.into_iter().rev().collect();
    assert_eq!(backends(&service(""), &reversed), wanted, "in any order");
}

#[test]
fn one_number_over_two_protocols_has_backends_of_its_own() {
    let service = service("ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]");
    let ports = "{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5354}";
    let (ports, problems) = built(&service, &[slice("dns-1", ports, "{addresses: [10.9.0.1]}")]);
    assert_eq!(problems, []);
    let found: Vec<String> =
        ports.iter().map(|(id, port)| format!("{id} {}", backends_in_words(&port.backends).join(","))).collect();
    assert_eq!(found, ["shop/web:53/UDP 10.9.0.1:5353", "shop/web:53/TCP 10.9.0.1:5354"]);
}

#[test]
fn both_families_are_backends_and_a_foreign_address_stops_nobody() {
    let (v6, none) = slice_with("web-6", "IPv6", HTTP, "{addresses: ['fd00::1']}");
    let (mixed, problems) =
        slice_with("web-4", "IPv4", HTTP, "{addresses: ['fd00::2']}, {addresses: [nonsense]}, {addresses: [10.9.0.1]}");
    assert_eq!(none, []);
    let told: Vec<(&str, &str)> = problems.iter().map(|p| (p.field.as_str(), p.value.as_str())).collect();
    assert_eq!(told, [("endpoints.0.addresses.0", "fd00::2"), ("endpoints.1.addresses.0", "nonsense")]);
    assert_eq!(backends(&service(""), &[mixed, v6]), ["10.9.0.1:8080", "[fd00::1]:8080"]);
}

#[test]
fn many_endpoints_and_many_mistakes() {
    let endpoints = |odd: &str| {
        let all: Vec<String> =
            (0..5000).map(|i| format!("{{addresses: ['{odd}10.{}.{}.1']}}", i / 250, i % 250)).collect();
        slice_with("web-1", "IPv4", HTTP, &all.join(", "))
    };
    let (good, problems) = endpoints("");
    assert_eq!((backends(&service(""), &[good]).len(), problems), (5000, vec![]));
    let (bad, problems) = endpoints("::");
    assert_eq!((bad.endpoints.len(), problems.len()), (0, 20));
    assert!(problems[19].remedy.contains("not listed"));
}

#[test]
fn hints_keep_endpoints_for_others_family_by_family() {
    let endpoint = |address: &str, hints: &str| format!("{{addresses: ['{address}'], hints: {{{hints}}}}}");
    let zone = |name: &str| format!("forZones: [{{name: {name}}}]");
    let v4 = slice("web-4", HTTP, &[endpoint("10.9.0.1", &zone("a")), endpoint("10.9.0.2", &zone("b"))].join(", "));
    let (v6, _) =
        slice_with("web-6", "IPv6", HTTP, &[endpoint("fd00::1", &zone("b")), endpoint("fd00::2", "")].join(", "));
    let wanted = ["10.9.0.1:8080", "10.9.0.2:8080 far", "[fd00::1]:8080", "[fd00::2]:8080"];
    assert_eq!(backends(&service(""), &[v4, v6]), wanted);
    let node = |name: &str| format!("forNodes: [{{name: {name}}}], {}", zone("a"));
    let nodes =
        slice("web-n", HTTP, &[endpoint("10.9.0.1", &node("here")), endpoint("10.9.0.2", &node("there"))].join(", "));
    assert_eq!(backends(&service(""), &[nodes]), ["10.9.0.1:8080", "10.9.0.2:8080 far"], "the node before the zone");
}

#[test]
fn weights_of_pods_come_before_those_of_slices() {
    let pod = |address: &str, name: &str| format!("{{addresses: [{address}], targetRef: {{kind: Pod, name: {name}}}}}");
    let endpoints = [pod("10.9.0.1", "web-heavy"), pod("10.9.0.2", "web-other"), "{addresses: [10.9.0.3]}".into()];
    let weights = |slice: SliceObject| {
        let (ports, _) = built(&service(""), &[slice]);
        ports[0].1.backends.values().map(|backend| backend.weight).collect::<Vec<_>>()
    };
    let plain = slice("web-1", HTTP, &endpoints.join(", "));
    assert_eq!(weights(plain.clone()), [300, 100, 100]);
    assert_eq!(weights(SliceObject { weight: Some(7), ..plain }), [300, 7, 7]);
}

#[test]
fn one_frontend_of_two_ports_is_the_first_ones() {
    let clash = service(
        "type: NodePort, ipFamilies: [IPv4], externalIPs: [192.0.2.1], ports: [{name: a, port: 30443, nodePort: 30080}, {name: b, port: 80, nodePort: 30443}]",
    );
    let (ports, problems) = built(&clash, &[]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("\"192.0.2.1:30443/TCP\": another port"), "{}", problems[0]);
    let keys: Vec<_> = ports.iter().flat_map(|(_, port)| port.frontends.keys()).collect();
    assert_eq!(keys.len(), keys.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn a_stale_node_port_is_the_older_services_and_the_other_keeps_the_rest() {
    let old = service("type: NodePort, ipFamilies: [IPv4]");
    let new = ServiceObject {
        name: "new".into(),
        created: old.created.map(|time| time + 1),
        ..service("clusterIP: 10.96.0.2, type: NodePort, ipFamilies: [IPv4]")
    };
    with_setting(|setting| {
        let mut owners = Owners::default();
        let none = Holders::new();
        assert!(owners.set(&new, build::claims(&new, setting), &none).is_empty());
        let lost = owners.set(&old, build::claims(&old, setting), &none);
        assert_eq!(lost, [("shop".to_owned(), "new".to_owned())].into());
        let frontends = |owners: &Owners| {
            let (ports, problems) = build::service(&new, &[], setting, owners);
            let leads = ports[0].1.frontends.keys().filter(|key| !key.is_of_address());
            (leads.map(ToString::to_string).collect::<Vec<_>>(), problems)
        };
        let (left, problems) = frontends(&owners);
        assert_eq!(left, ["10.96.0.2:80/TCP"]);
        assert_eq!(
            problems[0].to_string(),
            "Service shop/new: spec: \"192.0.2.1:30080/TCP\": the frontend is claimed by Service shop/web already, which keeps it; \
             give one of the two another address or port"
        );
        let gained = owners.remove(&("shop".into(), "web".into()));
        assert_eq!(gained, [("shop".to_owned(), "new".to_owned())].into());
        assert_eq!(frontends(&owners).0.len(), 2);
    });
}

#[test]
fn slices_of_nobody_and_of_names_are_left_out() {
    let nobody = "metadata: {namespace: shop, name: x}\naddressType: IPv4\nendpoints: []\n";
    let names = "metadata: {namespace: shop, name: x, labels: {kubernetes.io/service-name: web}}\naddressType: FQDN\nendpoints: []\n";
    for text in [nobody, names] {
        assert_eq!(object::slice(&parse(text)), (None, vec![]), "{text}");
    }
}

#[test]
fn protocols_are_part_of_a_frontend() {
    let udp = service("ports: [{port: 53, protocol: UDP}]");
    assert_eq!(built(&udp, &[]).0[0].0.protocol, Protocol::Udp);
}
