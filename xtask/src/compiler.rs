//! Decides which Rust compiler builds the BPF object, from what is installed. It must have the source of `core` (there is
//! no prebuilt `core` for BPF), and an LLVM no newer than the one bpf-linker was built with, since the linker reads its bitcode.

use std::path::Path;

use xshell::{Cmd, Shell, cmd};

use crate::shell::without_cargo_settings;

/// LLVM's major version that `setup` builds bpf-linker with.
pub(crate) const LINKER_LLVM: u32 = 22;
/// A nightly that is known to fit, for machines whose rustup has none; a plain `nightly` may have a newer LLVM tomorrow.
pub(crate) const PINNED_NIGHTLY: &str = "nightly-2026-05-20";
/// Toolchains of rustup that are looked at, before the distribution's compiler.
pub(crate) const TOOLCHAINS: &[&str] = &["nightly", PINNED_NIGHTLY];
/// The oldest compiler that knows this workspace's edition and `rust-version`.
const OLDEST: (u32, u32) = (1, 89);

/// Where a compiler comes from, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A toolchain of rustup, by its name.
    Rustup(String),
    /// /usr/bin/rustc, of the distribution's packages.
    System,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rustup(toolchain) => write!(f, "rustup {toolchain}"),
            Self::System => f.write_str("/usr/bin/rustc"),
        }
    }
}

/// What is known of an installed compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub origin: Origin,
    pub version: Version,
    pub has_core_source: bool,
}

/// What `rustc -vV` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// As printed: `1.97.0-nightly`.
    pub release: String,
    /// The first two numbers of the release.
    pub number: (u32, u32),
    /// The major version of its LLVM.
    pub llvm: u32,
}

/// Why a compiler cannot build the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    TooOld,
    LlvmTooNew,
    NoCoreSource,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooOld => write!(f, "older than {}.{}", OLDEST.0, OLDEST.1),
            Self::LlvmTooNew => write!(f, "its LLVM is newer than bpf-linker's {LINKER_LLVM}"),
            Self::NoCoreSource => f.write_str("without core's source"),
        }
    }
}

impl Compiler {
    /// What keeps this compiler from building the object.
    pub(crate) fn unfit(&self) -> Option<Unfit> {
        if self.version.number < OLDEST {
            Some(Unfit::TooOld)
        } else if self.version.llvm > LINKER_LLVM {
            Some(Unfit::LlvmTooNew)
        } else if !self.has_core_source {
            Some(Unfit::NoCoreSource)
        } else {
            None
        }
    }

    /// A cargo command that uses this compiler, with the language's unstable parts allowed.
    pub(crate) fn cargo<'a>(&self, shell: &'a Shell) -> Cmd<'a> {
        let command = match &self.origin {
            Origin::Rustup(toolchain) => without_cargo_settings(cmd!(shell, "rustup run {toolchain} cargo")),
            Origin::System => without_cargo_settings(cmd!(shell, "/usr/bin/cargo")).env("RUSTC", "/usr/bin/rustc"),
        };
        command.env("RUSTC_BOOTSTRAP", "1")
    }
}

/// The first compiler that can build the object; `installed` is in the order of preference.
pub(crate) fn choose(installed: &[Compiler]) -> Option<&Compiler> {
    installed.iter().find(|compiler| compiler.unfit().is_none())
}

/// Reads `rustc -vV`.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some(Version { release: release.to_owned(), number, llvm })
}

/// The compilers found on this machine, the preferred first.
pub(crate) fn installed(shell: &Shell) -> Vec<Compiler> {
    let rustup = which::which("rustup").is_ok();
    let origins = TOOLCHAINS.iter().filter(|_| rustup).map(|name| Origin::Rustup((*name).to_owned()));
    origins.chain([Origin::System]).filter_map(|origin| probe(shell, origin)).collect()
}

fn probe(shell: &Shell, origin: Origin) -> Option<Compiler> {
    let rustc = |arguments: &[&str]| {
        let command = match &origin {
            Origin::Rustup(toolchain) => cmd!(shell, "rustup run {toolchain} rustc"),
            Origin::System => cmd!(shell, "/usr/bin/rustc"),
        };
        without_cargo_settings(command).args(arguments).quiet().ignore_stderr().read().ok()
    };
    if origin == Origin::System && !Path::new("/usr/bin/cargo").exists() {
        return None;
    }
    let version = parse_version(&rustc(&["-vV"])?)?;
    let sysroot = rustc(&["--print", "sysroot"])?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    Some(Compiler { origin, version, has_core_source: core.exists() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(origin: Origin, number: (u32, u32), llvm: u32, has_core_source: bool) -> Compiler {
        let release = format!("{}.{}.0", number.0, number.1);
        Compiler { origin, version: Version { release, number, llvm }, has_core_source }
    }

    fn nightly(llvm: u32, source: bool) -> Compiler {
        compiler(Origin::Rustup("nightly".to_owned()), (1, 97), llvm, source)
    }

    fn debian(number: (u32, u32), source: bool) -> Compiler {
        compiler(Origin::System, number, 22, source)
    }

    #[test]
    fn the_first_fit_compiler_is_chosen() {
        let cases = [
            ("both fit", vec![nightly(22, true), debian((1, 96), true)], Some(0)),
            ("nightly has no source", vec![nightly(22, false), debian((1, 96), true)], Some(1)),
            ("nightly's LLVM is newer than the linker's", vec![nightly(23, true), debian((1, 96), true)], Some(1)),
            ("an older LLVM is read by a newer linker", vec![nightly(21, true)], Some(0)),
            ("Debian's ordinary rustc is too old", vec![debian((1, 63), true)], None),
            ("nothing", vec![], None),
        ];
        for (name, installed, expected) in cases {
            assert_eq!(choose(&installed), expected.map(|index: usize| &installed[index]), "{name}");
        }
    }

    #[test]
    fn reasons_name_what_is_wrong() {
        assert_eq!(nightly(22, true).unfit(), None);
        assert_eq!(nightly(23, false).unfit(), Some(Unfit::LlvmTooNew));
        assert_eq!(nightly(22, false).unfit(), Some(Unfit::NoCoreSource));
        assert_eq!(debian((1, 63), false).unfit(), Some(Unfit::TooOld));
    }

    #[test]
    fn versions_are_read() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let expected = Version { release: "1.97.0-nightly".to_owned(), number: (1, 97), llvm: 22 };
        assert_eq!(parse_version(text), Some(expected));
        assert_eq!(parse_version("rustc 1.0.0\n"), None);
        assert_eq!(parse_version("release: x.y\nLLVM version: 22\n"), None);
    }
}
