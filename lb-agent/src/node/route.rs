//! The node's routes in memory: the tables local, main and default, in the order of the kernel's three default rules, each a trie.
//!
//! A lookup asks nobody and costs microseconds. Other tables are not followed: who adds rules of policy routing has packets go
//! other ways than this says (docs/limits.md).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use prefix_trie::joint::map::JointPrefixMap;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType, RouteVia,
    },
};

/// A routing table that is followed, in the order of lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The node's own addresses.
    Local,
    /// Where everybody adds routes.
    Main,
    /// Empty nearly everywhere.
    Default,
}

impl Table {
    fn from_number(number: u32) -> Option<Self> {
        match number {
            255 => Some(Self::Local),
            254 => Some(Self::Main),
            253 => Some(Self::Default),
            _ => None,
        }
    }
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sends it by one of its next hops.
    Send,
    /// Takes it in.
    TakeIn,
    /// Goes on to the next table.
    NextTable,
    /// Anything else: broadcast, multicast, refusal.
    Other,
}

/// A way to leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface's index.
    pub interface: u32,
    /// The gateway; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// A route of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it does.
    pub action: Action,
    /// Type of service that it is for; 0: all.
    pub tos: u8,
    /// Of several, the one with the least is used.
    pub metric: u32,
    /// The address it is left with.
    pub source: Option<IpAddr>,
    /// Its ways; the dead ones are not in here.
    pub hops: Vec<Hop>,
}

/// A route, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its table.
    pub table: Table,
    /// Its prefix.
    pub prefix: IpNet,
    /// The route.
    pub route: Route,
}

impl Placed {
    /// Reads a route of the tables that are followed; `None` for others, and for cached ones.
    pub fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length > 0 {
            return None;
        }
        let action = match header.kind {
            RouteType::Unicast => Action::Send,
            RouteType::Local => Action::TakeIn,
            RouteType::Throw => Action::NextTable,
            _ => Action::Other,
        };
        let mut destination = unspecified(header.address_family)?;
        let mut table = u32::from(header.table);
        let mut route = Route { action, tos: header.tos, metric: 0, source: None, hops: Vec::new() };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::MultiPath(hops) => route.hops = hops.iter().filter_map(hop).collect(),
                _ => {}
            }
        }
        if !header.flags.contains(RouteFlags::Dead) {
            route.hops.extend(single_hop(&message.attributes));
        }
        let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?.trunc();
        Some(Self { table: Table::from_number(table)?, prefix, route })
    }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(IpAddr::from([0; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0; 16])),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn single_hop(attributes: &[RouteAttribute]) -> Option<Hop> {
    let out = |attribute: &RouteAttribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None };
    let interface = attributes.iter().find_map(out)?;
    Some(Hop { interface, gateway: gateway(attributes) })
}

fn hop(hop: &RouteNextHop) -> Option<Hop> {
    let dead = hop.flags.contains(RouteNextHopFlags::Dead);
    (!dead).then(|| Hop { interface: hop.interface_index, gateway: gateway(&hop.attributes) })
}

/// What leads over an interface, in numbers of routes of the tables main and default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Default routes.
    pub defaults: u32,
    /// Other routes of more than one address, through a gateway.
    pub networks: u32,
    /// The rest: to addresses on the link, and to single ones behind it.
    pub neighbours: u32,
}

impl Use {
    fn of(&mut self, prefix: &IpNet, hop: &Hop) -> Option<&mut u32> {
        // Every interface has the link-local network and multicast; they lead to nobody in particular.
        if is_local_to_link(prefix) {
            return None;
        }
        let single = prefix.prefix_len() == prefix.max_prefix_len();
        Some(match (prefix.prefix_len(), hop.gateway) {
            (0, _) => &mut self.defaults,
            (_, Some(_)) if !single => &mut self.networks,
            _ => &mut self.neighbours,
        })
    }
}

fn is_local_to_link(prefix: &IpNet) -> bool {
    let whole = prefix.prefix_len() < prefix.max_prefix_len();
    match prefix.network() {
        IpAddr::V4(ip) => ip.is_multicast() || (ip.is_link_local() && whole),
        IpAddr::V6(ip) => ip.is_multicast() || (ip.is_unicast_link_local() && whole),
    }
}

