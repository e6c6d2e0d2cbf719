//! CPU limits for the demo's servers, of the kind that a container gets from `limits.cpu`: the kernel's CFS bandwidth control,
//! through cgroup v2 where its cpu controller is, else through v1.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use weir_tests::namespace::{is_leftover, unique_name};

/// Short, so that a server which has used its share waits milliseconds and not tenths of a second.
const PERIOD_MICROSECONDS: u32 = 25_000;

/// A cgroup with a CPU limit; dropping it removes it, once nothing runs in it.
#[derive(Debug)]
pub(crate) struct Quota(PathBuf);

impl Quota {
    /// Makes a group that may use so many percent of one CPU.
    pub(crate) fn new(percent: u32) -> Result<Self> {
        let hierarchy = Hierarchy::find()?;
        let folder = hierarchy.root().join(unique_name("demo"));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let quota = Self(folder);
        let microseconds = PERIOD_MICROSECONDS * percent / 100;
        match hierarchy {
            Hierarchy::V2 => quota.set("cpu.max", &format!("{microseconds} {PERIOD_MICROSECONDS}"))?,
            Hierarchy::V1 => {
                quota.set("cpu.cfs_period_us", &PERIOD_MICROSECONDS.to_string())?;
                quota.set("cpu.cfs_quota_us", &microseconds.to_string())?;
            }
        }
        Ok(quota)
    }

    /// The file that a process writes its id to in order to join.
    pub(crate) fn door(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A killed process leaves its group a little later than it is gone for its parent.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} is still in use and stays", self.0.display());
    }
}

/// Removes the groups of dead demos.
pub(crate) fn sweep() {
    let Ok(hierarchy) = Hierarchy::find() else { return };
    for entry in fs::read_dir(hierarchy.root()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_leftover) {
            // One that is still in use is left to the next sweep.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

#[derive(Clone, Copy)]
enum Hierarchy {
    V1,
    V2,
}

impl Hierarchy {
    fn find() -> Result<Self> {
        let v2 = Self::V2.root();
        let has_cpu = |file: &str| {
            fs::read_to_string(v2.join(file)).is_ok_and(|text| text.split(' ').any(|word| word.trim() == "cpu"))
        };
        if has_cpu("cgroup.controllers") {
            if !has_cpu("cgroup.subtree_control") {
                fs::write(v2.join("cgroup.subtree_control"), "+cpu")
                    .context("enable the cpu controller of cgroup v2")?;
            }
            return Ok(Self::V2);
        }
        if Self::V1.root().join("cpu.cfs_quota_us").exists() || Self::V1.root().join("cgroup.procs").exists() {
            return Ok(Self::V1);
        }
        bail!("no cpu controller of cgroups below /sys/fs/cgroup: the demo's servers get their speeds from it")
    }

    fn root(self) -> &'static Path {
        Path::new(match self {
            Self::V1 => "/sys/fs/cgroup/cpu",
            Self::V2 => "/sys/fs/cgroup",
        })
    }
}
