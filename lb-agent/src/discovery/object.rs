//! What is read, as plain checked values: Services, EndpointSlices and ScalePolicies, free of where they came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use lb_common::{Algorithm, Protocol};

use super::{Origin, Problem, context::Context, service, slice};
use crate::{
    model::{Feedback, Forwarding, HealthCheck, Limits, Reach},
    scaling::Policy,
};

/// The objects of one or all files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// The Services.
    pub services: Vec<ServiceObject>,
    /// The EndpointSlices.
    pub slices: Vec<SliceObject>,
    /// The ScalePolicies.
    pub policies: Vec<PolicyObject>,
    /// Documents that were skipped, and why.
    pub notes: Vec<String>,
}

impl Objects {
    /// Adds those of another file.
    pub fn extend(&mut self, other: Self) {
        self.services.extend(other.services);
        self.slices.extend(other.slices);
        self.policies.extend(other.policies);
        self.notes.extend(other.notes);
    }
}

/// A Service, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceObject {
    /// Where it was read.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was created, in nanoseconds since 1970, if it says so.
    pub created: Option<i128>,
    /// Its ports; a headless Service has none.
    pub ports: Vec<PortObject>,
    /// The addresses clients use.
    pub addresses: BTreeMap<IpAddr, AddressKind>,
    /// The address families of its node ports.
    pub families: Families,
    /// `internalTrafficPolicy`.
    pub internal: Reach,
    /// `externalTrafficPolicy`.
    pub external: Reach,
    /// `loadBalancerSourceRanges`, of both families: the only clients of the load balancer addresses. Empty: nobody.
    pub ranges: Option<BTreeSet<IpNet>>,
    /// `healthCheckNodePort`, where `externalTrafficPolicy` is `Local`.
    pub health_check_node_port: Option<u16>,
    /// `weir.dev/algorithm`.
    pub algorithm: Option<Algorithm>,
    /// `sessionAffinity: ClientIP`: its timeout.
    pub affinity: Option<Duration>,
    /// `weir.dev/maglev-size`.
    pub maglev_size: Option<u32>,
    /// `weir.dev/forwarding`.
    pub forwarding: Forwarding,
    /// `weir.dev/feedback`.
    pub feedback: Feedback,
    /// `weir.dev/measure: requests`, or feedback by them.
    pub measure: bool,
    /// `weir.dev/response-idle`.
    pub response_idle: Option<Duration>,
    /// `weir.dev/slow-start`.
    pub slow_start: Option<Duration>,
    /// `weir.dev/health-check` and its companions.
    pub health_check: Option<HealthCheck>,
    /// `weir.dev/max-connections-per-backend` and the like.
    pub limits: Limits,
}

/// What an address is to its Service. One that is several things is the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// `externalIPs`.
    External,
    /// `status.loadBalancer.ingress`; in files `loadBalancerIP` too.
    LoadBalancer,
    /// `clusterIPs`.
    Cluster,
}

/// The address families of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Whether an address is of one of them.
    pub const fn contain(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Both.
impl Default for Families {
    fn default() -> Self {
        Self { v4: true, v6: true }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortObject {
    /// Its name, may be empty.
    pub name: String,
    /// What clients use.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the node's addresses.
    pub node_port: Option<u16>,
}

/// An EndpointSlice, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceObject {
    /// Where it was read.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Service it belongs to, in its namespace.
    pub service: String,
    /// The weight of its endpoints.
    pub weight: Option<u16>,
    /// Port name, number and protocol.
    pub ports: Vec<(String, u16, Protocol)>,
    /// Its endpoints that are ready or terminating.
    pub endpoints: Vec<EndpointObject>,
    /// The addresses of the others: no backends, but not gone either.
    pub resting: Vec<IpAddr>,
}

/// An endpoint of a slice. There are many of them: small strings without room to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointObject {
    /// Its address.
    pub address: IpAddr,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// The name of its Pod, in the slice's namespace.
    pub pod: Option<Box<str>>,
    /// It is terminating and not ready: keeps its connections, gets no new ones while others are ready.
    pub terminating: bool,
    /// It serves, though perhaps terminating.
    pub serving: bool,
    /// For whom the topology hints mean it.
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant. An empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forNodes`.
    pub nodes: Vec<Box<str>>,
    /// `forZones`.
    pub zones: Vec<Box<str>>,
}

/// A ScalePolicy, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    /// Where it was read.
    pub origin: Origin,
    /// What it says.
    pub policy: Policy,
}

/// A Service of the API server; none if it has no frontends by design (ExternalName). What is wrong with it is told and left out, and the
/// defaults are in force there.
pub fn service(service: &Service) -> (Option<ServiceObject>, Vec<Problem>) {
    let mut context = Context::object(service);
    (service::check(&mut context, service), context.into_problems())
}

/// An EndpointSlice of the API server; none if it belongs to no Service or holds names instead of addresses. What is wrong with it is told
/// and left out.
pub fn slice(slice: &EndpointSlice) -> (Option<SliceObject>, Vec<Problem>) {
    let mut context = Context::object(slice);
    (slice::check(&mut context, slice), context.into_problems())
}
