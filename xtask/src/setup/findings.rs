//! Looks at the machine: for each need, whether it is met and with which version.

use std::{
    env,
    path::{Path, PathBuf},
};

use weir_tests::cluster::programs::Programs;
use xshell::{Shell, cmd};

use super::needs::{COMPILER_PACKAGES, CXX_PACKAGES, LLVM_PACKAGES, NGINX_STREAM_PACKAGES, Purpose, TOOLS, Tool};
use crate::{
    build_ebpf,
    cluster::go,
    compiler::{self, Compiler, Origin, PINNED_NIGHTLY, Unfit},
};

/// How a missing thing comes to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Debian packages.
    Packages(&'static [&'static str]),
    /// A toolchain of rustup, or the source for one.
    Rustup { toolchain: String, installed: bool },
    /// `cargo install` of bpf-linker.
    Linker,
    /// Mounting the BPF file system.
    Bpffs,
    /// Fetching Go's own programs.
    Go,
}

/// Whether a need is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Yes, by this version.
    Found(String),
    /// No, but what it is for is there.
    NotNeeded(String),
    /// No, because of this; and what to do.
    Missing(String, Remedy),
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub need: &'static str,
    pub state: State,
}

/// Where the BPF file system is expected.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// Where Debian's nginx has its stream module.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Looks for everything `purpose` needs. `rustup_failed` says that rustup was tried in this run and could not deliver.
pub(crate) fn look(shell: &Shell, purpose: Purpose, rustup_failed: bool) -> Vec<Finding> {
    let installed = compiler::installed(shell);
    let rustup = !rustup_failed && which::which("rustup").is_ok();
    let linker = linker(shell);
    let linker_found = matches!(linker.state, State::Found(_));
    let mut found =
        vec![Finding { need: "Rust compiler with core's source", state: compiler_state(&installed, rustup) }, linker];
    found.push(for_linker("LLVM 22", llvm(shell), LLVM_PACKAGES, linker_found));
    found.push(for_linker("C++ compiler", version(shell, "c++", "--version"), CXX_PACKAGES, linker_found));
    if purpose.needs_bpffs() {
        found.push(bpffs());
    }
    if purpose.needs_go() {
        found.push(go());
    }
    if purpose.needs_nginx_stream() {
        found.push(nginx_stream());
    }
    found.extend(TOOLS.iter().filter(|tool| purpose.wants(tool.purposes)).map(|tool| look_for_tool(shell, tool)));
    found
}

/// The compiler's row: the one that would be used, or what is wrong with each and what to do.
fn compiler_state(installed: &[Compiler], rustup: bool) -> State {
    if let Some(compiler) = compiler::choose(installed) {
        return State::Found(format!("{} ({})", compiler.version.release, compiler.origin));
    }
    let faults: Vec<_> =
        installed.iter().filter_map(|compiler| Some(format!("{}: {}", compiler.origin, compiler.unfit()?))).collect();
    let why = if faults.is_empty() { "none found".to_owned() } else { faults.join("; ") };
    State::Missing(why, compiler_remedy(installed, rustup))
}

/// Core's source for a toolchain that lacks only that; else a nightly that is known to fit; else, without rustup, the distribution's compiler.
fn compiler_remedy(installed: &[Compiler], rustup: bool) -> Remedy {
    if !rustup {
        return Remedy::Packages(COMPILER_PACKAGES);
    }
    let lacks_source = |compiler: &Compiler| match (&compiler.origin, compiler.unfit()) {
        (Origin::Rustup(toolchain), Some(Unfit::NoCoreSource)) => Some(toolchain.clone()),
        _ => None,
    };
    match installed.iter().find_map(lacks_source) {
        Some(toolchain) => Remedy::Rustup { toolchain, installed: true },
        None => Remedy::Rustup { toolchain: PINNED_NIGHTLY.to_owned(), installed: false },
    }
}

fn linker(shell: &Shell) -> Finding {
    let path = build_ebpf::linker_path();
    let state = match path.ok().and_then(|path| cmd!(shell, "{path} --version").quiet().ignore_stderr().read().ok()) {
        Some(text) => State::Found(first_version(&text).unwrap_or(text)),
        None => State::Missing("not in the cache, or does not start".to_owned(), Remedy::Linker),
    };
    Finding { need: "bpf-linker", state }
}

/// LLVM and C++ only build bpf-linker: with one at hand they may be missing.
fn for_linker(
    need: &'static str,
    version: Option<String>,
    packages: &'static [&'static str],
    linker_found: bool,
) -> Finding {
    let state = match version {
        Some(version) => State::Found(version),
        None if linker_found => State::NotNeeded("bpf-linker is built already".to_owned()),
        None => State::Missing("not installed".to_owned(), Remedy::Packages(packages)),
    };
    Finding { need, state }
}

