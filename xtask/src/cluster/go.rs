//! The Go compiler that builds the programs of a cluster: the machine's, or one that `setup` fetched into the cache.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::workspace;

/// The version that `setup` fetches.
pub(crate) const VERSION: &str = "1.26.8";
/// The oldest that fetches by itself the version that a module asks for.
const OLDEST: (u32, u32) = (1, 21);
/// Go's own programs come as a module, from the same place as all other modules.
const PROXY: &str = "https://proxy.golang.org";

/// A Go compiler that can build the programs, and its version.
pub(crate) fn find() -> Option<(PathBuf, String)> {
    let fetched = folder().map(|folder| folder.join("bin/go")).ok();
    [Some(PathBuf::from("go")), fetched].into_iter().flatten().find_map(|go| {
        let version = version(go.as_os_str())?;
        (number(&version)? >= OLDEST).then_some((go, version))
    })
}

/// Fetches [`VERSION`] into the cache.
pub(crate) fn fetch(shell: &Shell) -> Result<()> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let name = format!("v0.0.1-go{VERSION}.linux-{architecture}");
    let address = format!("{PROXY}/golang.org/toolchain/@v/{name}.zip");
    let folder = folder()?;
    let half = folder.with_extension("tmp");
    drop(fs::remove_dir_all(&half));
    fs::create_dir_all(&half).with_context(|| half.display().to_string())?;
    let archive = half.join("go.zip");
    cmd!(shell, "curl --fail --silent --show-error --location --output {archive} {address}").run()?;
    cmd!(shell, "unzip -q {archive} -d {half}").run()?;
    let unpacked = half.join("golang.org").join(format!("toolchain@{name}"));
    for programs in ["bin".to_owned(), format!("pkg/tool/linux_{architecture}")] {
        make_executable(&unpacked.join(programs))?;
    }
    drop(fs::remove_dir_all(&folder));
    fs::rename(&unpacked, &folder).with_context(|| folder.display().to_string())?;
    fs::remove_dir_all(&half).with_context(|| half.display().to_string())
}

/// Archives of modules keep no permissions.
fn make_executable(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join(format!("go-{VERSION}")))
}

fn version(go: &OsStr) -> Option<String> {
    let output = Command::new(go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().strip_prefix("go").map(str::to_owned)
}

/// The first two numbers of a version.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.trim_end_matches(|c: char| !c.is_ascii_digit()));
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(number("1.9.7") < Some(OLDEST));
        assert!(number("1.19") < Some(OLDEST));
        assert!(number("1.26.8-X:foo") > Some(OLDEST));
        assert_eq!(number("devel"), None);
    }
}
