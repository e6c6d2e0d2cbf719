//! Balancing at the socket: at which cgroup, for which processes, and what the hooks are told of where a process is.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use lb_common::socket::{Connection, Pod, PodKey};
use tokio::task::JoinHandle;

use super::{
    endings,
    pods::{self, ExcludedPod},
};
use crate::{
    dataplane::{Error, bpf::Bpf, cgroup::MOUNTS, socket_list},
    node::{
        NodeView,
        namespaces::{self, Namespace},
    },
    plan::Image,
    telemetry::SocketStatus,
};

/// `--socket-lb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketLb {
    /// Every process below the cgroup.
    All,
    /// Only processes in the agent's own network namespace.
    Host,
    /// Nobody.
    Off,
}

impl SocketLb {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Host => "host",
            Self::Off => "off",
        }
    }
}

/// What `--socket-lb` and `--cgroup` come to on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Whose sockets.
    pub mode: SocketLb,
    /// At which cgroup; `None` with [`SocketLb::Off`].
    pub cgroup: Option<PathBuf>,
    /// Why.
    pub why: &'static str,
}

impl SocketConfig {
    /// No socket hooks.
    pub const fn off(why: &'static str) -> Self {
        Self { mode: SocketLb::Off, cgroup: None, why }
    }

    /// What is shown of it.
    pub fn status(&self) -> SocketStatus {
        SocketStatus {
            mode: self.mode.name().into(),
            cgroup: self.cgroup.as_ref().map(|path| path.display().to_string()),
            why: self.why.into(),
        }
    }
}

/// Why there is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// It is no folder of the cgroup v2 file system.
    #[error(
        "--cgroup {path} is not on the cgroup v2 file system; name its mount (mount -t cgroup2 none DIR makes one), or use \
         --socket-lb off"
    )]
    NotCgroup2 {
        /// What was named.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("--cgroup {path}: {source}; name a folder of the cgroup v2 file system, or use --socket-lb off")]
    Unreadable {
        /// What was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is none where it usually is.
    #[error(
        "no cgroup v2 file system is mounted at {looked}; name one with --cgroup, or use --socket-lb off (after `ip netns exec`, \
         which hides it, enter the namespace with `nsenter --net=/run/netns/NAME` instead)"
    )]
    NotFound {
        /// Where it was looked for.
        looked: String,
    },
    /// A container sees its own cgroup as the root.
    #[error(
        "{path} shows only this container's own cgroup; mount the host's /sys/fs/cgroup and name it with --cgroup, or use \
         --socket-lb off"
    )]
    NotRoot {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// A node that is a network namespace among others has to say which processes are its own.
    #[error(
        "--socket-lb {mode} in a network namespace that is not the machine's own needs --cgroup; name the cgroup of this node's \
         processes"
    )]
    OtherNamespace {
        /// What was asked for.
        mode: &'static str,
    },
}

/// The inode of the hierarchy's root.
const ROOT_INODE: u64 = 1;

/// Finds out what `--socket-lb` (`None`: not given) and `--cgroup` come to.
pub fn resolve(mode: Option<SocketLb>, cgroup: Option<&Path>) -> Result<SocketConfig, CgroupError> {
    let wanted = mode.unwrap_or(SocketLb::All);
    if wanted == SocketLb::Off {
        return Ok(SocketConfig::off("--socket-lb asks for it"));
    }
    if let Some(path) = cgroup {
        let is_cgroup2 = is_cgroup2(path).map_err(|source| CgroupError::Unreadable { path: path.into(), source })?;
        return match is_cgroup2 {
            true => Ok(SocketConfig { mode: wanted, cgroup: Some(path.into()), why: "--cgroup names it" }),
            false => Err(CgroupError::NotCgroup2 { path: path.into() }),
        };
    }
    if !is_machines_namespace() {
        return match mode {
            None => Ok(SocketConfig::off("not the machine's own network namespace, and no --cgroup")),
            Some(mode) => Err(CgroupError::OtherNamespace { mode: mode.name() }),
        };
    }
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|folder| folder.st_ino());
    let path = root(|path| is_cgroup2(path).unwrap_or(false), inode)?;
    Ok(SocketConfig { mode: wanted, cgroup: Some(path), why: "the root of the cgroup v2 file system" })
}

/// The root of the hierarchy, where systemd mounts it: alone, or beside those of version 1.
fn root(is_cgroup2: impl Fn(&Path) -> bool, inode: impl Fn(&Path) -> Option<u64>) -> Result<PathBuf, CgroupError> {
    let found = MOUNTS.into_iter().map(PathBuf::from).find(|path| is_cgroup2(path));
    let path = found.ok_or_else(|| CgroupError::NotFound { looked: MOUNTS.join(" or ") })?;
    if inode(&path).is_some_and(|inode| inode != ROOT_INODE) {
        return Err(CgroupError::NotRoot { path });
    }
    Ok(path)
}

