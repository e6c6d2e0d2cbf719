//! The plan: from what the kernel holds and what should be true of a service port, the writes that lead from one to the other.
//!
//! The writes are ordered so that no packet ever meets half of a change: first what is new (names, endpoints, backends, selection
//! tables, which nobody names yet), then frontends, each in one step, then frontends that are gone ([`remove()`]). What a packet may
//! still be using is freed after a grace period ([`retire()`]), and what flows still use after a sweep ([`finish()`]). A live backend
//! never changes its index. A plan looks at its service port only: its cost does not grow with the number of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{Addr, Algorithm, BackendState, SocketKey};

use crate::{
    dataplane::{Capacity, Write},
    model::{Forwarding, FrontendSpec, Limits, ServiceId},
};

mod finish;
mod free;
mod ids;
mod image;
mod names;
mod retire;
mod service;
#[cfg(test)]
mod tests;

pub use finish::{Swept, finish};
pub use image::{Image, Run};
pub use names::{service_id, service_name};
pub use retire::{mark_gone, remove, retire, strays, unserved};

/// What should be in the kernel of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    /// The port's name, may be empty.
    pub port_name: String,
    /// Its frontends.
    pub frontends: BTreeMap<SocketKey, FrontendSpec>,
    /// How a backend is selected.
    pub algorithm: Algorithm,
    /// Session affinity's timeout.
    pub affinity: Option<Duration>,
    /// The Maglev table's size, if it does not follow the number of backends.
    pub maglev_size: Option<u32>,
    /// How much of it may be used at a time.
    pub limits: Limits,
    /// How clients outside reach backends of other nodes.
    pub forwarding: Forwarding,
    /// How long a response may pause before it is over, where requests are measured; TCP's are.
    pub response_idle: Option<Duration>,
    /// Whether who finds no backend wakes it.
    pub wakes: bool,
    /// Its backends.
    pub backends: BTreeMap<SocketAddr, DesiredBackend>,
}

/// What should be in the kernel of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its node's name, may be empty.
    pub node: String,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether the topology's hints keep it for others.
    pub far: bool,
    /// Whether it serves, though perhaps terminating.
    pub serving: bool,
    /// What a remote backend sees as its client.
    pub source: Addr,
    /// Static weight.
    pub weight: u16,
    /// The weight it has where it takes new connections.
    pub effective_weight: u16,
    /// Its state.
    pub state: BackendState,
}

/// Why there is no plan for a service port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A map is too small.
    #[error(
        "there is room for {capacity} {what}, which is not enough for {service}: nothing of it was changed; run `weir detach` (which \
         ends all connections) and start with a larger {flag}: maps that exist keep their size"
    )]
    Full {
        /// Which service port.
        service: ServiceId,
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        capacity: u32,
        /// What makes it larger.
        flag: &'static str,
    },
}

/// What a plan is made from beside what should be.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What the kernel holds.
    pub image: &'a Image,
    /// The maps' room.
    pub capacity: &'a Capacity,
    /// The incarnation of new backends: not 0, and another one than when an index was last given away. The node's uptime in seconds.
    pub stamp: u32,
}

/// What a service port of the kernel has and should not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// Its index.
    pub service: u32,
    /// Frontends, to be removed when other service ports have had the chance to take them over.
    pub frontends: BTreeSet<SocketKey>,
    /// Backends that no table of this service port names any more, to be removed after a grace period.
    pub backends: BTreeSet<u32>,
}

/// The smallest sequence of writes for a service port, and what it has too much of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// What is too much; none if the kernel does not know the service port.
    pub surplus: Option<Surplus>,
}

/// The plan for a service port; `desired` is none if it should not be.
pub fn plan(input: Input<'_>, id: &ServiceId, desired: Option<&DesiredService>) -> Result<Plan, PlanError> {
    match desired.filter(|service| !service.frontends.is_empty() || !service.backends.is_empty()) {
        Some(service) => service::plan(input, id, service),
        None => Ok(Plan { writes: Vec::new(), surplus: gone(input.image, id) }),
    }
}

fn gone(image: &Image, id: &ServiceId) -> Option<Surplus> {
    let service = *image.services().get(id)?;
    Some(retire::surplus(image, service, &BTreeSet::new(), &BTreeSet::new()))
}
