//! The replicas of a Service, as its EndpointSlices tell: one for each pod, whatever the number of its ports and addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use lb_common::{Protocol, SocketKey};

use crate::{
    cluster::{allocate::ServiceKey, counts::Counts, fleet::ServiceCounts, usage::Pods},
    scaling::{BackendKey, BackendSample, Requests, ServiceSample, UsageSample},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is needed of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its Service.
    pub service: ServiceKey,
    replicas: Vec<Replica>,
}

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// The pod, or an address where there is none.
    pub name: String,
    /// Whether `name` is a pod's.
    pub is_pod: bool,
    /// The pod's `metadata.uid`.
    pub uid: Option<String>,
    /// The node it is on.
    pub node: Option<String>,
    /// Where it listens.
    pub sockets: BTreeSet<SocketKey>,
    /// It takes new connections.
    pub ready: bool,
    /// It is about to end.
    pub terminating: bool,
}

/// What is needed of a slice, if it is a Service's.
pub fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let service = (slice.namespace().unwrap_or_default(), slice.labels().get(SERVICE_NAME)?.clone());
    let ports: Vec<(u16, Protocol)> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            Some((u16::try_from(port.port?).ok()?, protocol))
        })
        .collect();
    let replicas = slice.endpoints.iter().flatten().filter_map(|endpoint| replica(endpoint, &ports));
    Some(Slice { service, replicas: replicas.collect() })
}

fn replica(endpoint: &Endpoint, ports: &[(u16, Protocol)]) -> Option<Replica> {
    let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let name = pod.and_then(|pod| pod.name.clone());
    let condition = |of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>, default| {
        endpoint.conditions.as_ref().and_then(of).unwrap_or(default)
    };
    let sockets = addresses
        .iter()
        .flat_map(|ip| ports.iter().map(|(port, protocol)| SocketKey::new(SocketAddr::new(*ip, *port), *protocol)));
    Some(Replica {
        is_pod: name.is_some(),
        uid: pod.and_then(|pod| pod.uid.clone()),
        node: endpoint.node_name.clone(),
        sockets: sockets.collect(),
        ready: condition(|conditions| conditions.ready, true),
        terminating: condition(|conditions| conditions.terminating, false),
        name: name.or_else(|| addresses.first().map(IpAddr::to_string))?,
    })
}

/// The replicas of each of these Services, by name. Those that are about to end are left out.
pub fn replicas<'a>(
    slices: impl IntoIterator<Item = &'a Slice>,
    wanted: &BTreeSet<ServiceKey>,
) -> BTreeMap<ServiceKey, Vec<Replica>> {
    let mut found: BTreeMap<ServiceKey, BTreeMap<&str, Replica>> =
        wanted.iter().map(|service| (service.clone(), BTreeMap::new())).collect();
    for slice in slices {
        let Some(replicas) = found.get_mut(&slice.service) else { continue };
        for new in slice.replicas.iter().filter(|replica| !replica.terminating) {
            let replica = replicas.entry(&new.name).or_insert_with(|| Replica {
                sockets: BTreeSet::new(),
                ready: false,
                ..new.clone()
            });
            replica.sockets.extend(&new.sockets);
            replica.ready |= new.ready;
        }
    }
    found.into_iter().map(|(service, replicas)| (service, replicas.into_values().collect())).collect()
}

/// What a replica carries.
pub fn carried(replica: &Replica, counts: &ServiceCounts) -> Counts {
    let parts = replica.sockets.iter().filter_map(|socket| counts.backends.get(socket));
    // Who has carried nothing has had no requests.
    let nothing = Counts { requests: Some(Box::default()), ..Counts::default() };
    parts.fold(nothing, |sum, part| Counts {
        active: sum.active + part.active,
        pending: sum.pending + part.pending,
        connections: sum.connections + part.connections,
        bytes: sum.bytes + part.bytes,
        requests: sum.requests.zip(part.requests.as_ref()).map(|(mut sum, part)| {
            sum.add(part);
            sum
        }),
    })
}

/// The pods of these replicas.
pub fn pods<'a>(replicas: impl IntoIterator<Item = &'a Replica>) -> Pods {
    let mut pods = Pods::new();
    for replica in replicas {
        if let (Some(uid), Some(node)) = (&replica.uid, &replica.node) {
            pods.entry(node.clone()).or_default().insert(uid.clone());
        }
    }
    pods
}

