//! `cargo xtask lint`: formatting, clippy on the host's crates and on the BPF programs, documentation, the list of dependencies, and made files.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use xshell::{Shell, cmd};

use crate::{
    build,
    build_ebpf::{self, Programs},
    deploy,
    setup::{self, Purpose},
    shell, workspace,
};

/// Where every dependency has one line that says why it is there.
const LIST: &str = "docs/dependencies.md";
/// The targets of libFuzzer, a workspace of their own.
pub(crate) const FUZZ: &str = "fuzz/Cargo.toml";

/// Runs all checks, also after one failed, and names those that did.
pub(crate) fn everything() -> Result<()> {
    let shell = shell::in_root()?;
    let checks: [(&str, Check); 6] = [
        ("formatting (remedy: cargo fmt)", formatting),
        ("clippy", clippy),
        ("the BPF programs", bpf_programs),
        ("documentation", documentation),
        (LIST, dependencies),
        ("deploy/", |_| deploy::check()),
    ];
    let failed: Vec<_> = checks.iter().filter_map(|(name, check)| failed(name, check(&shell))).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("lint: {}", failed.join(", ")),
    }
}

type Check = fn(&Shell) -> Result<()>;

fn failed(name: &str, result: Result<()>) -> Option<&str> {
    let error = result.err()?;
    eprintln!("{name}: {error:#}");
    Some(name)
}

fn formatting(shell: &Shell) -> Result<()> {
    cmd!(shell, "cargo fmt --all --check").run()?;
    Ok(cmd!(shell, "cargo fmt --manifest-path {FUZZ} --check").run()?)
}

fn clippy(shell: &Shell) -> Result<()> {
    let features = ["--features", "weir-tests/privileged,weir-model/privileged"];
    let clippy = cmd!(shell, "cargo clippy --locked --workspace --all-targets {features...} -- -D warnings");
    Ok(build::with_object(clippy).run()?)
}

/// Clippy where the chosen compiler has it, else the compiler's own warnings.
fn bpf_programs(shell: &Shell) -> Result<()> {
    setup::ensure(Purpose::Ebpf)?;
    let has_clippy = build_ebpf::cargo(shell, "clippy", Programs::Weir)?
        .arg("--version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok();
    let verb = if has_clippy { "clippy" } else { "check" };
    // Unlike -D warnings this is not a compiler flag, so core is not compiled again for it.
    for programs in [Programs::Weir, Programs::Bench, Programs::BenchLru] {
        let command = build_ebpf::cargo(shell, verb, programs)?;
        command.env("CARGO_UNSTABLE_WARNINGS", "true").env("CARGO_BUILD_WARNINGS", "deny").run()?;
    }
    Ok(())
}

fn documentation(shell: &Shell) -> Result<()> {
    let doc = cmd!(shell, "cargo doc --locked --workspace --no-deps --document-private-items");
    Ok(build::with_object(doc).env("RUSTDOCFLAGS", "-D warnings").run()?)
}

fn dependencies(_shell: &Shell) -> Result<()> {
    let mut packages = Vec::new();
    for manifest in ["Cargo.toml", FUZZ] {
        let metadata = MetadataCommand::new().manifest_path(workspace::root().join(manifest)).no_deps().exec()?;
        packages.extend(metadata.packages);
    }
    let own: BTreeSet<_> = packages.iter().map(|package| package.name.to_string()).collect();
    let used = packages.iter().flat_map(|package| &package.dependencies).map(|dependency| dependency.name.clone());
    let used = used.filter(|name| !own.contains(name)).collect();
    let text = std::fs::read_to_string(workspace::root().join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let complaints = compare(&used, &listed(&text));
    match complaints.is_empty() {
        true => Ok(()),
        false => bail!("{}", complaints.join("; ")),
    }
}

/// The crates that have a line: "- `name`: why it is there".
fn listed(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (name, why) = line.strip_prefix("- `")?.split_once("`: ")?;
        (!why.trim().is_empty()).then(|| name.to_owned())
    };
    text.lines().filter_map(name).collect()
}

fn compare(used: &BTreeSet<String>, listed: &BTreeSet<String>) -> Vec<String> {
    let missing = used.difference(listed).map(|name| format!("{name} has no line"));
    let stale = listed.difference(used).map(|name| format!("{name} is not used any more"));
    missing.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_line_names_a_crate_and_a_reason() {
        let text = "# Dependencies\n- `aya`: loads programs\n- `empty`: \n- bare: words\n  - `nested`: no\n- `clap`: reads arguments\n";
        assert_eq!(listed(text), set(&["aya", "clap"]));
    }

    #[test]
    fn the_list_and_the_manifests_must_agree() {
        assert!(compare(&set(&["aya", "clap"]), &set(&["aya", "clap"])).is_empty());
        let complaints = compare(&set(&["aya", "clap"]), &set(&["clap", "serde"]));
        assert_eq!(complaints, ["aya has no line", "serde is not used any more"]);
    }
}
