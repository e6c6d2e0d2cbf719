//! Programs that outlive the one that starts them, each in a control group of its own.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result};
use nix::{mount::MsFlags, sched::CloneFlags};

use super::groups::Group;
use crate::namespace::Namespace;

/// Where every kubelet of a machine would listen for device plugins, whatever its root folder: of two that start at once the second finds
/// the socket of the first in the moment after it has cleared the folder, and ends.
pub(super) const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// Which mounts a program sees.
#[derive(Clone, Debug)]
pub enum Mounts {
    /// The machine's.
    Machine,
    /// The machine's in a namespace of its own where they are shared, as systemd makes them: containers may ask for propagation. What is
    /// mounted here is not seen by the machine, and [`DEVICE_PLUGINS`] is empty.
    Own,
    /// Those of the program in this group.
    Of(Group),
}

/// A program and where it runs.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What is put before its environment's PATH.
    pub search_path: String,
    /// The network namespace.
    pub namespace: String,
    /// The host's name as the program and its children see it.
    pub hostname: String,
    /// The mounts.
    pub mounts: Mounts,
    /// The control group, which holds nothing else.
    pub group: Group,
    /// Where its output is appended.
    pub log: PathBuf,
}

impl Daemon {
    /// Starts it.
    pub fn start(&self) -> Result<()> {
        self.group.create()?;
        let (network, mut door) = (open_namespace(&self.namespace)?, self.group.door()?);
        let log = append(&self.log)?;
        let hostname = self.hostname.clone();
        let (own_mounts, mounts) = (matches!(self.mounts, Mounts::Own), self.open_mounts()?);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("PATH", &self.search_path).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: between fork and exec the closure makes system calls only, all of them async-signal-safe, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                door.write_all(b"0")?;
                nix::sched::setns(&network, CloneFlags::CLONE_NEWNET)?;
                nix::sched::unshare(CloneFlags::CLONE_NEWUTS)?;
                nix::unistd::sethostname(&hostname)?;
                if let Some(mounts) = &mounts {
                    nix::sched::setns(mounts, CloneFlags::CLONE_NEWNS)?;
                }
                if own_mounts {
                    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
                    let none = None::<&str>;
                    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
                    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
                    nix::mount::mount(Some("tmpfs"), DEVICE_PLUGINS, Some("tmpfs"), MsFlags::empty(), none)?;
                }
                nix::unistd::setsid()?;
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        // Nobody asks for its end; this only keeps it from staying as a zombie.
        thread::spawn(move || child.wait());
        Ok(())
    }

    fn open_mounts(&self) -> Result<Option<OwnedFd>> {
        let Mounts::Of(group) = &self.mounts else { return Ok(None) };
        let process = group.processes().into_iter().min();
        let process = process.with_context(|| format!("{} runs nothing", group.path().display()))?;
        let path = format!("/proc/{process}/ns/mnt");
        Ok(Some(fs::File::open(&path).with_context(|| path.clone())?.into()))
    }

    /// Whether it, or a child of it, runs.
    pub fn is_running(&self) -> bool {
        self.group.is_populated()
    }

    /// Fails with its last words if it has ended.
    pub fn expect_running(&self) -> Result<()> {
        anyhow::ensure!(self.is_running(), "{} has ended: {}", self.program.display(), last_words(&self.log));
        Ok(())
    }
}

/// The end of a log.
pub(super) fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn open_namespace(name: &str) -> Result<OwnedFd> {
    let path = Namespace::existing(name).path();
    Ok(fs::File::open(&path).with_context(|| path.display().to_string())?.into())
}

fn append(log: &Path) -> Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())
}
