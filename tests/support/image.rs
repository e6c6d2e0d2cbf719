//! Container images without a registry or an engine: an OCI archive is a tar file of one layer, a configuration and a manifest.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{namespace::unique_name, process::text};

/// An image of one layer.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    arguments: Vec<String>,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Clone, Debug)]
struct File {
    content: Vec<u8>,
    mode: u32,
}

impl Image {
    /// An empty image; its name is `REGISTRY/NAME:TAG`.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        Self { name: name.to_owned(), entrypoint, arguments: Vec::new(), files: BTreeMap::new() }
    }

    /// With arguments that a pod may replace.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// With a file of this content.
    #[must_use]
    pub fn text(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.into(), File { content: content.into(), mode: 0o644 });
        self
    }

    /// With the names of root and nobody, which programs look up.
    #[must_use]
    pub fn users(self) -> Self {
        self.text("/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
            .text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    }

    /// With a program of this machine, without debugging information, and the libraries that it is linked with.
    pub fn program(mut self, path: &str, source: &Path) -> Result<Self> {
        for library in libraries(source)? {
            let content = fs::read(&library).with_context(|| library.display().to_string())?;
            self.files.insert(library, File { content, mode: 0o755 });
        }
        self.files.insert(path.into(), File { content: stripped(source)?, mode: 0o755 });
        Ok(self)
    }

    /// Writes the archive: the same bytes for the same image.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = serde_json::to_vec(&self.config(&layer))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let file = fs::File::create(archive).with_context(|| archive.display().to_string())?;
        let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
        append(&mut tar, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut tar, Path::new("index.json"), &serde_json::to_vec(&self.index(&manifest))?, 0o644)?;
        for blob in [&manifest, &config, &layer] {
            append(&mut tar, &Path::new("blobs/sha256").join(digest(blob)), blob, 0o644)?;
        }
        Ok(tar.into_inner()?.flush()?)
    }

    /// Writes the files below a folder, for engines that make an image from one.
    pub fn write_files(&self, folder: &Path) -> Result<()> {
        for (path, file) in &self.files {
            let path = folder.join(path.strip_prefix("/").unwrap_or(path));
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(&path, &file.content).with_context(|| path.display().to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, file) in &self.files {
            append(&mut tar, path.strip_prefix("/").unwrap_or(path), &file.content, file.mode)?;
        }
        Ok(tar.into_inner()?)
    }

    fn config(&self, layer: &[u8]) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.arguments, "Env": ["PATH=/"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
        })
    }

    fn index(&self, manifest: &[u8]) -> Value {
        let mut entry = descriptor(MANIFEST, manifest);
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]})
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The name of Weir's image, in the form to which `weir:VERSION` in a manifest is completed.
pub const WEIR: &str = concat!("docker.io/library/weir:", env!("CARGO_PKG_VERSION"));
/// The name of the image for the test cluster's pods.
pub const PEER: &str = "weir.dev/peer:1";

/// Weir's image: the program, its libraries, the names of root and nobody.
pub fn weir(program: &Path, name: &str) -> Result<Image> {
    Image::new(name, &["/weir"]).users().program("/weir", program)
}

/// The image of the server and client for tests, which serves when a pod gives no arguments.
pub fn peer(program: &Path) -> Result<Image> {
    Image::new(PEER, &["/peer"]).arguments(&["serve"]).users().program("/peer", program)
}

/// A program without its debugging information, which is most of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = env::temp_dir().join(unique_name("strip"));
    let output = Command::new("strip").arg("-o").arg(&copy).arg(program).output().context("start strip")?;
    ensure!(output.status.success(), "strip {}: {}", program.display(), text(&output.stderr));
    let content = fs::read(&copy)?;
    fs::remove_file(&copy)?;
    Ok(content)
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", digest(content)), "size": content.len()})
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, content).with_context(|| path.display().to_string())
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Go's name for this machine's architecture.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// The libraries of a program with the dynamic linker, none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let listing = text(&output.stdout);
    if !output.status.success() || listing.contains("statically linked") {
        let why = text(&output.stderr);
        ensure!(why.is_empty() || why.contains("not a dynamic executable"), "ldd {}: {why}", program.display());
        return Ok(Vec::new());
    }
    listed_libraries(&listing)
}

/// `libc.so.6 => /lib/libc.so.6 (0x7f)` and `/lib64/ld-linux-x86-64.so.2 (0x7f)`; what the kernel gives has no path.
fn listed_libraries(listing: &str) -> Result<Vec<PathBuf>> {
    if let Some(line) = listing.lines().find(|line| line.contains("not found")) {
        anyhow::bail!("a library is missing: {}", line.trim());
    }
    let words = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() -> Result<()> {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(listed_libraries(listing)?, expected.map(PathBuf::from));
        assert!(listed_libraries("\tlibx.so => not found\n").is_err());
        Ok(())
    }

    #[test]
    fn an_archive_has_what_its_index_names() -> Result<()> {
        let folder = std::env::temp_dir().join(crate::namespace::unique_name("image"));
        fs::create_dir(&folder)?;
        let archive = folder.join("image.tar");
        Image::new("example.com/a:1", &["/a"]).text("/etc/a", "content").users().write(&archive)?;
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(&archive)?).entries()? {
            let mut entry = entry?;
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content)?;
            files.insert(entry.path()?.display().to_string(), content);
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            let content = &files[&format!("blobs/sha256/{}", digest.expect("a digest"))];
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let index: Value = serde_json::from_slice(&files["index.json"])?;
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0]))?;
        let config: Value = serde_json::from_slice(blob(&manifest["config"]))?;
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let names: Vec<_> = tar::Archive::new(layer.as_slice())
            .entries()?
            .map(|entry| Ok(entry?.path()?.display().to_string()))
            .collect::<Result<_>>()?;
        assert_eq!(names, ["etc/a", "etc/group", "etc/passwd"]);
        Ok(fs::remove_dir_all(folder)?)
    }
}
