//! Weir's own programs over maps with frontends and with flows, as `weir run` would have made them; nothing is attached anywhere.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::ProgramFd,
};
use lb_agent::dataplane::{
    Dataplane as _, Inspect as _,
    bpf::{Bpf, Options, Sizes},
    pins::map_folder,
};
use lb_common::{Bucket, Flow, FlowState, Port, flow::meta_state, names::map};
use nix::time::{ClockId, clock_gettime};
use weir_tests::pins::PinFolder;

use crate::{
    driver::{self, Hook},
    frontends::{self, BACKENDS, backend_socket, front},
    lru::Lru,
    traffic::{self, Tuple},
};

/// Seconds for which known flows have been silent: longer than keeps one from making way.
const SILENT: u32 = 60;

/// Loaded programs and their maps; dropping it unpins them.
pub(crate) struct Stage {
    bpf: Bpf,
    /// The same over another table.
    pub(crate) lru: Lru,
    flows: Array<MapData, Bucket>,
    replies: Array<MapData, Bucket>,
    /// What both tables are put back to.
    kept: [Vec<Bucket>; 2],
    _pins: PinFolder,
}

impl Stage {
    /// Loads everything, with room for so many flows (and for so many in the LRU hash), and adds the frontends.
    pub(crate) fn new(lru: &Path, [flow_table_size, lru_size]: [u32; 2]) -> Result<Self> {
        let pins = PinFolder::new("bench")?;
        let options = Options {
            pin_path: pins.path().to_owned(),
            flow_table_size,
            sizes: Sizes::default(),
            snat_ports: (61000, 65535),
            tcp_idle: lb_common::abi::timeout::TCP_IDLE,
            delivery_stack: false,
            reset_orphaned: true,
            dsr_port: lb_common::dsr::DEFAULT_PORT,
            bpf_log: false,
            flow_seed: 0x1234_5678_9abc_def0,
            test_clock: false,
        };
        let mut bpf = Bpf::start(&options)?;
        for write in (0..frontends::ALL.len() as u32).flat_map(frontends::writes) {
            bpf.write(&write)?;
        }
        let folder = map_folder(pins.path());
        let table = |name| -> Result<Array<MapData, Bucket>> {
            Ok(Array::try_from(Map::Array(MapData::from_pin(folder.join(name))?))?)
        };
        let (flows, replies) = (table(map::FLOWS)?, table(map::REPLIES)?);
        let lru = Lru::load(lru, &folder, lru_size)?;
        Ok(Self { bpf, lru, flows, replies, kept: [Vec::new(), Vec::new()], _pins: pins })
    }

    /// Weir's program at a hook.
    pub(crate) fn program(&mut self, hook: Hook) -> Result<ProgramFd> {
        driver::descriptor(self.bpf.programs_mut()?, hook.program())
    }

    /// All of Weir's programs.
    pub(crate) fn object(&mut self) -> Result<&mut Ebpf> {
        Ok(self.bpf.programs_mut()?)
    }

    /// Packets sent on so far, towards backends and back, by either table.
    pub(crate) fn packets(&self) -> Result<u64> {
        let backends: Vec<_> = (0..frontends::ALL.len() as u32 * BACKENDS).collect();
        let counters = self.bpf.counters(&backends)?;
        Ok(counters.iter().map(|counters| counters.traffic.packets_in + counters.traffic.packets_out).sum())
    }

    /// Makes every flow one that was answered and is silent since, and keeps the tables as they are then.
    pub(crate) fn establish(&mut self) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32;
        let mut flows = read(&self.flows)?;
        for bucket in &mut flows {
            for meta in &mut bucket.meta {
                *meta = *meta & !0xff | answered(meta_state(*meta)) as u32;
            }
            bucket.ways.iter_mut().for_each(|way| way.last = now.saturating_sub(SILENT));
        }
        self.kept = [flows, read(&self.replies)?];
        self.restore()
    }

    /// Puts Weir's tables back to what was kept.
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

    /// The tuples of a frontend's kept flows, from the client and from the backend, each in random order. Left out are those of which a
    /// backend does not see the client.
    pub(crate) fn known(&self, frontend: u32) -> [Vec<Tuple>; 2] {
        let ways = self.kept[0].iter().flat_map(|bucket| bucket.meta.iter().zip(&bucket.ways));
        let flows = ways.filter(|(meta, flow)| {
            meta_state(**meta) != FlowState::Free && flow.id == frontend && flow.snat_port == Port(0)
        });
        let (mut from_clients, mut from_backends): (Vec<_>, Vec<_>) = flows.map(|(_, flow)| tuples_of(flow)).unzip();
        traffic::shuffle(&mut from_clients);
        traffic::shuffle(&mut from_backends);
        [from_clients, from_backends]
    }
}

/// What the first answer, or where none is seen the client's next packet, makes of a flow that waits for it.
pub(crate) fn answered(state: FlowState) -> FlowState {
    match state {
        FlowState::SynSent => FlowState::Established,
        FlowState::UdpOneWay => FlowState::UdpAnswered,
        FlowState::ForwardedSyn => FlowState::Forwarded,
        other => other,
    }
}

/// The tuples of a flow: as its client sends, and as its backend answers.
fn tuples_of(flow: &Flow) -> (Tuple, Tuple) {
    let front = front(flow.id);
    let client = traffic::socket(&flow.addr, flow.port);
    (front.wire.tuple(client, front.socket()), front.wire.tuple(backend_socket(flow.backend), client))
}

fn read(table: &Array<MapData, Bucket>) -> Result<Vec<Bucket>> {
    (0..table.len()).map(|index| table.get(&index, 0).context("read a bucket")).collect()
}
