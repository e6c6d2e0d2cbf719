//! Network namespaces with names that say whose they are, so that what a killed test left behind is found and removed.
//!
//! A name is `weir-<kind>-<pid>-<n>`: unique on the machine, and a leftover as soon as that process is gone.

use std::{
    env, fs,
    io::Write as _,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::CloneFlags,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{pins, process::text};

/// Where namespaces have their names.
pub const FOLDER: &str = "/run/netns";
static NUMBER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A network namespace; dropping it kills what runs in it and deletes it, unless it is [`Namespace::existing`].
#[derive(Debug)]
pub struct Namespace {
    name: String,
    owned: bool,
}

impl Namespace {
    /// Makes a namespace with its loopback up; the first one sweeps what dead processes left behind.
    pub fn new(kind: &str) -> Result<Self> {
        SWEPT.call_once(sweep);
        let mut namespace = Self::lasting(&unique_name(kind))?;
        namespace.owned = true;
        Ok(namespace)
    }

    /// Makes a namespace that outlives this process, with its loopback up.
    pub fn lasting(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self::existing(name);
        // Duplicate address detection would leave IPv6 addresses unusable for a second.
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace of this name, which somebody else made and deletes.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), owned: false }
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// A command that will run inside. It dies with the *thread* that starts it (PR_SET_PDEATHSIG).
    ///
    /// It enters as `nsenter --net=` does: `ip netns exec` would hide the BPF file system.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure calls only setns and prctl, which are async-signal-safe and allocate nothing.
        unsafe {
            command.pre_exec(move || {
                nix::sched::setns(&file, CloneFlags::CLONE_NEWNET)?;
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Runs a program inside to its end and returns what it printed; an exit code other than 0 is an error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program)?.args(arguments))
    }

    /// Runs one `ip` command per line inside.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        child.stdin.take().context("stdin of ip")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ip in {}: {}in\n{lines}", self.name, text(&output.stderr));
        Ok(())
    }

    /// Writes a sysctl; only `net.*` belongs to a namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("{path} = {value} in {}", self.name))
    }

    /// Runs a closure on a new thread inside; sockets it makes stay inside wherever they are used later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| nix::sched::setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work()));
            match worker.join() {
                Ok(result) => result.with_context(|| format!("enter {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Connects two namespaces by a veth pair, both ends up.
    pub fn link(&self, interface: &str, peer: &Self, peer_interface: &str) -> Result<()> {
        self.ip(&format!(
            "link add {interface} type veth peer name {peer_interface} netns {}\nlink set {interface} up",
            peer.name
        ))?;
        peer.ip(&format!("link set {peer_interface} up"))
    }

    /// Gives an interface addresses, each `ADDRESS/PREFIX`.
    pub fn address(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        addresses.iter().try_for_each(|address| {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {interface}{nodad}"))
        })
    }

    /// Routes a prefix, or `default`, through a gateway.
    pub fn route(&self, prefix: &str, gateway: &str) -> Result<()> {
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        run(Command::new("ip").args(["-n", &self.name, family, "route", "replace", prefix, "via", gateway])).map(drop)
    }

    /// Makes it forward packets of both families.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Switches an offload (`tx`, `gro`, ...) of an interface.
    pub fn offload(&self, interface: &str, feature: &str, on: bool) -> Result<()> {
        self.run("ethtool", &["-K", interface, feature, if on { "on" } else { "off" }]).map(drop)
    }

    /// The names of its interfaces other than the loopback.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let listing = self.run("ip", &["-json", "link", "show"])?;
        let links: Vec<serde_json::Value> = serde_json::from_str(&listing).context("output of ip -json link")?;
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        Ok(names.filter(|name| *name != "lo").map(str::to_owned).collect())
    }

    fn open(&self) -> Result<OwnedFd> {
        let path = self.path();
        Ok(fs::File::open(&path).with_context(|| format!("open {}", path.display()))?.into())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// `weir-<kind>-<pid>-<n>`: also good for folders.
pub fn unique_name(kind: &str) -> String {
    format!("weir-{kind}-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name is of [`unique_name`]'s form and its process is gone.
pub fn is_leftover(name: &str) -> bool {
    let numbers = name.strip_prefix("weir-").and_then(|rest| {
        let (rest, number) = rest.rsplit_once('-')?;
        let (_kind, pid) = rest.rsplit_once('-')?;
        Some((pid.parse::<u32>().ok()?, number.parse::<u32>().ok()?))
    });
    numbers.is_some_and(|(pid, _)| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Removes the namespaces, pin folders and temporary folders of dead processes.
pub fn sweep() {
    for_each_leftover(Path::new(FOLDER), |path| {
        remove(&path.file_name().unwrap_or_default().to_string_lossy());
    });
    for folder in [Path::new(pins::ROOT), &env::temp_dir()] {
        for_each_leftover(folder, |path| {
            if let Err(error) = fs::remove_dir_all(path) {
                eprintln!("{}: {error}", path.display());
            }
        });
    }
}

pub(crate) fn for_each_leftover(folder: &Path, remove: impl Fn(&Path)) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_leftover(&entry.file_name().to_string_lossy())).for_each(|entry| remove(&entry.path()));
}

fn remove(name: &str) {
    let path = Path::new(FOLDER).join(name);
    for pid in processes_in(&path) {
        _ = kill(pid, Signal::SIGKILL);
    }
    if let Err(error) = delete(name) {
        eprintln!("{error:#}");
    }
}

/// Deletes a namespace; what runs in it goes on, in a network that has no name any more.
pub fn delete(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "del", name])).map(drop)
}

/// The processes whose main thread is in a namespace, without this one.
fn processes_in(namespace: &Path) -> Vec<Pid> {
    let Ok(wanted) = fs::metadata(namespace).map(|m| (m.dev(), m.ino())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != process::id() as i32)
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| (m.dev(), m.ino()) == wanted))
        .map(Pid::from_raw)
        .collect()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        let own = unique_name("x");
        assert!(!is_leftover(&own), "{own} is alive");
        // Above the largest pid_max, so nobody's.
        assert!(is_leftover("weir-t-4194305-3"));
        for other in ["weir", "weir-1-1x", "eth0", "weir-t-abc-1", "cni-4194305-1"] {
            assert!(!is_leftover(other), "{other}");
        }
    }
}
