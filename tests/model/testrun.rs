//! A node of the kernel's tests: the programs, loaded over maps of their own, run on single packets (BPF_PROG_TEST_RUN) in a network
//! namespace with two interfaces, in which the routing table knows the way to everybody and who is next on it.
//!
//! ```text
//!  clients and remote backends                              local backends
//!  10.10.0.0/24, fd10::/64 ------- up0 [node] pod0 ------- 10.20.0.0/24, fd20::/64
//! ```

#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};
use std::{borrow::Cow, fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, Map, MapData},
    programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_agent::dataplane::{
    bpf::{Bpf, Options, Sizes},
    pins::map_folder,
};
#[cfg(test)]
use lb_common::Bucket;
use lb_common::names::{map, program};
use weir_tests::{namespace::Namespace, pins::PinFolder, requirements};

use crate::life::TCP_IDLE;

/// tc: the next program, and the stack after it.
pub(crate) const TC_NEXT: u32 = u32::MAX;
/// tc: the packet ends here.
pub(crate) const TC_SHOT: u32 = 2;
/// tc: out of another interface.
pub(crate) const TC_REDIRECT: u32 = 7;
/// XDP: the packet ends here.
pub(crate) const XDP_DROP: u32 = 1;
/// XDP: up to the stack, tc first.
pub(crate) const XDP_PASS: u32 = 2;
/// XDP: back where it came from.
pub(crate) const XDP_TX: u32 = 3;

/// No smaller frame is run: the kernel takes at least an Ethernet header.
const ROOM: usize = 256;

/// The programs of a packet's path, to run on it. Runs on one CPU may be at the same time as runs on another.
pub(crate) struct Programs {
    xdp: Xdp,
    ingress: SchedClassifier,
    egress: SchedClassifier,
}

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The program's return value.
    pub(crate) action: u32,
    /// The frame afterwards.
    pub(crate) frame: Vec<u8>,
}

/// What a packet's socket buffer says beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffer {
    /// The interface it came by (or, at egress, leaves by).
    pub(crate) interface: u32,
    /// Segments it stands for, 0 if it is one packet.
    pub(crate) segments: u32,
    /// Payload bytes of each.
    pub(crate) segment_size: u32,
}

impl Programs {
    /// Runs XDP.
    pub(crate) fn xdp(&self, frame: &[u8], interface: u32) -> Result<Ran> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = words(&[(4, frame.len() as u32), (12, interface)], 24);
        run(&self.xdp, frame, &context)
    }

    /// Runs tc ingress.
    pub(crate) fn ingress(&self, frame: &[u8], buffer: Buffer) -> Result<Ran> {
        run(&self.ingress, frame, &buffer.context())
    }

    /// Runs tc egress.
    pub(crate) fn egress(&self, frame: &[u8], buffer: Buffer) -> Result<Ran> {
        run(&self.egress, frame, &buffer.context())
    }
}

impl Buffer {
    /// An ordinary packet of an interface.
    pub(crate) fn of(interface: u32) -> Self {
        Self { interface, ..Self::default() }
    }

    /// `struct __sk_buff`: ifindex at 40, gso_segs at 164, gso_size at 176.
    fn context(self) -> Vec<u8> {
        words(&[(40, self.interface), (164, self.segments), (176, self.segment_size)], 192)
    }
}

fn words(values: &[(usize, u32)], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, value) in values {
        bytes[*at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn run<P>(program: &P, frame: &[u8], context: &[u8]) -> Result<Ran>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::TestRunResult>,
{
    let mut out = vec![0; frame.len() + ROOM];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(context),
        ..TestRunOptions::new()
    };
    let result = program.test_run(options).with_context(|| format!("run a program on {}", hex(frame)))?;
    out.truncate(result.data_size_out as usize);
    Ok(Ran { action: result.return_value, frame: out })
}

/// Bytes as text, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// The loaded programs, their maps, and the interfaces they run at.
pub(crate) struct Node {
    /// The maps, and the sweep.
    pub(crate) bpf: Bpf,
    /// The programs.
    pub(crate) programs: Programs,
    /// Index of the interface towards clients and remote backends.
    pub(crate) uplink: u32,
    /// Index of the interface towards local backends.
    pub(crate) pod: u32,
    clock: Array<MapData, u32>,
    options: Options,
    // Last: what is pinned goes after who uses it.
    pins: PinFolder,
}

/// Flows that tables have room for, one after the other.
const SIZES: [u32; 2] = [4096, 8192];

/// What goes on while one agent follows another.
#[cfg(test)]
pub(crate) struct Worker<'a> {
    /// The programs of the one that ends.
    pub(crate) programs: &'a Programs,
    /// Indexes of the interfaces towards clients and towards local backends.
    pub(crate) interfaces: (u32, u32),
    /// Its forward table, twice.
    pub(crate) tables: [Array<MapData, Bucket>; 2],
    /// Whether the next one is there.
    pub(crate) is_over: &'a AtomicBool,
}

/// Small maps, a clock of the test's own, and a flow hash that is the same in every run.
pub(crate) fn options() -> Options {
    Options {
        pin_path: "/".into(),
        flow_table_size: SIZES[0],
        sizes: Sizes { frontends: 64, backends: 64, slots: 1 << 16 },
        snat_ports: (61000, 65535),
        tcp_idle: TCP_IDLE,
        delivery_stack: false,
        reset_orphaned: true,
        dsr_port: lb_common::dsr::DEFAULT_PORT,
        bpf_log: false,
        flow_seed: 0x5eed,
        test_clock: true,
    }
}

