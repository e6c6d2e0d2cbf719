//! Where things lie: the clone, what is built in it, and the cache outside it that several clones share.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The clone's top folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, else `target` in the clone.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The BPF object that `build-ebpf` makes and `lb-agent/build.rs` embeds.
pub(crate) fn bpf_object() -> PathBuf {
    match env::var_os("WEIR_BPF_OBJECT") {
        Some(path) => root().join(path),
        None => target_dir().join("bpf/weir-bpf.o"),
    }
}

/// Tools that were built for Weir, one folder for each version: `$XDG_CACHE_HOME/weir`, else `~/.cache/weir`.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(base.join("weir"))
}

/// Puts `content` at `path` in one step, and leaves the file alone (with its time stamp) when it holds just that already.
pub(crate) fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let folder = path.parent().context("a file needs a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let half = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&half, content).with_context(|| format!("writing {}", half.display()))?;
    fs::rename(&half, path).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_file_keeps_its_time_stamp() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/object.o");
        assert!(write_if_changed(&path, b"one").expect("first"));
        let first = fs::metadata(&path).and_then(|m| m.modified()).expect("time");
        assert!(!write_if_changed(&path, b"one").expect("same"));
        assert_eq!(fs::metadata(&path).and_then(|m| m.modified()).expect("time"), first);
        assert!(write_if_changed(&path, b"two").expect("other"));
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(path.parent().expect("folder")).expect("list").count(), 1, "no half file stays");
    }
}