fn is_cgroup2(path: &Path) -> io::Result<bool> {
    /// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    Ok(rustix::fs::statfs(path)?.f_type as u64 & 0xffff_ffff == CGROUP2_SUPER_MAGIC)
}

/// Whether this network namespace is the first process'; nodes that are namespaces of one machine must not meet, so who may not see the
/// first process' counts as another one.
fn is_machines_namespace() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    match (namespace("self"), namespace("1")) {
        (Some(own), Some(first)) => own == first,
        _ => false,
    }
}

/// Lists sockets; see [`Sockets::listing`].
pub type Listing = Box<dyn FnOnce() -> Result<Vec<Connection>, Error> + Send>;

/// The socket hooks: the part of the kernel that is at a cgroup.
pub trait Sockets {
    /// Attaches the hooks to a cgroup, or brings them up to date.
    fn attach_sockets(&mut self, cgroup: &Path) -> Result<(), Error>;
    /// Removes the hooks, if there are any.
    fn detach_sockets(&mut self) -> Result<(), Error>;
    /// Has the packets of sockets below a cgroup looked at for requests; none: of no socket.
    fn follow_requests(&mut self, cgroup: Option<&Path>) -> Result<(), Error>;
    /// Tells the hooks where processes are: these, and no others.
    fn set_pods(&mut self, pods: &BTreeMap<PodKey, Pod>) -> Result<(), Error>;
    /// What finds the node's sockets that were connected to frontends and are still open, and brings their backends' traffic up to date.
    /// `known` are the network namespaces that there are.
    fn listing(&self, known: Vec<Namespace>) -> Listing;
}

impl Sockets for Bpf {
    fn attach_sockets(&mut self, cgroup: &Path) -> Result<(), Error> {
        Self::attach_sockets(self, cgroup)
    }

    fn detach_sockets(&mut self) -> Result<(), Error> {
        Self::detach_sockets(self).map(drop)
    }

    fn follow_requests(&mut self, cgroup: Option<&Path>) -> Result<(), Error> {
        Self::follow_requests(self, cgroup)
    }

    fn set_pods(&mut self, pods: &BTreeMap<PodKey, Pod>) -> Result<(), Error> {
        Self::set_pods(self, pods)
    }

    fn listing(&self, known: Vec<Namespace>) -> Listing {
        let pin_path = self.pin_path().to_owned();
        Box::new(move || socket_list::connections(&pin_path, &known))
    }
}

/// So many ticks pass between two looks at the network namespaces.
const LOOK_TICKS: u64 = 2;

/// Between two looks at the open sockets passes so many times what one takes: where the kernel has only iterators over all sockets of a
/// namespace, that is much.
const REST: u32 = 300;
/// The same while a backend that has gone may have left sockets.
const SHORT_REST: u32 = 20;
/// So long after a backend has gone do its sockets find out that nobody answers them: each has sent something by then, most of them at once.
const AFTERMATH: Duration = Duration::from_secs(60);

/// The socket hooks of this node while the agent runs.
pub struct SocketHooks {
    config: SocketConfig,
    cookie: u64,
    namespaces: Vec<Namespace>,
    excluded: BTreeSet<ExcludedPod>,
    /// Whether packets are looked at for requests; none: nobody knows.
    follows: Option<bool>,
    /// What the hooks were told last.
    told: BTreeMap<PodKey, Pod>,
    ticks: u64,
    listing: Option<JoinHandle<Listed>>,
    /// When the last look at the open sockets ended, and how long it took.
    looked: Option<(Instant, Duration)>,
    /// The backends that are gone, and when the last of them was found to be.
    gone: BTreeSet<u32>,
    bereaved: Option<Instant>,
}

/// The open sockets, and how long it took to find them.
type Listed = (Result<Vec<Connection>, Error>, Duration);

impl SocketHooks {
    /// Hooks by this configuration, not attached yet.
    pub fn new(config: SocketConfig) -> Self {
        let excluded = BTreeSet::new();
        Self {
            config,
            cookie: 0,
            namespaces: Vec::new(),
            excluded,
            follows: None,
            told: BTreeMap::new(),
            ticks: 0,
            listing: None,
            looked: None,
            gone: BTreeSet::new(),
            bereaved: None,
        }
    }

    /// The pods whose sockets are left alone; in force within two seconds.
    pub fn set_excluded(&mut self, pods: BTreeSet<ExcludedPod>) {
        self.excluded = pods;
    }

    /// Brings the kernel in line with the configuration.
    pub fn start<D: Sockets>(&mut self, dataplane: &mut D, node: &NodeView) -> Result<(), Error> {
        let Some(cgroup) = self.config.cgroup.clone() else { return dataplane.detach_sockets() };
        self.cookie = namespaces::cookie().map_err(|source| Error::SocketHooks {
            what: "ask for the network namespace's cookie".into(),
            source: Box::new(source),
        })?;
        self.look(dataplane, node)?;
        dataplane.attach_sockets(&cgroup)
    }

