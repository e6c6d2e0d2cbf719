//! What each interface is to Weir: a pure rule over what the kernel tells of it.
//!
//! | role | which interfaces | why |
//! |---|---|---|
//! | uplink | those of `--interface`; with none given, every one that has a default route or a global address of the node and is not inside | clients outside come in by it |
//! | inside | a pair (veth, netkit) whose other end is in another network namespace, or a bridge with such a port, if a route leads over it to addresses on its link, and none to networks beyond a gateway | pods are behind it: the clients there are inside, the backends there are local |
//! | transit | every other one over which a route leads | replies of remote backends come in by it |
//!
//! Never: the loopback, dummies, VRFs (their members speak for themselves), what is switched off, and ports of a bridge or bond, whose
//! packets are the bridge's or bond's.
//!
//! By itself a role only rises (transit, inside, uplink): a default route that is gone for a moment makes no pod of an uplink. An
//! interface is let go of when it is gone, or has become a port.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    address::Scope,
    link::{Kind, Link},
    state::NodeState,
};

/// What an interface is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Replies of remote backends may come this way.
    Transit,
    /// Pods are behind it.
    Inside,
    /// Clients outside come this way.
    Uplink,
}

/// The roles of all interfaces that have one, by index. `named` are those of `--interface`, `before` the roles so far.
pub fn roles(state: &NodeState, named: &BTreeSet<String>, before: &BTreeMap<u32, Role>) -> BTreeMap<u32, Role> {
    let outlets: BTreeSet<u32> = state.links.values().filter(|link| is_outlet(link)).filter_map(|l| l.master).collect();
    let role = |link: &Link| {
        if named.contains(&link.name) {
            return Some(Role::Uplink);
        }
        if is_port(state, link) {
            return None;
        }
        // Who was an uplink by its name is none without it.
        let most = if named.is_empty() { Role::Uplink } else { Role::Inside };
        let risen = before.get(&link.index).map(|role| if *role > most { Role::Transit } else { *role });
        by_itself(state, link, named.is_empty(), &outlets).max(risen)
    };
    state.links.values().filter_map(|link| Some((link.index, role(link)?))).collect()
}

/// The role of an interface that nobody has named.
fn by_itself(state: &NodeState, link: &Link, automatic: bool, outlets: &BTreeSet<u32>) -> Option<Role> {
    if !link.up || matches!(link.kind, Kind::Loopback | Kind::Dummy | Kind::Vrf) {
        return None;
    }
    let uses = state.routes.uses(link.index);
    let to_pods = is_outlet(link) || (link.kind == Kind::Bridge && outlets.contains(&link.index));
    let beyond = uses.defaults + uses.networks > 0;
    if to_pods && !beyond {
        return (uses.neighbours > 0).then_some(Role::Inside);
    }
    let addressed = || state.addresses.of(link.index).iter().any(|address| address.scope == Scope::Global);
    if automatic && (uses.defaults > 0 || addressed()) {
        return Some(Role::Uplink);
    }
    (beyond || uses.neighbours > 0).then_some(Role::Transit)
}

/// Whether what goes out by it comes in in another network namespace.
fn is_outlet(link: &Link) -> bool {
    link.kind == Kind::Pair && link.peer_elsewhere
}

