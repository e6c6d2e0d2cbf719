//! Control groups: what belongs to a cluster is known by its group, so that a killed `up` can be cleaned up without files of process ids.
//!
//! A node has a group of its name at the top of every hierarchy: kubelet makes its pods' groups below it, and each daemon of the node has
//! one below `system` in the unified hierarchy. A hook at the node's group covers exactly that node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::process::wait_until;

const ROOT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A group of the unified hierarchy, by its path below the hierarchy's top.
#[derive(Clone, Debug)]
pub struct Group(PathBuf);

impl Group {
    /// The group of this path, whether it exists or not.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self(unified().join(path))
    }

    /// A group below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it and those above it.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("make the control group {}", self.0.display()))
    }

    /// The file through which a process enters.
    pub fn door(&self) -> Result<fs::File> {
        let path = self.0.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&path).with_context(|| path.display().to_string())
    }

    /// The processes in it, without those in groups below.
    pub fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The groups directly below it.
    pub fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| Self(entry.path())).collect()
    }

    /// The processes in it and below.
    pub fn all_processes(&self) -> Vec<i32> {
        let below = self.children().into_iter().flat_map(|child| child.all_processes());
        self.processes().into_iter().chain(below).collect()
    }

    /// Whether a process is in it or below.
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
    }

    /// Stops or continues all processes in it and below.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let path = self.0.join("cgroup.freeze");
        fs::write(&path, if frozen { "1" } else { "0" }).with_context(|| path.display().to_string())
    }

    /// Kills all processes in it and below, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        self.send_kill()?;
        self.wait_for_end()
    }

    /// Kills all processes in it and below, if it exists.
    pub fn send_kill(&self) -> Result<()> {
        let path = self.0.join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(path.display().to_string()),
            _ => Ok(()),
        }
    }

    /// Waits until no process is in it or below.
    pub fn wait_for_end(&self) -> Result<()> {
        wait_until(PATIENCE, || Ok(!self.is_populated())).with_context(|| format!("the end of {}", self.0.display()))
    }
}

/// Makes a node's group in every hierarchy.
pub(crate) fn create_everywhere(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make the control group {}", folder.display()))?;
        // A new group of this controller has no processors and no memory nodes, and so lets no process in.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(folder.join(file), value.trim()).with_context(|| folder.join(file).display().to_string())?;
            }
        }
    }
    enable_controllers(&unified(), name)
}

/// Removes a group in every hierarchy, with all groups below it.
pub(crate) fn remove_everywhere(name: &str) -> Result<()> {
    hierarchies().iter().try_for_each(|hierarchy| {
        let folder = hierarchy.join(name);
        remove_tree(&folder).with_context(|| format!("remove the control group {}", folder.display()))
    })
}

/// Hands all controllers of a machine with nothing but the unified hierarchy down to a node; beside version 1 there are none to hand down.
fn enable_controllers(top: &Path, name: &str) -> Result<()> {
    if top != Path::new(ROOT) {
        return Ok(());
    }
    let controllers = fs::read_to_string(top.join("cgroup.controllers"))?;
    let wanted: String = controllers.split_whitespace().map(|controller| format!("+{controller} ")).collect();
    [top.to_owned(), top.join(name)].iter().try_for_each(|folder| {
        let path = folder.join("cgroup.subtree_control");
        fs::write(&path, wanted.trim()).with_context(|| path.display().to_string())
    })
}

/// The unified hierarchy: beside those of version 1 where there are such.
fn unified() -> PathBuf {
    let beside = Path::new(ROOT).join("unified");
    if beside.is_dir() { beside } else { ROOT.into() }
}

/// The tops of all hierarchies.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    if unified() == Path::new(ROOT) {
        return vec![ROOT.into()];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    // Names such as cpu may be links to cpu,cpuacct.
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").is_file()).collect()
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(folder)
}
