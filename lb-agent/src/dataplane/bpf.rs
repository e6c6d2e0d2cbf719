//! The kernel: loads the programs over the pinned maps (making them where there are none), and writes and sweeps the maps.
//!
//! Nothing that packets use belongs to this process: maps and links are pinned, so they outlive it, and the next one takes them over.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::lpm_trie::Key,
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp},
    util::KernelVersion,
};
use lb_common::{
    ABI_VERSION, Backend, BackendLoad, DropReason, Settings, SocketKey, Traffic,
    abi::{RepairRequest, SWEEP_BATCH, SweepRequest, SweepResult},
    backend::BACKEND_TARGET,
    dsr::Target,
    names::{Name, map, program},
};

use super::{
    Capacity, Counters, Dataplane, Error, FlowEntry, Inspect, SweepReport, Tables, Vip, Write, btf, cgroup,
    known::Known,
    pins::{Pinned, failed, ignore_missing, map_folder},
    range_key, resize, sys,
    wakes::Wakes,
};
use crate::signals::requests::Noted;

pub use super::sizes::Sizes;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-bpf.o"));

/// What the datapath is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where links and maps are pinned.
    pub pin_path: PathBuf,
    /// Flows that the table has room for; rounded up to eight times a power of two. Those of a table of another size are moved.
    pub flow_table_size: u32,
    /// Room for everything else. Maps that exist keep their size.
    pub sizes: Sizes,
    /// First and last source port of full NAT.
    pub snat_ports: (u16, u16),
    /// Seconds after which a silent TCP connection is forgotten.
    pub tcp_idle: u32,
    /// Whether packets of clients whose address a backend sees go through the node's stack, and so past its packet filter.
    pub delivery_stack: bool,
    /// Whether TCP packets of no flow, or to a backend that is gone, are answered with a reset.
    pub reset_orphaned: bool,
    /// The UDP port by which nodes forward to each other; 0: they do not.
    pub dsr_port: u16,
    /// Whether rare events are logged.
    pub bpf_log: bool,
    /// Seed of the flow hash of new maps: random.
    pub flow_seed: u64,
    /// Whether time is the `clock` map's.
    pub test_clock: bool,
}

/// The loaded programs and the pinned maps.
pub struct Bpf {
    pub(super) pinned: Pinned,
    known: Known,
    /// None until [`Self::set_programs`].
    pub(crate) programs: Option<Ebpf>,
    /// The programs with which the maps were made, until they are loaded.
    object: Option<Ebpf>,
    pub(super) pin_path: PathBuf,
    pub(super) options: Options,
    pub(super) buckets: u32,
    /// The flow table's mask that the programs are loaded for, until the flows are moved; none if it stays.
    pub(super) next_mask: Option<u32>,
    /// How far the running pass of the sweep is; 0: none runs.
    pub(super) swept: u32,
    pub(super) settings: Settings,
    /// No hook has seen what became of the sockets since the last agent.
    unwatched: bool,
    _lock: File,
}

/// Programs that the kernel has accepted.
pub struct Programs(Ebpf);

/// Loads programs; see [`Bpf::loading`].
pub type Loading = Box<dyn FnOnce() -> Result<Programs, Error> + Send>;

