//! Takes a cluster down by what its name says, whatever is left of it: no record of a finished start is needed.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use super::{
    groups::{self, Group},
    layout::{MAX_NODES, Name},
    network,
};
use crate::{namespace, pins};

/// Kills everything of a cluster and removes its control groups, mounts, pins, namespaces and files.
pub fn down(cluster: &Name) -> Result<()> {
    let nodes: Vec<_> = cluster.nodes(MAX_NODES).iter().map(|node| node.name()).collect();
    let owners: Vec<_> = nodes.iter().cloned().chain([cluster.fabric()]).collect();
    let pod_networks = pod_networks(&nodes);
    // Kubelets first, or they would start again what is killed.
    owners.iter().try_for_each(|name| Group::at(name).below("system/kubelet").kill())?;
    owners.iter().try_for_each(|name| Group::at(name).send_kill())?;
    owners.iter().try_for_each(|name| Group::at(name).wait_for_end())?;
    for mount in mounts_below(&fs::read_to_string("/proc/self/mountinfo")?, &cluster.folder()) {
        umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", mount.display()))?;
    }
    owners.iter().try_for_each(|name| groups::remove_everywhere(name))?;
    nodes.iter().try_for_each(|name| remove(&Path::new(pins::ROOT).join(name)))?;
    network::remove(owners.into_iter().chain([cluster.client()]).chain(pod_networks))?;
    remove_links_into(Path::new("/var/log/containers"), &cluster.folder());
    for result in nodes.iter().flat_map(|name| results(name)) {
        sandboxes(&fs::read_to_string(&result).unwrap_or_default()).iter().for_each(|name| remove_empty(name));
        fs::remove_file(&result).with_context(|| result.display().to_string())?;
    }
    remove(&cluster.folder())
}

/// The names of the network namespaces that nodes' pods are in: containerd makes them beside all others.
fn pod_networks(nodes: &[String]) -> Vec<String> {
    let processes = nodes.iter().flat_map(|node| Group::at(node).all_processes());
    let used: BTreeSet<_> =
        processes.filter_map(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).ok()).map(|file| file.ino()).collect();
    let entries = fs::read_dir(namespace::FOLDER).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| fs::metadata(entry.path()).is_ok_and(|file| used.contains(&file.ino())));
    let names = ours.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("cni-")).collect()
}

/// The mount points below a folder, inner ones first.
fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    found.reverse();
    found
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// kubelet links each container's log there, wherever the logs themselves are.
fn remove_links_into(links: &Path, folder: &Path) {
    let entries = fs::read_dir(links).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(folder)));
    // A link that somebody else removed meanwhile is as good as removed.
    ours.for_each(|entry| drop(fs::remove_file(entry.path())));
}

/// CNI plugins keep their results in a place that cannot be chosen, named NETWORK-CONTAINER-INTERFACE.
fn results(node: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten();
    let prefix = format!("{node}-");
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// The names of the network namespaces that such a result is about.
fn sandboxes(result: &str) -> BTreeSet<String> {
    let result: Value = serde_json::from_str(result).unwrap_or_default();
    let interfaces = result["result"]["interfaces"].as_array().into_iter().flatten();
    let paths = interfaces.filter_map(|interface| Path::new(interface["sandbox"].as_str()?).file_name());
    paths.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("cni-")).collect()
}

/// Removes the file over which containerd mounted a pod's network namespace: in the node's mount namespace, so that it is empty
/// here, and stays when that has gone. One that is a namespace here is somebody's.
fn remove_empty(name: &str) {
    let path = Path::new(namespace::FOLDER).join(name);
    let (Ok(folder), Ok(file)) = (fs::metadata(namespace::FOLDER), fs::symlink_metadata(&path)) else { return };
    if file.is_file() && file.len() == 0 && file.dev() == folder.dev() {
        drop(fs::remove_file(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_mounts_come_first() {
        let mountinfo = "1 1 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /a/b rw - tmpfs tmpfs rw\n\
                         3 2 0:3 / /a/b/c rw - tmpfs tmpfs rw\n4 1 0:4 / /a/bc rw - tmpfs tmpfs rw\n";
        let found = mounts_below(mountinfo, Path::new("/a/b"));
        assert_eq!(found, ["/a/b/c", "/a/b"].map(PathBuf::from));
    }

    #[test]
    fn a_result_says_which_network_namespace_it_is_about() {
        let result = r#"{"kind":"cniCacheV1","networkName":"n","result":{"cniVersion":"1.0.0","interfaces":[
            {"name":"veth1","mac":"02:00:00:00:00:01"},
            {"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/var/run/netns/cni-7f"}]}}"#;
        assert_eq!(sandboxes(result), BTreeSet::from(["cni-7f".to_owned()]));
        for other in ["", "{}", r#"{"result":{"interfaces":[{"sandbox":"/proc/7/ns/net"},{"sandbox":7}]}}"#] {
            assert!(sandboxes(other).is_empty(), "{other}");
        }
    }
}
