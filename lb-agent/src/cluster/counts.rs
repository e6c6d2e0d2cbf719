//! What backends carry, as agents and coordinator tell each other: each backend is named once in a stream, by a number of the agent's
//! own, and its counts are sent when they differ from what was sent before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{Protocol, SocketKey};

use super::{
    allocate::ServiceKey,
    wire::{self, Socket},
};
use crate::signals::requests::{Answers, RequestLoad};

/// A backend of a Service, whichever of the Service's ports it serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendName {
    /// The Service's namespace and name.
    pub service: ServiceKey,
    /// Where it listens.
    pub socket: SocketKey,
}

/// What a backend carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections open now.
    pub active: u64,
    /// TCP connections whose SYN is not answered.
    pub pending: u64,
    /// Connections that became active, ever.
    pub connections: u64,
    /// IP bytes in both directions, ever.
    pub bytes: u64,
    /// What its requests are like, where they are measured.
    pub requests: Option<Box<RequestLoad>>,
}

/// What each backend carries through a node, by the node's number of it.
pub type Carried = BTreeMap<u32, (Arc<BackendName>, Counts)>;

/// What a stream has been told of the node's backends.
#[derive(Debug, Default)]
pub struct Told(Carried);

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Backends by their new numbers.
    pub backends: Vec<wire::Backend>,
    /// Numbers that nobody has any more.
    pub forgotten: Vec<u32>,
    /// Counts that differ.
    pub counts: Vec<wire::Counts>,
}

impl Told {
    /// The backend that a number means.
    pub fn name(&self, id: u32) -> Option<&Arc<BackendName>> {
        self.0.get(&id).map(|(name, _)| name)
    }

    /// What differs from what was told; from now on it is told.
    pub fn tell(&mut self, now: &Carried) -> News {
        let mut news = News::default();
        self.0.retain(|id, _| {
            let stays = now.contains_key(id);
            news.forgotten.extend((!stays).then_some(*id));
            stays
        });
        for (id, (name, counts)) in now {
            let before = self.0.get(id).filter(|(known, _)| known == name).map(|(_, counts)| counts);
            if before == Some(counts) {
                continue;
            }
            if before.is_none() {
                news.backends.push(backend(*id, name));
            }
            if before.unwrap_or(&Counts::default()) != counts {
                news.counts.push(counts.to_wire(*id));
            }
            self.0.insert(*id, (Arc::clone(name), counts.clone()));
        }
        news
    }
}

impl Counts {
    /// As it is sent.
    pub fn to_wire(&self, id: u32) -> wire::Counts {
        let Self { active, pending, connections, bytes, ref requests } = *self;
        wire::Counts { id, active, pending, connections, bytes, requests: requests.as_deref().map(to_wire) }
    }
}

impl From<&wire::Counts> for Counts {
    fn from(sent: &wire::Counts) -> Self {
        let wire::Counts { active, pending, connections, bytes, ref requests, .. } = *sent;
        let requests = requests.as_ref().map(|requests| Box::new(from_wire(requests)));
        Self { active, pending, connections, bytes, requests }
    }
}

fn to_wire(load: &RequestLoad) -> wire::Requests {
    let RequestLoad { in_flight, begun, unseen, ref answers } = *load;
    let nanoseconds = answers.nanoseconds();
    wire::Requests { in_flight, begun, unseen, answers: answers.counts().to_vec(), nanoseconds }
}

fn from_wire(sent: &wire::Requests) -> RequestLoad {
    let wire::Requests { in_flight, begun, unseen, ref answers, nanoseconds } = *sent;
    RequestLoad { in_flight, begun, unseen, answers: Answers::new(answers.clone(), nanoseconds) }
}

fn backend(id: u32, name: &BackendName) -> wire::Backend {
    let (namespace, service) = name.service.clone();
    wire::Backend { id, namespace, service, socket: Some(socket(&name.socket)) }
}

/// The backend that is named, if that makes sense.
pub fn name(sent: &wire::Backend) -> Option<BackendName> {
    let service = (sent.namespace.clone(), sent.service.clone());
    Some(BackendName { service, socket: socket_key(sent.socket.as_ref()?)? })
}

/// Where a backend listens, as it is sent.
pub fn socket(key: &SocketKey) -> Socket {
    let at = key.socket();
    let address = match at.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Socket { address, port: at.port().into(), protocol: key.protocol.into() }
}

/// Where a backend listens, if what was sent makes sense.
pub fn socket_key(sent: &Socket) -> Option<SocketKey> {
    let ip = match sent.address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(sent.address.as_slice()).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(sent.address.as_slice()).ok()?),
    };
    let protocol = Protocol::from_number(u8::try_from(sent.protocol).ok()?)?;
    Some(SocketKey::new(SocketAddr::new(ip, u16::try_from(sent.port).ok()?), protocol))
}

/// The backends that are sent.
pub fn socket_keys(sent: &[Socket]) -> BTreeSet<SocketKey> {
    sent.iter().filter_map(socket_key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: u8) -> Arc<BackendName> {
        let socket = SocketKey::new(SocketAddr::from(([10, 0, 0, host], 80)), Protocol::Tcp);
        Arc::new(BackendName { service: ("shop".into(), "web".into()), socket })
    }

    fn active(active: u64) -> Counts {
        Counts { active, ..Counts::default() }
    }

    #[test]
    fn only_what_differs_is_told() {
        let mut told = Told::default();
        let mut tell = |carried: &[(u32, u8, u64)]| {
            let now = carried.iter().map(|(id, host, n)| (*id, (named(*host), active(*n)))).collect();
            let News { backends, forgotten, counts } = told.tell(&now);
            let ids = backends.iter().map(|backend| backend.id).collect::<Vec<_>>();
            (ids, forgotten, counts.iter().map(|counts| (counts.id, counts.active)).collect::<Vec<_>>())
        };
        assert_eq!(tell(&[(1, 1, 5), (2, 2, 0)]), (vec![1, 2], vec![], vec![(1, 5)]), "a new one carries 0");
        assert_eq!(tell(&[(1, 1, 5), (2, 2, 0)]), (vec![], vec![], vec![]));
        assert_eq!(tell(&[(1, 1, 0), (2, 2, 3)]), (vec![], vec![], vec![(1, 0), (2, 3)]));
        assert_eq!(tell(&[(1, 3, 0)]), (vec![1], vec![2], vec![]), "a number goes to another backend");
        assert_eq!(tell(&[(1, 3, 1)]), (vec![], vec![], vec![(1, 1)]));
    }

    #[test]
    fn requests_are_told_where_they_are_measured() {
        let answers = Answers::new(vec![0, 3, 0, 1], 90);
        let measured = Box::new(RequestLoad { in_flight: 2, begun: 7, unseen: 1, answers });
        let counts = Counts { active: 4, requests: Some(measured), ..Counts::default() };
        for counts in [counts, active(4)] {
            assert_eq!(Counts::from(&counts.to_wire(9)), counts);
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        for text in ["10.0.0.1:80", "[fd00::1]:53"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = SocketKey::new(text.parse().unwrap(), protocol);
                assert_eq!(socket_key(&socket(&key)), Some(key));
            }
        }
        let wrong = [(vec![1, 2, 3], 80, 6), (vec![1; 4], 70_000, 6), (vec![1; 4], 80, 1), (vec![1; 17], 80, 6)];
        for (address, port, protocol) in wrong {
            assert_eq!(socket_key(&Socket { address, port, protocol }), None);
        }
    }
}
