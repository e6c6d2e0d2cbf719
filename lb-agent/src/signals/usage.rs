//! What the node's own pods use of CPU and memory, read from their cgroups: no metrics server is needed, and the numbers are as old as
//! the look.
//!
//! The kubelet gives a pod a folder in every hierarchy, named by the pod's UID, and the runtime each container one in it, named by the
//! container's id. What is asked for is a pod, `UID`, or one container of it, `UID/ID`. CPU time and memory of version 1 are in hierarchies of their own; a node that mounts both versions has its
//! controllers in version 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::dataplane::cgroup::MOUNTS;

/// Pods are so far below the kubelet's root: `kubepods`, its quality of service, the pod.
const DEPTH: usize = 3;

/// The folders that version 1 may have for CPU time, and for memory.
const CPU: &[&str] = &["cpuacct", "cpu,cpuacct"];
const MEMORY: &[&str] = &["memory"];

/// Which version of cgroups a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for some controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Where a controller's files of this node's pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The folder that has the kubelet's folders.
    pub root: PathBuf,
    /// How its files are written.
    pub version: Version,
}

/// Where CPU time and memory of this node's pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// CPU time.
    pub cpu: Hierarchy,
    /// Memory.
    pub memory: Hierarchy,
}

/// Why the usage of pods is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// No folder of pods in any hierarchy.
    #[error(
        "no cgroups of pods below {path}: mount the host's /sys/fs/cgroup there, and with a kubelet whose cgroupRoot is not / name that \
         folder of the cgroup v2 file system with --cgroup"
    )]
    NoPods {
        /// Where was looked.
        path: PathBuf,
    },
    /// Folders cannot be read.
    #[error("cgroups of pods: {path}: {source}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where this node's pods are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where cgroups are mounted.
    mount: PathBuf,
    /// This node's folder in each hierarchy, relative to it.
    node: PathBuf,
}

impl Place {
    /// The usual mount, and this node's folder there: the one that `--cgroup` names in the hierarchy of version 2, else the root.
    pub fn new(cgroup: Option<&Path>) -> Self {
        let [mount, unified] = MOUNTS.map(Path::new);
        let Some(cgroup) = cgroup else { return Self { mount: mount.into(), node: PathBuf::new() } };
        let node = cgroup.strip_prefix(unified).or_else(|_| cgroup.strip_prefix(mount));
        match node {
            Ok(node) => Self { mount: mount.into(), node: node.into() },
            Err(_) => Self { mount: cgroup.into(), node: PathBuf::new() },
        }
    }

    /// What the processes of a group use, and may use at most, by its folder in the hierarchy of version 2. Of the root nobody says: it is
    /// everybody's.
    pub fn group(&self, folder: &Path) -> Option<(Usage, Limits)> {
        let relative = MOUNTS.iter().rev().find_map(|mount| folder.strip_prefix(mount).ok())?;
        if relative == Path::new("") { None } else { self.of(relative) }
    }

    /// The same by its path in each hierarchy.
    fn of(&self, relative: &Path) -> Option<(Usage, Limits)> {
        let at = |controllers: &[&str], [v1, v2]: [&str; 2]| {
            Hierarchy::places(&self.mount, relative, controllers).find(|place| {
                let file = if place.version == Version::V1 { v1 } else { v2 };
                place.root.join(file).exists()
            })
        };
        let cpu = at(CPU, ["cpuacct.usage", "cpu.stat"])?;
        let memory = at(MEMORY, ["memory.usage_in_bytes", "memory.current"])?;
        let usage =
            Usage { cpu: cpu_time(cpu.version, &cpu.root)?, memory: working_set(memory.version, &memory.root)? };
        let limits =
            Limits { cpu: cpu_limit(cpu.version, &cpu.root), memory: memory_limit(memory.version, &memory.root) };
        Some((usage, limits))
    }

    /// What the wanted pods use.
    pub fn look(&self, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Usage>, UsageError> {
        read(&Hierarchies::find(&self.mount, &self.node)?, wanted)
    }
}

impl Hierarchies {
    /// Looks below the usual mount (`/sys/fs/cgroup`), where version 1 has a folder for each controller and version 2 is the mount itself
    /// or its folder `unified`; `node` is the folder of this node in each of them, relative, and empty for the root.
    pub fn find(mount: &Path, node: &Path) -> Result<Self, UsageError> {
        let hierarchy = |controllers: &[&str], file: &str| {
            Hierarchy::places(mount, node, controllers).find(|place| place.has_pods(file))
        };
        match (hierarchy(CPU, "cpu.stat"), hierarchy(MEMORY, "memory.current")) {
            (Some(cpu), Some(memory)) => Ok(Self { cpu, memory }),
            _ => Err(UsageError::NoPods { path: mount.join(node) }),
        }
    }
}

impl Hierarchy {
    /// Where the files of a controller may be, for a folder of this path in each hierarchy: version 1 has them in one of its own.
    fn places(mount: &Path, path: &Path, controllers: &[&str]) -> impl Iterator<Item = Self> {
        let first = controllers.iter().map(|name| (mount.join(name), Version::V1));
        let unified = [(mount.to_path_buf(), Version::V2), (mount.join("unified"), Version::V2)];
        first.chain(unified).map(move |(root, version)| Self { root: root.join(path), version })
    }