/// The routes.
#[derive(Clone, Default)]
pub struct Routes {
    tables: BTreeMap<Table, JointPrefixMap<IpNet, Vec<Route>>>,
    uses: BTreeMap<u32, Use>,
    /// So many routes of the tables main and default go by a gateway of an interface.
    gateways: BTreeMap<(u32, IpAddr), u32>,
}

impl Routes {
    /// Adds a route, or, with `replace`, puts it in the place of the one of the same metric. Returns whether anything is other than
    /// before.
    pub fn insert(&mut self, placed: &Placed, replace: bool) -> bool {
        let routes = self.tables.entry(placed.table).or_default().entry(placed.prefix).or_default();
        if routes.contains(&placed.route) {
            return false;
        }
        let place = |old: &Route| (old.metric, old.tos) == (placed.route.metric, placed.route.tos);
        let replaced = if replace { routes.iter().position(place).map(|at| routes.remove(at)) } else { None };
        // The first of equal metric is the one in use.
        let at = routes.partition_point(|old| old.metric <= placed.route.metric);
        routes.insert(at, placed.route.clone());
        if let Some(old) = replaced {
            self.count(placed, &old, false);
        }
        self.count(placed, &placed.route, true);
        true
    }

    /// Removes a route. Returns whether it was there.
    pub fn remove(&mut self, placed: &Placed) -> bool {
        let Some(table) = self.tables.get_mut(&placed.table) else { return false };
        let Some(routes) = table.get_mut(&placed.prefix) else { return false };
        let Some(at) = routes.iter().position(|route| *route == placed.route) else { return false };
        routes.remove(at);
        if routes.is_empty() {
            table.remove(&placed.prefix);
        }
        self.count(placed, &placed.route, false);
        true
    }

    fn count(&mut self, placed: &Placed, route: &Route, more: bool) {
        if placed.table == Table::Local || route.action != Action::Send {
            return;
        }
        for hop in &route.hops {
            let uses = self.uses.entry(hop.interface).or_default();
            if let Some(number) = uses.of(&placed.prefix, hop) {
                step(number, more);
            }
            if *uses == Use::default() {
                self.uses.remove(&hop.interface);
            }
            if let Some(gateway) = hop.gateway {
                let number = self.gateways.entry((hop.interface, gateway)).or_default();
                step(number, more);
                if *number == 0 {
                    self.gateways.remove(&(hop.interface, gateway));
                }
            }
        }
    }

    /// The route of packets to an address.
    pub fn to(&self, address: IpAddr) -> Option<&Route> {
        self.tables.values().find_map(|table| lookup(table, address)).filter(|route| route.action != Action::Other)
    }

    /// The gateways of routes, each with its interface.
    pub fn gateways(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.gateways.keys().copied()
    }

    /// What leads over an interface.
    pub fn uses(&self, interface: u32) -> Use {
        self.uses.get(&interface).copied().unwrap_or_default()
    }
}

/// Equal when they send every packet the same way.
impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        self.tables == other.tables
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.tables.iter().map(|(table, routes)| (table, routes.len()))).finish()
    }
}

/// The usable route of the longest prefix; `None`: the next table is asked.
fn lookup(table: &JointPrefixMap<IpNet, Vec<Route>>, address: IpAddr) -> Option<&Route> {
    let usable = |routes: &'_ &Vec<Route>| routes.iter().any(is_usable);
    // From the shortest prefix to the longest.
    let routes = table.cover_values(&IpNet::from(address)).filter(usable).last()?;
    routes.iter().find(|route| is_usable(route)).filter(|route| route.action != Action::NextTable)
}

fn step(number: &mut u32, more: bool) {
    *number = if more { *number + 1 } else { number.saturating_sub(1) };
}

