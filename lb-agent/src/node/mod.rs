//! The node: its interfaces, its addresses, and how its kernel would reach a backend.
//!
//! [`follow`] hears of every change by netlink, [`state`] keeps what it says, [`role`] says what each interface is to Weir, and
//! [`NodeView`] answers what the model asks, without asking the kernel: it takes as much memory as the node has interfaces, addresses
//! and routes, however many backends there are.

pub mod address;
pub mod diag;
pub mod follow;
pub mod link;
pub mod namespaces;
pub mod netfilter;
pub mod nexthop;
pub mod role;
pub mod route;
pub mod state;
mod sysctl;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use self::{
    follow::{Follower, Update},
    role::Role,
    state::{Change, NodeState},
    sysctl::{check_forwarding, local_port_range},
};

/// What decisions need to know of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// `--node-name`.
    name: String,
    /// The interfaces of `--interface`; with none, uplinks are found.
    named: BTreeSet<String>,
    state: NodeState,
    roles: BTreeMap<u32, Role>,
}

impl NodeView {
    /// A view of the node of this name; `named` are the interfaces of `--interface`.
    pub fn new(name: &str, named: &BTreeSet<String>, state: NodeState) -> Self {
        let mut view = Self { name: name.to_owned(), named: named.clone(), state, roles: BTreeMap::new() };
        view.roles = role::roles(&view.state, &view.named, &view.roles);
        view
    }

    /// Takes in what the kernel has told, and says what is other than before.
    pub fn update(&mut self, update: Update) -> Change {
        let mut change = Change::default();
        match update {
            Update::Events(events) => events.into_iter().for_each(|event| self.state.apply(event, &mut change)),
            Update::Whole(events) => {
                let state = NodeState::from_events(events);
                change = self.state.difference(&state);
                self.state = state;
            }
        }
        if change.links {
            self.roles = role::roles(&self.state, &self.named, &self.roles);
        }
        change
    }

    /// Whether a backend is on this node: its endpoint says so, or, where it names no node, the address is the node's own or
    /// behind an interface that is no uplink.
    pub fn is_local(&self, node: Option<&str>, address: IpAddr) -> bool {
        match node.filter(|name| !name.is_empty()) {
            Some(name) => name == self.name,
            None => self.state.addresses.contains(address) || self.is_behind(address),
        }
    }

    fn is_behind(&self, address: IpAddr) -> bool {
        let Some(way) = self.state.way(address) else { return false };
        way.own || (way.gateway.is_none() && self.roles.get(&way.interface) != Some(&Role::Uplink))
    }

    /// The node's address that a remote backend sees.
    pub fn source_for(&self, backend: IpAddr) -> Option<IpAddr> {
        if self.state.addresses.contains(backend) {
            return Some(backend);
        }
        self.state.way(backend).and_then(|way| way.source)
    }

