//! The map boundary: what the kernel holds, as plain values, and the one trait behind which it is the kernel or, in tests, memory.

pub mod attach;
pub mod bpf;
mod btf;
pub mod cgroup;
pub mod fake;
mod known;
mod link;
pub mod pins;
mod requests;
mod resize;
pub mod sizes;
pub mod socket_list;
pub(crate) mod sys;
mod transfer;
pub mod wakes;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use lb_common::{
    Addr, Announced, Backend, BackendLoad, DropReason, Flow, FlowState, Frontend, Protocol, Range, Settings, SocketKey,
    Traffic, Vip, counters::Recount, names::NameKey,
};

use crate::signals::requests::Noted;

/// An image of the maps that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The `frontends` map.
    pub frontends: BTreeMap<SocketKey, Frontend>,
    /// The `vips` array, used elements only.
    pub vips: BTreeMap<u32, Vip>,
    /// The `backends` array, elements with an incarnation other than 0 only.
    pub backends: BTreeMap<u32, Backend>,
    /// The `endpoints` map.
    pub endpoints: BTreeMap<SocketKey, u32>,
    /// The `slots` array: runs by their first slot. Read back from the kernel, these are the runs that `frontends` names.
    pub slots: BTreeMap<u32, Vec<u64>>,
    /// The `names` map.
    pub names: BTreeMap<NameKey, String>,
    /// The `ranges` trie: the networks that may use the frontend of an id.
    pub ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    /// The `announced` map.
    pub announced: BTreeMap<Addr, Announced>,
}

/// How many elements the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `frontends` and `vips`.
    pub frontends: u32,
    /// `backends`, `loads`, `traffic`, `recounts`, and ids of `endpoints`.
    pub backends: u32,
    /// `slots`.
    pub slots: u32,
    /// Service indexes (`cursors`).
    pub services: u32,
    /// Ways of the `flows` map.
    pub flows: u32,
}

/// One change of the maps. [`Write::apply`] says what it does to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes an element of `backends`, and makes or deletes its elements of `measures` and `targets` as that says. An index is given to another backend only while both its counts are 0 and no table names it;
    /// giving it away zeroes its `loads` and `traffic`.
    PutBackend(u32, Backend),
    /// Frees an element of `backends`: no flow and no table names it. Zeroes `backends`, `loads`, `traffic`, and
    /// deletes its elements of `measures` and `targets`.
    FreeBackend(u32),
    /// Writes an element of `endpoints`.
    PutEndpoint(SocketKey, u32),
    /// Deletes an element of `endpoints`.
    DeleteEndpoint(SocketKey),
    /// Writes a selection table into slots that no frontend names.
    PutSlots(u32, Vec<u64>),
    /// Says that a run of slots is no longer used; the kernel's copy need not be cleared.
    FreeSlots(u32),
    /// Writes an element of `vips`.
    PutVip(u32, Vip),
    /// Frees an element of `vips` (all zero): a whole sweep has passed since it was marked removed.
    FreeVip(u32),
    /// Writes an element of `frontends`, in one step for every packet.
    PutFrontend(SocketKey, Frontend),
    /// Deletes an element of `frontends`.
    DeleteFrontend(SocketKey),
    /// Writes an element of `names`.
    PutName(NameKey, String),
    /// Deletes an element of `names`.
    DeleteName(NameKey),
    /// Lets clients of a network use the frontend of an id.
    PutRange(u32, IpNet),
    /// Lets them no more.
    DeleteRange(u32, IpNet),
    /// Answers for an address on the local network.
    PutAnnounced(Addr, Announced),
    /// Answers for it no more.
    DeleteAnnounced(Addr),
}

