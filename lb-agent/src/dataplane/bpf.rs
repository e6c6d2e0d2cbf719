//! The kernel: loads the programs over the pinned maps (making them where there are none), and writes and sweeps the maps.
//!
//! Nothing that packets use belongs to this process: maps and links are pinned, so they outlive it, and the next one takes them over.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuValues,
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp},
    util::KernelVersion,
};
use lb_common::{
    ABI_VERSION, Backend, BackendLoad, DropReason, Settings, SocketKey, Traffic,
    abi::{RepairRequest, SWEEP_BATCH, SweepRequest, SweepResult},
    counters::Recount,
    names::{Name, map, program},
};

use super::{
    Capacity, Counters, Dataplane, Error, FlowEntry, Inspect, SweepReport, Tables, Vip, Write,
    pins::{Pinned, failed, ignore_missing, map_folder},
    sys,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-bpf.o"));

/// What the datapath is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where links and maps are pinned.
    pub pin_path: PathBuf,
    /// Flows that the table has room for; rounded up to eight times a power of two. Maps that exist keep their size.
    pub flow_table_size: u32,
    /// Room for everything else. Maps that exist keep their size.
    pub sizes: Sizes,
    /// First and last source port of full NAT.
    pub snat_ports: (u16, u16),
    /// Seconds after which a silent TCP connection is forgotten.
    pub tcp_idle: u32,
    /// Whether rare events are logged.
    pub bpf_log: bool,
    /// Seed of the flow hash of new maps: random.
    pub flow_seed: u64,
    /// Whether time is the `clock` map's.
    pub test_clock: bool,
}

/// How much new maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends, and service ports.
    pub frontends: u32,
    /// Backends of all service ports.
    pub backends: u32,
    /// Slots of selection tables, 8 bytes each.
    pub slots: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { frontends: 4096, backends: 16_384, slots: 1 << 21 }
    }
}

/// The loaded programs and the pinned maps.
pub struct Bpf {
    pub(super) pinned: Pinned,
    pub(super) programs: Ebpf,
    pub(super) pin_path: PathBuf,
    buckets: u32,
    settings: Settings,
    _lock: File,
}

impl Bpf {
    /// Loads everything, and attaches nothing. Fails before it has changed anything that packets use.
    pub fn start(options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let lock = claim(&options.pin_path)?;
        let folder = map_folder(&options.pin_path);
        fs::create_dir_all(&folder).map_err(|source| create_failed(&folder, source))?;
        let existing = Pinned::open(&options.pin_path).and_then(|p| p.settings()).ok().filter(|s| s.abi != 0);
        let settings = existing.unwrap_or_else(|| fresh(options));
        let settings = Settings {
            snat_first: options.snat_ports.0,
            snat_last: options.snat_ports.1,
            tcp_idle: options.tcp_idle,
            ..settings
        };
        let programs = load(options, &folder, &settings)?;
        let mut pinned = Pinned::open(&options.pin_path)?;
        pinned.settings.set(0, settings, 0).map_err(failed(map::SETTINGS, "write"))?;
        let buckets = settings.bucket_mask + 1;
        Ok(Self { pinned, programs, pin_path: options.pin_path.clone(), buckets, settings, _lock: lock })
    }

    /// What the maps were made with.
    pub fn made_with(&self) -> Settings {
        self.settings
    }

    /// The programs, for aya-log and for tests that run them.
    pub fn programs_mut(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// Runs one of the maintenance programs on a packet that carries `request`.
    fn ask<T: aya::Pod>(&self, name: &'static str, request: &T) -> Result<(), Error> {
        let mut packet = [0u8; 64];
        // SAFETY: `Pod` is plain data.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(request).cast::<u8>(), size_of::<T>()) };
        packet[14..14 + bytes.len()].copy_from_slice(bytes);
        let run = |program: &SchedClassifier| {
            program.test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() })
        };
        let program = self.programs.program(name).ok_or_else(|| missing(name))?;
        let program: &SchedClassifier = program.try_into().map_err(|e| kernel(format!("find program {name}"), e))?;
        let result = run(program).map_err(|e| kernel(format!("run program {name}"), e))?;
        if result.return_value as i32 >= 0 {
            return Ok(());
        }
        Err(kernel(format!("run program {name}"), io::Error::other("it refused its request")))
    }
}

pub(super) fn kernel(what: String, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Kernel { what, source: Box::new(source) }
}

pub(super) fn missing(name: &str) -> Error {
    kernel(format!("find program {name}"), io::Error::from(io::ErrorKind::NotFound))
}

