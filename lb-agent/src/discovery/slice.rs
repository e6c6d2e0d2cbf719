//! A Kubernetes EndpointSlice, checked.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use lb_common::Protocol;

use super::{
    SliceObject, annotations as a,
    object::{Context, EndpointObject, port, protocol},
    service::address,
};

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The slice; none if anything is wrong with it, or if it holds names instead of addresses (FQDN).
pub(super) fn check(context: &mut Context<'_>, slice: EndpointSlice) -> Option<SliceObject> {
    let meta = slice.metadata;
    let service = meta.labels.unwrap_or_default().remove(SERVICE_LABEL).unwrap_or_default();
    let (namespace, name) = context.identity(meta.namespace, meta.name);
    if service.is_empty() {
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
    let ours = context.annotation(a::WEIGHT, a::weight);
    let object = SliceObject {
        origin: context.origin(&[]),
        namespace,
        name,
        service,
        weight: ours.or_else(|| context.annotation(a::CILIUM_WEIGHT, a::weight)),
        ports: slice.ports.iter().flatten().enumerate().filter_map(|(i, p)| checked_port(context, i, p)).collect(),
        endpoints: slice
            .endpoints
            .iter()
            .flatten()
            .enumerate()
            .flat_map(|(i, e)| endpoints(context, i, e, v6))
            .collect(),
    };
    context.is_sound().then_some(object)
}

fn checked_port(context: &mut Context<'_>, index: usize, p: &EndpointPort) -> Option<(String, u16, Protocol)> {
    let index = index.to_string();
    let at = |field| ["ports", index.as_str(), field];
    let number = context.accept(&at("port"), port(p.port?))?;
    let protocol = context.accept(&at("protocol"), protocol(p.protocol.as_deref()))?;
    Some((p.name.clone().unwrap_or_default(), number, protocol))
}

/// A backend for each address; none if the endpoint is neither ready nor terminating.
fn endpoints(context: &mut Context<'_>, index: usize, endpoint: &Endpoint, v6: bool) -> Vec<EndpointObject> {
    let index = index.to_string();
    let mut found = Vec::new();
    for (number, text) in endpoint.addresses.iter().enumerate() {
        let path = ["endpoints", &index, "addresses", &number.to_string()];
        let Some(address) = context.accept(&path, address(text)) else { continue };
        if address.is_ipv6() != v6 {
            wrong_family(context, &path, address);
        }
        found.push(address);
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating.unwrap_or(false);
    if !terminating && !conditions.ready.unwrap_or(true) {
        return Vec::new();
    }
    let backend = |address| EndpointObject { address, node: endpoint.node_name.clone(), terminating };
    found.into_iter().map(backend).collect()
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
