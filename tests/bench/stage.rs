//! Weir's own programs over maps with a service and with flows, as `weir run` would have made them; nothing is attached anywhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, Map, MapData},
    programs::ProgramFd,
};
use lb_agent::{
    balance::{maglev, tables},
    dataplane::{
        Dataplane as _, Inspect as _, Write,
        bpf::{Bpf, Options, Sizes},
        pins::map_folder,
    },
};
use lb_common::{
    Algorithm, Backend, BackendState, Bucket, Flow, FlowState, Frontend, Port, Protocol, SocketKey, Vip,
    backend::BACKEND_LOCAL,
    flow::meta_state,
    names::{map, program},
    service::VIP_LIVE,
};
use weir_tests::pins::PinFolder;

use crate::{
    driver::{self, Hook},
    traffic::{self, FRONTEND, LEAST_PORT, MAGLEV_PORT, NODE, Tuple},
};

/// Backends of each frontend.
pub(crate) const BACKENDS: u32 = 16;

/// Loaded programs and their maps; dropping it unpins them.
pub(crate) struct Stage {
    bpf: Bpf,
    flows: Array<MapData, Bucket>,
    replies: Array<MapData, Bucket>,
    /// What both tables are put back to.
    kept: [Vec<Bucket>; 2],
    _pins: PinFolder,
}

/// The address of a backend.
pub(crate) fn backend_socket(index: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 30, 0, 1 + (index % BACKENDS) as u8), 8080)
}

impl Stage {
    /// Loads everything, with room for so many flows, and adds the frontends.
    pub(crate) fn new(flow_table_size: u32) -> Result<Self> {
        let pins = PinFolder::new("bench")?;
        let options = Options {
            pin_path: pins.path().to_owned(),
            flow_table_size,
            sizes: Sizes::default(),
            snat_ports: (61000, 65535),
            tcp_idle: lb_common::abi::timeout::TCP_IDLE,
            delivery_stack: false,
            reset_orphaned: true,
            bpf_log: false,
            flow_seed: 0x1234_5678_9abc_def0,
            test_clock: false,
        };
        let mut bpf = Bpf::start(&options)?;
        for (id, (port, protocol, algorithm)) in (0..).zip([
            (MAGLEV_PORT, Protocol::Tcp, Algorithm::Maglev),
            (MAGLEV_PORT, Protocol::Udp, Algorithm::Maglev),
            (LEAST_PORT, Protocol::Tcp, Algorithm::LeastConnections),
        ]) {
            for write in frontend(id, SocketAddrV4::new(FRONTEND, port), protocol, algorithm) {
                bpf.write(&write)?;
            }
        }
        let folder = map_folder(pins.path());
        let table = |name| -> Result<Array<MapData, Bucket>> {
            Ok(Array::try_from(Map::Array(MapData::from_pin(folder.join(name))?))?)
        };
        let (flows, replies) = (table(map::FLOWS)?, table(map::REPLIES)?);
        Ok(Self { bpf, flows, replies, kept: [Vec::new(), Vec::new()], _pins: pins })
    }

    /// Weir's program at a hook.
    pub(crate) fn program(&mut self, hook: Hook) -> Result<ProgramFd> {
        let name = match hook {
            Hook::Xdp => program::XDP,
            Hook::Tc => program::INGRESS,
        };
        driver::program(self.bpf.programs_mut()?, name)
    }

    /// Packets sent on so far, towards backends and back.
    pub(crate) fn packets(&self) -> Result<u64> {
        let counters = self.bpf.counters(&(0..3 * BACKENDS).collect::<Vec<_>>())?;
        Ok(counters.iter().map(|counters| counters.traffic.packets_in + counters.traffic.packets_out).sum())
    }

    /// Makes every flow an answered one, and keeps the tables as they are then.
    pub(crate) fn establish(&mut self) -> Result<()> {
        let mut flows = read(&self.flows)?;
        flows.iter_mut().flat_map(|bucket| &mut bucket.meta).for_each(|meta| {
            let state = match meta_state(*meta) {
                FlowState::SynSent => FlowState::Established,
                FlowState::UdpOneWay => FlowState::UdpAnswered,
                other => other,
            };
            *meta = *meta & !0xff | state as u32;
        });
        self.kept = [flows, read(&self.replies)?];
        self.restore()
    }

