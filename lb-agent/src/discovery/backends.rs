//! What serves a Service's port: the endpoints of all its slices, and which of them the topology hints keep for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{
    ServiceObject, SliceObject,
    build::{DEFAULT_WEIGHT, Setting},
    node_ports::NodeInfo,
    object::{EndpointObject, PortObject},
};
use crate::model::BackendSpec;

/// The backends of a port; none if no slice has the port.
pub(super) fn of_port(
    service: &ServiceObject,
    port: &PortObject,
    slices: &[&SliceObject],
    setting: &Setting<'_>,
) -> Option<BTreeMap<SocketAddr, BackendSpec>> {
    let mut found = BTreeMap::new();
    let mut matched = false;
    for (slice, number) in numbers(port, slices) {
        matched = true;
        for endpoint in &slice.endpoints {
            insert(&mut found, SocketAddr::new(endpoint.address, number), (slice, endpoint));
        }
    }
    let near = [true, false].map(|v4| {
        let family = found.iter().filter(|(at, _)| at.is_ipv4() == v4);
        Near::from_hints(family.map(|(_, (_, endpoint))| *endpoint), setting.info)
    });
    let backend = |(at, (slice, endpoint)): (SocketAddr, (&SliceObject, &EndpointObject))| {
        let near = near[usize::from(at.is_ipv6())];
        (at, spec(service, slice, endpoint, near, setting))
    };
    matched.then(|| found.into_iter().map(backend).collect())
}

/// The endpoints of a port that take no connections and are still there.
pub(super) fn resting(port: &PortObject, slices: &[&SliceObject]) -> BTreeSet<SocketAddr> {
    let at = |(slice, number)| {
        let slice: &SliceObject = slice;
        slice.resting.iter().map(move |address| SocketAddr::new(*address, number))
    };
    numbers(port, slices).flat_map(at).collect()
}

/// The slices that have a port, and its number there: a named targetPort may have another one on every Pod, each with slices of its own.
fn numbers<'a>(port: &PortObject, slices: &[&'a SliceObject]) -> impl Iterator<Item = (&'a SliceObject, u16)> {
    slices.iter().flat_map(move |slice| {
        let ports = slice.ports.iter().filter(|(name, _, proto)| *name == port.name && *proto == port.protocol);
        ports.map(|(_, number, _)| (*slice, *number))
    })
}

type Found<'a> = (&'a SliceObject, &'a EndpointObject);

/// Adds an endpoint; of the same one in two slices the one that takes connections counts, else the first.
fn insert<'a>(found: &mut BTreeMap<SocketAddr, Found<'a>>, at: SocketAddr, new: Found<'a>) {
    let known = found.entry(at).or_insert(new);
    if known.1.terminating && !new.1.terminating {
        *known = new;
    }
}

fn spec(
    service: &ServiceObject,
    slice: &SliceObject,
    endpoint: &EndpointObject,
    near: Near,
    setting: &Setting<'_>,
) -> BackendSpec {
    let node = endpoint.node.as_deref();
    let of_pod = endpoint.pod.as_deref().and_then(|pod| (setting.pod_weight)(&service.namespace, pod));
    BackendSpec {
        node: endpoint.node.clone(),
        local: setting.node.is_local(node, endpoint.address),
        // A local backend needs one too, where two frontends lead one client port to it.
        source: setting.node.source_for(endpoint.address),
        weight: of_pod.or(slice.weight).unwrap_or(DEFAULT_WEIGHT),
        terminating: endpoint.terminating,
        serving: endpoint.serving,
        far: !endpoint.terminating && !near.has(endpoint, setting.info),
    }
}

/// Which endpoints the topology hints leave to this node. The hints count only where every ready endpoint has them and one is meant for us,
/// so that a half-written or outdated list never leaves a node without endpoints: kube-proxy's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    All,
    Node,
    Zone,
}

