//! The pinned maps and links, read without an agent. The agent itself reads and writes through the same handles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, MapType, PerCpuArray},
};
use ipnet::IpNet;
use lb_common::{
    ABI_VERSION, Addr, Announced, Backend, BackendLoad, Bucket, DropReason, Frontend, Range, Settings, SocketKey,
    Traffic, Vip,
    abi::SweepResult,
    counters::Recount,
    dsr::Target,
    flow::{WAYS, meta_state},
    fragment::{Fragment, FragmentKey},
    names::{Name, NameKey, map},
    request::{Measure, Request},
    socket::{self, PodKey},
};

use super::{
    Capacity, Counters, Error, FlowEntry, Inspect, Tables,
    known::Known,
    sys,
    sys::{Mapped, PerCpu},
};
use crate::signals::requests::Noted;

/// The folder of this layout's maps.
pub fn map_folder(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("v{ABI_VERSION}"))
}

/// Handles of the pinned maps.
pub struct Pinned {
    pub(super) frontends: HashMap<MapData, SocketKey, Frontend>,
    pub(super) vips: Array<MapData, Vip>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) endpoints: HashMap<MapData, SocketKey, u32>,
    pub(super) names: HashMap<MapData, NameKey, Name>,
    pub(super) drains: HashMap<MapData, SocketKey, u32>,
    pub(super) interfaces: HashMap<MapData, u32, u32>,
    pub(super) ranges: LpmTrie<MapData, Range, u32>,
    pub(super) announced: HashMap<MapData, Addr, Announced>,
    pub(super) pods: HashMap<MapData, PodKey, socket::Pod>,
    pub(super) requests: HashMap<MapData, u64, Request>,
    pub(super) measures: HashMap<MapData, u32, Measure>,
    pub(super) targets: HashMap<MapData, Target, u32>,
    pub(super) traffic: PerCpu<Traffic>,
    drops: PerCpuArray<MapData, u64>,
    pub(super) settings: Array<MapData, Settings>,
    pub(super) sweep: Array<MapData, SweepResult>,
    pub(super) slots: Mapped<u64>,
    pub(super) loads: Mapped<BackendLoad>,
    pub(super) flows: Mapped<Bucket>,
    pub(super) recounts: Mapped<Recount>,
    capacity: Capacity,
}

/// Wraps an error of a map.
pub(super) fn failed(map: &'static str, operation: &'static str) -> impl Fn(MapError) -> Error {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        };
        Error::Map { map, operation, source }
    }
}

/// Where maps are opened from.
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl Folder<'_> {
    fn data(&self, name: &'static str) -> Result<MapData, Error> {
        MapData::from_pin(self.0.join(name)).map_err(failed(name, "open"))
    }

    pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(
        &self,
        name: &'static str,
        wrap: fn(MapData) -> Map,
    ) -> Result<M, Error> {
        M::try_from(wrap(self.data(name)?)).map_err(failed(name, "open"))
    }

    fn per_cpu<T: Pod>(&self, name: &'static str) -> Result<PerCpu<T>, Error> {
        PerCpu::new(self.data(name)?).map_err(|source| Error::Map { map: name, operation: "open", source })
    }

    pub(super) fn mapped<T: Pod>(&self, name: &'static str) -> Result<Mapped<T>, Error> {
        let data = self.data(name)?;
        let len = data.info().map_err(failed(name, "read information of"))?.max_entries() as usize;
        Mapped::new(data.fd(), len).map_err(|source| Error::Map { map: name, operation: "map into memory", source })
    }
}