impl Write {
    /// Does this write to an image.
    pub fn apply(&self, tables: &mut Tables) {
        match self {
            Self::PutBackend(index, backend) => drop(tables.backends.insert(*index, *backend)),
            Self::FreeBackend(index) => drop(tables.backends.remove(index)),
            Self::PutEndpoint(key, id) => drop(tables.endpoints.insert(*key, *id)),
            Self::DeleteEndpoint(key) => drop(tables.endpoints.remove(key)),
            Self::PutSlots(offset, slots) => drop(tables.slots.insert(*offset, slots.clone())),
            Self::FreeSlots(offset) => drop(tables.slots.remove(offset)),
            Self::PutVip(id, vip) => drop(tables.vips.insert(*id, *vip)),
            Self::FreeVip(id) => drop(tables.vips.remove(id)),
            Self::PutFrontend(key, frontend) => drop(tables.frontends.insert(*key, *frontend)),
            Self::DeleteFrontend(key) => drop(tables.frontends.remove(key)),
            Self::PutName(key, name) => drop(tables.names.insert(*key, name.clone())),
            Self::DeleteName(key) => drop(tables.names.remove(key)),
            Self::PutRange(id, network) => drop(tables.ranges.entry(*id).or_default().insert(*network)),
            Self::DeleteRange(id, network) => {
                if let Some(networks) = tables.ranges.get_mut(id) {
                    networks.remove(network);
                }
                tables.ranges.retain(|_, networks| !networks.is_empty());
            }
            Self::PutAnnounced(address, announced) => drop(tables.announced.insert(*address, *announced)),
            Self::DeleteAnnounced(address) => drop(tables.announced.remove(address)),
        }
    }
}

/// What a backend has carried: its exact counts, and its packets and bytes summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections.
    pub load: BackendLoad,
    /// Packets and bytes.
    pub traffic: Traffic,
}

impl Counters {
    /// Packets and bytes, if all of them were counted: nothing counts the datagrams of the node's own sockets. That there are or were such
    /// is told by open ones, and by more connections than packets; a flow of the packet path has at least one. `protocol` is the IANA number.
    pub fn measured(&self, protocol: u8) -> Option<Traffic> {
        let load = &self.load;
        let by_sockets = load.sockets + load.established > 0 || load.connections > self.traffic.packets_in;
        (protocol != Protocol::Udp as u8 || !by_sockets).then_some(self.traffic)
    }
}

/// What a whole pass of the sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Forward entries in use.
    pub entries: u64,
    /// Flows whose time was over.
    pub expired: u64,
    /// Flows of removed frontends and UDP backends.
    pub forgotten: u64,
    /// Reply entries that no forward entry named.
    pub orphans: u64,
    /// Buckets that were locked and are looked at next time.
    pub busy: u64,
    /// What the table held of each backend, by index.
    pub recounts: BTreeMap<u32, Recount>,
}

/// One tracked connection, as `weir get flows` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The forward entry.
    pub flow: Flow,
    /// Its state.
    pub state: FlowState,
}

/// The bits that the trie of source ranges compares: the frontend's, and those of the network.
pub(crate) fn range_key(frontend: u32, network: &IpNet) -> (u32, Range) {
    let bits = 32 + u32::from(network.prefix_len()) + if network.addr().is_ipv4() { 96 } else { 0 };
    (bits, Range { frontend, network: network.network().into() })
}

/// The network of a key of the trie of source ranges.
pub(crate) fn range_network(bits: u32, range: &Range) -> Option<IpNet> {
    let bits = bits.checked_sub(if range.network.is_v4() { 128 } else { 32 })?;
    IpNet::new(range.network.ip(), u8::try_from(bits).ok()?).ok()
}

/// The runs of slots that a frontend's selection tables take: first slot and number.
pub fn runs(frontend: &Frontend) -> impl Iterator<Item = (u32, u32)> + use<> {
    let alias = lb_common::Algorithm::from_number(frontend.algorithm)
        .is_some_and(|a| a.table() == lb_common::service::TableKind::Alias);
    let slots = move |len: u32| if alias { len.saturating_mul(2) } else { len };
    let tables = [frontend.inside, frontend.outside].into_iter().filter(|table| table.len > 0);
    tables.map(move |table| (table.offset, slots(table.len)))
}

/// Reads of the maps. The pinned maps give them with no agent running.
pub trait Inspect {
    /// All that [`Write`] can write, as it stands in the kernel.
    fn tables(&self) -> Result<Tables, Error>;
    /// The same without the selection tables, which are most of it.
    fn frame(&self) -> Result<Tables, Error> {
        Ok(Tables { slots: BTreeMap::new(), ..self.tables()? })
    }
    /// A run of slots.
    fn slots(&self, offset: u32, len: u32) -> Result<Vec<u64>, Error> {
        let run = self.tables()?.slots.remove(&offset).unwrap_or_default();
        Ok(run.into_iter().take(len as usize).collect())
    }
    /// The loads that are not zero, by index, of the backends below `end`.
    fn loads(&self, end: u32) -> Result<BTreeMap<u32, BackendLoad>, Error> {
        let counters = self.counters(&(0..end).collect::<Vec<_>>())?;
        let loads = (0..end).zip(counters.into_iter().map(|counters| counters.load));
        Ok(loads.filter(|(_, load)| *load != BackendLoad::default()).collect())
    }
    /// The counters of these backends, in this order.
    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error>;
    /// What is noted of requests.
    fn noted(&self) -> Result<Noted, Error> {
        Ok(Noted::default())
    }
    /// Dropped packets by reason, summed over the CPUs.
    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error>;
    /// Backends drained by hand.
    fn drains(&self) -> Result<BTreeSet<SocketKey>, Error>;
    /// The `announced` map.
    fn announced(&self) -> Result<BTreeMap<Addr, Announced>, Error>;
    /// All forward entries.
    fn flows(&self) -> Result<Vec<FlowEntry>, Error>;
    /// How the maps were made.
    fn settings(&self) -> Result<Settings, Error>;
    /// The maps' room.
    fn capacity(&self) -> Capacity;
}

