//! Failures that were found are kept: short lists of operations in files, one operation a line, which every run of the tests repeats.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::operations::Operation;

/// The end of the files' names.
const EXTENSION: &str = "case";

/// Where they are kept.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// The text of a case: what was wrong, as a comment, and the operations in JSON.
pub(crate) fn text(wrong: &str, operations: &[Operation]) -> Result<String> {
    let mut lines: Vec<_> = wrong.lines().map(|line| format!("# {line}")).collect();
    for operation in operations {
        lines.push(serde_json::to_string(operation)?);
    }
    Ok(lines.join("\n") + "\n")
}

/// The operations of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Operation>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| serde_json::from_str(line).with_context(|| format!("line {}", number + 1))).collect()
}

/// Writes a case into a folder.
pub(crate) fn keep(folder: &Path, name: &str, wrong: &str, operations: &[Operation]) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{name}.{EXTENSION}"));
    fs::write(&path, text(wrong, operations)?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// All cases of a folder, with the names of their files, in the order of these.
pub(crate) fn all(folder: &Path) -> Result<Vec<(String, Vec<Operation>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == EXTENSION)) {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let operations = parse(&text).with_context(|| path.display().to_string())?;
        cases.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), operations));
    }
    cases.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(cases)
}