impl Pinned {
    /// Opens the maps that are pinned under a pin path.
    pub fn open(pin_path: &Path) -> Result<Self, Error> {
        let path = map_folder(pin_path);
        if !path.join(map::SETTINGS).exists() {
            let existing = sys::nearest_existing(pin_path);
            return Err(if sys::is_bpffs(existing).unwrap_or(false) {
                Error::NotPinned { path: pin_path.into() }
            } else {
                Error::NotBpffs { path: pin_path.into() }
            });
        }
        let folder = Folder(&path);
        let vips: Array<_, Vip> = folder.typed(map::VIPS, Map::Array)?;
        let backends: Array<_, Backend> = folder.typed(map::BACKENDS, Map::Array)?;
        let slots = folder.mapped(map::SLOTS)?;
        let flows: Mapped<Bucket> = folder.mapped(map::FLOWS)?;
        let cursors: Array<_, u64> = folder.typed(map::CURSORS, Map::Array)?;
        let capacity = Capacity {
            frontends: vips.len(),
            backends: backends.len(),
            slots: slots.len() as u32,
            services: cursors.len(),
            flows: (flows.len() * WAYS) as u32,
        };
        Ok(Self {
            frontends: folder.typed(map::FRONTENDS, Map::HashMap)?,
            vips,
            backends,
            endpoints: folder.typed(map::ENDPOINTS, Map::HashMap)?,
            names: folder.typed(map::NAMES, Map::HashMap)?,
            drains: folder.typed(map::DRAINS, Map::HashMap)?,
            interfaces: folder.typed(map::INTERFACES, Map::HashMap)?,
            ranges: folder.typed(map::RANGES, Map::LpmTrie)?,
            announced: folder.typed(map::ANNOUNCED, Map::HashMap)?,
            pods: folder.typed(map::PODS, Map::HashMap)?,
            requests: folder.typed(map::REQUESTS, Map::HashMap)?,
            measures: folder.typed(map::MEASURES, Map::HashMap)?,
            targets: folder.typed(map::TARGETS, Map::HashMap)?,
            traffic: folder.per_cpu(map::TRAFFIC)?,
            drops: folder.typed(map::DROPS, Map::PerCpuArray)?,
            settings: folder.typed(map::SETTINGS, Map::Array)?,
            sweep: folder.typed(map::SWEEP, Map::Array)?,
            slots,
            loads: folder.mapped(map::LOADS)?,
            flows,
            recounts: folder.mapped(map::RECOUNTS)?,
            capacity,
        })
    }

    /// The filter of the keys that frontends and endpoints have now, of the maps of this folder; for who alone writes them.
    pub(super) fn known(&self, folder: &Path) -> Result<Known, Error> {
        let keys = |name: &'static str, keys: Vec<Result<SocketKey, MapError>>| {
            keys.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed(name, "read"))
        };
        let frontends = keys(map::FRONTENDS, self.frontends.keys().collect())?;
        let endpoints = keys(map::ENDPOINTS, self.endpoints.keys().collect())?;
        Ok(Known::of(Folder(folder).mapped(map::KNOWN)?, frontends.into_iter().chain(endpoints)))
    }

    /// Buckets of each flow table, a power of two.
    pub(super) fn buckets(&self) -> u32 {
        self.flows.len() as u32
    }

    /// Marks or unmarks a backend as drained by hand; a running agent sees it within a second.
    pub fn set_drain(&mut self, backend: SocketKey, drained: bool) -> Result<(), Error> {
        let result =
            if drained { self.drains.insert(backend, 1, 0) } else { ignore_missing(self.drains.remove(&backend)) };
        result.map_err(failed(map::DRAINS, "write"))
    }

    fn run_of(&self, offset: u32, len: u32) -> Vec<u64> {
        (offset..offset.saturating_add(len)).map_while(|i| self.slots.get(i as usize)).collect()
    }

    fn networks(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
        let mut networks: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for entry in self.ranges.iter() {
            let (key, _) = entry.map_err(failed(map::RANGES, "read"))?;
            let range = key.data();
            if let Some(network) = super::range_network(key.prefix_len(), &range) {
                networks.entry(range.frontend).or_default().insert(network);
            }
        }
        Ok(networks)
    }
}