    /// What is done every second: tell the hooks of new pods, end sockets whose backend is gone, bring the traffic of open connections up to
    /// date, though less often where that takes long. Returns how many sockets were ended.
    pub fn tick<D: Sockets>(&mut self, dataplane: &mut D, node: &NodeView, image: &Image) -> Result<usize, Error> {
        if self.config.cgroup.is_none() {
            return Ok(0);
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            self.look(dataplane, node)?;
        }
        let connections = self.listed()?;
        self.list(dataplane, image.removed_backends());
        let doomed = connections.map(|connections| endings::doomed(image.backends(), &connections)).unwrap_or_default();
        if doomed.is_empty() {
            return Ok(0);
        }
        endings::end(&doomed, &self.namespaces).map_err(|source| Error::SocketHooks {
            what: "end sockets of removed backends".into(),
            source: Box::new(source),
        })
    }

    /// Has packets looked at for requests while there are Services that are measured: it costs every socket something.
    pub fn follow_requests<D: Sockets>(&mut self, dataplane: &mut D, wanted: bool) -> Result<(), Error> {
        let Some(cgroup) = self.config.cgroup.as_deref().filter(|_| self.follows != Some(wanted)) else {
            return Ok(());
        };
        dataplane.follow_requests(wanted.then_some(cgroup))?;
        self.follows = Some(wanted);
        Ok(())
    }

    /// The open sockets, if they have been looked for since this was last asked.
    fn listed(&mut self) -> Result<Option<Vec<Connection>>, Error> {
        let Some(listing) = self.listing.take_if(|listing| listing.is_finished()) else { return Ok(None) };
        let Some(joined) = listing.now_or_never() else { return Ok(None) };
        let (connections, took) = joined.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        self.looked = Some((Instant::now(), took));
        connections.map(Some)
    }

    /// Begins to look for the open sockets, if it is time: nobody waits for it meanwhile.
    fn list<D: Sockets>(&mut self, dataplane: &D, gone: &BTreeSet<u32>) {
        if self.gone != *gone {
            if !self.gone.is_superset(gone) {
                self.bereaved = Some(Instant::now());
            }
            self.gone.clone_from(gone);
        }
        let rest = rest(self.bereaved.map(|since| since.elapsed()));
        let is_due = self.looked.is_none_or(|(ended, took)| ended.elapsed() >= took * rest);
        if self.listing.is_some() || !is_due {
            return;
        }
        let listing = dataplane.listing(self.namespaces.clone());
        self.listing = Some(tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            (listing(), started.elapsed())
        }));
    }

    /// Looks where processes are, and tells the hooks if that has changed.
    fn look<D: Sockets>(&mut self, dataplane: &mut D, node: &NodeView) -> Result<(), Error> {
        self.namespaces = namespaces::all();
        let address = |v4: bool| node.frontend_addresses().find(|address| address.is_ipv4() == v4);
        let own = pods::Node { cookie: self.cookie, v4: address(true), v6: address(false) };
        let root = self.config.cgroup.as_deref().unwrap_or(Path::new("/"));
        let cgroups = pods::cgroups(root, &self.excluded);
        let pods = pods::pods(self.config.mode, &own, &self.namespaces, &self.excluded, &cgroups);
        if pods != self.told {
            dataplane.set_pods(&pods)?;
            self.told = pods;
        }
        Ok(())
    }
}

/// How often what a look takes passes until the next one, so long after the last backend has gone.
fn rest(bereaved: Option<Duration>) -> u32 {
    if bereaved.is_some_and(|since| since < AFTERMATH) { SHORT_REST } else { REST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_looked_at_more_often_for_a_while_after_a_backend_has_gone() {
        assert_eq!([None, Some(AFTERMATH)].map(rest), [REST; 2]);
        assert_eq!([0, 59].map(|seconds| rest(Some(Duration::from_secs(seconds)))), [SHORT_REST; 2]);
    }

    #[test]
    fn the_root_is_found_alone_and_beside_version_1() {
        let of = |mounts: &[&str], inode| {
            let found = root(|path| mounts.iter().any(|mount| Path::new(mount) == path), |_| inode);
            found.map(|path| path.display().to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["/sys/fs/cgroup"], Some(1)).unwrap(), "/sys/fs/cgroup");
        assert_eq!(of(&["/sys/fs/cgroup/unified"], Some(1)).unwrap(), "/sys/fs/cgroup/unified");
        assert!(of(&["/sys/fs/cgroup"], Some(77)).unwrap_err().contains("only this container's own cgroup"));
        assert!(of(&[], None).unwrap_err().contains("/sys/fs/cgroup or /sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_folder_that_is_no_cgroup_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| resolve(None, Some(path)).unwrap_err().to_string();
        assert!(refused(folder.path()).contains("not on the cgroup v2 file system; name its mount"));
        assert!(refused(&folder.path().join("gone")).contains("--socket-lb off"));
        let off = resolve(Some(SocketLb::Off), Some(folder.path())).unwrap();
        assert_eq!((off.mode, off.cgroup), (SocketLb::Off, None));
    }
}
