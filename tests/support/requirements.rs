//! What the machine must offer before anything privileged is tried: says all that is missing at once, with the remedy.

use std::{env, path::PathBuf};

use anyhow::{Result, bail};

/// The programs that tests in namespaces call.
pub const TOOLS: &[&str] = &["ip", "tc", "ethtool", "setpriv", "unshare"];

/// Fails with everything that is missing: root, the tools, a mounted bpffs.
pub fn check(tools: &[&str]) -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root (network namespaces and BPF programs need it)".to_owned());
    }
    missing.extend(tools.iter().filter(|tool| find(tool).is_none()).map(|tool| format!("the program `{tool}`")));
    if !bpffs_is_mounted() {
        missing.push("a BPF file system at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)".to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this needs {}: `cargo xtask setup` installs what can be installed", missing.join(", "))
}

/// Where a program is, looking in the folders of system programs too: a plain user's PATH may lack them.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|folder| PathBuf::from(folder).join(program))
        .find(|candidate| candidate.is_file())
}

fn bpffs_is_mounted() -> bool {
    nix::sys::statfs::statfs("/sys/fs/bpf").is_ok_and(|fs| fs.filesystem_type().0 == libc::BPF_FS_MAGIC)
}