    /// The node's addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.state.addresses.iter()
    }

    /// The addresses on which node ports are served.
    pub fn frontend_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses().filter(|ip| !ip.is_loopback() && !is_link_local(*ip))
    }

    /// The interface behind which a backend is; none for the node's own addresses.
    pub fn interface_of(&self, backend: IpAddr) -> Option<&str> {
        let way = self.state.way(backend).filter(|way| !way.own)?;
        self.state.links.get(&way.interface).map(|link| link.name.as_str())
    }

    /// Links, addresses and routes.
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// What the interfaces are to us, by index.
    pub fn roles(&self) -> &BTreeMap<u32, Role> {
        &self.roles
    }

    /// Those of `--interface` that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &String> {
        self.named.iter().filter(|name| self.state.link_named(name).is_none())
    }

    /// Whether all of `--interface` exist, or, with none given, there is an uplink.
    pub fn check_uplinks(&self) -> Result<(), Error> {
        let known = || self.state.names();
        if let Some(name) = self.missing().next() {
            return Err(Error::NoInterface { name: name.clone(), known: known() });
        }
        let found = self.roles.values().any(|role| *role == Role::Uplink);
        if found { Ok(()) } else { Err(Error::NoUplink { known: known() }) }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Why the node cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Netlink failed.
    #[error("netlink: {what}: {source}")]
    Netlink {
        /// What was asked.
        what: &'static str,
        /// Why it failed.
        source: rtnetlink::Error,
    },
    /// The netlink socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] std::io::Error),
    /// `--interface` names none of the node's.
    #[error("--interface {name}: there is no such interface in this network namespace; use one of: {known}")]
    NoInterface {
        /// What was named.
        name: String,
        /// What there is.
        known: String,
    },
    /// There is no `--interface`, and no interface that could be one.
    #[error("no --interface is given, and no interface has a default route or a global address; name one of: {known}")]
    NoUplink {
        /// What there is.
        known: String,
    },
    /// The kernel does not forward packets.
    #[error("{path} is {value:?}: the kernel forwards no packets of this family; run: sysctl -w {sysctl}=1")]
    NotForwarding {
        /// The sysctl's file.
        path: String,
        /// Its value.
        value: String,
        /// Its name.
        sysctl: &'static str,
    },
    /// A sysctl could not be read.
    #[error("{path}: {source}; mount /proc, or run weir where it is mounted")]
    Sysctl {
        /// The sysctl's file.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{address, link, local, pair, route, route_from},
        *,
    };

    fn view() -> NodeView {
        let events = [
            link_events(),
            vec![
                address(1, "127.0.0.1/8"),
                address(2, "10.0.0.1/24"),
                address(2, "fd00::1/64"),
                address(2, "fe80::1/64"),
                route("10.0.0.0/24", 2, None),
                route_from("10.1.0.2/32", 3, None, "10.0.0.1"),
                route("10.2.0.0/16", 4, Some("10.9.0.1")),
                local("10.3.0.0/24", 1),
                local("10.0.0.1/32", 2),
            ],
        ];
        NodeView::new("a", &["eth0".to_owned()].into(), NodeState::from_events(events.concat()))
    }

    fn link_events() -> Vec<state::Event> {
        vec![link(1, "lo"), link(2, "eth0"), pair(3, "veth1"), link(4, "tun0")]
            .into_iter()
            .map(state::Event::Link)
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_local() {
        let cases = [
            (Some("a"), "10.0.0.9", true, "its node is this one"),
            (Some("b"), "10.1.0.2", false, "its node is another one"),
            (None, "10.0.0.1", true, "the node's own address"),
            (None, "10.1.0.2", true, "on-link behind an interface that is no uplink"),
            (Some(""), "10.1.0.2", true, "an empty node name is none"),
            (None, "10.0.0.9", false, "on-link at the uplink"),
            (None, "10.2.0.9", false, "behind a gateway"),
            (None, "10.3.0.1", true, "a local route names it"),
            (None, "192.0.2.1", false, "no route"),
        ];
        for (node, address, wanted, why) in cases {
            assert_eq!(view().is_local(node, ip(address)), wanted, "{why}");
        }
    }

    #[test]
    fn sources_and_interfaces_of_backends() {
        let cases = [
            ("10.0.0.9", Some("10.0.0.1"), Some("eth0")),
            ("10.1.0.2", Some("10.0.0.1"), Some("veth1")),
            ("10.2.0.9", Some("10.0.0.1"), Some("tun0")),
            ("10.0.0.1", Some("10.0.0.1"), None),
            ("192.0.2.1", None, None),
        ];
        for (backend, source, interface) in cases {
            assert_eq!(view().source_for(ip(backend)), source.map(ip), "{backend}");
            assert_eq!(view().interface_of(ip(backend)), interface, "{backend}");
        }
    }

    #[test]
    fn node_ports_are_not_on_loopback_or_link_local() {
        let addresses: Vec<String> = view().frontend_addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn a_missing_interface_is_named_with_what_there_is() {
        assert!(view().check_uplinks().is_ok());
        let state = || NodeState::from_events(link_events());
        let error = |named: &[&str]| {
            let named = named.iter().map(|name| (*name).to_owned()).collect();
            NodeView::new("a", &named, state()).check_uplinks().unwrap_err().to_string()
        };
        assert_eq!(
            error(&["eth0", "eth7"]),
            "--interface eth7: there is no such interface in this network namespace; use one of: lo, eth0, veth1, tun0"
        );
        assert!(error(&[]).starts_with("no --interface is given"), "{}", error(&[]));
    }

    #[test]
    fn changes_say_what_they_concern() {
        let mut view = view();
        let mut change = |event: state::Event| view.update(Update::Events(vec![event]));
        assert!(change(route("10.0.0.0/24", 2, None)).is_none(), "known");
        assert!(change(address(2, "10.0.0.1/24")).is_none(), "known");
        let new = change(route("10.1.0.3/32", 3, None));
        assert!(new.links && new.may_concern(ip("10.1.0.3")) && !new.may_concern(ip("10.1.0.2")));
        let pod = change(address(3, "10.0.0.1/32"));
        assert!(pod.links && !pod.addresses && !pod.may_concern(ip("10.1.0.3")), "the node has the address already");
        assert!(change(address(2, "10.0.0.2/24")).addresses);
        assert!(change(route("0.0.0.0/0", 2, Some("10.0.0.254"))).may_concern(ip("192.0.2.1")));
        let renamed = change(state::Event::Link(link(2, "wan")));
        assert!(renamed.links && !renamed.may_concern(ip("10.1.0.2")));
        assert_eq!(view.missing().collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn a_whole_list_that_says_what_is_known_is_no_change() {
        let events = |gone: bool| {
            let mut events = link_events();
            events.extend([address(2, "10.0.0.1/24"), route("10.0.0.0/24", 2, None)]);
            events.truncate(if gone { 5 } else { 6 });
            events
        };
        let mut view = NodeView::new("a", &BTreeSet::new(), NodeState::from_events(events(false)));
        assert!(view.update(Update::Whole(events(false))).is_none());
        let change = view.update(Update::Whole(events(true)));
        assert!(change.may_concern(ip("10.0.0.9")) && !change.addresses, "{change:?}");
    }
}