/// The addresses of those that are ready, one of each.
pub fn addresses(replicas: &[Replica]) -> BTreeSet<IpAddr> {
    let ready = replicas.iter().filter(|replica| replica.ready);
    ready.filter_map(|replica| replica.sockets.first()).map(|socket| socket.socket().ip()).collect()
}

/// What decisions are made from: one backend for each replica, each with these requests, and with what its pod uses.
pub fn sample(
    service: &ServiceKey,
    replicas: &[Replica],
    counts: &ServiceCounts,
    usage: &HashMap<String, UsageSample>,
    requests: Requests,
) -> ServiceSample {
    let backend = |replica: &Replica| {
        let socket = replica.sockets.first()?;
        let carried = carried(replica, counts);
        Some(BackendSample {
            key: BackendKey { port: 0, protocol: Protocol::Tcp, address: socket.socket() },
            ready: replica.ready,
            active: carried.active,
            connections: carried.connections,
            bytes: carried.bytes,
            requests: carried.requests.map(|requests| *requests),
            usage: replica.uid.as_ref().and_then(|uid| usage.get(uid)).copied(),
        })
    };
    let (namespace, name) = service.clone();
    let at: Duration = counts.at;
    ServiceSample { namespace, name, at, backends: replicas.iter().filter_map(backend).collect(), requests }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(family: &str, endpoints: serde_json::Value) -> Slice {
        let object = json!({
            "metadata": {"namespace": "shop", "name": format!("web-{family}"), "labels": {SERVICE_NAME: "web"}},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        });
        slice(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn pod(address: &str, name: &str, conditions: serde_json::Value) -> serde_json::Value {
        let pod = json!({"kind": "Pod", "name": name, "uid": format!("uid-{name}")});
        json!({"addresses": [address], "targetRef": pod, "conditions": conditions, "nodeName": format!("node-{name}")})
    }

    #[test]
    fn a_pod_is_one_replica_whatever_its_ports_and_addresses() {
        let ready = json!({"ready": true});
        let slices = [
            read(
                "IPv4",
                json!([
                    pod("10.0.0.1", "a", ready.clone()),
                    pod("10.0.0.2", "b", json!({"ready": false})),
                    pod("10.0.0.3", "c", json!({"ready": false, "terminating": true})),
                    {"addresses": ["10.0.0.9"]},
                ]),
            ),
            read("IPv6", json!([pod("fd00::1", "a", ready)])),
        ];
        let service = ("shop".to_owned(), "web".to_owned());
        let replicas = replicas(&slices, &[service.clone()].into()).remove(&service).unwrap();
        let shown: Vec<_> = replicas.iter().map(|r| (r.name.as_str(), r.is_pod, r.ready, r.sockets.len())).collect();
        assert_eq!(shown, [("10.0.0.9", false, true, 2), ("a", true, true, 4), ("b", true, false, 2)]);
        let socket = |at: &str| SocketKey::new(at.parse().unwrap(), Protocol::Tcp);
        let counts = |active, connections| Counts { active, connections, pending: 1, bytes: 10, requests: None };
        let backends = [(socket("10.0.0.1:80"), counts(3, 30)), (socket("[fd00::1]:80"), counts(1, 4))].into();
        let counts = ServiceCounts { backends, at: Duration::from_secs(7) };
        let pods = pods(&replicas);
        assert_eq!((pods.len(), &pods["node-a"]), (2, &["uid-a".to_owned()].into()));
        let used = UsageSample { cpu: Duration::from_secs(1), memory: 9, at: Duration::from_secs(7) };
        let usage = HashMap::from([("uid-a".to_owned(), used)]);
        let sample = sample(&service, &replicas, &counts, &usage, Requests::default());
        let uses: Vec<_> = sample.backends.iter().map(|backend| backend.usage).collect();
        assert_eq!(uses, [None, Some(used), None]);
        let shown: Vec<_> = sample.backends.iter().map(|b| (b.ready, b.active, b.connections, b.bytes)).collect();
        assert_eq!((sample.at.as_secs(), shown), (7, vec![(true, 0, 0, 0), (true, 4, 34, 20), (false, 0, 0, 0)]));
    }
}
