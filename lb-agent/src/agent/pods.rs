//! What the socket hooks are told of where processes are: their addresses, and whether they are left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::linux::fs::MetadataExt,
    path::Path,
};

use lb_common::{
    Addr,
    socket::{POD_ASK_CGROUPS, POD_CGROUP, POD_DEFAULT, POD_EXCLUDED, POD_NAMESPACE, POD_NODE, Pod, PodKey},
};

use super::sockets::SocketLb;
use crate::node::namespaces::Namespace;

/// A pod whose sockets are left alone: `weir.dev/socket-lb: off`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExcludedPod {
    /// `metadata.uid`.
    pub uid: String,
    /// `status.podIPs`; empty for a pod in the node's own network.
    pub addresses: BTreeSet<IpAddr>,
}

/// The node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Its IPv4 address.
    pub v4: Option<IpAddr>,
    /// Its IPv6 address.
    pub v6: Option<IpAddr>,
}

/// What the hooks are to know. `cgroups` are the ids of the cgroups of excluded pods.
pub fn pods(
    mode: SocketLb,
    node: &Node,
    namespaces: &[Namespace],
    excluded: &BTreeSet<ExcludedPod>,
    cgroups: &BTreeSet<u64>,
) -> BTreeMap<PodKey, Pod> {
    let pod = |v4: Option<IpAddr>, v6: Option<IpAddr>, flags: u32| {
        let address = |ip: Option<IpAddr>| ip.map_or(Addr::NONE, Addr::from);
        Pod { v4: address(v4), v6: address(v6), flags, zero: 0 }
    };
    let elsewhere = if mode == SocketLb::Host { POD_EXCLUDED } else { 0 };
    let ask = if cgroups.is_empty() { 0 } else { POD_ASK_CGROUPS };
    let is_excluded = |n: &Namespace| {
        let own: BTreeSet<IpAddr> = [n.v4, n.v6].into_iter().flatten().collect();
        excluded.iter().any(|pod| !pod.addresses.is_disjoint(&own))
    };
    let mut pods = BTreeMap::from([(PodKey { kind: POD_DEFAULT, id: 0 }, pod(node.v4, node.v6, elsewhere | ask))]);
    for namespace in namespaces.iter().filter(|n| n.cookie != node.cookie) {
        let flags = elsewhere | if is_excluded(namespace) { POD_EXCLUDED } else { 0 };
        pods.insert(PodKey { kind: POD_NAMESPACE, id: namespace.cookie }, pod(namespace.v4, namespace.v6, flags));
    }
    pods.insert(PodKey { kind: POD_NAMESPACE, id: node.cookie }, pod(node.v4, node.v6, POD_NODE));
    pods.extend(cgroups.iter().map(|id| (PodKey { kind: POD_CGROUP, id: *id }, pod(node.v4, node.v6, POD_EXCLUDED))));
    pods
}

/// Pods are so far below the root: `kubepods`, its quality of service, the pod.
const DEPTH: usize = 3;

/// The ids of these pods' cgroups below the root, whether the kubelet makes them itself (`kubepods/burstable/podUID`) or asks systemd
/// (`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`, the UID with `_`).
pub fn cgroups(root: &Path, excluded: &BTreeSet<ExcludedPod>) -> BTreeSet<u64> {
    let names: Vec<String> = excluded
        .iter()
        .filter(|pod| !pod.uid.is_empty())
        .flat_map(|pod| [format!("pod{}", pod.uid), format!("pod{}.slice", pod.uid.replace('-', "_"))])
        .collect();
    let mut found = BTreeSet::new();
    if !names.is_empty() {
        search(root, DEPTH, &names, &mut found);
    }
    found
}

fn search(folder: &Path, depth: usize, names: &[String], found: &mut BTreeSet<u64>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours =
            name.starts_with("kubepods") || name.starts_with("pod") || name == "burstable" || name == "besteffort";
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if names.iter().any(|wanted| name == *wanted || name.ends_with(&format!("-{wanted}"))) {
            found.extend(entry.metadata().map(|metadata| metadata.st_ino()));
        } else if depth > 1 {
            search(&entry.path(), depth - 1, names, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn namespace(cookie: u64, v4: Option<IpAddr>) -> Namespace {
        Namespace { path: "/run/netns/x".into(), cookie, v4, v6: None }
    }

    #[test]
    fn each_namespace_has_its_address_and_excluded_pods_are_left_alone() {
        let node = Node { cookie: 1, v4: ip("10.0.0.1"), v6: None };
        let namespaces = [namespace(1, ip("10.0.0.1")), namespace(2, ip("10.1.0.2")), namespace(3, ip("10.1.0.3"))];
        let excluded = [ExcludedPod { uid: "u".into(), addresses: [ip("10.1.0.3").unwrap()].into() }].into();
        let key = |id| PodKey { kind: POD_NAMESPACE, id };
        let default = PodKey { kind: POD_DEFAULT, id: 0 };

        let all = pods(SocketLb::All, &node, &namespaces, &excluded, &BTreeSet::new());
        let flags: Vec<u32> = [default, key(1), key(2), key(3)].map(|key| all[&key].flags).into();
        assert_eq!(flags, [0, POD_NODE, 0, POD_EXCLUDED]);
        assert_eq!(all[&key(2)].v4, "10.1.0.2".parse::<IpAddr>().unwrap().into());
        assert_eq!((all[&default].v4, all[&default].v6), ("10.0.0.1".parse::<IpAddr>().unwrap().into(), Addr::NONE));

        let host = pods(SocketLb::Host, &node, &namespaces, &excluded, &[77].into());
        let flags: Vec<u32> = [default, key(1), key(2), key(3)].map(|key| host[&key].flags).into();
        assert_eq!(flags, [POD_EXCLUDED | POD_ASK_CGROUPS, POD_NODE, POD_EXCLUDED, POD_EXCLUDED]);
        assert_eq!(host[&PodKey { kind: POD_CGROUP, id: 77 }].flags, POD_EXCLUDED);
    }

    #[test]
    fn cgroups_of_pods_are_found_in_both_forms() {
        let root = tempfile::tempdir().unwrap();
        let paths = [
            "kubepods/burstable/pod1-2/container",
            "kubepods/pod3-4",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod5_6.slice/cri.scope",
            "kubepods.slice/kubepods-pod7_8.slice",
            "system.slice/pod1-2",
        ];
        paths.iter().for_each(|path| fs::create_dir_all(root.path().join(path)).unwrap());
        let id = |path: &str| fs::metadata(root.path().join(path)).unwrap().st_ino();
        let found = |uid: &str| {
            let pod = ExcludedPod { uid: uid.into(), ..ExcludedPod::default() };
            cgroups(root.path(), &[pod].into())
        };
        assert_eq!(found("1-2"), [id("kubepods/burstable/pod1-2")].into());
        assert_eq!(found("3-4"), [id("kubepods/pod3-4")].into());
        assert_eq!(
            found("5-6"),
            [id("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod5_6.slice")].into()
        );
        assert_eq!(found("7-8"), [id("kubepods.slice/kubepods-pod7_8.slice")].into());
        assert_eq!(found("9"), BTreeSet::new());
        assert_eq!(cgroups(root.path(), &[ExcludedPod::default()].into()), BTreeSet::new());
    }
}