/// Where LLVM is: `LLVM_PREFIX`, else where Debian puts it.
pub(crate) fn llvm_prefix() -> PathBuf {
    env::var_os("LLVM_PREFIX").map_or_else(|| PathBuf::from("/usr/lib/llvm-22"), PathBuf::from)
}

fn llvm(shell: &Shell) -> Option<String> {
    let config = llvm_prefix().join("bin/llvm-config");
    let library = llvm_prefix().join("include/llvm-c/Core.h");
    if !library.exists() {
        return None;
    }
    version(shell, config.to_str()?, "--version")
}

fn look_for_tool(shell: &Shell, tool: &Tool) -> Finding {
    let state = match version(shell, tool.program, tool.version_argument) {
        Some(version) => State::Found(version),
        None => State::Missing("not installed".to_owned(), Remedy::Packages(tool.packages)),
    };
    Finding { need: tool.program, state }
}

/// Go only builds the programs of a cluster.
fn go() -> Finding {
    let state = match go::find() {
        Some((_, version)) => State::Found(version),
        None if Programs::find().is_ok() => State::NotNeeded("the cluster's programs are built already".to_owned()),
        None => State::Missing("not installed, or too old".to_owned(), Remedy::Go),
    };
    Finding { need: "Go", state }
}

/// The module is a file that nginx loads, and has no version of its own.
fn nginx_stream() -> Finding {
    let state = match Path::new(NGINX_STREAM).exists() {
        true => State::Found(NGINX_STREAM.to_owned()),
        false => State::Missing("not installed".to_owned(), Remedy::Packages(NGINX_STREAM_PACKAGES)),
    };
    Finding { need: "nginx's stream module", state }
}

fn bpffs() -> Finding {
    let state = match rustix::fs::statfs(Path::new(BPFFS)) {
        Ok(status) if status.f_type as u32 == BPF_FS_MAGIC => State::Found(format!("mounted at {BPFFS}")),
        Ok(_) => State::Missing(format!("not mounted at {BPFFS}"), Remedy::Bpffs),
        Err(error) => State::Missing(format!("{BPFFS}: {error}"), Remedy::Bpffs),
    };
    Finding { need: "BPF file system", state }
}

/// The version a program prints to either output, whatever its exit code; none when it is not there.
fn version(shell: &Shell, program: &str, argument: &str) -> Option<String> {
    let output = cmd!(shell, "{program} {argument}").quiet().ignore_status().output().ok()?;
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(first_version(&text).unwrap_or_else(|| "present".to_owned()))
}

/// The first thing in `text` that looks like `1.2` or `1.2.3`.
fn first_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.split('.').count() >= 2 && word.split('.').all(|part| !part.is_empty());
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .find(is_version)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let cases = [
            ("ip utility, iproute2-6.1.0, libbpf 1.1.0", Some("6.1.0")),
            ("nginx version: nginx/1.22.1\n", Some("1.22.1")),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", Some("4.1.0")),
            ("ethtool version 6.1", Some("6.1")),
            ("usage: ... see below.", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(first_version(text).as_deref(), expected, "{text}");
        }
    }

    fn rustup(toolchain: &str, llvm: u32, has_core_source: bool) -> Compiler {
        let version = compiler::Version { release: "1.97.0-nightly".to_owned(), number: (1, 97), llvm };
        Compiler { origin: Origin::Rustup(toolchain.to_owned()), version, has_core_source }
    }

    #[test]
    fn a_compiler_comes_from_rustup_or_from_packages() {
        let source = Remedy::Rustup { toolchain: "nightly".to_owned(), installed: true };
        let pinned = Remedy::Rustup { toolchain: PINNED_NIGHTLY.to_owned(), installed: false };
        let packages = Remedy::Packages(COMPILER_PACKAGES);
        let cases = [
            ("nightly lacks the source", vec![rustup("nightly", 22, false)], true, source),
            ("nightly's LLVM is too new", vec![rustup("nightly", 23, true)], true, pinned.clone()),
            ("no toolchain", vec![], true, pinned),
            ("rustup is not reachable", vec![rustup("nightly", 22, false)], false, packages.clone()),
            ("no rustup", vec![], false, packages),
        ];
        for (name, installed, rustup, expected) in cases {
            let State::Missing(_, remedy) = compiler_state(&installed, rustup) else {
                panic!("{name}: no compiler here fits");
            };
            assert_eq!(remedy, expected, "{name}");
        }
    }

    #[test]
    fn a_built_linker_needs_no_llvm() {
        let without = |linker_found| for_linker("LLVM 22", None, LLVM_PACKAGES, linker_found).state;
        assert!(matches!(without(true), State::NotNeeded(_)));
        assert_eq!(without(false), State::Missing("not installed".to_owned(), Remedy::Packages(LLVM_PACKAGES)));
    }
}
