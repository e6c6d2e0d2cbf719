//! The loaded programs as a subject of the packet tables: maps in the kernel, a namespace whose interfaces, routes and neighbours
//! answer the route lookups, and BPF_PROG_TEST_RUN instead of traffic.
//!
//! A test run of a tc program cannot tell by which interface a redirected packet would leave, only that it would; the run in memory
//! tells. One of XDP shows it in the link layer addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_agent::{
    dataplane::{
        Counters, Dataplane as _, Inspect as _, SweepReport, Write,
        bpf::{Bpf, Options, Sizes},
        pins::map_folder,
        wakes::Wakes,
    },
    signals::requests::Noted,
};
use lb_common::{
    DropReason,
    names::{INTERFACE_INSIDE, INTERFACE_XDP, map, program},
};
use lb_ebpf::env::Hook;
use weir_tests::{foreign::ForeignXdp, namespace::Namespace, pins::PinFolder};

use crate::table::{
    net::{Family, HOLE, Interface, NODE, ip, neighbour_mac},
    run::{Fate, Subject},
    world::{BUCKETS, FLOW_SEED, SNAT_PORT},
};

/// Everything that was made for the tests; dropping it removes it, programs first.
pub(crate) struct Node {
    pub(crate) bpf: Bpf,
    clock: Array<MapData, u32>,
    wakes: Wakes,
    indexes: BTreeMap<Interface, u32>,
    _drivers: Vec<ForeignXdp>,
    _pins: PinFolder,
    pub(crate) namespace: Namespace,
}

impl Node {
    /// Builds the namespace and loads the programs, that deliver by the stack or not.
    pub(crate) fn new(stack: bool) -> Result<Self> {
        let namespace = build_namespace()?;
        let pins = PinFolder::new("kernel")?;
        let bpf = Bpf::start(&Options { delivery_stack: stack, ..options(pins.path()) })?;
        let mut indexes = BTreeMap::new();
        for interface in Interface::ALL {
            indexes.insert(interface, index_of(&namespace, interface)?);
        }
        let folder = map_folder(pins.path());
        let mut known: HashMap<_, u32, u32> =
            Map::HashMap(MapData::from_pin(folder.join(map::INTERFACES))?).try_into()?;
        for (interface, index) in &indexes {
            let xdp = if interface.has_xdp() { INTERFACE_XDP } else { 0 };
            let inside = if interface.is_inside() { INTERFACE_INSIDE } else { 0 };
            known.insert(index, xdp | inside, 0)?;
        }
        let clock = Map::Array(MapData::from_pin(folder.join(map::CLOCK))?).try_into()?;
        // A veth registers the receive queue that a test run names only while it has an XDP program, whosever.
        let drivers = Interface::ALL.map(|interface| ForeignXdp::attach(&namespace, name(interface)));
        let drivers = drivers.into_iter().collect::<Result<_>>()?;
        let wakes = bpf.wakes()?;
        Ok(Self { bpf, clock, wakes, indexes, _drivers: drivers, _pins: pins, namespace })
    }
}

pub(crate) fn options(pin_path: &Path) -> Options {
    Options {
        pin_path: pin_path.into(),
        flow_table_size: BUCKETS * 8,
        sizes: Sizes { frontends: 4096, backends: 4096, slots: 4096 },
        snat_ports: (SNAT_PORT, SNAT_PORT),
        tcp_idle: lb_common::abi::timeout::TCP_IDLE,
        delivery_stack: false,
        reset_orphaned: true,
        dsr_port: lb_common::dsr::DEFAULT_PORT,
        bpf_log: false,
        flow_seed: FLOW_SEED,
        test_clock: true,
    }
}

/// A namespace as [`crate::table::net`] describes it. The other ends of its interfaces are in it too: nothing ever goes there.
fn build_namespace() -> Result<Namespace> {
    let namespace = Namespace::new("packets")?;
    for interface in Interface::ALL {
        let (name, number) = (name(interface), interface.number());
        let (mac, mtu) = (text(interface.mac()), interface.mtu());
        namespace.ip(&format!(
            "link add {name} address {mac} mtu {mtu} type veth peer name {name}p\nlink set {name} up\nlink set {name}p up"
        ))?;
        let node = |family| ip(family, number, NODE);
        namespace.address(name, &[&format!("{}/24", node(Family::V4)), &format!("{}/64", node(Family::V6))])?;
        let neighbour = |(family, host)| {
            let mac = text(neighbour_mac(number, host));
            format!("neigh add {} lladdr {mac} dev {name} nud permanent\n", ip(family, number, host))
        };
        let hosts = (8..10).chain(20..28).flat_map(|host| [(Family::V4, host), (Family::V6, host)]);
        namespace.ip(&hosts.map(neighbour).collect::<String>())?;
    }
    namespace.ip(&format!("route add blackhole 10.{HOLE}.0.0/24\nroute add blackhole fd{HOLE}::/64"))?;
    namespace.forward()?;
    let shut = name(Interface::Shut);
    namespace.sysctl(&format!("net.ipv4.conf.{shut}.forwarding"), "0")?;
    namespace.sysctl(&format!("net.ipv6.conf.{shut}.forwarding"), "0")?;
    Ok(namespace)
}

