//! What the coordinator knows of the API's objects, in the form its decisions need: fed by watches, free of what it does not use.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt, runtime::watcher::Event};
use lb_common::Protocol;

use super::{
    allocate::{Request, ServiceKey},
    owner::Claim,
    serve::ABSENCE,
};

/// Names the addresses that a Service wants, separated by commas.
pub const ADDRESSES: &str = "weir.dev/addresses";
/// Services of one namespace and key may share addresses.
pub const SHARING_KEY: &str = "weir.dev/sharing-key";
/// Keeps a node from announcing.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects of one kind, as a watch tells of them.
#[derive(Debug)]
pub struct Objects<T> {
    known: BTreeMap<ServiceKey, T>,
    /// The list that is being read.
    next: BTreeMap<ServiceKey, T>,
    complete: bool,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), next: BTreeMap::new(), complete: false }
    }
}

impl<T> Objects<T> {
    /// Takes in an event; `slim` keeps of an object what is needed, or nothing.
    pub fn take<K: Resource>(&mut self, event: Event<K>, slim: impl Fn(&K) -> Option<T>) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.next = BTreeMap::new(),
            Event::InitApply(object) => self.next.extend(slim(&object).map(|slim| (key(&object), slim))),
            Event::InitDone => (self.known, self.complete) = (std::mem::take(&mut self.next), true),
            Event::Apply(object) => match slim(&object) {
                Some(slim) => drop(self.known.insert(key(&object), slim)),
                None => drop(self.known.remove(&key(&object))),
            },
            Event::Delete(object) => drop(self.known.remove(&key(&object))),
        }
    }

    /// Whether all there are were listed once.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The objects by namespace and name.
    pub const fn all(&self) -> &BTreeMap<ServiceKey, T> {
        &self.known
    }
}

/// Which Services of type LoadBalancer are ours.
#[derive(Clone, Debug)]
pub struct Choice {
    /// `--load-balancer-class`.
    pub class: String,
    /// `--default-load-balancer`: those without a class too.
    pub default: bool,
    /// `--services labelled`: only those whose proxy is `weir`.
    pub labelled: bool,
}

/// What is needed of a Service of type LoadBalancer that is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Balanced {
    /// What it asks for.
    pub request: Request,
    /// Its UID, for Events.
    pub uid: String,
    /// An annotation or field that is not an address: its name and its value.
    pub invalid: Option<(&'static str, String)>,
}

impl Choice {
    /// The Service's request, if it is ours: never one that we do not proxy.
    pub fn request(&self, service: &Service) -> Option<Balanced> {
        let spec = service.spec.as_ref()?;
        let proxy = service.labels().get("service.kubernetes.io/service-proxy-name").map(String::as_str);
        let proxied = if self.labelled { proxy == Some("weir") } else { matches!(proxy, None | Some("weir")) };
        let class = match spec.load_balancer_class.as_deref() {
            None => self.default,
            Some(class) => class == self.class,
        };
        let wanted = spec.type_.as_deref() == Some("LoadBalancer") && service.metadata.deletion_timestamp.is_none();
        (wanted && proxied && class).then(|| balanced(service, spec))
    }
}

fn balanced(service: &Service, spec: &ServiceSpec) -> Balanced {
    let (field, text) = match service.annotations().get(ADDRESSES) {
        Some(text) => ("metadata.annotations.weir.dev/addresses", text.as_str()),
        None => ("spec.loadBalancerIP", spec.load_balancer_ip.as_deref().unwrap_or_default()),
    };
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let named: Result<Vec<IpAddr>, _> = words.iter().map(|word| word.parse()).collect();
    let invalid = named.is_err().then(|| (field, text.to_owned()));
    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]);
    let has = |family: &str| families.iter().any(|f| f == family);
    let port = |p: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = if p.protocol.as_deref() == Some("UDP") { Protocol::Udp } else { Protocol::Tcp };
        Some((u16::try_from(p.port).ok()?, protocol))
    };
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    Balanced {
        request: Request {
            service: (service.namespace().unwrap_or_default(), service.name_any()),
            created: service.creation_timestamp().map_or(0, |time| time.0.as_nanosecond()),
            labels: service.labels().clone(),
            v4: has("IPv4"),
            v6: has("IPv6"),
            named: named.unwrap_or_default(),
            current: current(service),
            sharing: service.annotations().get(SHARING_KEY).cloned(),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            local: local.then(|| spec.selector.clone().unwrap_or_default()),
        },
        uid: service.uid().unwrap_or_default(),
        invalid,
    }
}

