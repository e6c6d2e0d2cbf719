//! What is kept of the API server's objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{ResourceExt, core::PartialObjectMeta};

use crate::discovery::{
    ObjectRef, Origin, Problem, ServiceObject, SliceObject,
    annotations::{self, Invalid},
    node_ports::NodeInfo,
    object,
    select::{Services, is_ours},
};

/// When the endpoints of a slice were last changed, by Pods or by the Service.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler is about to take the node away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceEntry {
    /// What it says.
    pub object: ServiceObject,
    /// Which object of this name it is.
    pub uid: String,
    /// Its version, for Events.
    pub version: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A Service; none if it is not for us.
pub fn service(service: &Service, services: Services) -> Option<ServiceEntry> {
    if !is_ours(service.metadata.labels.as_ref(), services) {
        return None;
    }
    let (object, problems) = object::service(service);
    let (uid, version) = (service.uid().unwrap_or_default(), service.resource_version().unwrap_or_default());
    Some(ServiceEntry { object: object?, uid, version, problems })
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceEntry {
    /// What it says.
    pub object: SliceObject,
    /// When its endpoints were last changed.
    pub trigger: Option<SystemTime>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// An EndpointSlice; none if it is not for us.
pub fn slice(slice: &EndpointSlice) -> Option<SliceEntry> {
    if !is_ours(slice.metadata.labels.as_ref(), Services::All) {
        return None;
    }
    let (object, problems) = object::slice(slice);
    let trigger = slice.annotations().get(TRIGGER).and_then(|text| text.parse::<Timestamp>().ok());
    Some(SliceEntry { object: object?, trigger: trigger.map(SystemTime::from), problems })
}

/// What the annotations of a Pod say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodMarks {
    /// Which Pod of this name it is; its cgroup is named by it.
    pub uid: String,
    /// `weir.dev/weight`.
    pub weight: Option<u16>,
    /// `weir.dev/socket-lb: off`: its sockets are left alone.
    pub socket_lb_off: bool,
    /// The addresses of such a Pod; none in the node's own network.
    pub addresses: BTreeSet<IpAddr>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// What the annotations of a Pod say; none if nothing.
pub fn pod(pod: &Pod) -> Option<PodMarks> {
    let mut marks = PodMarks::default();
    let namespace = pod.namespace().unwrap_or_default();
    let mut problems = Vec::new();
    let mut refuse = |place: &str, name: &str, value: &str, invalid: Invalid| {
        problems.push(Problem {
            origin: Origin::Api,
            object: ObjectRef::new("Pod", &namespace, &pod.name_any()),
            field: format!("metadata.{place}.{name}"),
            value: value.to_owned(),
            cause: invalid.cause,
            remedy: invalid.remedy,
        });
    };
    let value = |name: &str| pod.annotations().get(name).map(String::as_str);
    if let Some(text) = value(annotations::WEIGHT) {
        marks.weight =
            annotations::weight(text).map_err(|invalid| refuse("annotations", annotations::WEIGHT, text, invalid)).ok();
    }
    if let Some(text) = value(annotations::SOCKET_LB) {
        let off = annotations::socket_lb_off(text);
        marks.socket_lb_off =
            off.map_err(|invalid| refuse("annotations", annotations::SOCKET_LB, text, invalid)).unwrap_or_default();
    }
    if let Some(text) = pod.labels().get(annotations::WEIGHT)
        && let Err(invalid) = annotations::weight(text)
    {
        refuse("labels", annotations::WEIGHT, text, invalid);
    }
    if marks.socket_lb_off {
        marks.addresses = pod_addresses(pod);
    }
    marks.problems = problems;
    (marks != PodMarks::default()).then(|| PodMarks { uid: pod.uid().unwrap_or_default(), ..marks })
}

/// The weight that a Pod's label says, for the Pods of all nodes: an annotation cannot be selected by, and no agent hears of every Pod.
pub fn pod_weight(pod: &PartialObjectMeta<Pod>) -> Option<u16> {
    annotations::weight(pod.labels().get(annotations::WEIGHT)?).ok()
}

fn pod_addresses(pod: &Pod) -> BTreeSet<IpAddr> {
    let of_node = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter(|_| !of_node).filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// What this node's Node says.
pub fn node(node: &Node) -> Option<NodeInfo> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let leaving =
        taints.into_iter().any(|taint| taint.key == TO_BE_DELETED) || node.metadata.deletion_timestamp.is_some();
    Some(NodeInfo {
        name: node.name_any(),
        zone: node.labels().get(ZONE).cloned(),
        addresses: addresses(node),
        leaving,
    })
}

/// The first address of each family, of type InternalIP if there is one, else ExternalIP.
fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    let listed = || node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut first: BTreeMap<bool, IpAddr> = BTreeMap::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for ip in listed().filter(|a| a.type_ == wanted).filter_map(|a| a.address.parse::<IpAddr>().ok()) {
            first.entry(ip.is_ipv4()).or_insert(ip);
        }
    }
    first.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_says() {
        let object: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {ZONE: "a"}},
            "spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "ExternalIP", "address": "2001:db8::1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "192.0.2.2"},
            ]},
        }))
        .unwrap();
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
        let wanted = NodeInfo { name: "n1".into(), zone: Some("a".into()), addresses, leaving: true };
        assert_eq!(node(&object), Some(wanted));
        let bare: Node = serde_json::from_value(json!({"metadata": {"name": "n2"}})).unwrap();
        assert_eq!(node(&bare), Some(NodeInfo { name: "n2".into(), ..NodeInfo::default() }));
    }

    #[test]
    fn what_a_pod_says() {
        let marks = |annotations: serde_json::Value| {
            let object = json!({
                "metadata": {"namespace": "n", "name": "p", "uid": "u", "annotations": annotations},
                "spec": {"containers": []}, "status": {"podIPs": [{"ip": "10.244.0.7"}]},
            });
            pod(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(marks(json!({"other": "1"})), None);
        let good = marks(json!({annotations::WEIGHT: "7", annotations::SOCKET_LB: "off"})).unwrap();
        assert_eq!((good.weight, good.socket_lb_off, good.uid.as_str()), (Some(7), true, "u"));
        assert_eq!(good.addresses, ["10.244.0.7".parse().unwrap()].into());
        let bad = marks(json!({annotations::WEIGHT: "heavy", annotations::SOCKET_LB: "maybe"})).unwrap();
        assert_eq!((bad.weight, bad.socket_lb_off), (None, false));
        let told: Vec<String> = bad.problems.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("Pod n/p: metadata.annotations.weir.dev/weight: \"heavy\""), "{told:?}");
        assert!(told[1].contains("weir.dev/socket-lb"), "{told:?}");
    }

    #[test]
    fn a_slice_tells_when_it_was_changed() {
        let object = |trigger: &str| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
                             "annotations": {TRIGGER: trigger}},
                "addressType": "IPv4",
            }))
            .unwrap()
        };
        let trigger = |text| slice(&object(text)).unwrap().trigger;
        assert_eq!(trigger("1970-01-01T00:01:00Z"), Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(60)));
        assert_eq!(trigger("yesterday"), None);
    }

    #[test]
    fn services_of_others_are_not_kept() {
        let object = |labels: serde_json::Value| -> Service {
            let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "s", "labels": labels}, "spec": spec}))
                .unwrap()
        };
        let label = "service.kubernetes.io/service-proxy-name";
        assert!(service(&object(json!({})), Services::All).is_some());
        assert!(service(&object(json!({})), Services::Labelled).is_none());
        assert!(service(&object(json!({label: "weir"})), Services::Labelled).is_some());
        assert!(service(&object(json!({label: "other"})), Services::All).is_none());
    }
}