    /// Whether there are pods, and of version 2 whether they have this file: without the controller they have not.
    fn has_pods(&self, file: &str) -> bool {
        let folder =
            ["kubepods", "kubepods.slice"].map(|name| self.root.join(name)).into_iter().find(|path| path.is_dir());
        folder.is_some_and(|folder| self.version == Version::V1 || folder.join(file).exists())
    }
}

/// What a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it was started.
    pub cpu: Duration,
    /// Working set in bytes: what is in use, less file pages that were not used lately, as the kubelet reports it.
    pub memory: u64,
}

/// What a group may use at most; none where nothing holds it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU, in thousandths of one.
    pub cpu: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
}

/// What pods and containers of this node use: of those that are `wanted`. One that goes while it is read is left out.
pub fn read(hierarchies: &Hierarchies, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Usage>, UsageError> {
    let cpu = folders(&hierarchies.cpu.root, wanted)?;
    let memory = folders(&hierarchies.memory.root, wanted)?;
    let usage = |(name, path): (String, PathBuf)| {
        let usage = one(hierarchies, &path, memory.get(&name)?)?;
        Some((name, usage))
    };
    Ok(cpu.into_iter().filter_map(usage).collect())
}

fn one(hierarchies: &Hierarchies, cpu: &Path, memory: &Path) -> Option<Usage> {
    Some(Usage {
        cpu: cpu_time(hierarchies.cpu.version, cpu)?,
        memory: working_set(hierarchies.memory.version, memory)?,
    })
}

fn cpu_time(version: Version, folder: &Path) -> Option<Duration> {
    match version {
        Version::V1 => Some(Duration::from_nanos(number(&folder.join("cpuacct.usage"))?)),
        Version::V2 => Some(Duration::from_micros(field(&folder.join("cpu.stat"), "usage_usec")?)),
    }
}

fn working_set(version: Version, folder: &Path) -> Option<u64> {
    let (all, inactive) = match version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.current", "inactive_file"),
    };
    let inactive = field(&folder.join("memory.stat"), inactive)?;
    Some(number(&folder.join(all))?.saturating_sub(inactive))
}

