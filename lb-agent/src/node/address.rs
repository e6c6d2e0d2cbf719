//! The node's addresses, and which of them a packet leaves with: the kernel's choice, from what it has told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

/// How far an address is known, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// On the node.
    Host,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub ip: IpAddr,
    /// The network that is on the link by it.
    pub network: IpNet,
    /// How far it is known.
    pub scope: Scope,
    /// Not yet usable, or no more: duplicate address detection.
    pub tentative: bool,
    /// To be used only if there is no other: deprecated, or a second one of its network.
    pub second: bool,
}

impl Address {
    /// Reads an address.
    pub fn read(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let ip = local.or(address)?;
        let tentative = AddressFlags::Tentative | AddressFlags::Dadfailed;
        let optimistic = flags.contains(AddressFlags::Optimistic);
        Some(Self {
            interface: message.header.index,
            ip,
            network: IpNet::new(address.unwrap_or(ip), message.header.prefix_len).ok()?.trunc(),
            scope: scope(message.header.scope),
            tentative: flags.intersects(tentative) && !optimistic,
            second: flags.intersects(AddressFlags::Deprecated | AddressFlags::Secondary),
        })
    }
}

// The header has the first eight of the flags, for kernels that send no others.
const _: () = assert!(AddressHeaderFlags::Tentative.bits() as u32 == AddressFlags::Tentative.bits());

fn scope(scope: AddressScope) -> Scope {
    match scope {
        AddressScope::Universe | AddressScope::Site => Scope::Global,
        AddressScope::Link => Scope::Link,
        _ => Scope::Host,
    }
}

/// The addresses of all interfaces, in the order in which the kernel tells of them: the first fitting one is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    by_interface: BTreeMap<u32, Vec<Address>>,
    /// So many interfaces have it.
    counts: BTreeMap<IpAddr, u32>,
}

impl Addresses {
    /// Adds an address, or changes what is known of it. Returns whether anything is other than before.
    pub fn insert(&mut self, address: Address) -> bool {
        let known = self.by_interface.entry(address.interface).or_default();
        match known.iter_mut().find(|old| is_same(old, &address)) {
            Some(old) if *old == address => return false,
            Some(old) => *old = address,
            None => {
                known.push(address);
                *self.counts.entry(address.ip).or_default() += 1;
            }
        }
        true
    }

    /// Removes an address. Returns whether it was there.
    pub fn remove(&mut self, address: &Address) -> bool {
        let Some(known) = self.by_interface.get_mut(&address.interface) else { return false };
        let Some(at) = known.iter().position(|old| is_same(old, address)) else { return false };
        known.remove(at);
        if known.is_empty() {
            self.by_interface.remove(&address.interface);
        }
        self.forget(address.ip);
        true
    }

    /// Removes all of an interface.
    pub fn remove_interface(&mut self, interface: u32) {
        for address in self.by_interface.remove(&interface).into_iter().flatten() {
            self.forget(address.ip);
        }
    }

    fn forget(&mut self, ip: IpAddr) {
        if let Some(count) = self.counts.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&ip);
            }
        }
    }

    /// Whether an address is the node's.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.counts.contains_key(&ip)
    }

    /// All of them, each once, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.counts.keys().copied()
    }

    /// Those of an interface.
    pub fn of(&self, interface: u32) -> &[Address] {
        self.by_interface.get(&interface).map_or(&[], Vec::as_slice)
    }

    /// The address that packets to `to` leave with, by an interface, through a gateway or not.
    pub fn source(&self, interface: u32, gateway: Option<IpAddr>, to: IpAddr) -> Option<IpAddr> {
        let others = || self.by_interface.values().flatten();
        match to {
            IpAddr::V4(_) => self.source_v4(interface, gateway.unwrap_or(to)),
            IpAddr::V6(to) => {
                // RFC 6724: of the interface if it has one that fits, else of any.
                let best = best_v6(self.of(interface).iter(), to);
                best.filter(|ip| !is_narrower(*ip, to)).or_else(|| best_v6(others(), to)).or(best)
            }
        }
    }

    /// As `inet_select_addr` does: the interface's address of the next hop's network, else its first, else anybody's first.
    fn source_v4(&self, interface: u32, next_hop: IpAddr) -> Option<IpAddr> {
        let usable = |address: &&Address| address.ip.is_ipv4() && address.scope != Scope::Host && !address.second;
        let own = || self.of(interface).iter().filter(usable);
        let of_network = own().find(|address| address.network.contains(&next_hop));
        let others = || self.by_interface.values().flatten().filter(usable);
        let found = of_network.or_else(|| own().next());
        found.or_else(|| others().find(|address| address.scope == Scope::Global)).map(|address| address.ip)
    }
}