fn create_failed(folder: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::Unsupported { what: format!("create {}", folder.display()), source: Box::new(source) }
        }
        _ => kernel(format!("create {}", folder.display()), source),
    }
}

/// Makes the pin path and takes its lock; refuses another layout's.
fn claim(pin_path: &Path) -> Result<File, Error> {
    let existing = sys::nearest_existing(pin_path);
    if !sys::is_bpffs(existing).unwrap_or(false) {
        return Err(Error::NotBpffs { path: pin_path.into() });
    }
    fs::create_dir_all(pin_path).map_err(|source| create_failed(pin_path, source))?;
    let lock = sys::lock(pin_path).map_err(|e| kernel(format!("lock {}", pin_path.display()), e))?;
    let lock = lock.ok_or_else(|| Error::AgentRunning { path: pin_path.into() })?;
    let folders = fs::read_dir(pin_path).map_err(|e| kernel(format!("read {}", pin_path.display()), e))?;
    for name in folders.filter_map(|f| f.ok()?.file_name().into_string().ok()) {
        let is_layout = name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        if is_layout && name != format!("v{ABI_VERSION}") {
            return Err(Error::Abi { path: pin_path.into(), found: name, known: ABI_VERSION });
        }
    }
    Ok(lock)
}

fn fresh(options: &Options) -> Settings {
    let buckets = options.flow_table_size.div_ceil(8).clamp(64, 1 << 22).next_power_of_two();
    Settings { flow_seed: options.flow_seed, abi: ABI_VERSION, bucket_mask: buckets - 1, ..Settings::default() }
}

/// Loads the object with the settings as constants, over the pinned maps.
fn load(options: &Options, folder: &Path, settings: &Settings) -> Result<Ebpf, Error> {
    const BPF_F_IPV6: u64 = 1 << 7;
    let knows_flag = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 16, 0));
    let v6_flag = if knows_flag { BPF_F_IPV6 } else { 0 };
    let (log, test_clock) = (u32::from(options.bpf_log), u32::from(options.test_clock));
    let sizes = options.sizes;
    let mut loader = EbpfLoader::new();
    loader
        .override_global("FLOW_SEED", &settings.flow_seed, true)
        .override_global("BUCKET_MASK", &settings.bucket_mask, true)
        .override_global("SNAT_FIRST", &settings.snat_first, true)
        .override_global("SNAT_LAST", &settings.snat_last, true)
        .override_global("TCP_IDLE", &settings.tcp_idle, true)
        .override_global("CHECKSUM_V6_FLAG", &v6_flag, true)
        .override_global("LOG", &log, true)
        .override_global("TEST_CLOCK", &test_clock, true)
        .map_max_entries(map::FLOWS, settings.bucket_mask + 1)
        .map_max_entries(map::REPLIES, settings.bucket_mask + 1)
        .map_max_entries(map::SLOTS, sizes.slots)
        .map_max_entries(map::NAMES, sizes.frontends + sizes.backends);
    for name in [map::FRONTENDS, map::VIPS, map::CURSORS] {
        loader.map_max_entries(name, sizes.frontends);
    }
    for name in [map::BACKENDS, map::ENDPOINTS, map::LOADS, map::TRAFFIC, map::RECOUNTS] {
        loader.map_max_entries(name, sizes.backends);
    }
    for name in map::PINNED {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut programs = loader
        .load(OBJECT)
        .map_err(|source| Error::Unsupported { what: "load the BPF programs".into(), source: Box::new(source) })?;
    for name in [program::INGRESS, program::EGRESS, program::SWEEP, program::REPAIR] {
        let program: &mut SchedClassifier = find(&mut programs, name)?;
        program.load().map_err(|source| refused(name, source))?;
    }
    let xdp: &mut Xdp = find(&mut programs, program::XDP)?;
    xdp.load().map_err(|source| refused(program::XDP, source))?;
    Ok(programs)
}

fn refused(name: &str, source: ProgramError) -> Error {
    Error::Unsupported { what: format!("load program {name}"), source: Box::new(source) }
}

/// A program of the object by name and type.
pub(super) fn find<'a, T>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Error>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = programs.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|e| kernel(format!("find program {name}"), e))
}