/// The addresses in a Service's status.
fn current(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

/// Whether a node is ready.
pub fn ready(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a node may announce.
pub fn eligible(node: &Node) -> bool {
    ready(node) && !node.labels().contains_key(EXCLUDE) && node.metadata.deletion_timestamp.is_none()
}

/// An agent that is ready joins within so long. Times of the API are whole seconds.
const JOINING: Duration = Duration::from_secs(5);

/// What an agent's pod says of when the agent is to be heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returning {
    /// Where the agent is expected back.
    pub node: String,
    /// Since when it is being replaced or started again, or ready.
    pub since: Timestamp,
    /// For so long it may be silent; after that its node may be dead, and the API server not know yet.
    pub patience: Duration,
}

impl Returning {
    /// Whether its silence says nothing yet.
    pub fn is_expected(&self, now: Timestamp) -> bool {
        // A clock that is behind the API server's has not seen the moment come.
        Duration::try_from(now.duration_since(self.since)).unwrap_or_default() < self.patience
    }
}

/// When the agent of a pod is to be heard of; none if it is on no node yet. Who is being replaced or started again has a kubelet that lives.
pub fn returning(pod: &Pod) -> Option<Returning> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let ends = pod.metadata.deletion_timestamp.is_some();
    let is_ready = !ends && ready.is_some_and(|condition| condition.status == "True");
    let begins =
        ready.and_then(|condition| condition.last_transition_time.clone()).or_else(|| pod.creation_timestamp());
    let since = if ends { pod.metadata.deletion_timestamp.clone() } else { begins };
    let patience = if is_ready { JOINING } else { ABSENCE };
    Some(Returning { node, since: since.map_or(Timestamp::UNIX_EPOCH, |time| time.0), patience })
}

/// What is needed of an EndpointSlice: its Service and the nodes of its ready endpoints.
pub fn nodes(slice: &EndpointSlice) -> Option<(ServiceKey, BTreeSet<String>)> {
    let service = (slice.namespace().unwrap_or_default(), slice.labels().get(SERVICE_NAME)?.clone());
    let ready = slice.endpoints.iter().flatten().filter(|e| {
        e.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true) && e.node_name.is_some()
    });
    Some((service, ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()))
}