impl Bpf {
    /// Loads everything, and attaches nothing. Fails before it has changed anything that packets use.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let mut bpf = Self::open(options)?;
        bpf.load()?;
        bpf.xdp()?;
        bpf.move_flows()?;
        bpf.thaw()?;
        Ok(bpf)
    }

    /// Makes the maps, or takes over those of an earlier agent, whose programs go on. They can be used while [`Self::loading`] has the
    /// kernel check the programs, which takes seconds.
    pub fn open(options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let lock = claim(&options.pin_path)?;
        let folder = map_folder(&options.pin_path);
        fs::create_dir_all(&folder).map_err(|source| create_failed(&folder, source))?;
        resize::recover(&folder)?;
        let kept = Pinned::open(&options.pin_path).and_then(|pinned| Ok((pinned.settings()?, pinned))).ok();
        let kept = kept.filter(|(settings, _)| settings.abi != 0);
        let settings = kept.as_ref().map_or_else(|| fresh(options), |(settings, _)| *settings);
        let settings = Settings {
            snat_first: options.snat_ports.0,
            snat_last: options.snat_ports.1,
            tcp_idle: options.tcp_idle,
            ..settings
        };
        let unwatched = cgroup::forget_unwatched(&options.pin_path, &folder)?;
        let (pinned, object) = match kept {
            Some((_, pinned)) => (pinned, None),
            None => {
                let object = read_object(options, &folder, &settings, resize::CURRENT)?;
                (Pinned::open(&options.pin_path)?, Some(object))
            }
        };
        let known = pinned.known(&folder)?;
        // As the table is: an agent may have died before it said so.
        let settings = Settings { bucket_mask: pinned.buckets() - 1, ..settings };
        let next_mask = Some(fresh(options).bucket_mask).filter(|mask| *mask != settings.bucket_mask);
        let buckets = settings.bucket_mask + 1;
        let (pin_path, options) = (options.pin_path.clone(), options.clone());
        let programs = None;
        let mut bpf = Self {
            pinned,
            known,
            programs,
            object,
            pin_path,
            options,
            buckets,
            next_mask,
            swept: 0,
            settings,
            unwatched,
            _lock: lock,
        };
        if bpf.object.is_some() {
            bpf.made()?;
        }
        Ok(bpf)
    }

    /// Loads the programs, if that is not done.
    fn load(&mut self) -> Result<(), Error> {
        match self.loading() {
            Some(loading) => self.set_programs(loading()?),
            None => Ok(()),
        }
    }

    /// What loads the programs while the maps are used; none if that is done.
    pub fn loading(&mut self) -> Option<Loading> {
        if self.programs.is_some() {
            return None;
        }
        let (object, options, (settings, tables)) = (self.object.take(), self.options.clone(), self.loaded_for());
        Some(Box::new(move || {
            let object = match object {
                Some(object) => object,
                None => read_object(&options, &map_folder(&options.pin_path), &settings, tables)?,
            };
            load(object).map(Programs)
        }))
    }

    /// Takes the programs that were loaded.
    pub fn set_programs(&mut self, programs: Programs) -> Result<(), Error> {
        self.programs = Some(programs.0);
        // Maps that were not there have been made.
        self.pinned = Pinned::open(&self.pin_path)?;
        self.made()
    }

    /// The program of XDP, loaded when it is first asked for: checking it takes the kernel about a second, and many nodes use tc alone.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let xdp: &mut Xdp = find(loaded(&mut self.programs)?, program::XDP)?;
        match xdp.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(xdp),
            Err(source) => Err(refused(program::XDP, source)),
        }
    }

    pub(super) fn made(&mut self) -> Result<(), Error> {
        if self.unwatched {
            self.pinned.clear_sockets()?;
        }
        self.pinned.settings.set(0, self.settings, 0).map_err(failed(map::SETTINGS, "write"))
    }

    /// Loads the programs anew with this delivery. What is attached keeps the old ones until it is attached again.
    pub fn set_delivery(&mut self, stack: bool) -> Result<(), Error> {
        if self.options.delivery_stack != stack {
            let options = Options { delivery_stack: stack, ..self.options.clone() };
            let (settings, tables) = self.loaded_for();
            self.programs = Some(load(read_object(&options, &map_folder(&self.pin_path), &settings, tables)?)?);
            self.options = options;
        }
        Ok(())
    }

    /// What programs are loaded for: settings, and the pins of the flow tables.
    fn loaded_for(&self) -> (Settings, [&'static str; 2]) {
        match self.next_mask {
            Some(bucket_mask) => (Settings { bucket_mask, ..self.settings }, resize::NEXT),
            None => (self.settings, resize::CURRENT),
        }
    }

    /// What the maps were made with.
    pub fn made_with(&self) -> Settings {
        self.settings
    }

    /// Where maps and links are pinned.
    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    /// The programs, for aya-log and for tests that run them.
    pub fn programs_mut(&mut self) -> Result<&mut Ebpf, Error> {
        loaded(&mut self.programs)
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
        let program =
            self.programs.as_ref().and_then(|programs| programs.program(name)).ok_or_else(|| missing(name))?;
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

/// The programs, once they are loaded.
pub(super) fn loaded(programs: &mut Option<Ebpf>) -> Result<&mut Ebpf, Error> {
    programs.as_mut().ok_or_else(|| missing("of any name: none is loaded"))
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

/// The programs of the object with the settings as constants, over the pinned maps, the flow tables those with these pins; what is not there
/// is made.
fn read_object(
    options: &Options,
    folder: &Path,
    settings: &Settings,
    [flows, replies]: [&str; 2],
) -> Result<Ebpf, Error> {
    const BPF_F_IPV6: u64 = 1 << 7;
    let knows_flag = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 16, 0));
    let v6_flag = if knows_flag { BPF_F_IPV6 } else { 0 };
    let (log, test_clock) = (u32::from(options.bpf_log), u32::from(options.test_clock));
    let (delivery_stack, reset_orphaned) = (u32::from(options.delivery_stack), u32::from(options.reset_orphaned));
    let (sizes, dsr_port) = (options.sizes, options.dsr_port.to_be());
    let [bytes_acked, bytes_received, segs_out, segs_in] = btf::tcp_counts();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("FLOW_SEED", &settings.flow_seed, true)
        .override_global("BUCKET_MASK", &settings.bucket_mask, true)
        .override_global("SNAT_FIRST", &settings.snat_first, true)
        .override_global("SNAT_LAST", &settings.snat_last, true)
        .override_global("TCP_IDLE", &settings.tcp_idle, true)
        .override_global("CHECKSUM_V6_FLAG", &v6_flag, true)
        .override_global("TCP_BYTES_ACKED", &bytes_acked, true)
        .override_global("TCP_BYTES_RECEIVED", &bytes_received, true)
        .override_global("TCP_SEGS_OUT", &segs_out, true)
        .override_global("TCP_SEGS_IN", &segs_in, true)
        .override_global("LOG", &log, true)
        .override_global("TEST_CLOCK", &test_clock, true)
        .override_global("DELIVERY_STACK", &delivery_stack, true)
        .override_global("RESET_ORPHANED", &reset_orphaned, true)
        .override_global("DSR_PORT", &dsr_port, true)
        .map_max_entries(map::FLOWS, settings.bucket_mask + 1)
        .map_max_entries(map::REPLIES, settings.bucket_mask + 1)
        .map_max_entries(map::SLOTS, sizes.slots)
        .map_max_entries(map::NAMES, sizes.frontends + sizes.backends);
    for name in [map::FRONTENDS, map::VIPS, map::CURSORS, map::KNOCKS, map::RATES] {
        loader.map_max_entries(name, sizes.frontends);
    }
    for name in [map::BACKENDS, map::ENDPOINTS, map::TARGETS, map::LOADS, map::TRAFFIC, map::RECOUNTS] {
        loader.map_max_entries(name, sizes.backends);
    }
    for name in map::PINNED {
        loader.map_pin_path(name, folder.join(name));
    }
    loader.map_pin_path(map::FLOWS, folder.join(flows)).map_pin_path(map::REPLIES, folder.join(replies));
    loader
        .load(OBJECT)
        .map_err(|source| Error::Unsupported { what: "load the BPF programs".into(), source: Box::new(source) })
}

/// Has the kernel check the programs that every node needs.
fn load(mut programs: Ebpf) -> Result<Ebpf, Error> {
    for name in [program::INGRESS, program::EGRESS, program::SWEEP, program::REPAIR] {
        let program: &mut SchedClassifier = find(&mut programs, name)?;
        program.load().map_err(|source| refused(name, source))?;
    }
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

    fn frame(&self) -> Result<Tables, Error> {
        self.pinned.frame()
    }

    fn slots(&self, offset: u32, len: u32) -> Result<Vec<u64>, Error> {
        self.pinned.slots(offset, len)
    }

    fn loads(&self, end: u32) -> Result<BTreeMap<u32, BackendLoad>, Error> {
        self.pinned.loads(end)
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error> {
        self.pinned.counters(backends)
    }

    fn noted(&self) -> Result<Noted, Error> {
        self.pinned.noted()
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        self.pinned.drops()
    }

    fn drains(&self) -> Result<std::collections::BTreeSet<SocketKey>, Error> {
        self.pinned.drains()
    }

    fn announced(&self) -> Result<BTreeMap<lb_common::Addr, lb_common::Announced>, Error> {
        self.pinned.announced()
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
        let write = |source| Error::Map { map: map::TRAFFIC, operation: "write", source };
        self.traffic.set(index, Traffic::default()).map_err(write)
    }

    /// An index that nobody has, or has any more, has counted nothing.
    fn put_backend(&mut self, index: u32, backend: &Backend) -> Result<(), Error> {
        let old = self.backends.get(&index, 0).map_err(failed(map::BACKENDS, "read"))?;
        if old.incarnation != 0 && old.incarnation != backend.incarnation {
            self.clear_counters(index)?;
        }
        self.put_measure(index, &old, backend)?;
        self.put_target(index, &old, backend)?;
        self.backends.set(index, backend, 0).map_err(failed(map::BACKENDS, "write"))
    }

    /// Has other nodes find the backend of an index. Its endpoint has no other backend of the same service.
    fn put_target(&mut self, index: u32, old: &Backend, new: &Backend) -> Result<(), Error> {
        let of = |backend: &Backend| {
            let Backend { endpoint, service, .. } = *backend;
            (backend.flags & BACKEND_TARGET != 0).then_some(Target { endpoint, service })
        };
        if let Some(target) = of(old).filter(|target| of(new) != Some(*target)) {
            ignore_missing(self.targets.remove(&target)).map_err(failed(map::TARGETS, "delete"))?;
        }
        // Also where it should be there already: an agent may have died between the two maps.
        let write = |target| self.targets.insert(target, index, 0).map_err(failed(map::TARGETS, "write"));
        of(new).map_or(Ok(()), write)
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
            Write::PutEndpoint(key, id) => {
                self.known.put(&mut pinned.endpoints, key, id).map_err(failed(map::ENDPOINTS, "write"))
            }
            Write::DeleteEndpoint(key) => {
                self.known.delete(&mut pinned.endpoints, key).map_err(failed(map::ENDPOINTS, "delete"))
            }
            Write::PutSlots(offset, slots) => pinned.put_slots(*offset, slots),
            Write::FreeSlots(_) => Ok(()),
            Write::PutVip(id, vip) => pinned.vips.set(*id, vip, 0).map_err(failed(map::VIPS, "write")),
            Write::FreeVip(id) => pinned.vips.set(*id, Vip::default(), 0).map_err(failed(map::VIPS, "write")),
            Write::PutFrontend(key, frontend) => {
                self.known.put(&mut pinned.frontends, key, frontend).map_err(failed(map::FRONTENDS, "write"))
            }
            Write::DeleteFrontend(key) => {
                self.known.delete(&mut pinned.frontends, key).map_err(failed(map::FRONTENDS, "delete"))
            }
            Write::PutName(key, name) => {
                pinned.names.insert(key, Name::new(name), 0).map_err(failed(map::NAMES, "write"))
            }
            Write::DeleteName(key) => ignore_missing(pinned.names.remove(key)).map_err(failed(map::NAMES, "delete")),
            Write::PutRange(id, network) => {
                let (bits, range) = range_key(*id, network);
                pinned.ranges.insert(&Key::new(bits, range), 1, 0).map_err(failed(map::RANGES, "write"))
            }
            Write::DeleteRange(id, network) => {
                let (bits, range) = range_key(*id, network);
                ignore_missing(pinned.ranges.remove(&Key::new(bits, range))).map_err(failed(map::RANGES, "delete"))
            }
            Write::PutAnnounced(address, announced) => {
                pinned.announced.insert(address, announced, 0).map_err(failed(map::ANNOUNCED, "write"))
            }
            Write::DeleteAnnounced(address) => {
                ignore_missing(pinned.announced.remove(address)).map_err(failed(map::ANNOUNCED, "delete"))
            }
        }
    }

    fn forget_requests(&mut self, connections: &[u64]) -> Result<(), Error> {
        self.pinned.forget_requests(connections)
    }

    fn set_drain(&mut self, backend: SocketKey, drained: bool) -> Result<(), Error> {
        self.pinned.set_drain(backend, drained)
    }

    fn sweep_part(&mut self, budget: Duration) -> Result<Option<SweepReport>, Error> {
        let started = Instant::now();
        if self.swept == 0 {
            self.pinned.recounts.clear();
            self.pinned.sweep.set(0, SweepResult::default(), 0).map_err(failed(map::SWEEP, "write"))?;
        }
        while self.swept < self.buckets {
            let count = SWEEP_BATCH.min(self.buckets - self.swept);
            self.ask(program::SWEEP, &SweepRequest { first: self.swept, count })?;
            self.swept += count;
            if self.swept < self.buckets && started.elapsed() >= budget {
                return Ok(None);
            }
        }
        self.swept = 0;
        self.sweep_report().map(Some)
    }

    fn grace_period() -> Result<(), Error> {
        sys::grace_period().map_err(|e| kernel("wait for a grace period".into(), e))
    }

    fn set_remote(&mut self, backend: u32, active: u64) -> Result<(), Error> {
        self.pinned.loads.set_word(backend as usize, std::mem::offset_of!(BackendLoad, remote), active);
        Ok(())
    }

    fn wakes(&self) -> Result<Wakes, Error> {
        Wakes::open(&self.pin_path)
    }

    fn repair(&mut self, backend: u32, active: i64, pending: i64) -> Result<(), Error> {
        self.ask(program::REPAIR, &RepairRequest { backend, zero: 0, active, pending })
    }
}

impl Bpf {
    fn sweep_report(&self) -> Result<SweepReport, Error> {
        let result = self.pinned.sweep.get(&0, 0).map_err(failed(map::SWEEP, "read"))?;
        let recounts = self.pinned.recounts.nonzero(self.pinned.recounts.len());
        Ok(SweepReport {
            entries: result.entries,
            expired: result.expired,
            forgotten: result.forgotten,
            orphans: result.orphans,
            busy: result.busy,
            recounts: recounts.collect(),
        })
    }
}
