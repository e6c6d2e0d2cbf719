//! Which Service gets which addresses, as a pure function of the pools and the Services: what Services have now stays, as long as it
//! may, so that allocations survive every restart without a store of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::Protocol;

use super::pool::Pool;

/// A Service's namespace and name.
pub type ServiceKey = (String, String);

/// A Service that wants addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Namespace and name.
    pub service: ServiceKey,
    /// When it was created, in nanoseconds since 1970: the older one is served first.
    pub created: i128,
    /// Its labels, for the pools' selectors.
    pub labels: BTreeMap<String, String>,
    /// Whether it wants an IPv4 address.
    pub v4: bool,
    /// Whether it wants an IPv6 address.
    pub v6: bool,
    /// The addresses it names: `weir.dev/addresses`, else `spec.loadBalancerIP`.
    pub named: Vec<IpAddr>,
    /// The addresses it has.
    pub current: Vec<IpAddr>,
    /// `weir.dev/sharing-key`: Services of one namespace and key may share addresses.
    pub sharing: Option<String>,
    /// Its ports: who shares an address has others.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// Its selector, if `externalTrafficPolicy` is `Local`: who shares has the same, because one node announces for both.
    pub local: Option<BTreeMap<String, String>>,
}

/// Why a Service does not get what it wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No pool has a free address.
    #[error("no AddressPool has a free {family} address for it: add addresses to a pool that it may use")]
    Exhausted {
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// It names an address that no pool has for it.
    #[error("{address} is in no AddressPool that this Service may use: name another one, or add it to a pool")]
    NotOurs {
        /// The address.
        address: IpAddr,
    },
    /// It names an address that another has.
    #[error(
        "{address} is held by Service {holder}: name another one; two Services share an address if both have the annotation weir.dev/sharing-key with the same value, other ports and, under externalTrafficPolicy Local, the same selector"
    )]
    Held {
        /// The address.
        address: IpAddr,
        /// Who has it, NAMESPACE/NAME.
        holder: String,
    },
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// The addresses of each Service that has one.
    pub addresses: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    /// What could not be.
    pub refused: BTreeMap<ServiceKey, Vec<Refused>>,
}

/// Gives addresses to all requests.
pub fn allocate(pools: &[Pool], requests: &[Request]) -> Allocation {
    let mut by_age: Vec<&Request> = requests.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.service).cmp(&(b.created, &b.service)));
    let mut allocator = Allocator { pools, holders: BTreeMap::new(), allocation: Allocation::default() };
    by_age.iter().for_each(|request| allocator.keep(request));
    by_age.iter().for_each(|request| allocator.give(request));
    allocator.allocation
}

struct Allocator<'a> {
    pools: &'a [Pool],
    holders: BTreeMap<IpAddr, Vec<&'a Request>>,
    allocation: Allocation,
}

impl<'a> Allocator<'a> {
    /// Leaves a Service what it has and may have.
    fn keep(&mut self, request: &'a Request) {
        for address in &request.current {
            let named = request.named.is_empty() || request.named.contains(address);
            if named && self.lacks(request, *address) && self.may(request, *address).is_ok() {
                self.take(request, *address);
            }
        }
    }

    /// Gives a Service what it lacks.
    fn give(&mut self, request: &'a Request) {
        for address in &request.named {
            if !self.has(request, *address) {
                match self.may(request, *address) {
                    Ok(()) => self.take(request, *address),
                    Err(refused) => self.refuse(request, refused),
                }
            }
        }
        if !request.named.is_empty() {
            return;
        }
        for (wanted, v4, family) in [(request.v4, true, "IPv4"), (request.v6, false, "IPv6")] {
            if wanted && !self.has_family(request, v4) {
                match self.free(request, v4) {
                    Some(address) => self.take(request, address),
                    None => self.refuse(request, Refused::Exhausted { family }),
                }
            }
        }
    }

    fn lacks(&self, request: &Request, address: IpAddr) -> bool {
        let wanted = if address.is_ipv4() { request.v4 } else { request.v6 };
        wanted && (!request.named.is_empty() || !self.has_family(request, address.is_ipv4()))
    }

    fn addresses(&self, request: &Request) -> impl Iterator<Item = &IpAddr> {
        self.allocation.addresses.get(&request.service).into_iter().flatten()
    }

    fn has(&self, request: &Request, address: IpAddr) -> bool {
        self.addresses(request).any(|has| *has == address)
    }

    fn has_family(&self, request: &Request, v4: bool) -> bool {
        self.addresses(request).any(|has| has.is_ipv4() == v4)
    }

    /// Whether a Service may have an address.
    fn may(&self, request: &Request, address: IpAddr) -> Result<(), Refused> {
        if !self.pools.iter().any(|pool| pool.contains(address) && pool.allows(&request.labels)) {
            return Err(Refused::NotOurs { address });
        }
        let holders = self.holders.get(&address).into_iter().flatten();
        match holders.into_iter().find(|holder| !share(holder, request)) {
            None => Ok(()),
            Some(holder) => {
                let holder = format!("{}/{}", holder.service.0, holder.service.1);
                Err(Refused::Held { address, holder })
            }
        }
    }

    /// The first address of the pools that is to be had: of those it may share, one that is held, so that sharers come together.
    fn free(&self, request: &Request, v4: bool) -> Option<IpAddr> {
        let pools = || self.pools.iter().filter(|pool| pool.auto_assign && pool.allows(&request.labels));
        let ours = |address: IpAddr| address.is_ipv4() == v4 && pools().any(|pool| pool.contains(address));
        let shared = request.sharing.is_some().then(|| {
            let mut held = self.holders.iter().filter(|(address, _)| ours(**address));
            held.find(|(_, holders)| holders.iter().all(|holder| share(holder, request))).map(|(address, _)| *address)
        });
        let ranges = || pools().flat_map(|pool| &pool.ranges).filter(|range| range.first.is_ipv4() == v4);
        let unheld =
            || ranges().flat_map(|range| range.addresses()).find(|address| !self.holders.contains_key(address));
        shared.flatten().or_else(unheld)
    }

    fn take(&mut self, request: &'a Request, address: IpAddr) {
        self.holders.entry(address).or_default().push(request);
        self.allocation.addresses.entry(request.service.clone()).or_default().insert(address);
    }

    fn refuse(&mut self, request: &Request, refused: Refused) {
        self.allocation.refused.entry(request.service.clone()).or_default().push(refused);
    }
}

/// Whether two Services may have one address.
fn share(a: &Request, b: &Request) -> bool {
    a.service.0 == b.service.0
        && a.sharing.is_some()
        && a.sharing == b.sharing
        && a.ports.is_disjoint(&b.ports)
        && a.local == b.local
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
