//! A Kubernetes Service, checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{
    ServiceObject,
    annotations::{self as a, Invalid},
    context::{Context, port, protocol},
    object::{AddressKind, Families, PortObject},
};
use crate::model::{HealthCheck, Limits, Reach};

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// The Service; none if it may not be used, or if it has no addresses by design (ExternalName).
pub(super) fn check(context: &mut Context<'_>, service: &Service) -> Option<ServiceObject> {
    let spec = &service.spec.clone().unwrap_or_default();
    let annotations = &service.metadata.annotations.clone().unwrap_or_default();
    let (namespace, name) = context.identity();
    let families = families(context, spec);
    let feedback = context.annotation(annotations, a::FEEDBACK, a::feedback).unwrap_or_default();
    let object = ServiceObject {
        origin: context.origin(&[]),
        namespace,
        name,
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_nanosecond()),
        ports: ports(context, spec),
        addresses: addresses(context, service, spec, families),
        families,
        internal: policy(context, "internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external: policy(context, "externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
        ranges: ranges(context, spec, annotations),
        health_check_node_port: health_check_node_port(context, spec),
        algorithm: context.annotation(annotations, a::ALGORITHM, a::algorithm),
        affinity: affinity(context, spec),
        maglev_size: context.annotation(annotations, a::MAGLEV_SIZE, a::maglev_size),
        forwarding: context.annotation(annotations, a::FORWARDING, a::forwarding).unwrap_or_default(),
        feedback,
        measure: context.annotation(annotations, a::MEASURE, a::measure).unwrap_or_default()
            || feedback.reads_requests(),
        response_idle: context.annotation(annotations, a::RESPONSE_IDLE, a::duration),
        slow_start: context.annotation(annotations, a::SLOW_START, a::duration),
        health_check: health_check(context, annotations),
        limits: limits(context, annotations),
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    (context.is_usable() && !external).then_some(object)
}

/// The ports, each number and protocol once; a headless Service has none that clients could use.
fn ports(context: &mut Context<'_>, spec: &ServiceSpec) -> Vec<PortObject> {
    let open = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (index, p) in spec.ports.iter().flatten().enumerate() {
        let index = index.to_string();
        let at = |field| ["spec", "ports", index.as_str(), field];
        let number = context.accept(&at("port"), port(p.port));
        let protocol = context.accept(&at("protocol"), protocol(p.protocol.as_deref()));
        let (Some(number), Some(protocol)) = (number, protocol) else { continue };
        if !seen.insert((number, protocol)) {
            context.problem(&at("port"), "the Service has this port and protocol twice", "keep one of them");
            continue;
        }
        let node_port = p.node_port.filter(|number| open && *number != 0);
        let node_port = node_port.and_then(|number| context.accept(&at("nodePort"), port(number)));
        found.push(PortObject { name: p.name.clone().unwrap_or_default(), port: number, protocol, node_port });
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if headless { Vec::new() } else { found }
}

fn families(context: &mut Context<'_>, spec: &ServiceSpec) -> Families {
    let Some(names) = spec.ip_families.as_ref().filter(|names| !names.is_empty()) else { return Families::default() };
    for (index, name) in names.iter().enumerate() {
        if !matches!(name.as_str(), "IPv4" | "IPv6") {
            let path = ["spec", "ipFamilies", &index.to_string()];
            context.problem(&path, "no such address family", "use IPv4 or IPv6");
        }
    }
    let has = |family: &str| names.iter().any(|name| name == family);
    Families { v4: has("IPv4"), v6: has("IPv6") }
}

/// Every address of a Service.
fn addresses(
    context: &mut Context<'_>,
    service: &Service,
    spec: &ServiceSpec,
    families: Families,
) -> BTreeMap<IpAddr, AddressKind> {
    let mut found = BTreeMap::new();
    let api = context.is_api();
    let mut add = |kind: AddressKind, path: &[&str], text: &str| {
        let address = if matches!(text, "" | "None") { None } else { context.accept(path, address(text)) };
        if let Some(address) = address.filter(|ip| families.contain(*ip)) {
            let known = found.entry(address).or_insert(kind);
            *known = kind.max(*known);
        }
    };
    add(AddressKind::Cluster, &["spec", "clusterIP"], spec.cluster_ip.as_deref().unwrap_or_default());
    for (index, text) in spec.cluster_ips.iter().flatten().enumerate() {
        add(AddressKind::Cluster, &["spec", "clusterIPs", &index.to_string()], text);
    }
    // In a cluster it is what the Service asks its load balancer for, which answers in the status.
    if !api {
        let text = spec.load_balancer_ip.as_deref().unwrap_or_default();
        add(AddressKind::LoadBalancer, &["spec", "loadBalancerIP"], text);
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        add(AddressKind::External, &["spec", "externalIPs", &index.to_string()], text);
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    for (index, ingress) in status.into_iter().flatten().enumerate() {
        // With ipMode Proxy packets must pass the load balancer, which terminates or rewrites them.
        if ingress.ip_mode.as_deref() != Some("Proxy") {
            let path = ["status", "loadBalancer", "ingress", &index.to_string(), "ip"];
            add(AddressKind::LoadBalancer, &path, ingress.ip.as_deref().unwrap_or_default());
        }
    }
    found
}

/// An address that a frontend or backend can have.
pub(super) fn address(text: &str) -> Result<IpAddr, Invalid> {
    let wrong = |cause: &str| {
        Err(Invalid {
            cause: cause.into(),
            remedy: "use one IPv4 or IPv6 address, such as 10.96.0.10 or fd00::10".into(),
        })
    };
    match text.parse::<IpAddr>() {
        Err(_) => wrong("not an IP address"),
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => wrong("not the address of one host"),
        Ok(IpAddr::V4(ip)) if ip.is_broadcast() => wrong("not the address of one host"),
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => wrong("an IPv4 address written as IPv6"),
        Ok(ip) => Ok(ip),
    }
}

fn policy(context: &mut Context<'_>, field: &str, value: Option<&str>) -> Reach {
    match value {
        None | Some("" | "Cluster") => Reach::Cluster,
        Some("Local") => Reach::Local,
        Some(_) => {
            context.problem(&["spec", field], "no such traffic policy", "use Cluster or Local");
            Reach::Cluster
        }
    }
}

/// The networks of clients, from the field, or where it is empty from the annotation that was there before it.
fn ranges(
    context: &mut Context<'_>,
    spec: &ServiceSpec,
    annotations: &BTreeMap<String, String>,
) -> Option<BTreeSet<IpNet>> {
    let fields = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    let words = fields.map(|(index, text)| (vec!["spec", "loadBalancerSourceRanges"], Some(index), text.as_str()));
    let mut words: Vec<(Vec<&str>, Option<usize>, &str)> = words.collect();
    if words.is_empty() {
        let text = annotations.get(a::SOURCE_RANGES).filter(|text| !text.trim().is_empty())?;
        words.extend(text.split(',').map(|word| (vec!["metadata", "annotations", a::SOURCE_RANGES], None, word)));
    }
    let mut found = BTreeSet::new();
    for (mut path, index, text) in words {
        let index = index.map(|index| index.to_string());
        path.extend(index.as_deref());
        found.extend(context.accept(&path, a::network(text)));
    }
    Some(found)
}

/// Kubernetes gives one to Services of type LoadBalancer with `externalTrafficPolicy: Local`.
fn health_check_node_port(context: &mut Context<'_>, spec: &ServiceSpec) -> Option<u16> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let needed = local && spec.type_.as_deref() == Some("LoadBalancer");
    let number = spec.health_check_node_port.filter(|number| needed && *number != 0)?;
    context.accept(&["spec", "healthCheckNodePort"], port(number))
}

fn affinity(context: &mut Context<'_>, spec: &ServiceSpec) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(_) => {
            context.problem(&["spec", "sessionAffinity"], "no such session affinity", "use None or ClientIP");
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    let valid = u64::try_from(seconds).ok().filter(|s| (1..=86_400).contains(s)).ok_or_else(|| Invalid {
        cause: "the timeout is out of range".into(),
        remedy: "use a whole number of seconds from 1 to 86400".into(),
    });
    context.accept(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], valid).map(Duration::from_secs)
}

fn health_check(context: &mut Context<'_>, annotations: &BTreeMap<String, String>) -> Option<HealthCheck> {
    let probe = context.annotation(annotations, a::HEALTH_CHECK, a::probe);
    let interval = context.annotation(annotations, a::HEALTH_CHECK_INTERVAL, a::duration);
    let threshold = context.annotation(annotations, a::HEALTH_CHECK_THRESHOLD, a::threshold);
    probe.map(|probe| a::health_check(probe, interval, threshold))
}

fn limits(context: &mut Context<'_>, annotations: &BTreeMap<String, String>) -> Limits {
    Limits {
        connections: context.annotation(annotations, a::MAX_CONNECTIONS, a::limit),
        client_rate: context.annotation(annotations, a::CLIENT_RATE, a::limit),
        rate: context.annotation(annotations, a::RATE, a::limit),
    }
}
