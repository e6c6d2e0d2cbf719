//! KEDA's programs: in which folder their builds are. `cargo xtask test keda` builds what is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::programs::{cached, digest};

/// Names a folder with the programs where it is not the usual one.
pub const VARIABLE: &str = "WEIR_KEDA";

/// KEDA's own module, whose version is in go.mod.
pub const SOURCE: &str = "github.com/kedacore/keda/v2";

/// What is built of it: the package, and the program's name.
pub const PROGRAMS: &[(&str, &str)] = &[("cmd/operator", "keda-operator"), ("cmd/adapter", "keda-adapter")];

/// Its CustomResourceDefinitions, as one file beside the programs.
pub const DEFINITIONS: &str = "definitions.yaml";

/// The Go module that asks for it, by file: KEDA's own has replacements, which only a main module may have.
pub const MODULE: &[(&str, &str)] = &[
    ("go.mod", include_str!("../../kubernetes/keda/go.mod")),
    ("go.sum", include_str!("../../kubernetes/keda/go.sum")),
];

/// The folder that this source asks for, whether it exists or not.
pub fn expected_folder() -> Result<PathBuf> {
    let files = MODULE.iter().flat_map(|(file, content)| [*file, *content]);
    cached(VARIABLE, &format!("keda/{}", digest(files)))
}

/// The files that a folder lacks.
pub fn missing(folder: &Path) -> Vec<&'static str> {
    let files = PROGRAMS.iter().map(|(_, program)| *program).chain([DEFINITIONS]);
    files.filter(|file| !folder.join(file).is_file()).collect()
}

/// The folder, if everything is in it.
pub fn folder() -> Result<PathBuf> {
    let folder = expected_folder()?;
    let missing = missing(&folder);
    ensure!(
        missing.is_empty(),
        "{} has no {}: `cargo xtask test keda` makes them",
        folder.display(),
        missing.join(", ")
    );
    Ok(folder)
}