    /// Puts the tables back to what was kept.
    pub(crate) fn restore(&mut self) -> Result<()> {
        let [flows, replies] = &self.kept;
        for (map, kept) in [(&mut self.flows, flows), (&mut self.replies, replies)] {
            for (index, bucket) in (0..).zip(kept) {
                if map.get(&index, 0)? != *bucket {
                    map.set(index, bucket, 0)?;
                }
            }
        }
        Ok(())
    }

    /// The tuples of the kept flows of a protocol, from the client and from the backend, each in random order.
    pub(crate) fn known(&self, protocol: Protocol) -> [Vec<Tuple>; 2] {
        let wanted = if protocol == Protocol::Tcp { FlowState::Established } else { FlowState::UdpAnswered };
        let ways = self.kept[0].iter().flat_map(|bucket| bucket.meta.iter().zip(&bucket.ways));
        let flows = ways.filter(|(meta, _)| meta_state(**meta) == wanted).map(|(_, flow)| tuples_of(flow, protocol));
        let (mut from_clients, mut from_backends): (Vec<_>, Vec<_>) = flows.unzip();
        traffic::shuffle(&mut from_clients);
        traffic::shuffle(&mut from_backends);
        [from_clients, from_backends]
    }
}

/// The tuples of a flow to the ordinary frontend: as its client sends, and as its backend answers.
fn tuples_of(flow: &Flow, protocol: Protocol) -> (Tuple, Tuple) {
    let client = traffic::socket(&flow.addr, flow.port);
    let peer = if flow.snat_port == Port(0) { client } else { SocketAddrV4::new(NODE, flow.snat_port.number()) };
    let frontend = SocketAddrV4::new(FRONTEND, MAGLEV_PORT);
    (traffic::tuple(client, frontend, protocol), traffic::tuple(backend_socket(flow.backend), peer, protocol))
}

fn read(table: &Array<MapData, Bucket>) -> Result<Vec<Bucket>> {
    (0..table.len()).map(|index| table.get(&index, 0).context("read a bucket")).collect()
}

/// The writes of a frontend, its table and its backends. The backends count as local: then destination NAT is all there is to do.
fn frontend(id: u32, socket: SocketAddrV4, protocol: Protocol, algorithm: Algorithm) -> Vec<Write> {
    let first = id * BACKENDS;
    let backend = |index: u32| {
        let endpoint = SocketKey::new(backend_socket(index).into(), protocol);
        let backend = Backend {
            addr: endpoint.addr,
            source: IpAddr::V4(NODE).into(),
            port: endpoint.port,
            protocol: endpoint.protocol,
            flags: BACKEND_LOCAL,
            effective_weight: 100,
            weight: 100,
            // One endpoint for the backends of both TCP frontends.
            endpoint: if protocol == Protocol::Tcp { index % BACKENDS } else { index },
            service: id,
            incarnation: 1,
            state: BackendState::Ready as u8,
            ..Backend::default()
        };
        [Write::PutBackend(index, backend), Write::PutEndpoint(endpoint, backend.endpoint)]
    };
    let entry =
        |index| tables::Entry { backend: index, weight: 100, identity: tables::identity(backend_socket(index).into()) };
    let entries: Vec<_> = (first..first + BACKENDS).map(entry).collect();
    let table = tables::build(algorithm.table(), &entries, maglev::size_for(entries.len()));
    let key = SocketKey::new(socket.into(), protocol);
    let offset = id * maglev::MAX_SIZE;
    let place = lb_common::Selection { offset, len: table.len };
    let frontend =
        Frontend { id, service: id, inside: place, outside: place, algorithm: algorithm as u8, ..Frontend::default() };
    let mut writes: Vec<_> = (first..first + BACKENDS).flat_map(backend).collect();
    writes.push(Write::PutVip(id, Vip { key, live: VIP_LIVE, measured: 0 }));
    writes.push(Write::PutSlots(offset, table.slots));
    writes.push(Write::PutFrontend(key, frontend));
    writes
}