/// `max` and a period, or a quota and a period; of version 1 in files of their own, the quota -1 where there is none.
fn cpu_limit(version: Version, folder: &Path) -> Option<u64> {
    let (quota, period) = match version {
        Version::V1 => (number(&folder.join("cpu.cfs_quota_us"))?, number(&folder.join("cpu.cfs_period_us"))?),
        Version::V2 => {
            let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
    };
    quota.checked_mul(1000)?.checked_div(period)
}

fn memory_limit(version: Version, folder: &Path) -> Option<u64> {
    /// Version 1 says with about as many bytes as there are numbers that there is no limit.
    const ALL: u64 = 1 << 60;
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    number(&folder.join(file)).filter(|limit| *limit < ALL)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a name, in a file of such lines.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The folders of pods and containers below a root, by what they are asked for.
fn folders(root: &Path, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, PathBuf>, UsageError> {
    let failed = |source| UsageError::Read { path: root.into(), source };
    fs::read_dir(root).map_err(failed)?;
    let mut found = BTreeMap::new();
    search(root, DEPTH, wanted, &mut found);
    Ok(found)
}

fn search(folder: &Path, depth: usize, wanted: &BTreeSet<String>, found: &mut BTreeMap<String, PathBuf>) {
    for (name, path) in children(folder) {
        match pod_uid(&name) {
            Some(uid) => found.extend(of_pod(&uid, &path, wanted)),
            None if depth > 1 && is_kubelets(&name) => search(&path, depth - 1, wanted, found),
            _ => {}
        }
    }
}

/// What is wanted of a pod, and its folders.
fn of_pod(uid: &str, pod: &Path, wanted: &BTreeSet<String>) -> Vec<(String, PathBuf)> {
    let wanted = wanted.range(uid.to_owned()..).take_while(|name| name.starts_with(uid));
    let folder = |name: &String| match name[uid.len()..].strip_prefix('/') {
        None => (name == uid).then(|| pod.to_path_buf()),
        Some(id) => container(pod, id),
    };
    wanted.filter_map(|name| Some((name.clone(), folder(name)?))).collect()
}

/// The folder of a container: `ID`, or with systemd `cri-containerd-ID.scope`, `crio-ID.scope`; `crio-conmon-ID.scope` is none.
fn container(pod: &Path, id: &str) -> Option<PathBuf> {
    let is_it = |name: &str| match name.strip_suffix(".scope") {
        Some(scope) => scope.strip_suffix(id).is_some_and(|before| before.ends_with('-') && !before.contains("conmon")),
        None => name == id,
    };
    children(pod).into_iter().find_map(|(name, path)| is_it(&name).then_some(path))
}

fn children(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

fn is_kubelets(name: &str) -> bool {
    name.starts_with("kubepods") || name == "burstable" || name == "besteffort"
}

/// The UID in the name of a pod's folder: `podUID`, or with systemd `kubepods-burstable-podUID.slice` and `_` for `-`.
fn pod_uid(name: &str) -> Option<String> {
    match name.strip_suffix(".slice") {
        Some(slice) => Some(
            slice
                .rsplit_once("-pod")
                .map_or_else(|| slice.strip_prefix("pod"), |(_, uid)| Some(uid))?
                .replace('_', "-"),
        ),
        None => name.strip_prefix("pod").map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f6fb2f4-33cf-4d3e-8c2a-8d4b3f3f0a01";

    fn put(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn expected() -> BTreeMap<String, Usage> {
        BTreeMap::from([(UID.to_owned(), Usage { cpu: Duration::from_micros(1_500_000), memory: 900 })])
    }

    fn wanted() -> BTreeSet<String> {
        [UID, "one", "two"].map(str::to_owned).into()
    }

    #[test]
    fn a_group_says_what_it_uses_and_may_use() {
        let mount = tempfile::tempdir().unwrap();
        put(
            mount.path(),
            &[
                ("a.slice/b/cpu.stat", "usage_usec 1500000\nuser_usec 7\n"),
                ("a.slice/b/cpu.max", "20000 100000\n"),
                ("a.slice/b/memory.current", "1000\n"),
                ("a.slice/b/memory.stat", "anon 5\ninactive_file 100\n"),
                ("a.slice/b/memory.max", "5000\n"),
                ("free/cpu.stat", "usage_usec 1500000\n"),
                ("free/cpu.max", "max 100000\n"),
                ("free/memory.current", "900\n"),
                ("free/memory.stat", "inactive_file 0\n"),
                ("free/memory.max", "max\n"),
                ("cpu,cpuacct/old/cpuacct.usage", "1500000000\n"),
                ("cpu,cpuacct/old/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/old/cpu.cfs_period_us", "100000\n"),
                ("memory/old/memory.usage_in_bytes", "900\n"),
                ("memory/old/memory.stat", "total_inactive_file 0\n"),
                ("memory/old/memory.limit_in_bytes", "9223372036854771712\n"),
                ("unified/old/cpu.stat", "usage_usec 1\n"),
                ("bare/cgroup.procs", ""),
            ],
        );
        let place = Place { mount: mount.path().into(), node: PathBuf::new() };
        let usage = Usage { cpu: Duration::from_micros(1_500_000), memory: 900 };
        let held = Limits { cpu: Some(200), memory: Some(5000) };
        for (group, expected) in [
            ("a.slice/b", Some((usage, held))),
            ("free", Some((usage, Limits::default()))),
            ("old", Some((usage, Limits::default()))),
            ("bare", None),
            ("gone", None),
        ] {
            assert_eq!(place.of(Path::new(group)), expected, "{group}");
        }
        for root in MOUNTS {
            assert_eq!(place.group(Path::new(root)), None, "everybody's");
        }
    }

    #[test]
    fn version_1_as_the_kubelet_makes_it() {
        let mount = tempfile::tempdir().unwrap();
        let pod = format!("kubepods/burstable/pod{UID}");
        put(
            mount.path(),
            &[
                (&format!("cpuacct/node/{pod}/cpuacct.usage"), "1500000000\n"),
                ("cpuacct/node/kubepods/podother/cpuacct.usage", "1\n"),
                (&format!("memory/node/{pod}/memory.usage_in_bytes"), "1000\n"),
                (&format!("memory/node/{pod}/memory.stat"), "cache 5\ntotal_inactive_file 100\n"),
                ("memory/node/kubepods/podother/memory.usage_in_bytes", "1\n"),
                ("memory/node/kubepods/podother/memory.stat", "total_inactive_file 0\n"),
                // The unified hierarchy has the folders too, and no controllers.
                (&format!("unified/node/{pod}/cpu.stat"), "usage_usec 1\n"),
                ("memory/node/kubepods/burstable/cgroup.procs", ""),
            ],
        );
        let hierarchies = Hierarchies::find(mount.path(), Path::new("node")).unwrap();
        assert_eq!((hierarchies.cpu.version, hierarchies.memory.version), (Version::V1, Version::V1));
        assert_eq!(read(&hierarchies, &wanted()).unwrap(), expected(), "nobody asked for the other");
    }

    #[test]
    fn version_2_as_systemd_makes_it() {
        let mount = tempfile::tempdir().unwrap();
        let pod =
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        put(
            mount.path(),
            &[
                ("kubepods.slice/cpu.stat", "usage_usec 9\n"),
                ("kubepods.slice/memory.current", "9\n"),
                (&format!("{pod}/cpu.stat"), "usage_usec 1500000\nuser_usec 1\n"),
                (&format!("{pod}/memory.current"), "1000\n"),
                (&format!("{pod}/memory.stat"), "anon 1\ninactive_file 100\n"),
                ("system.slice/pod.service/cpu.stat", "usage_usec 1\n"),
            ],
        );
        let hierarchies = Hierarchies::find(mount.path(), Path::new("")).unwrap();
        assert_eq!((hierarchies.cpu.version, hierarchies.memory.version), (Version::V2, Version::V2));
        assert_eq!(read(&hierarchies, &wanted()).unwrap(), expected());
    }

    #[test]
    fn a_container_is_found_in_its_pod_whatever_its_runtime_calls_it() {
        for (name, found) in [
            ("ab12", true),
            ("cri-containerd-ab12.scope", true),
            ("crio-ab12.scope", true),
            ("crio-conmon-ab12.scope", false),
            ("xab12", false),
            ("other", false),
        ] {
            let mount = tempfile::tempdir().unwrap();
            let pod = format!("kubepods/pod{UID}");
            put(
                mount.path(),
                &[
                    (&format!("cpuacct/{pod}/cpuacct.usage"), "9"),
                    (&format!("cpuacct/{pod}/{name}/cpuacct.usage"), "1500000000"),
                    (&format!("memory/{pod}/{name}/memory.usage_in_bytes"), "1000"),
                    (&format!("memory/{pod}/{name}/memory.stat"), "total_inactive_file 100"),
                ],
            );
            let hierarchies = Hierarchies::find(mount.path(), Path::new("")).unwrap();
            let wanted = format!("{UID}/ab12");
            let used = read(&hierarchies, &[wanted.clone(), UID.replace("01", "0")].into()).unwrap();
            let usage = expected().into_values().next();
            assert_eq!(
                (used.get(&wanted).copied(), used.len()),
                (usage.filter(|_| found), usize::from(found)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_node_s_folder_is_the_one_of_its_cgroup() {
        let place = |cgroup: &str| Place::new(Some(Path::new(cgroup)));
        let usual = |node: &str| Place { mount: "/sys/fs/cgroup".into(), node: node.into() };
        assert_eq!(Place::new(None), usual(""));
        assert_eq!(place("/sys/fs/cgroup/unified/node-1"), usual("node-1"));
        assert_eq!(place("/sys/fs/cgroup/node-1"), usual("node-1"));
        assert_eq!(place("/sys/fs/cgroup"), usual(""));
        assert_eq!(place("/mnt/cgroup"), Place { mount: "/mnt/cgroup".into(), node: "".into() });
    }

    #[test]
    fn a_node_without_pods_says_where_was_looked() {
        let mount = tempfile::tempdir().unwrap();
        let error = Hierarchies::find(mount.path(), Path::new("")).unwrap_err().to_string();
        assert!(error.contains("--cgroup") && error.contains(mount.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_pod_that_goes_meanwhile_is_left_out() {
        let mount = tempfile::tempdir().unwrap();
        put(
            mount.path(),
            &[
                ("cpuacct/kubepods/podone/cpuacct.usage", "5"),
                ("cpuacct/kubepods/podtwo/cgroup.procs", ""),
                ("memory/kubepods/podtwo/memory.usage_in_bytes", "5"),
            ],
        );
        let hierarchies = Hierarchies::find(mount.path(), Path::new("")).unwrap();
        assert_eq!(read(&hierarchies, &wanted()).unwrap(), BTreeMap::new());
    }

    #[test]
    fn names() {
        for (name, uid) in [
            ("podab-cd", Some("ab-cd")),
            ("kubepods-podab_cd.slice", Some("ab-cd")),
            ("kubepods-besteffort-podab_cd.slice", Some("ab-cd")),
            ("kubepods-burstable.slice", None),
            ("burstable", None),
        ] {
            assert_eq!(pod_uid(name).as_deref(), uid, "{name}");
        }
    }
}
