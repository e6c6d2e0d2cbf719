//! The loaded programs as the model's subject.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use lb_agent::dataplane::{Counters, Dataplane as _, Inspect as _, SweepReport, Write};
use lb_common::{Bucket, DropReason, names::map};
use lb_ebpf::env::{Hook, Limits, Table};

use crate::{
    subject::{Goes, Subject, Via, Work},
    testrun::{Buffer, Node, TC_NEXT, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, on_a_node, options},
    world,
};

/// Longer than anything is remembered, in seconds.
const LONG: u32 = 100_000;

/// A node.
struct Kernel {
    /// None only while an agent ends and the next one begins.
    node: Option<Node>,
    flows: Array<MapData, Bucket>,
    replies: Array<MapData, Bucket>,
    cursors: Array<MapData, u64>,
    clock: u32,
    /// What was dropped before the last reset.
    dropped: BTreeMap<DropReason, u64>,
}

/// Makes a node and works with it.
pub(crate) fn stage(work: &mut Work<'_>) -> Result<()> {
    on_a_node(options(), |node| work(&mut Kernel::new(node)?))
}

impl Kernel {
    fn new(node: Node) -> Result<Self> {
        Ok(Self {
            flows: node.array(map::FLOWS)?,
            replies: node.array(map::REPLIES)?,
            cursors: node.array(map::CURSORS)?,
            clock: 0,
            dropped: BTreeMap::new(),
            node: Some(node),
        })
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("the agent did not come back")
    }

    fn node_mut(&mut self) -> Result<&mut Node> {
        self.node.as_mut().context("the agent did not come back")
    }
}

impl Subject for Kernel {
    fn reset(&mut self) -> Result<u32> {
        self.set_clock(self.clock + LONG)?;
        (0..world::FRONTENDS).flat_map(world::no_frontend).try_for_each(|write| self.write(&write))?;
        let left = self.sweep()?;
        ensure!((left.entries, left.orphans, left.busy) == (0, 0, 0), "a sweep after all time leaves {left:?}");
        (0..world::ALL).try_for_each(|index| self.write(&Write::FreeBackend(index)))?;
        for frontend in 0..world::FRONTENDS {
            self.cursors.set(frontend as u32, 0_u64, 0).context("write a cursor")?;
        }
        self.dropped = self.node()?.bpf.drops()?;
        Ok(self.clock)
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        Ok(self.node_mut()?.bpf.write(write)?)
    }

    fn set_clock(&mut self, seconds: u32) -> Result<()> {
        self.clock = seconds;
        self.node_mut()?.set_clock(seconds)
    }

    fn run(&mut self, hook: Hook, via: Via, frame: &[u8]) -> Result<(Goes, Vec<u8>)> {
        let node = self.node()?;
        let interface = if via == Via::Uplink { node.uplink } else { node.pod };
        let ran = match hook {
            Hook::Xdp => node.programs.xdp(frame, interface)?,
            Hook::Ingress => node.programs.ingress(frame, Buffer::of(interface))?,
            Hook::Egress => node.programs.egress(frame, Buffer::of(interface))?,
        };
        let goes = match (hook, ran.action) {
            (Hook::Xdp, XDP_PASS) | (Hook::Ingress | Hook::Egress, TC_NEXT) => Goes::On,
            (Hook::Xdp, XDP_DROP) | (Hook::Ingress | Hook::Egress, TC_SHOT) => Goes::Ends,
            (Hook::Xdp, XDP_TX) | (Hook::Ingress | Hook::Egress, TC_REDIRECT) => Goes::Out,
            (hook, other) => bail!("the program at {hook:?} returned {other}"),
        };
        Ok((goes, ran.frame))
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>> {
        Ok(self.node()?.bpf.counters(backends)?)
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>> {
        let drops = self.node()?.bpf.drops()?.into_iter();
        Ok(drops.map(|(reason, count)| (reason, count - self.dropped.get(&reason).unwrap_or(&0))).collect())
    }

    fn sweep(&mut self) -> Result<SweepReport> {
        Ok(self.node_mut()?.bpf.sweep()?)
    }

    fn limits(&self) -> Result<Limits> {
        Ok(self.node()?.bpf.made_with().into())
    }

    fn bucket(&self, table: Table, index: u32) -> Result<Bucket> {
        let table = if table == Table::Forward { &self.flows } else { &self.replies };
        Ok(table.get(&index, 0)?)
    }

    fn restart(&mut self) -> Result<()> {
        let node = self.node.take().context("the agent did not come back")?;
        let node = node.restart()?;
        (self.flows, self.replies) = (node.array(map::FLOWS)?, node.array(map::REPLIES)?);
        self.node = Some(node);
        Ok(())
    }
}
