//! From what is missing to what will be done: a plan that is printed before it runs.

use std::fmt;

use super::findings::{BPFFS, Finding, Remedy, State};
use crate::cluster::go::VERSION as GO_VERSION;

/// The steps, in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// A toolchain, and whether it is installed and lacks only the source.
    pub rustup: Option<(String, bool)>,
    /// Debian packages.
    pub packages: Vec<&'static str>,
    pub bpffs: bool,
    pub linker: bool,
    pub go: bool,
}

impl Steps {
    /// The steps that mend everything missing in `findings`.
    pub(crate) fn of(findings: &[Finding]) -> Self {
        let mut steps = Self::default();
        for finding in findings {
            match &finding.state {
                State::Found(_) | State::NotNeeded(_) => {}
                State::Missing(_, Remedy::Packages(packages)) => steps.packages.extend(*packages),
                State::Missing(_, Remedy::Rustup { toolchain, installed }) => {
                    steps.rustup = Some((toolchain.clone(), *installed));
                }
                State::Missing(_, Remedy::Linker) => steps.linker = true,
                State::Missing(_, Remedy::Bpffs) => steps.bpffs = true,
                State::Missing(_, Remedy::Go) => steps.go = true,
            }
        }
        steps.packages.sort_unstable();
        steps.packages.dedup();
        steps
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("setup will")?;
        match &self.rustup {
            Some((toolchain, true)) => write!(f, "\n  - add rust-src to rustup's {toolchain}")?,
            Some((toolchain, false)) => write!(f, "\n  - install rustup's {toolchain} (minimal, with rust-src)")?,
            None => {}
        }
        if !self.packages.is_empty() {
            write!(f, "\n  - install by apt-get, as root: {}", self.packages.join(" "))?;
        }
        if self.bpffs {
            write!(f, "\n  - mount the BPF file system at {BPFFS}, as root")?;
        }
        if self.linker {
            f.write_str("\n  - build bpf-linker from crates.io into the cache (some minutes)")?;
        }
        if self.go {
            write!(f, "\n  - fetch Go {GO_VERSION} into the cache (70 MB)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(remedy: Remedy) -> Finding {
        Finding { need: "something", state: State::Missing("gone".to_owned(), remedy) }
    }

    #[test]
    fn nothing_missing_means_nothing_to_do() {
        let found = [
            Finding { need: "ip", state: State::Found("6.1.0".to_owned()) },
            Finding { need: "LLVM", state: State::NotNeeded("built".to_owned()) },
        ];
        assert!(Steps::of(&found).is_empty());
    }

    #[test]
    fn every_missing_thing_is_in_the_plan_once() {
        let findings = [
            missing(Remedy::Packages(&["prometheus"])),
            missing(Remedy::Packages(&["nftables", "prometheus"])),
            missing(Remedy::Rustup { toolchain: "nightly".to_owned(), installed: true }),
            missing(Remedy::Linker),
            missing(Remedy::Bpffs),
            missing(Remedy::Go),
        ];
        let steps = Steps::of(&findings);
        let rustup = Some(("nightly".to_owned(), true));
        assert_eq!(
            steps,
            Steps { rustup, packages: vec!["nftables", "prometheus"], bpffs: true, linker: true, go: true }
        );
        let text = steps.to_string();
        for part in ["rust-src to rustup's nightly", "nftables prometheus", BPFFS, "bpf-linker", "fetch Go"] {
            assert!(text.contains(part), "{part} is announced in {text}");
        }
    }
}
