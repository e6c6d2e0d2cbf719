//! Events of a made-up node, for tests.

use ipnet::IpNet;

use super::{
    NodeState, NodeView,
    address::{Address, Scope},
    link::{Kind, Link},
    route::{Action, Hop, Placed, Route, Table},
    state::Event,
};

/// A link that is up and nothing special.
pub(crate) fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.into(), up: true, ..Link::default() }
}

/// The node's end of a pod's pair.
pub(crate) fn pair(index: u32, name: &str) -> Link {
    Link { kind: Kind::Pair, peer_elsewhere: true, ..link(index, name) }
}

/// An address, written with the length of its prefix.
pub(crate) fn address(interface: u32, text: &str) -> Event {
    let net: IpNet = text.parse().unwrap();
    let link_local = match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    let scope = match net.addr() {
        ip if ip.is_loopback() => Scope::Host,
        _ if link_local => Scope::Link,
        _ => Scope::Global,
    };
    Event::Address(Address { interface, ip: net.addr(), network: net.trunc(), scope, tentative: false, second: false })
}

fn placed(table: Table, prefix: &str, interface: u32, gateway: Option<&str>, source: Option<&str>) -> Event {
    let action = if table == Table::Local { Action::TakeIn } else { Action::Send };
    let ip = |text: &str| text.parse().unwrap();
    let hops = vec![Hop { interface, gateway: gateway.map(ip) }];
    let route = Route { action, tos: 0, metric: 0, source: source.map(ip), hops };
    Event::Route { placed: Placed { table, prefix: prefix.parse().unwrap(), route }, replace: false }
}

/// A route of the main table.
pub(crate) fn route(prefix: &str, interface: u32, gateway: Option<&str>) -> Event {
    placed(Table::Main, prefix, interface, gateway, None)
}

/// The same with a source address.
pub(crate) fn route_from(prefix: &str, interface: u32, gateway: Option<&str>, source: &str) -> Event {
    placed(Table::Main, prefix, interface, gateway, Some(source))
}

/// A route of the local table.
pub(crate) fn local(prefix: &str, interface: u32) -> Event {
    placed(Table::Local, prefix, interface, None, None)
}

/// The view of a node `name` with this uplink and these events.
pub(crate) fn view(name: &str, uplink: &str, events: Vec<Event>) -> NodeView {
    NodeView::new(name, &[uplink.to_owned()].into(), NodeState::from_events(events))
}
