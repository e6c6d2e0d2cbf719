//! Where clients reach a Service's port, and how far a connection may go from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_common::SocketKey;

use super::{
    Origin, ServiceObject,
    build::Setting,
    object::{AddressKind, PortObject},
};
use crate::model::{FrontendSpec, Reach};

/// Every frontend of a Service.
pub(super) fn keys(service: &ServiceObject, setting: &Setting<'_>) -> BTreeSet<SocketKey> {
    service.ports.iter().flat_map(|port| of_port(service, port, setting).into_keys()).collect()
}

/// The frontends of a port.
pub(super) fn of_port(
    service: &ServiceObject,
    port: &PortObject,
    setting: &Setting<'_>,
) -> BTreeMap<SocketKey, FrontendSpec> {
    let key = |ip, number| SocketKey::new(SocketAddr::new(ip, number), port.protocol);
    let node = node_addresses(service, port, setting)
        .map(|(ip, number)| (key(ip, number), FrontendSpec { at_node: true, ..external(service) }));
    let own = service.addresses.iter().map(|(ip, kind)| (key(*ip, port.port), at_address(service, *ip, *kind)));
    node.chain(own).chain(other_ports(service, port)).chain(echo(service, port, setting)).collect()
}

/// The ports of a cluster's addresses that no Service has: connections are refused, as with kube-proxy, where they would else leave for a
/// network that does not exist. The first port of the Service keeps them. Addresses in files may be those of a host that has other services.
fn other_ports<'a>(
    service: &'a ServiceObject,
    port: &PortObject,
) -> impl Iterator<Item = (SocketKey, FrontendSpec)> + use<'a> {
    let keeps = service.origin == Origin::Api && service.ports.first() == Some(port);
    let cluster = service.addresses.iter().filter(move |(_, kind)| keeps && **kind == AddressKind::Cluster);
    cluster.map(|(ip, _)| (SocketKey::other_ports((*ip).into()), nowhere()))
}

/// Leads to no backend.
fn nowhere() -> FrontendSpec {
    FrontendSpec { inside: Reach::Nowhere, outside: Reach::Nowhere, ..FrontendSpec::default() }
}

/// The addresses at which nobody else answers to an echo: those of load balancers and external ones, unless they are the node's own. The
/// first port of the Service keeps them.
fn echo<'a>(
    service: &'a ServiceObject,
    port: &PortObject,
    setting: &'a Setting<'_>,
) -> impl Iterator<Item = (SocketKey, FrontendSpec)> + 'a {
    let keeps = service.ports.first() == Some(port);
    let own = |ip: &IpAddr| setting.node.addresses().any(|known| known == *ip);
    let outer = service.addresses.iter().filter(move |(_, kind)| keeps && **kind != AddressKind::Cluster);
    let outer = outer.filter(move |(ip, _)| !own(ip));
    outer.map(|(ip, _)| (SocketKey::echo((*ip).into()), nowhere()))
}

fn node_addresses<'a>(
    service: &'a ServiceObject,
    port: &'a PortObject,
    setting: &'a Setting<'_>,
) -> impl Iterator<Item = (IpAddr, u16)> + 'a {
    let chosen = |ip: &IpAddr| service.families.contain(*ip) && setting.node_ports.contain(*ip, setting.info);
    let addresses = move || setting.node.frontend_addresses().filter(chosen);
    port.node_port.into_iter().flat_map(move |number| addresses().map(move |ip| (ip, number)))
}

/// Clients of this node may go anywhere: for them the traffic policy would only be a detour.
fn external(service: &ServiceObject) -> FrontendSpec {
    FrontendSpec { inside: Reach::Cluster, outside: service.external, ..FrontendSpec::default() }
}

fn at_address(service: &ServiceObject, ip: IpAddr, kind: AddressKind) -> FrontendSpec {
    match kind {
        AddressKind::Cluster => {
            FrontendSpec { inside: service.internal, outside: service.internal, ..FrontendSpec::default() }
        }
        AddressKind::External => external(service),
        AddressKind::LoadBalancer => FrontendSpec { ranges: ranges(service, ip), ..external(service) },
    }
}

/// The clients of an address. As with kube-proxy, ranges of the other family alone do not bind, and a network of everybody is none.
fn ranges(service: &ServiceObject, ip: IpAddr) -> Option<BTreeSet<IpNet>> {
    let all = service.ranges.as_ref()?;
    let own: BTreeSet<IpNet> = all.iter().filter(|network| network.addr().is_ipv4() == ip.is_ipv4()).copied().collect();
    let everybody = own.iter().any(|network| network.prefix_len() == 0);
    let binds = all.is_empty() || !(own.is_empty() || everybody);
    binds.then_some(own)
}
