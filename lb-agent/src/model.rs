//! What should be: the services of all sources in one form, free of where they came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use lb_common::{Algorithm, Protocol, SocketKey};

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port clients use.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// `NAMESPACE/NAME:PORT/PROTO`.
impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}/{}", self.namespace, self.name, self.port, self.protocol.name())
    }
}

/// Everything that should be in force on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The service ports.
    pub services: BTreeMap<ServiceId, ServicePort>,
}

/// A change of one service port. Sources that hear of single changes send these; what is not named stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub id: ServiceId,
    /// What should be true of it now; none: it is gone.
    pub port: Option<ServicePort>,
    /// When the change was made, as its source says (`endpoints.kubernetes.io/last-change-trigger-time`).
    pub trigger: Option<SystemTime>,
}

/// What should be true of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name in the Service, may be empty.
    pub port_name: String,
    /// Where clients reach it. No frontend is in two service ports.
    pub frontends: BTreeMap<SocketKey, FrontendSpec>,
    /// `weir.dev/algorithm`.
    pub algorithm: Algorithm,
    /// `sessionAffinity: ClientIP`: its timeout.
    pub affinity: Option<Duration>,
    /// `weir.dev/maglev-size`, a prime; else it follows the number of backends.
    pub maglev_size: Option<u32>,
    /// `weir.dev/forwarding`.
    pub forwarding: Forwarding,
    /// `weir.dev/feedback`.
    pub feedback: Feedback,
    /// `weir.dev/measure: requests`; a policy that reads requests has them measured too.
    pub measure: bool,
    /// `weir.dev/response-idle`.
    pub response_idle: Option<Duration>,
    /// `weir.dev/slow-start`.
    pub slow_start: Option<Duration>,
    /// `weir.dev/health-check` and its companions.
    pub health_check: Option<HealthCheck>,
    /// `weir.dev/max-connections-per-backend` and the like.
    pub limits: Limits,
    /// The Service's `healthCheckNodePort`: there the node says whether it has backends of the Service.
    pub health_check_node_port: Option<u16>,
    /// What serves it.
    pub backends: BTreeMap<SocketAddr, BackendSpec>,
    /// Endpoints that take no connections and are still there: those that they have go on.
    pub resting: BTreeSet<SocketAddr>,
}

impl Model {
    /// The changes that lead from this model to another one.
    pub fn changes_to(&self, new: Self) -> Vec<Change> {
        let gone = self.services.keys().filter(|id| !new.services.contains_key(*id));
        let mut changes: Vec<Change> = gone.map(|id| Change { id: id.clone(), port: None, trigger: None }).collect();
        let differs = |(id, port): &(ServiceId, ServicePort)| self.services.get(id) != Some(port);
        let changed = new.services.into_iter().filter(differs);
        changes.extend(changed.map(|(id, port)| Change { id, port: Some(port), trigger: None }));
        changes
    }
}

/// What should be true of one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontendSpec {
    /// Which backends clients inside get: processes and pods of this node.
    pub inside: Reach,
    /// Which backends clients outside get.
    pub outside: Reach,
    /// `loadBalancerSourceRanges`: the only clients that may use it; none: all may.
    pub ranges: Option<BTreeSet<IpNet>>,
    /// It is at an address of this node, a node port: no other node can answer for it.
    pub at_node: bool,
}

impl FrontendSpec {
    /// Whether it is there only to refuse.
    pub fn is_nowhere(&self) -> bool {
        (self.inside, self.outside) == (Reach::Nowhere, Reach::Nowhere)
    }
}

/// How far a connection may go for its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Anywhere (traffic policy `Cluster`), as the topology hints allow.
    #[default]
    Cluster,
    /// This node only (traffic policy `Local`).
    Local,
    /// Nowhere: every connection is refused.
    Nowhere,
}

/// What should be true of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendSpec {
    /// The node it runs on, as its endpoint says.
    pub node: Option<Arc<str>>,
    /// Whether that is this node.
    pub local: bool,
    /// The node's address that the backend sees under full NAT; none if none fits.
    pub source: Option<std::net::IpAddr>,
    /// Static weight, 0-65535; 0 is draining.
    pub weight: u16,
    /// The endpoint is terminating.
    pub terminating: bool,
    /// It still serves: where only such backends are left, they get new connections (KEP-1669).
    pub serving: bool,
    /// The topology hints keep it for others: no connection of this node that may go anywhere goes to it.
    pub far: bool,
}

/// How much of a service port may be used at a time, on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections that one backend may have, those of the other nodes included as they last said.
    pub connections: Option<u32>,
    /// New connections a second of one client; an IPv6 client is its network of 64 bits.
    pub client_rate: Option<u32>,
    /// New connections a second to one frontend.
    pub rate: Option<u32>,
}

/// How a packet of a client outside reaches a backend of another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// From this node's address, which takes the answer and gives it to the client.
    #[default]
    Nat,
    /// As it came, in a datagram to the backend's node, which answers the client itself.
    Dsr,
}

/// What moves the weights of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feedback {
    /// Nothing.
    #[default]
    None,
    /// Active connections.
    Connections,
    /// Requests in flight.
    InFlight,
    /// Time until an answer begins.
    Latency,
}

impl Feedback {
    /// The annotation's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Connections => "connections",
            Self::InFlight => "inflight",
            Self::Latency => "latency",
        }
    }

    /// Whether it is told by requests, which are measured for it then.
    pub const fn reads_requests(self) -> bool {
        matches!(self, Self::InFlight | Self::Latency)
    }
}

/// How a backend's health is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Time between two checks, and the time limit of one.
    pub interval: Duration,
    /// So many results in a row change the state.
    pub threshold: u32,
}

/// A health check's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET` of this path is answered with a status from 200 to 399.
    Http(String),
}