/// Deleting what is not there is no error.
pub(super) fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// All entries of a hash map.
pub(super) fn entries<K: Pod + Ord, V: Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<BTreeMap<K, V>, Error> {
    map.iter().collect::<Result<_, _>>().map_err(failed(name, "read"))
}

/// All elements of an array that `used` accepts.
fn elements<T: Pod>(
    name: &'static str,
    array: &Array<MapData, T>,
    used: impl Fn(&T) -> bool,
) -> Result<BTreeMap<u32, T>, Error> {
    let mut found = BTreeMap::new();
    for index in 0..array.len() {
        let element = array.get(&index, 0).map_err(failed(name, "read"))?;
        if used(&element) {
            found.insert(index, element);
        }
    }
    Ok(found)
}

impl Inspect for Pinned {
    fn tables(&self) -> Result<Tables, Error> {
        let frame = self.frame()?;
        let runs = frame.frontends.values().flat_map(super::runs);
        let slots = runs.map(|(offset, slots)| (offset, self.run_of(offset, slots))).collect();
        Ok(Tables { slots, ..frame })
    }

    fn frame(&self) -> Result<Tables, Error> {
        Ok(Tables {
            frontends: entries(map::FRONTENDS, &self.frontends)?,
            vips: elements(map::VIPS, &self.vips, |v| v.live != 0)?,
            backends: elements(map::BACKENDS, &self.backends, |b| b.incarnation != 0)?,
            endpoints: entries(map::ENDPOINTS, &self.endpoints)?,
            slots: BTreeMap::new(),
            names: entries(map::NAMES, &self.names)?.into_iter().map(|(k, v)| (k, v.as_str().to_owned())).collect(),
            ranges: self.networks()?,
            announced: self.announced()?,
        })
    }

    fn slots(&self, offset: u32, len: u32) -> Result<Vec<u64>, Error> {
        Ok(self.run_of(offset, len))
    }

    fn loads(&self, end: u32) -> Result<BTreeMap<u32, BackendLoad>, Error> {
        Ok(self.loads.nonzero(end as usize).collect())
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error> {
        let one = |index: &u32| {
            let read = |source| Error::Map { map: map::TRAFFIC, operation: "read", source };
            let traffic = self.traffic.get(*index).map_err(read)?;
            let load = self.loads.get(*index as usize).unwrap_or_default();
            Ok(Counters { load, traffic: traffic.iter().fold(Traffic::default(), add) })
        };
        backends.iter().map(one).collect()
    }

    fn noted(&self) -> Result<Noted, Error> {
        self.noted()
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        let one = |reason: &DropReason| {
            let counts = self.drops.get(&(*reason as u32), 0).map_err(failed(map::DROPS, "read"))?;
            Ok((*reason, counts.iter().sum()))
        };
        DropReason::ALL.iter().map(one).collect()
    }

    fn drains(&self) -> Result<BTreeSet<SocketKey>, Error> {
        Ok(entries(map::DRAINS, &self.drains)?.into_keys().collect())
    }

    fn announced(&self) -> Result<BTreeMap<Addr, Announced>, Error> {
        entries(map::ANNOUNCED, &self.announced)
    }

    fn flows(&self) -> Result<Vec<FlowEntry>, Error> {
        let mut found = Vec::new();
        for bucket in (0..self.flows.len()).filter_map(|i| self.flows.get(i)) {
            for (meta, flow) in bucket.meta.into_iter().zip(bucket.ways) {
                if meta as u8 != 0 {
                    found.push(FlowEntry { flow, state: meta_state(meta) });
                }
            }
        }
        Ok(found)
    }

    fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(failed(map::SETTINGS, "read"))
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

fn add(sum: Traffic, one: &Traffic) -> Traffic {
    Traffic {
        packets_in: sum.packets_in + one.packets_in,
        packets_out: sum.packets_out + one.packets_out,
        bytes_in: sum.bytes_in + one.bytes_in,
        bytes_out: sum.bytes_out + one.bytes_out,
    }
}

/// What the kernel says of a pinned map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// Its type, as the kernel's documentation writes it.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Elements it has room for.
    pub max_entries: u32,
    /// Elements in it; `None` for arrays, which are always full.
    pub entries: Option<u64>,
    /// Kernel memory it takes, in bytes.
    pub bytes: u64,
}

/// The pinned maps of this layout.
pub fn maps(pin_path: &Path) -> Result<Vec<MapInfo>, Error> {
    let path = map_folder(pin_path);
    if !path.join(map::SETTINGS).exists() {
        return Err(Error::NotPinned { path: pin_path.into() });
    }
    let folder = Folder(&path);
    map::PINNED.iter().map(|name| map_info(&folder, name)).collect()
}

fn map_info(folder: &Folder<'_>, name: &'static str) -> Result<MapInfo, Error> {
    let data = folder.data(name)?;
    let info = data.info().map_err(failed(name, "read information of"))?;
    let kind = info.map_type().map_err(failed(name, "read information of"))?;
    let hash = matches!(kind, MapType::Hash | MapType::LruHash);
    Ok(MapInfo {
        name: name.into(),
        kind: kind_name(kind).into(),
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        entries: hash.then(|| count_keys(name, folder)).transpose()?,
        bytes: memlock(data.fd()),
    })
}

fn kind_name(kind: MapType) -> &'static str {
    match kind {
        MapType::Hash => "hash",
        MapType::LruHash => "lru_hash",
        MapType::Array => "array",
        MapType::PerCpuArray => "percpu_array",
        MapType::SkStorage => "sk_storage",
        MapType::LpmTrie => "lpm_trie",
        MapType::RingBuf => "ringbuf",
        _ => "other",
    }
}

