//! The programs of a cluster: which versions, and in which folder their builds are. `cargo xtask cluster` builds what is missing.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::requirements;

/// Names a folder with the programs where it is not the usual one; tests that run as another user get it from `cargo xtask test`.
pub const VARIABLE: &str = "WEIR_KUBERNETES";

/// Kubernetes' version, as in go.mod.
pub const KUBERNETES: &str = "v1.36.3";

/// What `go install` makes from a module and its version: the packages, of which each makes the program of its last word.
pub const INSTALLED: &[(&str, &[&str], &str)] = &[
    ("github.com/containerd/containerd/v2", &["cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"], "v2.3.7"),
    ("github.com/coredns/coredns", &[""], "v1.12.4"),
    ("helm.sh/helm/v3", &["cmd/helm"], "v3.19.2"),
];

/// The same of what only some tasks need: no cluster waits for it.
pub const ADDITIONAL: &[(&str, &[&str], &str)] = &[("sigs.k8s.io/metrics-server", &["cmd/metrics-server"], "v0.9.0")];

/// The names under which our own Go program is called.
pub const KUBERNETES_PROGRAMS: &[&str] =
    &["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// The Go module of [`KUBERNETES_PROGRAMS`] and of the pause program, by file.
pub const MODULE: &[(&str, &str)] = &[
    ("go.mod", include_str!("../../kubernetes/programs/go.mod")),
    ("go.sum", include_str!("../../kubernetes/programs/go.sum")),
    ("main.go", include_str!("../../kubernetes/programs/main.go")),
    ("pause/main.go", include_str!("../../kubernetes/programs/pause/main.go")),
];

/// A folder of built programs.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// The folder that this source asks for, whether it exists or not.
    pub fn expected_folder() -> Result<PathBuf> {
        cached(VARIABLE, &format!("kubernetes/{}", key()))
    }

    /// The programs, if all were built.
    pub fn find() -> Result<Self> {
        let folder = Self::expected_folder()?;
        let missing = missing(&folder);
        ensure!(
            missing.is_empty(),
            "{} has no {}: `cargo xtask cluster build` makes them",
            folder.display(),
            missing.join(", ")
        );
        Ok(Self(folder))
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The path of one of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    /// The search path of what runs on a node: our programs, then the system's folders.
    pub fn search_path(&self) -> String {
        let path = env::var("PATH").unwrap_or_default();
        format!("{}:{path}:/usr/sbin:/sbin", self.0.display())
    }
}

/// The programs that a folder lacks.
pub fn missing(folder: &Path) -> Vec<&'static str> {
    all().filter(|program| !folder.join(program).is_file()).collect()
}

/// The Debian programs that a cluster calls.
pub const TOOLS: &[&str] = &["ip", "runc", "iptables", "nft", "conntrack", "nsenter"];

/// Fails with all that the machine lacks for a cluster.
pub fn check_machine() -> Result<()> {
    requirements::check(TOOLS)?;
    ensure!(
        Path::new(CNI_PLUGINS).join("ptp").is_file(),
        "{CNI_PLUGINS} has no CNI plugins: `cargo xtask setup --for kubernetes` installs them"
    );
    Ok(())
}

/// Where Debian puts the CNI plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

fn all() -> impl Iterator<Item = &'static str> {
    let installed = INSTALLED.iter().flat_map(|(module, packages, _)| {
        packages.iter().map(move |package| {
            let path = if package.is_empty() { module } else { package };
            path.rsplit('/').next().unwrap_or(path)
        })
    });
    KUBERNETES_PROGRAMS.iter().copied().chain(["pause"]).chain(installed)
}

/// Changes with every version and every file of the module.
fn key() -> String {
    let module = MODULE.iter().flat_map(|(file, content)| [*file, *content]);
    let installed = INSTALLED.iter().flat_map(|(module, _, version)| [*module, *version]);
    format!("{KUBERNETES}-{}", digest([KUBERNETES].into_iter().chain(module).chain(installed)))
}

/// The folder that a variable names, or else the one of this name in the user's cache.
pub(super) fn cached(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(folder) = env::var_os(variable) {
        return Ok(folder.into());
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(cache.join("weir").join(name))
}

/// Some digits that change with the texts.
pub(super) fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let hash = texts.into_iter().fold(Sha256::new(), |hash, text| hash.chain_update(text));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_one_name() {
        let names: Vec<_> = all().collect();
        for name in ["kubelet", "containerd-shim-runc-v2", "ctr", "coredns", "helm", "pause"] {
            assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{name} in {names:?}");
        }
    }
}