impl Near {
    fn from_hints<'a>(endpoints: impl Iterator<Item = &'a EndpointObject>, info: &NodeInfo) -> Self {
        let (mut nodes, mut zones) = (Tally::default(), Tally::default());
        for endpoint in endpoints.filter(|endpoint| !endpoint.terminating) {
            nodes.count(for_node(endpoint, info));
            zones.count(for_zone(endpoint, info));
        }
        match (nodes.counts(), zones.counts()) {
            (true, _) => Self::Node,
            (false, true) => Self::Zone,
            (false, false) => Self::All,
        }
    }

    fn has(self, endpoint: &EndpointObject, info: &NodeInfo) -> bool {
        match self {
            Self::All => true,
            Self::Node => for_node(endpoint, info) == Some(true),
            Self::Zone => for_zone(endpoint, info) == Some(true),
        }
    }
}

/// Whether an endpoint is meant for this node; none if it does not say.
fn for_node(endpoint: &EndpointObject, info: &NodeInfo) -> Option<bool> {
    says(endpoint.hints.as_deref().map(|hints| &hints.nodes)?, &info.name)
}

/// Whether an endpoint is meant for this node's zone; none if it does not say.
fn for_zone(endpoint: &EndpointObject, info: &NodeInfo) -> Option<bool> {
    says(endpoint.hints.as_deref().map(|hints| &hints.zones)?, info.zone.as_deref().unwrap_or_default())
}

fn says(names: &[Box<str>], name: &str) -> Option<bool> {
    (!names.is_empty()).then(|| names.iter().any(|known| **known == *name))
}

/// What the hints of one kind say, all together.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ours: bool,
    missing: bool,
}

impl Tally {
    fn count(&mut self, hint: Option<bool>) {
        self.ours |= hint == Some(true);
        self.missing |= hint.is_none();
    }

    const fn counts(self) -> bool {
        self.ours && !self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::object::Hints;

    /// An endpoint in a word: `t` if it terminates, then its hints: `n:` nodes and `z:` zones.
    fn endpoint(text: &str) -> EndpointObject {
        let list = |mark: &str| -> Vec<Box<str>> {
            let words = text.split_whitespace().filter_map(|word| word.strip_prefix(mark));
            words.flat_map(|names| names.split(',').map(Box::from)).collect()
        };
        EndpointObject {
            address: [10, 0, 0, 1].into(),
            node: None,
            pod: None,
            terminating: text.starts_with('t'),
            serving: true,
            hints: Some(Box::new(Hints { nodes: list("n:"), zones: list("z:") })),
        }
    }

    /// The cases of kube-proxy's `TestCategorizeEndpoints` that have hints.
    #[test]
    fn hints_count_where_all_have_them_and_one_is_ours() {
        let here = NodeInfo { name: "here".into(), zone: Some("a".into()), ..NodeInfo::default() };
        let nowhere = NodeInfo { zone: None, ..here.clone() };
        let cases: [(&str, &NodeInfo, &[&str], Near); 14] = [
            ("no endpoints", &here, &[], Near::All),
            ("no hints", &here, &["", ""], Near::All),
            ("zones", &here, &["z:a", "z:b", "z:c"], Near::Zone),
            ("several zones of one endpoint", &here, &["z:b,a", "z:b"], Near::Zone),
            ("one without", &here, &["z:a", ""], Near::All),
            ("none for our zone", &here, &["z:b", "z:c"], Near::All),
            ("our zone is not known", &nowhere, &["z:a", "z:b"], Near::All),
            ("one that terminates needs none", &here, &["z:a", "t"], Near::Zone),
            ("one for us that terminates", &here, &["t z:a", "z:b"], Near::All),
            ("nodes", &here, &["n:here", "n:there"], Near::Node),
            ("nodes before zones", &here, &["n:here z:a", "n:there z:a"], Near::Node),
            ("not our node: zones", &here, &["n:this z:a", "n:there z:b"], Near::Zone),
            ("neither node nor zone", &here, &["n:this z:b", "n:there z:b"], Near::All),
            ("nodes that not all have: zones", &here, &["n:here z:a", "z:b"], Near::Zone),
        ];
        for (name, info, words, wanted) in cases {
            let endpoints: Vec<EndpointObject> = words.iter().map(|word| endpoint(word)).collect();
            assert_eq!(Near::from_hints(endpoints.iter(), info), wanted, "{name}");
        }
    }
}