/// The entries of a hash map, whose key is one of three sizes.
fn count_keys(name: &'static str, folder: &Folder<'_>) -> Result<u64, Error> {
    fn count<K: Pod, M: TryFrom<Map, Error = MapError> + IterableMap<K, V>, V>(
        folder: &Folder<'_>,
        name: &'static str,
        wrap: fn(MapData) -> Map,
        keys: fn(&M) -> u64,
    ) -> Result<u64, Error> {
        Ok(keys(&folder.typed::<M>(name, wrap)?))
    }
    fn keys<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> u64 {
        map.keys().filter(Result::is_ok).count() as u64
    }
    match name {
        map::FRONTENDS => count(folder, name, Map::HashMap, keys::<SocketKey, Frontend>),
        map::ENDPOINTS | map::DRAINS => count(folder, name, Map::HashMap, keys::<SocketKey, u32>),
        map::NAMES => count(folder, name, Map::HashMap, keys::<NameKey, Name>),
        map::INTERFACES => count(folder, name, Map::HashMap, keys::<u32, u32>),
        map::ANNOUNCED => count(folder, name, Map::HashMap, keys::<Addr, Announced>),
        map::PODS => count(folder, name, Map::HashMap, keys::<PodKey, socket::Pod>),
        map::REQUESTS => count(folder, name, Map::HashMap, keys::<u64, Request>),
        map::MEASURES => count(folder, name, Map::HashMap, keys::<u32, Measure>),
        map::TARGETS => count(folder, name, Map::HashMap, keys::<Target, u32>),
        map::CLIENT_RATES => count(folder, name, Map::LruHashMap, keys::<lb_common::AffinityKey, u64>),
        map::FRAGMENTS => count(folder, name, Map::LruHashMap, keys::<FragmentKey, Fragment>),
        _ => count(folder, name, Map::LruHashMap, keys::<lb_common::AffinityKey, lb_common::AffinityValue>),
    }
}

/// The kernel memory of a map, from its descriptor's information in /proc.
fn memlock(fd: &aya::maps::MapFd) -> u64 {
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("memlock:")?.trim().parse().ok()).unwrap_or(0)
}
