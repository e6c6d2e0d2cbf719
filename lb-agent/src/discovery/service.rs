//! A Kubernetes Service, checked.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{
    ServiceObject,
    annotations::{self as a, Invalid},
    object::{Context, PortObject, port, protocol},
};
use crate::model::HealthCheck;

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// The Service; none if anything is wrong with it, or if it has no addresses by design (ExternalName).
pub(super) fn check(context: &mut Context<'_>, service: Service) -> Option<ServiceObject> {
    let meta = service.metadata;
    let spec = service.spec.unwrap_or_default();
    let created = meta.creation_timestamp.map(|time| time.0.as_nanosecond());
    let (namespace, name) = context.identity(meta.namespace, meta.name);
    let status = service.status.and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
    let ingress: Vec<String> = status.into_iter().map(|i| i.ip.unwrap_or_default()).collect();
    let object = ServiceObject {
        origin: context.origin(&[]),
        namespace,
        name,
        created,
        ports: ports(context, &spec),
        addresses: addresses(context, &spec, &ingress),
        algorithm: context.annotation(a::ALGORITHM, a::algorithm),
        affinity: affinity(context, &spec),
        maglev_size: context.annotation(a::MAGLEV_SIZE, a::maglev_size),
        feedback: context.annotation(a::FEEDBACK, a::feedback).unwrap_or_default(),
        slow_start: context.annotation(a::SLOW_START, a::duration),
        health_check: health_check(context),
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    (context.is_sound() && !external).then_some(object)
}

fn ports(context: &mut Context<'_>, spec: &ServiceSpec) -> Vec<PortObject> {
    let open = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let ports = spec.ports.iter().flatten().enumerate();
    let checked: Vec<PortObject> = ports
        .filter_map(|(index, p)| {
            let index = index.to_string();
            let at = |field| ["spec", "ports", index.as_str(), field];
            let node_port = p.node_port.filter(|number| open && *number != 0);
            Some(PortObject {
                name: p.name.clone().unwrap_or_default(),
                port: context.accept(&at("port"), port(p.port))?,
                protocol: context.accept(&at("protocol"), protocol(p.protocol.as_deref()))?,
                node_port: node_port.and_then(|number| context.accept(&at("nodePort"), port(number))),
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for (index, p) in checked.iter().enumerate() {
        if !seen.insert((p.port, p.protocol)) {
            let path = ["spec", "ports", &index.to_string(), "port"];
            context.problem(&path, "the Service has this port and protocol twice", "keep one of them");
        }
    }
    checked
}

/// Every address of a Service with the path of its field.
fn addresses(context: &mut Context<'_>, spec: &ServiceSpec, ingress: &[String]) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut add = |path: &[&str], text: &str| {
        if !matches!(text, "" | "None") {
            found.extend(context.accept(path, address(text)));
        }
    };
    add(&["spec", "clusterIP"], spec.cluster_ip.as_deref().unwrap_or_default());
    add(&["spec", "loadBalancerIP"], spec.load_balancer_ip.as_deref().unwrap_or_default());
    for (index, text) in spec.cluster_ips.iter().flatten().enumerate() {
        add(&["spec", "clusterIPs", &index.to_string()], text);
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        add(&["spec", "externalIPs", &index.to_string()], text);
    }
    for (index, text) in ingress.iter().enumerate() {
        add(&["status", "loadBalancer", "ingress", &index.to_string(), "ip"], text);
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

fn health_check(context: &mut Context<'_>) -> Option<HealthCheck> {
    let probe = context.annotation(a::HEALTH_CHECK, a::probe);
    let interval = context.annotation(a::HEALTH_CHECK_INTERVAL, a::duration);
    let threshold = context.annotation(a::HEALTH_CHECK_THRESHOLD, a::threshold);
    probe.map(|probe| a::health_check(probe, interval, threshold))
}
