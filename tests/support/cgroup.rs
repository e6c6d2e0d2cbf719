//! Cgroups of the unified hierarchy for single threads of a test: never the root, and gone with their guard.
//!
//! They are threaded (cgroup-v2, section "Threads"), so that a test's threads can be in one while the test itself stays where it is.
//! Sockets belong to the cgroup of the thread that made them; what a thread starts is where the thread is.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Once,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    cluster::groups,
    namespace::{for_each_leftover, unique_name},
    process::wait_until,
};

const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
static SWEPT: Once = Once::new();

/// A cgroup; dropping it removes it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a cgroup below this process' own; the first one sweeps what dead processes left behind.
    pub fn new(kind: &str) -> Result<Self> {
        let parent = own()?;
        SWEPT.call_once(|| for_each_leftover(&parent, |path| drop(fs::remove_dir(path))));
        let cgroup = Self(parent.join(unique_name(kind)));
        fs::create_dir(&cgroup.0).with_context(|| format!("create {}", cgroup.0.display()))?;
        fs::write(cgroup.0.join("cgroup.type"), "threaded").context("make the cgroup threaded")?;
        Ok(cgroup)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A cgroup in this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        let child = Self(self.0.join(name));
        fs::create_dir(&child.0)?;
        fs::write(child.0.join("cgroup.type"), "threaded")?;
        Ok(child)
    }

    /// Moves the calling thread here, for good.
    pub fn join(&self) -> Result<()> {
        fs::write(self.0.join("cgroup.threads"), "0").with_context(|| format!("join {}", self.0.display()))
    }

    /// Runs a closure on a new thread in here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| match scope.spawn(|| self.join().and_then(|()| work())).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Threads that have just ended are in it for a moment longer.
        if wait_until(Duration::from_secs(5), || Ok(fs::remove_dir(&self.0).is_ok())).is_err() {
            eprintln!("{} is in use and stays", self.0.display());
        }
    }
}

/// This process' cgroup of the unified hierarchy.
fn own() -> Result<PathBuf> {
    let is_cgroup2 = |path: &&str| Path::new(path).join("cgroup.procs").exists();
    let mount = MOUNTS.into_iter().find(is_cgroup2).context("no cgroup v2 file system: mount -t cgroup2 none DIR")?;
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no line 0:: in /proc/self/cgroup")?;
    Ok(Path::new(mount).join(path))
}

/// A cgroup for whole processes, at the top of every hierarchy; dropping it removes it, once nobody is in it.
#[derive(Debug)]
pub struct Accounted(String);

impl Accounted {
    /// Makes it.
    pub fn new(kind: &str) -> Result<Self> {
        for root in groups::hierarchies() {
            for_each_leftover(&root, |path| drop(fs::remove_dir(path)));
        }
        let group = Self(unique_name(kind));
        groups::create_everywhere(&group.0)?;
        Ok(group)
    }

    /// The lines of a shell that enter it, for what is started by it then.
    pub fn door(&self) -> String {
        let folders = groups::hierarchies().into_iter().map(|root| root.join(&self.0));
        folders.map(|folder| format!("echo $$ > '{}/cgroup.procs' && ", folder.display())).collect()
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        // Who has just ended is in it for a moment longer.
        if wait_until(Duration::from_secs(5), || Ok(groups::remove_everywhere(&self.0).is_ok())).is_err() {
            eprintln!("{} is in use and stays", self.0);
        }
    }
}
