//! Builds the programs of a cluster from Go modules, once: into a folder of the cache that is named by their versions.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::go;
use anyhow::{Context as _, Result, bail, ensure};
use weir_tests::{
    cluster::{
        keda,
        programs::{ADDITIONAL, INSTALLED, KUBERNETES, KUBERNETES_PROGRAMS, MODULE, Programs, missing},
    },
    process::text,
};

use crate::setup::{self, Purpose};

/// How often the progress of a build is shown.
const INTERVAL: Duration = Duration::from_secs(15);

/// The programs, built now where one is missing.
pub(crate) fn programs() -> Result<Programs> {
    let folder = Programs::expected_folder()?;
    let missing = missing(&folder);
    if missing.is_empty() {
        return Programs::find();
    }
    setup::ensure(Purpose::Kubernetes)?;
    eprintln!("building {} into {} (some minutes, once)", missing.join(", "), folder.display());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let lacks = |names: &[&str]| names.iter().any(|name| missing.contains(name));
    if lacks(KUBERNETES_PROGRAMS) || lacks(&["pause"]) {
        kubernetes(&folder)?;
    }
    for (module, packages, version) in INSTALLED {
        let names: Vec<_> = packages.iter().map(|package| name(module, package)).collect();
        if lacks(&names) {
            install(&folder, module, packages, version)?;
        }
    }
    Programs::find()
}

/// The path of one program that `go install` makes, built now if it is missing: for tasks that need no cluster.
pub(crate) fn installed(program: &str) -> Result<PathBuf> {
    let makes = |(module, packages, _): &&(&str, &[&str], &str)| packages.iter().any(|p| name(module, p) == program);
    let folder = Programs::expected_folder()?;
    let found = match ADDITIONAL.iter().find(makes) {
        // The folder's name does not change with these versions.
        Some(additional) => Some((folder.join(format!("{program}-{}", additional.2)), additional)),
        None => INSTALLED.iter().find(makes).map(|installed| (folder, installed)),
    };
    let (folder, (module, packages, version)) = found.with_context(|| format!("no module makes {program}"))?;
    let path = folder.join(program);
    if !path.is_file() {
        setup::ensure(Purpose::Kubernetes)?;
        install(&folder, module, packages, version)?;
    }
    Ok(path)
}

/// The folder of KEDA's programs and definitions, made now where one is missing: for tests of their own.
pub(crate) fn keda() -> Result<PathBuf> {
    let folder = keda::expected_folder()?;
    let missing = keda::missing(&folder);
    if missing.is_empty() {
        return Ok(folder);
    }
    let kubectl = programs()?.path("kubectl");
    setup::ensure(Purpose::Kubernetes)?;
    eprintln!("building {} into {} (many minutes, once)", missing.join(", "), folder.display());
    let source = copy(keda::MODULE, &folder)?;
    for (package, program) in keda::PROGRAMS.iter().filter(|(_, program)| missing.contains(program)) {
        build(&source, &format!("{}/{package}", keda::SOURCE), "-s -w", &folder.join(program))?;
    }
    let module = printed(go()?.current_dir(&source).args(["list", "-m", "-f", "{{.Dir}}", keda::SOURCE]))?;
    // With the patches that its authors make to what their generator writes.
    let definitions = Path::new(module.trim()).join("config/crd");
    let definitions = printed(Command::new(kubectl).arg("kustomize").arg(definitions))?;
    fs::write(folder.join(keda::DEFINITIONS), definitions)?;
    Ok(folder)
}

fn name<'a>(module: &'a str, package: &'a str) -> &'a str {
    let path = if package.is_empty() { module } else { package };
    path.rsplit('/').next().unwrap_or(path)
}

/// Our own module.
fn kubernetes(folder: &Path) -> Result<()> {
    let source = copy(MODULE, folder)?;
    let flags = ["-s".to_owned(), "-w".to_owned()].into_iter().chain(version_flags()).collect::<Vec<_>>().join(" ");
    for (package, program) in [(".", "kubernetes"), ("./pause", "pause")] {
        build(&source, package, &flags, &folder.join(program))?;
    }
    for program in KUBERNETES_PROGRAMS {
        let link = folder.join(program);
        drop(fs::remove_file(&link));
        std::os::unix::fs::symlink("kubernetes", &link).with_context(|| link.display().to_string())?;
    }
    Ok(())
}

/// A copy of a module of ours: the clone may be read-only, and must not change while Go reads it.
fn copy(module: &[(&str, &str)], folder: &Path) -> Result<PathBuf> {
    let source = folder.join("source");
    for (file, content) in module {
        let path = source.join(file);
        fs::create_dir_all(path.parent().context("a file needs a folder")?)?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(source)
}

/// Builds a program from a package of a module's, or of one that it requires.
fn build(source: &Path, package: &str, flags: &str, program: &Path) -> Result<()> {
    let mut go = go()?;
    go.args(["build", "-v", "-trimpath", "-ldflags", flags, "-o"]).arg(program).arg(package);
    watch(go.current_dir(source), &program.file_name().unwrap_or_default().to_string_lossy())
}

/// Kubernetes' programs know their version only from the linker.
fn version_flags() -> impl Iterator<Item = String> {
    let numbers = KUBERNETES.trim_start_matches('v');
    let (major, rest) = numbers.split_once('.').unwrap_or((numbers, "0"));
    let minor = rest.split('.').next().unwrap_or(rest);
    let values = [("gitVersion", KUBERNETES), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
    let packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
    let flags = packages.map(|package| values.map(|(name, value)| format!("-X {package}.{name}={value}")));
    flags.into_iter().flatten()
}

fn install(folder: &Path, module: &str, packages: &[&str], version: &str) -> Result<()> {
    let paths = packages.iter().map(|package| match *package {
        "" => format!("{module}@{version}"),
        package => format!("{module}/{package}@{version}"),
    });
    let mut go = go()?;
    go.args(["install", "-v", "-trimpath", "-ldflags", "-s -w"]).args(paths).env("GOBIN", folder);
    watch(&mut go, &format!("{module} {version}"))
}

/// Static programs: they go into images as they are. A compiler that is older than a module asks for fetches the right one.
fn go() -> Result<Command> {
    let (path, _) = go::find().context("there is no Go: `cargo xtask setup --for kubernetes` fetches it")?;
    let mut go = Command::new(path);
    go.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto").env_remove("GOFLAGS");
    Ok(go)
}

/// What a command prints; it must succeed.
fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Runs Go and shows how far it is: with -v it names each package that it compiles.
fn watch(command: &mut Command, what: &str) -> Result<()> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("start go")?;
    let lines = BufReader::new(child.stderr.take().context("go has no output")?).lines();
    let (mut compiled, mut shown, mut said) = (0, start, Vec::new());
    for line in lines {
        let line = line?;
        if line.starts_with("go: downloading") {
        } else if line.contains(' ') {
            said.push(line);
        } else {
            compiled += 1;
        }
        if shown.elapsed() > INTERVAL {
            shown = Instant::now();
            eprintln!("  {what}: {compiled} packages compiled, {} s", start.elapsed().as_secs());
        }
    }
    if !child.wait()?.success() {
        bail!("go could not build {what}:\n{}", said.join("\n"));
    }
    eprintln!("  {what}: built in {} s", start.elapsed().as_secs());
    Ok(())
}