/// The same with a flow table of another size.
fn resized(options: Options) -> Options {
    Options { flow_table_size: if options.flow_table_size == SIZES[0] { SIZES[1] } else { SIZES[0] }, ..options }
}

/// Makes a node (with a pin path of its own, whatever `options` says) and calls `test` on a thread in its namespace: the kernel looks
/// interfaces up in the namespace of who runs a program. Threads that `test` starts are in it too.
pub(crate) fn on_a_node<T: Send>(options: Options, test: impl FnOnce(Node) -> Result<T> + Send) -> Result<T> {
    requirements::check(&["ip"])?;
    let (node, far) = (Namespace::new("tr")?, Namespace::new("tr")?);
    connect(&node, &far)?;
    node.enter(move || test(Node::start(options)?))?
}

impl Node {
    fn start(options: Options) -> Result<Self> {
        let pins = PinFolder::new("tr")?;
        Self::over(Options { pin_path: pins.path().into(), ..options }, pins)
    }

    /// Ends this agent and starts another one over its maps, which loads the programs anew and moves the flows into a table of another size.
    pub(crate) fn restart(self) -> Result<Self> {
        let Self { bpf, programs, options, pins, .. } = self;
        drop((bpf, programs));
        Self::over(resized(options), pins)
    }

    /// As [`Self::restart`], while `work` goes on with the old programs, until it is told that the next agent is there.
    #[cfg(test)]
    pub(crate) fn restart_beside<T: Send>(
        self,
        work: impl FnOnce(Worker<'_>) -> Result<T> + Send,
    ) -> Result<(Self, T)> {
        let Self { bpf, programs, options, pins, uplink, pod, .. } = self;
        drop(bpf);
        let buckets = || array(pins.path(), map::FLOWS);
        let (tables, is_over) = ([buckets()?, buckets()?], AtomicBool::new(false));
        std::thread::scope(|scope| {
            let worker = Worker { programs: &programs, interfaces: (uplink, pod), tables, is_over: &is_over };
            let working = scope.spawn(move || work(worker));
            let node = Self::over(resized(options), pins);
            is_over.store(true, Ordering::SeqCst);
            let done = working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((node?, done?))
        })
    }

    fn over(options: Options, pins: PinFolder) -> Result<Self> {
        let mut bpf = Bpf::start(&options).map_err(|error| anyhow::anyhow!(summary(&error)))?;
        let programs = Programs::of(&mut bpf)?;
        let clock = array(pins.path(), map::CLOCK)?;
        let index = |name| nix::net::if_::if_nametoindex(name).with_context(|| format!("interface {name}"));
        Ok(Self { bpf, programs, uplink: index("up0")?, pod: index("pod0")?, clock, options, pins })
    }

    /// Sets the programs' clock, in seconds.
    pub(crate) fn set_clock(&mut self, seconds: u32) -> Result<()> {
        self.clock.set(0, seconds, 0).context("write the clock")
    }

    /// A pinned array of one value per element.
    pub(crate) fn array<T: Pod>(&self, name: &str) -> Result<Array<MapData, T>> {
        array(self.pins.path(), name)
    }
}

impl Programs {
    /// Handles of their own, which threads can share while the maps are written.
    fn of(bpf: &mut Bpf) -> Result<Self> {
        let mut info = |name: &str| -> Result<(ProgramInfo, Cow<'static, str>)> {
            let program = bpf.programs_mut()?.program(name).with_context(|| format!("no program {name}"))?;
            Ok((program.info()?, Cow::Owned(name.to_owned())))
        };
        let (ingress, ingress_name) = info(program::INGRESS)?;
        let (egress, egress_name) = info(program::EGRESS)?;
        let (xdp, xdp_name) = info(program::XDP)?;
        Ok(Self {
            xdp: Xdp::from_program_info(xdp, xdp_name, XdpAttachType::Interface)?,
            ingress: SchedClassifier::from_program_info(ingress, ingress_name)?,
            egress: SchedClassifier::from_program_info(egress, egress_name)?,
        })
    }
}

fn array<T: Pod>(pin_path: &Path, name: &str) -> Result<Array<MapData, T>> {
    let data = MapData::from_pin(map_folder(pin_path).join(name)).with_context(|| format!("open the map {name}"))?;
    Ok(Array::try_from(Map::Array(data))?)
}

/// The end of an error's chain; the verifier's log is in there, of which the end says why.
fn summary(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let whole = source.to_string();
        let lines: Vec<&str> = whole.lines().collect();
        text += &format!(": {}", lines[lines.len().saturating_sub(12)..].join("\n"));
        next = source.source();
    }
    text
}

fn connect(node: &Namespace, far: &Namespace) -> Result<()> {
    node.forward()?;
    node.link("up0", far, "up0")?;
    node.link("pod0", far, "pod0")?;
    node.address("up0", &["10.10.0.2/24", "fd10::2/64"])?;
    node.address("pod0", &["10.20.0.2/24", "fd20::2/64"])?;
    let mut lines = String::new();
    for (device, network, hosts) in [("up0", 10, 30..50), ("pod0", 20, 20..22)] {
        for host in hosts {
            for address in [format!("10.{network}.0.{host}"), format!("fd{network}::{host}")] {
                writeln!(lines, "neigh add {address} lladdr 02:00:00:00:00:{host} dev {device} nud permanent")?;
            }
        }
    }
    node.ip(&lines)
}
