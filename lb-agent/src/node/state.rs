//! What is known of the node's links, addresses and routes, kept up by netlink's events.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    address::{Address, Addresses},
    link::Link,
    route::{Action, Hop, Placed, Routes},
};

/// Something that the kernel has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is there, or is other than it was.
    Link(Link),
    /// A link is gone.
    NoLink(u32),
    /// An address is there, or is other than it was.
    Address(Address),
    /// An address is gone.
    NoAddress(Address),
    /// A route is there; `replace`: in the place of the one of its metric.
    Route {
        /// The route.
        placed: Placed,
        /// Whether it takes the place of another.
        replace: bool,
    },
    /// A route is gone.
    NoRoute(Placed),
}

/// What is other than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Links, or what leads over them: interfaces may have another role.
    pub links: bool,
    /// The node's own addresses.
    pub addresses: bool,
    /// The way to these prefixes.
    pub prefixes: Vec<IpNet>,
    /// The way to anybody.
    pub everything: bool,
}

impl Change {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether what the model holds of a backend may be other than before.
    pub fn may_concern(&self, backend: IpAddr) -> bool {
        self.everything || self.addresses || self.prefixes.iter().any(|prefix| prefix.contains(&backend))
    }
}

/// How packets to an address leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Through this interface.
    pub interface: u32,
    /// By this gateway; none: on the link.
    pub gateway: Option<IpAddr>,
    /// From this address of the node.
    pub source: Option<IpAddr>,
    /// To the node itself: all of 127.0.0.0/8, and what a local route names, need not be an interface's address.
    pub own: bool,
}

/// Links, addresses and routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    /// The links by index.
    pub links: BTreeMap<u32, Link>,
    /// The addresses.
    pub addresses: Addresses,
    /// The routes.
    pub routes: Routes,
}

impl NodeState {
    /// The state that these events lead to.
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> Self {
        let mut state = Self::default();
        for event in events {
            state.apply(event, &mut Change::default());
        }
        state
    }

    /// Takes in an event and notes what it changes.
    pub fn apply(&mut self, event: Event, change: &mut Change) {
        match event {
            Event::Link(link) => {
                let index = link.index;
                let old = self.links.insert(index, link);
                change.links |= old.as_ref() != self.links.get(&index);
            }
            Event::NoLink(index) => {
                change.links |= self.links.remove(&index).is_some();
                let own: Vec<IpAddr> = self.addresses.of(index).iter().map(|address| address.ip).collect();
                self.addresses.remove_interface(index);
                change.addresses |= own.into_iter().any(|ip| !self.addresses.contains(ip));
            }
            Event::Address(address) => {
                let known = self.addresses.contains(address.ip);
                if self.addresses.insert(address) {
                    (change.links, change.addresses) = (true, change.addresses || !known);
                    self.source_changed(address.interface, change);
                }
            }
            Event::NoAddress(address) => {
                if self.addresses.remove(&address) {
                    (change.links, change.addresses) = (true, change.addresses || !self.addresses.contains(address.ip));
                    self.source_changed(address.interface, change);
                }
            }
            Event::Route { placed, replace } => {
                if self.routes.insert(&placed, replace) {
                    note(change, &placed);
                }
            }
            Event::NoRoute(placed) => {
                if self.routes.remove(&placed) {
                    note(change, &placed);
                }
            }
        }
    }

    /// Networks beyond an interface may be left for with another address than before; who is on its link has routes of his own, which
    /// come and go with the address.
    fn source_changed(&self, interface: u32, change: &mut Change) {
        let uses = self.routes.uses(interface);
        change.everything |= uses.defaults + uses.networks > 0;
    }

    /// How packets to an address leave the node; `None` if they do not. Of several ways of equal cost it is the first.
    pub fn way(&self, to: IpAddr) -> Option<Way> {
        let route = self.routes.to(to)?;
        let own = route.action == Action::TakeIn;
        let Hop { interface, gateway } = *route.hops.first()?;
        let source = route.source.or_else(|| self.addresses.source(interface, gateway, to));
        Some(Way { interface, gateway, source, own })
    }

    /// What is other in `next`.
    pub fn difference(&self, next: &Self) -> Change {
        let own = |state: &Self| state.addresses.iter().collect::<Vec<_>>();
        let addresses = self.addresses != next.addresses;
        let routes = self.routes != next.routes;
        Change {
            links: addresses || routes || self.links != next.links,
            addresses: addresses && own(self) != own(next),
            prefixes: Vec::new(),
            everything: addresses || routes,
        }
    }

    /// The interface of this name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The names of all interfaces.
    pub fn names(&self) -> String {
        self.links.values().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn note(change: &mut Change, placed: &Placed) {
    change.links = true;
    // Of a default route everything may be concerned.
    change.everything |= placed.prefix.prefix_len() == 0;
    change.prefixes.push(placed.prefix);
}
