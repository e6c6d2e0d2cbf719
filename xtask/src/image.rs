//! `cargo xtask image`: the image of Weir as an archive, without a registry and without a container engine.
//!
//! `deploy/Containerfile` makes the same image where there is an engine.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use weir_tests::image;

use crate::{build, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Take the program as `cargo build` makes it, without optimisation: for tests
    #[arg(long)]
    debug: bool,
    /// Where the archive goes, instead of target/image/weir.tar
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the image's files below a folder instead, as deploy/Containerfile does
    #[arg(long, conflicts_with_all = ["output", "tag"])]
    folder: Option<PathBuf>,
    /// The image's name
    #[arg(long, default_value = image::WEIR)]
    tag: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let program = build::weir(!args.debug)?;
    let image = image::weir(&program, &args.tag)?;
    if let Some(folder) = &args.folder {
        return image.write_files(folder);
    }
    let archive = args.output.clone().unwrap_or_else(|| workspace::target_dir().join("image/weir.tar"));
    let folder = archive.parent().context("an archive is in a folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    image.write(&archive)?;
    println!("{}", archive.display());
    Ok(())
}