/// The maps, to change.
pub trait Dataplane: Inspect + Send {
    /// Does one write.
    fn write(&mut self, write: &Write) -> Result<(), Error>;
    /// Forgets the requests of these connections.
    fn forget_requests(&mut self, connections: &[u64]) -> Result<(), Error>;
    /// Marks or unmarks a backend as drained by hand.
    fn set_drain(&mut self, backend: SocketKey, drained: bool) -> Result<(), Error>;
    /// Goes on with the pass of the sweep that runs, or begins one, for about this time; the report comes with its end.
    fn sweep_part(&mut self, budget: Duration) -> Result<Option<SweepReport>, Error>;
    /// Runs a whole pass of the sweep.
    fn sweep(&mut self) -> Result<SweepReport, Error> {
        loop {
            if let Some(report) = self.sweep_part(Duration::MAX)? {
                return Ok(report);
            }
        }
    }
    /// Waits until no packet can be using what earlier writes have replaced. Takes some ten milliseconds.
    fn grace_period() -> Result<(), Error>
    where
        Self: Sized;
    /// Says what a backend carries through other nodes.
    fn set_remote(&mut self, backend: u32, active: u64) -> Result<(), Error>;
    /// Where is heard who asks for services without a backend; nobody is where there is no kernel.
    fn wakes(&self) -> Result<wakes::Wakes, Error> {
        Ok(wakes::Wakes::default())
    }
    /// Adds to a backend's active and pending counts.
    fn repair(&mut self, backend: u32, active: i64, pending: i64) -> Result<(), Error>;
}

/// Why the maps could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a map failed.
    #[error("map {map}: {operation}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There are no pinned maps.
    #[error("no Weir maps are pinned in {path}: start `weir run`, or name the folder it uses with --pin-path")]
    NotPinned {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The pin path is not where maps can be pinned.
    #[error(
        "{path} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf); after `ip netns exec`, which hides it, \
         enter the namespace with `nsenter --net=/run/netns/NAME` instead"
    )]
    NotBpffs {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// Another agent holds the pin path.
    #[error(
        "another agent is running with pin path {path}: stop it, or give this one a folder of its own with --pin-path"
    )]
    AgentRunning {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The pinned maps were made by another layout.
    #[error(
        "the maps pinned in {path} have layout {found}, this program knows {known}: run the version that made them, or \
         `weir detach` (which ends their connections) and start again"
    )]
    Abi {
        /// The folder.
        path: std::path::PathBuf,
        /// Its layout.
        found: String,
        /// Ours.
        known: u32,
    },
    /// The binary has no BPF programs in it.
    #[error("this binary was built without the BPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// There is no such interface.
    #[error("interface {interface} does not exist here: name one of `ip link` with --interface")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// XDP is taken.
    #[error(
        "interface {interface} already has the XDP program {holder}: detach that, or use --datapath auto, which takes tc there"
    )]
    XdpHeld {
        /// The interface.
        interface: String,
        /// The program that holds it.
        holder: String,
    },
    /// The cgroup of the socket hooks cannot be opened.
    #[error("--cgroup {path}: {source}; name a folder of the cgroup v2 file system, or use --socket-lb off")]
    Cgroup {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel does not take the socket hooks.
    #[error(
        "{what}: {source}; with --socket-lb off processes of this node are balanced only where their packets pass an interface \
         that is hooked"
    )]
    SocketHooks {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel or the user has not what is needed.
    #[error(
        "{what}: {source}; Weir needs Linux 6.6 or newer (tcx) and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"
    )]
    Unsupported {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else in the kernel said no.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