fn is_usable(route: &Route) -> bool {
    route.tos == 0 && (route.action != Action::Send || !route.hops.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(table: Table, prefix: &str, action: Action, interface: u32, gateway: Option<&str>) -> Placed {
        let hops = vec![Hop { interface, gateway: gateway.map(|ip| ip.parse().unwrap()) }];
        Placed {
            table,
            prefix: prefix.parse().unwrap(),
            route: Route { action, tos: 0, metric: 0, source: None, hops },
        }
    }

    fn main(prefix: &str, interface: u32, gateway: Option<&str>) -> Placed {
        placed(Table::Main, prefix, Action::Send, interface, gateway)
    }

    fn out(routes: &Routes, address: &str) -> Option<u32> {
        routes.to(address.parse().unwrap()).map(|route| route.hops[0].interface)
    }

    #[test]
    fn the_longest_prefix_wins_and_the_local_table_before_all() {
        let mut routes = Routes::default();
        for route in [
            main("0.0.0.0/0", 2, Some("192.0.2.1")),
            main("10.0.0.0/8", 3, None),
            main("10.1.0.5/32", 9, None),
            main("2001:db8::/32", 4, None),
            placed(Table::Local, "10.0.0.1/32", Action::TakeIn, 1, None),
            placed(Table::Main, "10.2.0.0/16", Action::Other, 3, None),
            placed(Table::Main, "10.3.0.0/16", Action::NextTable, 3, None),
            placed(Table::Default, "10.3.0.0/16", Action::Send, 7, None),
        ] {
            assert!(routes.insert(&route, false));
            assert!(!routes.insert(&route, false), "known");
        }
        let cases = [
            ("192.0.2.77", Some(2)),
            ("10.9.9.9", Some(3)),
            ("10.1.0.5", Some(9)),
            ("10.0.0.1", Some(1)),
            ("10.2.0.1", None),
            ("10.3.0.1", Some(7)),
            ("2001:db8::1", Some(4)),
            ("2001:db9::1", None),
        ];
        for (address, wanted) in cases {
            assert_eq!(out(&routes, address), wanted, "{address}");
        }
    }

    #[test]
    fn routes_come_go_and_are_replaced() {
        let mut routes = Routes::default();
        let with_metric = |interface, metric| {
            let mut route = main("10.0.0.0/8", interface, None);
            route.route.metric = metric;
            route
        };
        routes.insert(&with_metric(3, 200), false);
        routes.insert(&with_metric(2, 100), false);
        assert_eq!(out(&routes, "10.0.0.1"), Some(2), "the least metric");
        routes.insert(&with_metric(4, 100), true);
        assert_eq!(out(&routes, "10.0.0.1"), Some(4));
        assert_eq!((routes.uses(2), routes.uses(4).neighbours), (Use::default(), 1));
        assert!(routes.remove(&with_metric(4, 100)));
        assert!(!routes.remove(&with_metric(4, 100)));
        assert_eq!(out(&routes, "10.0.0.1"), Some(3));
        routes.remove(&with_metric(3, 200));
        assert_eq!(out(&routes, "10.0.0.1"), None);
        let mut dead = main("10.0.0.0/8", 3, None);
        dead.route.hops.clear();
        let mut other_service = main("10.0.0.0/8", 5, None);
        other_service.route.tos = 16;
        routes.insert(&main("0.0.0.0/0", 2, None), false);
        routes.insert(&dead, false);
        routes.insert(&other_service, false);
        assert_eq!(out(&routes, "10.0.0.1"), Some(2), "neither has a way for ordinary packets");
    }

    #[test]
    fn what_leads_over_an_interface_is_counted() {
        let mut routes = Routes::default();
        for route in [
            main("::/0", 2, Some("fe80::1")),
            main("0.0.0.0/0", 2, Some("192.0.2.1")),
            main("10.1.0.0/16", 2, Some("192.0.2.2")),
            main("10.2.0.0/24", 2, None),
            main("fe80::/64", 2, None),
            main("10.3.0.9/32", 2, Some("169.254.1.1")),
            placed(Table::Local, "10.0.0.1/32", Action::TakeIn, 2, None),
        ] {
            routes.insert(&route, false);
        }
        assert_eq!(routes.uses(2), Use { defaults: 2, networks: 1, neighbours: 2 });
        let gateways = |routes: &Routes| routes.gateways().map(|(_, ip)| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(gateways(&routes), ["169.254.1.1", "192.0.2.1", "192.0.2.2", "fe80::1"]);
        routes.remove(&main("::/0", 2, Some("fe80::1")));
        assert_eq!(routes.uses(2).defaults, 1);
        assert_eq!(gateways(&routes), ["169.254.1.1", "192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn messages_are_read() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 16;
        message.header.table = 254;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([10, 1, 0, 0].into())),
            RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into())),
            RouteAttribute::Oif(2),
        ];
        assert_eq!(Placed::read(&message), Some(main("10.1.0.0/16", 2, Some("192.0.2.1"))));
        message.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(Placed::read(&message), None, "a table of policy routing");
        message.attributes.pop();
        message.header.flags = RouteFlags::Cloned;
        assert_eq!(Placed::read(&message), None, "cached");
    }
}
