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

const ROOT: &str = "/sys/fs/cgroup";
/// Short, so that a server which has used its share waits milliseconds and not tenths of a second.
const PERIOD_MICROSECONDS: u32 = 25_000;

/// A cgroup with a CPU limit; dropping it removes it, once nothing runs in it.
#[derive(Debug)]
pub(crate) struct Quota(PathBuf);

impl Quota {
    /// Makes a group that may use so many percent of one CPU.
    pub(crate) fn new(percent: u32) -> Result<Self> {
        Self::below(Path::new(ROOT), percent)
    }

    fn below(root: &Path, percent: u32) -> Result<Self> {
        let hierarchy = Hierarchy::find(root)?;
        let folder = hierarchy.folder(root).join(unique_name("demo"));
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
    let root = Path::new(ROOT);
    let Ok(hierarchy) = Hierarchy::find(root) else { return };
    for entry in fs::read_dir(hierarchy.folder(root)).into_iter().flatten().flatten() {
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
    fn find(root: &Path) -> Result<Self> {
        if lists_cpu(&root.join("cgroup.controllers")) {
            let control = root.join("cgroup.subtree_control");
            if !lists_cpu(&control) {
                fs::write(&control, "+cpu")
                    .with_context(|| format!("hand on the cpu controller: {}", control.display()))?;
            }
            return Ok(Self::V2);
        }
        if Self::V1.folder(root).join("cgroup.procs").exists() {
            return Ok(Self::V1);
        }
        bail!("no cpu controller of cgroups below {}: the demo's servers get their speeds from it", root.display())
    }

    fn folder(self, root: &Path) -> PathBuf {
        match self {
            Self::V1 => root.join("cpu"),
            Self::V2 => root.to_owned(),
        }
    }
}

fn lists_cpu(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|word| word == "cpu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(quota: &Quota, file: &str) -> String {
        fs::read_to_string(quota.0.join(file)).unwrap()
    }

    /// In a plain folder, where the control files are only files.
    fn quota(files: &[(&str, &str)]) -> Result<(tempfile::TempDir, std::mem::ManuallyDrop<Quota>)> {
        let root = tempfile::tempdir()?;
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, text)?;
        }
        let quota = Quota::below(root.path(), 16)?;
        Ok((root, std::mem::ManuallyDrop::new(quota)))
    }

    #[test]
    fn version_2_where_it_has_cpu() {
        let files = [
            ("cgroup.controllers", "cpuset cpu io\n"),
            ("cgroup.subtree_control", "memory\n"),
            ("cpu/cgroup.procs", ""),
        ];
        let (root, quota) = quota(&files).unwrap();
        assert_eq!(content(&quota, "cpu.max"), "4000 25000");
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert_eq!(quota.door().parent().unwrap().parent().unwrap(), root.path());
    }

    #[test]
    fn version_1_else_and_an_error_without_either() {
        let (root, quota) = quota(&[("cgroup.controllers", "io memory\n"), ("cpu/cgroup.procs", "")]).unwrap();
        assert_eq!(
            (content(&quota, "cpu.cfs_quota_us"), content(&quota, "cpu.cfs_period_us")),
            ("4000".into(), "25000".into())
        );
        assert_eq!(quota.door().parent().unwrap().parent().unwrap(), root.path().join("cpu"));
        let error = self::quota(&[("cgroup.controllers", "io memory\n")]).unwrap_err();
        assert!(error.to_string().contains("no cpu controller"), "{error}");
    }
}
