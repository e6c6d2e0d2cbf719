//! The steps that need root: each says so before it starts, and goes through sudo when the user is not root.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use xshell::{Cmd, Shell, cmd};

use crate::shell;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// How root is reached, as words to put before a command: none for root itself.
pub(crate) fn prefix() -> Result<Vec<&'static str>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if which::which("sudo").is_err() {
        bail!("root is needed, and sudo is not installed\n  remedy: run the same command as root");
    }
    // Without a terminal nobody can answer sudo's question for a password.
    Ok(if std::io::stdin().is_terminal() { vec!["sudo", "-E"] } else { vec!["sudo", "-n", "-E"] })
}

/// Says what is about to be done as root.
pub(crate) fn announce(what: &str) {
    let how = if is_root() { "running as root" } else { "through sudo" };
    eprintln!("needs root ({how}): {what}");
}

/// Announces `what` and gives the command that does it as root.
pub(crate) fn command<'a>(shell: &'a Shell, what: &str, program: &str) -> Result<Cmd<'a>> {
    let prefix = prefix()?;
    announce(what);
    Ok(match prefix.split_first() {
        None => cmd!(shell, "{program}"),
        Some((sudo, flags)) => cmd!(shell, "{sudo} {flags...} {program}"),
    })
}

/// How cargo starts only what it runs (tests, benchmarks) as root, so that nothing is compiled as root: none when we are root.
pub(crate) fn runner(shell: &Shell) -> Result<Option<(String, String)>> {
    let prefix = prefix()?;
    if prefix.is_empty() {
        return Ok(None);
    }
    let variable = format!("CARGO_TARGET_{}_RUNNER", shell::host(shell)?.to_uppercase().replace('-', "_"));
    Ok(Some((variable, prefix.join(" "))))
}
