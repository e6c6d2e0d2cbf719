//! `cargo xtask demo`: real clients, the real `weir` and real nginx servers in network namespaces, played through four phases; ends with
//! a table and a picture of what happened.

mod load;
mod picture;
mod play;
mod quota;
mod report;
mod stage;

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use weir_tests::{namespace, requirements};
use xshell::cmd;

use crate::{
    build, privilege,
    setup::{self, Purpose},
    shell, workspace,
};

const TOOLS: &[&str] = &["ip", "nsenter", "nginx"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the network, the servers and `weir` running at the end, with some load, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The program to show; without it `weir` is built first
    #[arg(long)]
    weir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let weir = match &args.weir {
        Some(path) => path.clone(),
        None => {
            setup::ensure(Purpose::Demo)?;
            build::weir(false)?;
            build::weir_path(false)
        }
    };
    if privilege::is_root() { play(args.keep, weir) } else { again_as_root(args.keep, weir) }
}

fn again_as_root(keep: bool, weir: PathBuf) -> Result<()> {
    let shell = shell::in_root()?;
    let own = env::current_exe()?;
    let own = own.to_str().context("the path of this program is not UTF-8")?;
    let keep = if keep { Some("--keep") } else { None };
    let command = privilege::command(&shell, "network namespaces, CPU limits and BPF programs for the demo", own)?;
    Ok(command.args(["demo", "--weir"]).arg(weir).args(keep).quiet().run()?)
}

fn play(keep: bool, weir: PathBuf) -> Result<()> {
    ensure!(weir.is_file(), "{} does not exist\n  remedy: leave --weir out, then it is built", weir.display());
    requirements::check(TOOLS)?;
    namespace::sweep();
    quota::sweep();
    let folder = workspace::target_dir().join("demo");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let folder = folder.canonicalize()?;
    let record = play::run(&folder, weir, keep)?;
    let errors: Vec<_> = record.samples.iter().filter_map(|sample| sample.result.as_ref().err()).collect();
    if let Some(first) = errors.first() {
        bail!("{} requests failed; the first: {first}", errors.len());
    }
    give_back(&folder)
}

/// What root wrote below the clone goes to the user who called sudo.
fn give_back(folder: &std::path::Path) -> Result<()> {
    let (Ok(user), Ok(group)) = (env::var("SUDO_UID"), env::var("SUDO_GID")) else { return Ok(()) };
    let shell = shell::in_root()?;
    Ok(cmd!(shell, "chown -R {user}:{group} {folder}").quiet().run()?)
}