fn is_port(state: &NodeState, link: &Link) -> bool {
    let master = link.master.and_then(|index| state.links.get(&index));
    master.is_some_and(|master| master.kind != Kind::Vrf)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            state::{Change, Event},
            testing::{address, link, route},
        },
        *,
    };

    /// A node with everything that a node may have.
    fn node() -> NodeState {
        let pair = |index, name| Link { kind: Kind::Pair, peer_elsewhere: true, ..link(index, name) };
        let port = |index, name, master| Link { master: Some(master), ..pair(index, name) };
        let kind = |index, name, kind| Link { kind, ..link(index, name) };
        let links = [
            kind(1, "lo", Kind::Loopback),
            link(2, "eth0"),
            link(3, "eth1"),
            Link { up: false, ..link(4, "eth2") },
            Link { master: Some(6), ..link(5, "eth3") },
            link(6, "bond0"),
            kind(7, "dummy0", Kind::Dummy),
            pair(8, "cali1"),
            pair(9, "cali2"),
            kind(10, "cni0", Kind::Bridge),
            port(11, "veth1", 10),
            kind(12, "br-vm", Kind::Bridge),
            Link { master: Some(12), ..link(13, "tap1") },
            link(14, "tunl0"),
            pair(15, "lxc-up"),
            kind(16, "vrf1", Kind::Vrf),
            Link { master: Some(16), ..link(17, "eth4") },
            kind(18, "veth-same", Kind::Pair),
        ];
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.5/24"),
            address(3, "198.51.100.5/24"),
            address(4, "203.0.113.5/24"),
            address(7, "169.254.20.10/32"),
            address(10, "10.244.0.1/24"),
            address(17, "10.77.0.1/24"),
        ];
        let routes = [
            route("0.0.0.0/0", 2, Some("192.0.2.1")),
            route("192.0.2.0/24", 2, None),
            route("198.51.100.0/24", 3, None),
            route("fe80::/64", 3, None),
            route("::/0", 6, Some("fe80::1")),
            route("10.1.0.8/32", 8, None),
            route("fe80::/64", 9, None),
            route("10.244.0.0/24", 10, None),
            route("10.55.0.0/16", 12, None),
            route("10.66.0.0/16", 14, None),
            route("10.88.0.0/16", 15, Some("10.87.0.1")),
        ];
        NodeState::from_events(links.map(Event::Link).into_iter().chain(addresses).chain(routes))
    }

    fn named_roles(state: &NodeState, named: &[&str], before: &BTreeMap<u32, Role>) -> Vec<(String, Role)> {
        let named = named.iter().map(|name| (*name).to_owned()).collect();
        let roles = roles(state, &named, before);
        roles.into_iter().map(|(index, role)| (state.links[&index].name.clone(), role)).collect()
    }

    fn wanted(list: &[(&str, Role)]) -> Vec<(String, Role)> {
        list.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect()
    }

    #[test]
    fn a_node_with_everything() {
        let found = named_roles(&node(), &[], &BTreeMap::new());
        let wanted = wanted(&[
            ("eth0", Role::Uplink),
            ("eth1", Role::Uplink),
            ("bond0", Role::Uplink),
            ("cali1", Role::Inside),
            ("cni0", Role::Inside),
            ("br-vm", Role::Transit),
            ("tunl0", Role::Transit),
            ("lxc-up", Role::Transit),
            ("eth4", Role::Uplink),
        ]);
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_is_named_is_the_only_uplink() {
        let found = named_roles(&node(), &["eth1", "eth2", "tap1"], &BTreeMap::new());
        let wanted = wanted(&[
            ("eth0", Role::Transit),
            ("eth1", Role::Uplink),
            ("eth2", Role::Uplink),
            ("bond0", Role::Transit),
            ("cali1", Role::Inside),
            ("cni0", Role::Inside),
            ("br-vm", Role::Transit),
            ("tap1", Role::Uplink),
            ("tunl0", Role::Transit),
            ("lxc-up", Role::Transit),
        ]);
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_role_rises_and_does_not_fall() {
        let mut state = node();
        let mut before = roles(&state, &BTreeSet::new(), &BTreeMap::new());
        let mut step = |events: Vec<Event>, index: u32| {
            for event in events {
                state.apply(event, &mut Change::default());
            }
            before = roles(&state, &BTreeSet::new(), &before);
            before.get(&index).copied()
        };
        let Event::Route { placed, .. } = route("0.0.0.0/0", 15, Some("10.87.0.1")) else { unreachable!() };
        let default = Event::Route { placed: placed.clone(), replace: false };
        assert_eq!(step(vec![default], 15), Some(Role::Uplink), "it has got a default route");
        assert_eq!(step(vec![Event::NoRoute(placed)], 15), Some(Role::Uplink));
        assert_eq!(step(vec![Event::Link(Link { up: false, ..link(2, "eth0") })], 2), Some(Role::Uplink));
        assert_eq!(step(vec![Event::NoLink(2)], 2), None, "it is gone");
        assert_eq!(step(vec![Event::Link(Link { master: Some(6), ..link(3, "eth1") })], 3), None, "a port now");
    }

    #[test]
    fn an_uplink_by_name_is_none_under_another_name() {
        let mut state = node();
        let named = BTreeSet::from(["eth1".to_owned()]);
        let before = roles(&state, &named, &BTreeMap::new());
        state.apply(link_event(3, "renamed"), &mut Change::default());
        assert_eq!(roles(&state, &named, &before).get(&3), Some(&Role::Transit));
        state.apply(Event::Link(Link { up: false, ..link(3, "renamed") }), &mut Change::default());
        assert_eq!(roles(&state, &named, &before).get(&3), Some(&Role::Transit), "it is still there");
    }

    fn link_event(index: u32, name: &str) -> Event {
        Event::Link(link(index, name))
    }
}