impl Inspect for Bpf {
    fn tables(&self) -> Result<Tables, Error> {
        self.pinned.tables()
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error> {
        self.pinned.counters(backends)
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        self.pinned.drops()
    }

    fn drains(&self) -> Result<std::collections::BTreeSet<SocketKey>, Error> {
        self.pinned.drains()
    }

    fn flows(&self) -> Result<Vec<FlowEntry>, Error> {
        self.pinned.flows()
    }

    fn settings(&self) -> Result<Settings, Error> {
        self.pinned.settings()
    }

    fn capacity(&self) -> Capacity {
        self.pinned.capacity()
    }
}

impl Pinned {
    /// Clears what an index has counted.
    fn clear_counters(&mut self, index: u32) -> Result<(), Error> {
        self.loads.set(index as usize, BackendLoad::default());
        let cpus = aya::util::nr_cpus().map_err(|(path, e)| kernel(format!("read {path}"), e))?;
        let zero =
            PerCpuValues::try_from(vec![Traffic::default(); cpus]).map_err(|e| kernel("count CPUs".into(), e))?;
        self.traffic.set(index, zero, 0).map_err(failed(map::TRAFFIC, "write"))
    }

    fn put_backend(&mut self, index: u32, backend: &Backend) -> Result<(), Error> {
        let old = self.backends.get(&index, 0).map_err(failed(map::BACKENDS, "read"))?;
        if old.incarnation != backend.incarnation {
            self.clear_counters(index)?;
        }
        self.backends.set(index, backend, 0).map_err(failed(map::BACKENDS, "write"))
    }

    fn put_slots(&self, offset: u32, slots: &[u64]) -> Result<(), Error> {
        let fits = slots.iter().enumerate().all(|(i, slot)| self.slots.set(offset as usize + i, *slot));
        if fits {
            return Ok(());
        }
        Err(Error::Map { map: map::SLOTS, operation: "write", source: io::Error::from(io::ErrorKind::StorageFull) })
    }
}

impl Dataplane for Bpf {
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        let pinned = &mut self.pinned;
        match write {
            Write::PutBackend(index, backend) => pinned.put_backend(*index, backend),
            Write::FreeBackend(index) => pinned.put_backend(*index, &Backend::default()),
            Write::PutEndpoint(key, id) => pinned.endpoints.insert(key, id, 0).map_err(failed(map::ENDPOINTS, "write")),
            Write::DeleteEndpoint(key) => {
                ignore_missing(pinned.endpoints.remove(key)).map_err(failed(map::ENDPOINTS, "delete"))
            }
            Write::PutSlots(offset, slots) => pinned.put_slots(*offset, slots),
            Write::FreeSlots(_) => Ok(()),
            Write::PutVip(id, vip) => pinned.vips.set(*id, vip, 0).map_err(failed(map::VIPS, "write")),
            Write::FreeVip(id) => pinned.vips.set(*id, Vip::default(), 0).map_err(failed(map::VIPS, "write")),
            Write::PutFrontend(key, frontend) => {
                pinned.frontends.insert(key, frontend, 0).map_err(failed(map::FRONTENDS, "write"))
            }
            Write::DeleteFrontend(key) => {
                ignore_missing(pinned.frontends.remove(key)).map_err(failed(map::FRONTENDS, "delete"))
            }
            Write::PutName(key, name) => {
                pinned.names.insert(key, Name::new(name), 0).map_err(failed(map::NAMES, "write"))
            }
            Write::DeleteName(key) => ignore_missing(pinned.names.remove(key)).map_err(failed(map::NAMES, "delete")),
            Write::Barrier => sys::grace_period().map_err(|e| kernel("wait for a grace period".into(), e)),
        }
    }

    fn set_drain(&mut self, backend: SocketKey, drained: bool) -> Result<(), Error> {
        self.pinned.set_drain(backend, drained)
    }

    fn sweep(&mut self) -> Result<SweepReport, Error> {
        for index in 0..self.pinned.recounts.len() {
            self.pinned.recounts.set(index, Recount::default());
        }
        self.pinned.sweep.set(0, SweepResult::default(), 0).map_err(failed(map::SWEEP, "write"))?;
        for first in (0..self.buckets).step_by(SWEEP_BATCH as usize) {
            let count = SWEEP_BATCH.min(self.buckets - first);
            self.ask(program::SWEEP, &SweepRequest { first, count })?;
        }
        let result = self.pinned.sweep.get(&0, 0).map_err(failed(map::SWEEP, "read"))?;
        let recounts = (0..self.pinned.recounts.len())
            .filter_map(|i| Some((i as u32, self.pinned.recounts.get(i)?)))
            .filter(|(_, recount)| *recount != Recount::default())
            .collect();
        Ok(SweepReport {
            entries: result.entries,
            expired: result.expired,
            forgotten: result.forgotten,
            orphans: result.orphans,
            busy: result.busy,
            recounts,
        })
    }

    fn repair(&mut self, backend: u32, active: i64, pending: i64) -> Result<(), Error> {
        self.ask(program::REPAIR, &RepairRequest { backend, zero: 0, active, pending })
    }
}