/// An interface's name in the namespace.
fn name(interface: Interface) -> &'static str {
    match interface {
        Interface::Up0 => "up0",
        Interface::Pod0 => "pod0",
        Interface::Up1 => "up1",
        Interface::Thin => "thin",
        Interface::Shut => "shut",
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn index_of(namespace: &Namespace, interface: Interface) -> Result<u32> {
    let index = namespace.enter(|| nix::net::if_::if_nametoindex(name(interface)))?;
    index.with_context(|| format!("index of {}", name(interface)))
}

/// The words of the kernel's `struct __sk_buff` up to its end, with the interface's index in place.
fn sk_buff(interface: u32) -> Vec<u8> {
    const WORDS: usize = 48;
    const IFINDEX: usize = 10;
    let word = |i| if i == IFINDEX { interface } else { 0 };
    (0..WORDS).flat_map(|i| word(i).to_ne_bytes()).collect()
}

/// The kernel's `struct xdp_md`: data, end, metadata, interface, receive queue, egress interface.
fn xdp_md(bytes: usize, interface: u32) -> Vec<u8> {
    [0, bytes as u32, 0, interface, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

fn tc_fate(value: u32) -> Result<Fate> {
    Ok(match value as i32 {
        -1 => Fate::Next,
        2 => Fate::Drop,
        7 => Fate::Out(None),
        other => bail!("the tc program returned {other}"),
    })
}

fn xdp_fate(value: u32, via: Interface) -> Result<Fate> {
    Ok(match value {
        1 => Fate::Drop,
        2 => Fate::Next,
        3 => Fate::Out(Some(via)),
        4 => Fate::Out(None),
        other => bail!("the XDP program returned {other}"),
    })
}

impl Subject for Node {
    fn write(&mut self, write: &Write) -> Result<()> {
        let mut write = write.clone();
        if let Write::PutAnnounced(_, announced) = &mut write {
            // The tables know interfaces by their numbers.
            let named = self.indexes.iter().find(|(interface, _)| u32::from(interface.number()) == announced.interface);
            announced.interface = named.map_or(announced.interface, |(_, index)| *index);
        }
        Ok(self.bpf.write(&write)?)
    }

    fn set_clock(&mut self, seconds: u32) -> Result<()> {
        Ok(self.clock.set(0, seconds, 0)?)
    }

    /// A test run needs an Ethernet header, and of tc programs a whole IP header too where the Ethernet header promises one.
    fn takes(&self, hook: Hook, frame: &[u8]) -> bool {
        let network = match frame.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 1,
        };
        frame.len() >= if hook == Hook::Xdp { 14 } else { 14 + network }
    }

    /// To be called inside of the namespace: a test run looks its interface up in the caller's.
    fn run(&mut self, hook: Hook, via: Interface, frame: &[u8]) -> Result<(Fate, Vec<u8>)> {
        let index = self.indexes[&via];
        let mut out = vec![0; frame.len() + 64];
        let context = if hook == Hook::Xdp { xdp_md(frame.len(), index) } else { sk_buff(index) };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let name = match hook {
            Hook::Xdp => program::XDP,
            Hook::Ingress => program::INGRESS,
            Hook::Egress => program::EGRESS,
        };
        let program = self.bpf.programs_mut()?.program_mut(name).context(name)?;
        let xdp = hook == Hook::Xdp;
        let result = if xdp {
            <&mut Xdp>::try_from(program)?.test_run(options)
        } else {
            <&mut SchedClassifier>::try_from(program)?.test_run(options)
        }?;
        let fate = if xdp { xdp_fate(result.return_value, via) } else { tc_fate(result.return_value) }?;
        ensure!(result.data_size_out as usize <= out.len(), "the packet grew to {} bytes", result.data_size_out);
        out.truncate(result.data_size_out as usize);
        Ok((fate, out))
    }

    fn counters(&self, backend: u32) -> Result<Counters> {
        self.bpf.counters(&[backend])?.pop().context("no counters")
    }

    fn noted(&self) -> Result<Noted> {
        Ok(self.bpf.noted()?)
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>> {
        Ok(self.bpf.drops()?)
    }

    fn woken(&mut self) -> BTreeSet<u32> {
        self.wakes.heard()
    }

    fn flows(&self) -> Result<usize> {
        Ok(self.bpf.flows()?.len())
    }

    fn sweep(&mut self) -> Result<SweepReport> {
        Ok(self.bpf.sweep()?)
    }

    fn writes_macs(&self) -> bool {
        true
    }
}