/// What has to be announced, and by whom it may be.
pub fn claims<'a>(
    addresses: &BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    services: impl Fn(&ServiceKey) -> Option<&'a Balanced>,
    slices: &BTreeMap<ServiceKey, (ServiceKey, BTreeSet<String>)>,
) -> BTreeMap<IpAddr, Claim> {
    let mut claims = BTreeMap::new();
    for (key, addresses) in addresses {
        let local = services(key).is_some_and(|service| service.request.local.is_some());
        let only = local.then(|| {
            let ours = slices.values().filter(|(service, _)| service == key);
            ours.flat_map(|(_, nodes)| nodes).cloned().collect()
        });
        claims.extend(addresses.iter().map(|address| (*address, Claim { only: only.clone() })));
    }
    claims
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(change: serde_json::Value) -> Service {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u"},
            "spec": {
                "type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}], "selector": {"app": "web"},
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        });
        for (part, fields) in change.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                object[part][field] = value.clone();
            }
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn whose_a_service_is() {
        let label = |name: &str| json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": name}}});
        let class = |name: &str| json!({"spec": {"loadBalancerClass": name}});
        let cases = [
            (json!({}), [true, false, false], "no class: only by default; not ours if we proxy labelled ones only"),
            (class("weir.dev/weir"), [true, true, false], "our class"),
            (class("example.com/other"), [false, false, false], "another class"),
            (label("weir"), [true, false, true], "labelled for us"),
            (label("other"), [false, false, false], "labelled for another proxy"),
            (json!({"spec": {"type": "NodePort"}}), [false, false, false], "another type"),
        ];
        for (change, wanted, why) in cases {
            let choices = [(true, false), (false, false), (true, true)];
            let got = choices.map(|(default, labelled)| {
                let choice = Choice { class: "weir.dev/weir".into(), default, labelled };
                choice.request(&service(change.clone())).is_some()
            });
            assert_eq!(got, wanted, "{why}");
        }
    }

    #[test]
    fn what_a_service_asks_for() {
        let choice = Choice { class: "weir.dev/weir".into(), default: true, labelled: false };
        let asked = choice.request(&service(json!({}))).unwrap().request;
        assert_eq!((asked.v4, asked.v6, asked.current), (true, true, vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(asked.ports, [(80, Protocol::Tcp), (53, Protocol::Udp)].into());
        let named = json!({
            "spec": {"loadBalancerIP": "192.0.2.8", "externalTrafficPolicy": "Local"},
            "metadata": {"annotations": {ADDRESSES: "192.0.2.9, fd00::9"}},
        });
        let asked = choice.request(&service(named)).unwrap();
        assert_eq!(asked.request.named, ["192.0.2.9", "fd00::9"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(asked.request.local, Some([("app".to_owned(), "web".to_owned())].into()));
        let bad = choice.request(&service(json!({"spec": {"loadBalancerIP": "nonsense"}}))).unwrap();
        assert_eq!(bad.invalid, Some(("spec.loadBalancerIP", "nonsense".into())));
    }

    #[test]
    fn who_may_announce_a_local_service() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "a"},
                {"addresses": ["10.0.0.2"], "nodeName": "b", "conditions": {"ready": false}},
            ],
        }))
        .unwrap();
        let slices = BTreeMap::from([(("shop".to_owned(), "web-1".to_owned()), nodes(&slice).unwrap())]);
        let choice = Choice { class: "weir.dev/weir".into(), default: true, labelled: false };
        let key = ("shop".to_owned(), "web".to_owned());
        let addresses = BTreeMap::from([(key, BTreeSet::from([IpAddr::from([192, 0, 2, 1])]))]);
        let of = |change| {
            let balanced = choice.request(&service(change)).unwrap();
            claims(&addresses, |_| Some(&balanced), &slices).into_values().next().unwrap().only
        };
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({"spec": {"externalTrafficPolicy": "Local"}})), Some(["a".to_owned()].into()));
    }

    #[test]
    fn which_nodes_may_announce() {
        let node = |ready: &str, labels: serde_json::Value| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": "a", "labels": labels},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        assert!(eligible(&node("True", json!({}))));
        assert!(!eligible(&node("Unknown", json!({}))));
        assert!(!eligible(&node("True", json!({EXCLUDE: ""}))));
    }

    #[test]
    fn who_is_expected_back() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let pod = |metadata: serde_json::Value, spec: serde_json::Value, ready: &str| -> Pod {
            let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:07Z"});
            let conditions = if ready.is_empty() { json!([]) } else { json!([condition]) };
            let object = json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}});
            serde_json::from_value(object).unwrap()
        };
        let on = |node: &str| json!({"nodeName": node, "containers": []});
        let made = json!({"creationTimestamp": "2026-01-01T00:00:05Z"});
        let ends = json!({"deletionTimestamp": "2026-01-01T00:00:09Z"});
        let time = |second: u8| at(&format!("2026-01-01T00:00:{second:02}Z"));
        let back = |second, patience| Some(Returning { node: "a".into(), since: time(second), patience });
        let ready = returning(&pod(made.clone(), on("a"), "True"));
        assert_eq!(ready, back(7, JOINING));
        let is_expected = |second| ready.as_ref().unwrap().is_expected(time(second));
        assert!(is_expected(6) && is_expected(11), "it has just become ready, and is about to join");
        assert!(!is_expected(12), "ready for long: if it is silent, its node is");
        assert_eq!(returning(&pod(made.clone(), on("a"), "False")), back(7, ABSENCE), "it has failed, or starts");
        assert_eq!(returning(&pod(made.clone(), on("a"), "")), back(5, ABSENCE), "kubelet has not seen it yet");
        assert_eq!(returning(&pod(ends, on("a"), "True")), back(9, ABSENCE), "it is being replaced");
        assert_eq!(returning(&pod(made, json!({"containers": []}), "False")), None, "on no node yet");
    }

    #[test]
    fn a_new_list_replaces_the_old_one() {
        let named = |name: &str| -> Node { serde_json::from_value(json!({"metadata": {"name": name}})).unwrap() };
        let mut nodes = Objects::default();
        let mut take = |event| nodes.take(event, |node: &Node| (node.name_any() != "no").then_some(()));
        take(Event::Apply(named("early")));
        take(Event::Init);
        for name in ["a", "no"] {
            take(Event::InitApply(named(name)));
        }
        take(Event::InitDone);
        take(Event::Apply(named("b")));
        take(Event::Delete(named("a")));
        assert!(nodes.is_complete());
        assert_eq!(nodes.all().keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
