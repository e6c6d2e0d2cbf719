//! `cargo xtask build-ebpf`: compiles lb-ebpf's programs for the BPF target and puts the object where lb-agent's build script finds it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use xshell::{Cmd, Shell};

use crate::{
    compiler,
    setup::{self, Purpose},
    shell, workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Accepted for symmetry with cargo: the object is always built in release mode, as the kernel refuses unoptimised programs
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(_args: &Args) -> Result<()> {
    object().map(drop)
}

/// Builds the object and returns its path.
pub(crate) fn object() -> Result<PathBuf> {
    build(Programs::Weir, workspace::bpf_object())
}

/// Builds the benchmark's own objects and returns their paths: its programs, and Weir's over a kernel LRU hash.
pub(crate) fn bench_objects() -> Result<[PathBuf; 2]> {
    let folder = workspace::target_dir().join("bpf");
    Ok([build(Programs::Bench, folder.join("weir-bench.o"))?, build(Programs::BenchLru, folder.join("weir-lru.o"))?])
}

/// The file is left alone when nothing in it changed, so that cargo does not rebuild the agent.
fn build(programs: Programs, object: PathBuf) -> Result<PathBuf> {
    setup::ensure(Purpose::Ebpf)?;
    let shell = shell::in_root()?;
    let built = compile(&shell, programs)?;
    let content = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let state = if workspace::write_if_changed(&object, &content)? { "written" } else { "unchanged" };
    eprintln!("{} {state}, {} KiB", object.display(), content.len() / 1024);
    Ok(object)
}

/// Which of lb-ebpf's binaries; with it the library beside it is built for BPF too.
#[derive(Clone, Copy)]
pub(crate) enum Programs {
    /// What `weir` embeds.
    Weir,
    /// What only the benchmark loads.
    Bench,
    /// What only the benchmark loads: Weir's programs over a kernel LRU hash.
    BenchLru,
}

impl Programs {
    /// The binary's name and the feature it needs.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Weir => ("weir-bpf", "bpf"),
            Self::Bench => ("weir-bench-bpf", "bench"),
            Self::BenchLru => ("weir-lru-bpf", "bench"),
        }
    }
}

/// Core does not come compiled for BPF.
const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

fn compile(shell: &Shell, programs: Programs) -> Result<PathBuf> {
    cargo(shell, "build", programs)?.run()?;
    Ok(target_dir().join(TARGET).join("release").join(programs.names().0))
}

/// A cargo command, `build` or `clippy`, on the BPF programs; setup must have been done.
pub(crate) fn cargo<'a>(shell: &'a Shell, verb: &str, programs: Programs) -> Result<Cmd<'a>> {
    let (binary, feature) = programs.names();
    let installed = compiler::installed(shell);
    let compiler = compiler::choose(&installed).context("setup found a compiler that is not there any more")?;
    let linker_variable = format!("CARGO_TARGET_{}_LINKER", TARGET.to_uppercase().replace('-', "_"));
    Ok(compiler
        .cargo(shell)
        .args([verb, "--release", "--target", TARGET, "-Zbuild-std=core"])
        .args(["--locked", "--package", "lb-ebpf", "--bin", binary, "--features", feature])
        .env("CARGO_TARGET_DIR", target_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env(linker_variable, linker_path()?))
}

/// Apart from the host's, since the compiler and the flags differ.
fn target_dir() -> PathBuf {
    workspace::target_dir().join("ebpf")
}

/// BTF needs full debug information; atomic operations that return the old value need the third version of the instruction set.
///
/// The last is for speed: bpf-linker otherwise has LLVM leave each run of zeroes, and each copy that it meets late, to a function that goes
/// byte by byte.
const RUSTFLAGS: &[&str] = &[
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
    "-Cpanic=abort",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// The version of bpf-linker that `setup` installs.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// Where `setup` puts bpf-linker: outside the clone, a folder for each version.
pub(crate) fn linker_root() -> Result<PathBuf> {
    let folder = format!("bpf-linker-{LINKER_VERSION}-llvm-{}", compiler::LINKER_LLVM);
    Ok(workspace::cache_dir()?.join(folder))
}

pub(crate) fn linker_path() -> Result<PathBuf> {
    Ok(linker_root()?.join("bin/bpf-linker"))
}
