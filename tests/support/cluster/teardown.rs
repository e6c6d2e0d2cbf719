//! Takes a cluster down by what its name says, whatever is left of it: no record of a finished start is needed.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

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
    nodes.iter().try_for_each(|name| remove_results(name))?;
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
fn remove_results(node: &str) -> Result<()> {
    let entries = fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten();
    let prefix = format!("{node}-");
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path())
        .try_for_each(|path| fs::remove_file(&path).with_context(|| path.display().to_string()))
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
}
