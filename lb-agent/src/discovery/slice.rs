//! A Kubernetes EndpointSlice, checked.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use lb_common::Protocol;

use super::{
    SliceObject, annotations as a,
    context::{Context, port, protocol},
    object::{EndpointObject, Hints},
    service::address,
};

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The slice; none if it may not be used, or if it holds names instead of addresses (FQDN).
pub(super) fn check(context: &mut Context<'_>, slice: &EndpointSlice) -> Option<SliceObject> {
    let meta = &slice.metadata;
    let service = meta.labels.iter().flatten().find(|(name, _)| *name == SERVICE_LABEL);
    let service = service.map(|(_, name)| name.clone()).unwrap_or_default();
    let (namespace, name) = context.identity();
    if service.is_empty() {
        if context.is_api() {
            return None;
        }
        let remedy = format!("add the label {SERVICE_LABEL} with the name of a Service in namespace {namespace}");
        context.problem(&["metadata", "labels"], "the slice belongs to no Service", &remedy);
    }
    let v6 = match slice.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return None,
        _ => {
            context.problem(&["addressType"], "no such address type", "use IPv4 or IPv6");
            return None;
        }
    };
    let (endpoints, resting) = checked_endpoints(context, slice, v6);
    let object = SliceObject {
        origin: context.origin(&[]),
        namespace,
        name,
        service,
        weight: weight(context, slice),
        ports: slice.ports.iter().flatten().enumerate().filter_map(|(i, p)| checked_port(context, i, p)).collect(),
        endpoints,
        resting,
    };
    context.is_usable().then_some(object)
}

/// The endpoints that are ready or terminating, and the addresses of the others.
fn checked_endpoints(context: &mut Context<'_>, slice: &EndpointSlice, v6: bool) -> (Vec<EndpointObject>, Vec<IpAddr>) {
    let (mut checked, mut resting) = (Vec::new(), Vec::new());
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let found = addresses(context, index, endpoint, v6);
        if rests(endpoint) {
            resting.extend(found);
        } else {
            checked.extend(endpoints(endpoint, found));
        }
    }
    checked.shrink_to_fit();
    resting.shrink_to_fit();
    (checked, resting)
}

fn weight(context: &mut Context<'_>, slice: &EndpointSlice) -> Option<u16> {
    let annotations = slice.metadata.annotations.as_ref()?;
    let ours = context.annotation(annotations, a::WEIGHT, a::weight);
    ours.or_else(|| context.annotation(annotations, a::CILIUM_WEIGHT, a::weight))
}

fn checked_port(context: &mut Context<'_>, index: usize, p: &EndpointPort) -> Option<(String, u16, Protocol)> {
    let index = index.to_string();
    let at = |field| ["ports", index.as_str(), field];
    let number = context.accept(&at("port"), port(p.port?))?;
    let protocol = context.accept(&at("protocol"), protocol(p.protocol.as_deref()))?;
    Some((p.name.clone().unwrap_or_default(), number, protocol))
}

/// Whether an endpoint is ready, and whether it terminates. A Service that publishes addresses that are not ready has endpoints that do
/// both: these are ready.
fn condition(endpoint: &Endpoint) -> (bool, bool) {
    let conditions = endpoint.conditions.as_ref();
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    (conditions.and_then(|conditions| conditions.ready).unwrap_or(!terminating), terminating)
}

/// Whether an endpoint is neither ready nor terminating.
fn rests(endpoint: &Endpoint) -> bool {
    condition(endpoint) == (false, false)
}

/// A backend for each address.
fn endpoints(endpoint: &Endpoint, found: Vec<IpAddr>) -> Vec<EndpointObject> {
    let (ready, _) = condition(endpoint);
    let serving = endpoint.conditions.as_ref().and_then(|conditions| conditions.serving).unwrap_or(true);
    let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Box::from);
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let backend = |address| EndpointObject {
        address,
        node: endpoint.node_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
        pod: pod.and_then(|pod| text(&pod.name)),
        terminating: !ready,
        serving,
        hints: hints(endpoint),
    };
    found.into_iter().map(backend).collect()
}

fn addresses(context: &mut Context<'_>, index: usize, endpoint: &Endpoint, v6: bool) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (number, text) in endpoint.addresses.iter().enumerate() {
        let result = address(text);
        if result.as_ref().is_ok_and(|address| address.is_ipv6() == v6) {
            found.extend(result);
            continue;
        }
        let (index, number) = (index.to_string(), number.to_string());
        let path = ["endpoints", &index, "addresses", &number];
        if let Some(address) = context.accept(&path, result) {
            wrong_family(context, &path, address);
        }
    }
    found
}

fn wrong_family(context: &mut Context<'_>, path: &[&str], address: IpAddr) {
    let (is, wanted) = if address.is_ipv6() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
    let cause = format!("an {is} address in a slice of addressType {wanted}");
    context.problem(
        path,
        &cause,
        &format!("write an {wanted} address, or a second EndpointSlice with addressType: {is}"),
    );
}

fn hints(endpoint: &Endpoint) -> Option<Box<Hints>> {
    let hints = endpoint.hints.as_ref()?;
    let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into());
    let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into());
    let hints = Hints { nodes: nodes.collect(), zones: zones.collect() };
    (hints != Hints::default()).then(|| Box::new(hints))
}
