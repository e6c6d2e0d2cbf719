//! Running other programs from the clone's top folder.

use anyhow::Result;
use xshell::{Cmd, Shell};

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

/// A shell in the clone's top folder.
pub(crate) fn in_root() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(workspace::root());
    Ok(shell)
}

/// The same command without the outer cargo's choice of compiler and flags.
pub(crate) fn without_cargo_settings(command: Cmd<'_>) -> Cmd<'_> {
    CARGO_SETTINGS.iter().fold(command, |command, name| command.env_remove(name))
}
