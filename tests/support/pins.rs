//! A folder of its own in the BPF file system for each node: nodes that are namespaces of one machine must not meet.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::namespace::unique_name;

/// The BPF file system.
pub const ROOT: &str = "/sys/fs/bpf";

/// A folder for pins; dropping it removes it, and with the pinned links their programs.
#[derive(Debug)]
pub struct PinFolder(PathBuf);

impl PinFolder {
    /// Makes a folder.
    pub fn new(kind: &str) -> Result<Self> {
        let path = Path::new(ROOT).join(unique_name(kind));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Everything in it, by path below it.
    pub fn contents(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.0, &self.0, &mut found);
        found.sort();
        found
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.strip_prefix(root).unwrap_or(&path).display().to_string());
        if path.is_dir() {
            list(root, &path, found);
        }
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