fn is_same(one: &Address, other: &Address) -> bool {
    (one.ip, one.network) == (other.ip, other.network)
}

/// Whether an address is known less far than the destination is.
fn is_narrower(source: IpAddr, to: Ipv6Addr) -> bool {
    matches!(source, IpAddr::V6(ip) if ip.is_unicast_link_local()) && !to.is_unicast_link_local()
}

/// RFC 6724 without labels: not narrower than the destination, not deprecated, the longest common prefix.
fn best_v6<'a>(candidates: impl Iterator<Item = &'a Address>, to: Ipv6Addr) -> Option<IpAddr> {
    let usable = candidates.filter(|address| !address.tentative && address.scope != Scope::Host);
    let rank = |address: &&Address| {
        let IpAddr::V6(ip) = address.ip else { return None };
        // Beyond its network a longer match means nothing.
        let common = (u128::from(ip) ^ u128::from(to)).leading_zeros().min(address.network.prefix_len().into());
        Some((!is_narrower(address.ip, to), !address.second, common))
    };
    // Of equal ones the first.
    let ranked = usable.filter_map(|address| Some((rank(&address)?, address.ip)));
    ranked.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, ip)| ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: u32, net: &str) -> Address {
        let net: IpNet = net.parse().unwrap();
        let scope = match net.addr() {
            ip if ip.is_loopback() => Scope::Host,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Scope::Link,
            _ => Scope::Global,
        };
        Address { interface, ip: net.addr(), network: net.trunc(), scope, tentative: false, second: false }
    }

    fn all(list: &[(u32, &str)]) -> Addresses {
        let mut addresses = Addresses::default();
        for (interface, net) in list {
            assert!(addresses.insert(address(*interface, net)));
        }
        addresses
    }

    #[test]
    fn an_address_on_two_interfaces_is_the_nodes_until_both_are_gone() {
        let mut addresses = all(&[(3, "10.22.0.1/32"), (4, "10.22.0.1/32")]);
        assert!(!addresses.insert(address(4, "10.22.0.1/32")), "known");
        assert_eq!(addresses.iter().count(), 1);
        assert!(addresses.remove(&address(3, "10.22.0.1/32")));
        assert!(!addresses.remove(&address(3, "10.22.0.1/32")));
        assert!(addresses.contains("10.22.0.1".parse().unwrap()));
        addresses.remove_interface(4);
        assert!(!addresses.contains("10.22.0.1".parse().unwrap()));
        assert_eq!(addresses, Addresses::default());
    }

    #[test]
    fn the_source_is_the_kernels_choice() {
        let mut addresses = all(&[
            (1, "127.0.0.1/8"),
            (1, "::1/128"),
            (2, "10.0.0.1/24"),
            (2, "10.0.1.1/24"),
            (2, "2001:db8:1::1/64"),
            (2, "2001:db8:2::1/64"),
            (2, "fe80::2/64"),
            (3, "fe80::3/64"),
        ]);
        addresses.insert(Address { tentative: true, ..address(2, "2001:db8:3::1/64") });
        addresses.insert(Address { second: true, ..address(2, "10.0.0.99/24") });
        let cases = [
            (2, None, "10.0.0.7", "10.0.0.1", "of the destination's network"),
            (2, None, "10.0.1.7", "10.0.1.1", "of the other network"),
            (2, Some("10.0.1.254"), "192.0.2.1", "10.0.1.1", "of the gateway's network"),
            (2, Some("10.9.9.9"), "192.0.2.1", "10.0.0.1", "the first"),
            (3, None, "10.1.0.5", "10.0.0.1", "another interface's: this one has none"),
            (2, None, "2001:db8:2::9", "2001:db8:2::1", "the longest common prefix"),
            (2, None, "2001:db8:3::9", "2001:db8:2::1", "the one of that network is not usable yet"),
            (3, None, "2001:db8:1::9", "2001:db8:1::1", "a link-local one does not reach so far"),
            (3, None, "fe80::9", "fe80::3", "there it does"),
        ];
        for (interface, gateway, to, wanted, why) in cases {
            let gateway = gateway.map(|ip: &str| ip.parse().unwrap());
            let source = addresses.source(interface, gateway, to.parse().unwrap());
            assert_eq!(source, Some(wanted.parse().unwrap()), "{to}: {why}");
        }
        assert_eq!(all(&[(1, "127.0.0.1/8")]).source(2, None, "10.0.0.7".parse().unwrap()), None);
    }
}
