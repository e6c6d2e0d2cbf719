//! `cargo xtask build`: the BPF object, then the program `weir` with the object inside.

use std::path::PathBuf;

use anyhow::Result;
use xshell::{Cmd, cmd};

use crate::{build_ebpf, shell, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the program (the BPF object always is)
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    println!("{}", weir(args.release)?.display());
    Ok(())
}

/// Builds `weir` and returns its path.
pub(crate) fn weir(release: bool) -> Result<PathBuf> {
    build_ebpf::object()?;
    let shell = shell::in_root()?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    with_object(cmd!(shell, "cargo build --locked --package lb-agent --bin weir {profile...}")).run()?;
    Ok(weir_path(release))
}

/// Where cargo puts `weir`.
pub(crate) fn weir_path(release: bool) -> PathBuf {
    workspace::target_dir().join(if release { "release" } else { "debug" }).join("weir")
}

/// The same cargo command, told where the BPF object is when it is not where lb-agent's build script looks by itself.
/// (Telling it always would rebuild the agent whenever a plain `cargo build` and a task take turns.)
pub(crate) fn with_object(command: Cmd<'_>) -> Cmd<'_> {
    let command = shell::without_own_package(command);
    let object = workspace::bpf_object();
    if object == workspace::root().join("target/bpf/weir-bpf.o") {
        command
    } else {
        command.env("WEIR_BPF_OBJECT", object)
    }
}
