//! Running other programs from the clone's top folder.

use std::env;

use anyhow::{Context, Result};
use xshell::{Cmd, Shell, cmd};

use crate::workspace;

/// What an outer cargo or the user's shell may have set, and what would build the BPF object differently from what the task says.
const CARGO_SETTINGS: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// Folders of system programs that an ordinary user's path lacks on Debian.
const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A shell in the clone's top folder, which finds system programs as well.
pub(crate) fn in_root() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(workspace::root());
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(Into::into));
    shell.set_var("PATH", env::join_paths(folders).context("PATH")?);
    Ok(shell)
}

/// The target that the compiler builds for when it is told none.
pub(crate) fn host(shell: &Shell) -> Result<String> {
    let about = cmd!(shell, "rustc -vV").quiet().read()?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.to_owned())
}

/// The same command without what the outer cargo says of this package: build scripts that look there (ring's) would run anew, and all that
/// depends on them, whenever a plain cargo command and a task take turns.
pub(crate) fn without_own_package(command: Cmd<'_>) -> Cmd<'_> {
    let names = env::vars_os().map(|(name, _)| name);
    let own = names.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    own.fold(command, |command, name| command.env_remove(name))
}

/// The same command without the outer cargo's choice of compiler and flags.
pub(crate) fn without_cargo_settings(command: Cmd<'_>) -> Cmd<'_> {
    CARGO_SETTINGS.iter().fold(command, |command, name| command.env_remove(name))
}
