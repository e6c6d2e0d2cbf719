//! Carries out the steps of `setup`.

use std::fs;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::{
    findings::{BPFFS, llvm_prefix},
    steps::Steps,
};
use crate::{
    build_ebpf::{LINKER_VERSION, linker_root},
    cluster::go,
    compiler::LINKER_LLVM,
    privilege, shell,
};

/// What came of the steps.
pub(crate) enum Outcome {
    Done,
    /// Rustup could not deliver; the packages of the distribution may.
    RustupFailed,
}

pub(crate) fn run(shell: &Shell, steps: &Steps) -> Result<Outcome> {
    if let Some((toolchain, installed)) = &steps.rustup
        && let Err(error) = rustup(shell, toolchain, *installed)
    {
        eprintln!("rustup: {error}; the distribution's compiler is next");
        return Ok(Outcome::RustupFailed);
    }
    if !steps.packages.is_empty() {
        packages(shell, &steps.packages)?;
    }
    if steps.bpffs {
        bpffs(shell)?;
    }
    if steps.linker {
        linker(shell)?;
    }
    if steps.go {
        go::fetch(shell)?;
    }
    Ok(Outcome::Done)
}

fn rustup(shell: &Shell, toolchain: &str, installed: bool) -> Result<()> {
    let command = if installed {
        cmd!(shell, "rustup component add rust-src --toolchain {toolchain}")
    } else {
        cmd!(shell, "rustup toolchain install {toolchain} --profile minimal --component rust-src --no-self-update")
    };
    Ok(shell::without_cargo_settings(command).run()?)
}

/// The script keeps the packages' services from starting and cleans up after itself, whatever ends it.
const INSTALL_PACKAGES: &str = include_str!("install-packages.sh");

fn packages(shell: &Shell, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if which::which("apt-get").is_err() {
        bail!("there is no apt-get here\n  remedy: install what these Debian packages have: {list}");
    }
    let command = privilege::command(shell, &format!("apt-get install {list}"), "sh")?;
    let command = command.args(["-c", INSTALL_PACKAGES, "install-packages.sh"]).args(packages);
    // The script is too long to be shown as a command line.
    command.quiet().run().map_err(|_| anyhow::anyhow!("apt-get could not install {list}; its reason is above"))
}

fn bpffs(shell: &Shell) -> Result<()> {
    let command = privilege::command(shell, &format!("mount -t bpf bpf {BPFFS}"), "mount")?;
    let advice = "the kernel may lack CONFIG_BPF_SYSCALL, or this container may not mount";
    command.args(["-t", "bpf", "bpf", BPFFS]).run().with_context(|| format!("{BPFFS}: {advice}"))
}

fn linker(shell: &Shell) -> Result<()> {
    let (root, prefix) = (linker_root()?, llvm_prefix());
    let build = root.join("build");
    let feature = format!("llvm-{LINKER_LLVM}");
    let install = cmd!(
        shell,
        "cargo install bpf-linker --version {LINKER_VERSION} --locked --force --no-default-features --features {feature} --root {root}"
    );
    shell::without_cargo_settings(install).env("LLVM_PREFIX", prefix).env("CARGO_TARGET_DIR", &build).run()?;
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))
}
