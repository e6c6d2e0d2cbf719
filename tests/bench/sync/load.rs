//! Services and endpoints, made as they are needed: as objects of the API, and as changes of the agent's model.

use std::net::{Ipv4Addr, SocketAddr};

use lb_agent::model::{BackendSpec, Change, FrontendSpec, ServiceId, ServicePort};
use lb_common::{Protocol, SocketKey};
use serde_json::{Value, json};

/// Nodes that the endpoints are on.
const NODES: u32 = 1_000;
/// Namespaces that the Services are in.
const NAMESPACES: u32 = 20;
/// The endpoints' first address.
const ADDRESSES: u32 = 0x0b00_0000;
const PORT: u16 = 8080;

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

impl Load {
    fn each(self) -> u32 {
        (self.endpoints / self.services.max(1)).max(1)
    }

    /// The namespaces.
    pub(crate) fn namespaces() -> impl Iterator<Item = String> {
        (0..NAMESPACES).map(namespace)
    }

    /// The Service of a number: no selector, so that its endpoints are left to us.
    pub(crate) fn service(self, number: u32) -> Value {
        let ports = json!([{"name": "http", "port": 80, "targetPort": PORT}]);
        json!({"metadata": {"name": name(number)}, "spec": {"ports": ports}})
    }

    /// Its slice.
    pub(crate) fn slice(self, number: u32) -> Value {
        let labels = json!({"kubernetes.io/service-name": name(number), "endpointslice.kubernetes.io/managed-by": "bench.weir.dev"});
        json!({
            "metadata": {"name": slice_name(number), "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
            "endpoints": self.endpoints(number, None),
        })
    }

    /// What is other when the first endpoint has this address, since this time.
    pub(crate) fn change_of_slice(self, number: u32, first: Ipv4Addr, time: &str) -> Value {
        let annotations = json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
        json!({"metadata": {"annotations": annotations}, "endpoints": self.endpoints(number, Some(first))})
    }

    fn endpoints(self, number: u32, first: Option<Ipv4Addr>) -> Vec<Value> {
        let endpoint = |n: u32| {
            let index = number * self.each() + n;
            let address = first.filter(|_| n == 0).unwrap_or_else(|| Ipv4Addr::from(ADDRESSES + index));
            let pod = format!("{}-7d9c6b5f4-{index:05}", name(number));
            json!({
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", index % NODES),
                "zone": format!("zone-{}", index % 3),
                "targetRef": {"kind": "Pod", "namespace": namespace(number), "name": pod, "uid": uid(index)},
            })
        };
        (0..self.each()).map(endpoint).collect()
    }

    /// A Service with its share of the endpoints in the agent's model; each later `version` has another one instead of the first.
    pub(crate) fn change(self, number: u32, version: u32) -> Change {
        let each = self.each();
        let id = ServiceId { namespace: namespace(number), name: name(number), port: 80, protocol: Protocol::Tcp };
        let vip = SocketAddr::from((Ipv4Addr::from(0x0a60_0000 + number), 80));
        let backend = |n: u32| {
            let is_new = n == 0 && version > 0;
            let index = if is_new { self.endpoints + version * self.services + number } else { number * each + n };
            (SocketAddr::from((Ipv4Addr::from(ADDRESSES + index), PORT)), spec(index))
        };
        let port = ServicePort {
            port_name: "http".into(),
            frontends: [(SocketKey::new(vip, Protocol::Tcp), FrontendSpec::default())].into(),
            backends: (0..each).map(backend).collect(),
            ..ServicePort::default()
        };
        Change { id, port: Some(port), trigger: None }
    }
}

/// The namespace of a Service.
pub(crate) fn namespace(number: u32) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// The name of a Service.
pub(crate) fn name(number: u32) -> String {
    format!("service-{number}")
}

/// The name of its slice.
pub(crate) fn slice_name(number: u32) -> String {
    format!("service-{number}-x7k2p")
}

fn uid(index: u32) -> String {
    format!("6f2b1c0e-5d3a-4c4b-9e8f-{index:012x}")
}

fn spec(index: u32) -> BackendSpec {
    BackendSpec {
        node: Some(format!("node-{}", index % NODES).into()),
        local: index.is_multiple_of(NODES),
        source: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
        weight: 100,
        serving: true,
        ..BackendSpec::default()
    }
}
