//! Packets of clients and backends, sent through the loaded programs without a model: what became of them is counted.

use std::net::SocketAddr;

use anyhow::Result;
use aya::maps::{Array, MapData};
use lb_agent::dataplane::{Dataplane as _, Write, bpf::Bpf};
use lb_common::{Bucket, names::map};
use lb_ebpf::env::{Limits, Table};

use crate::{
    frames::Shape,
    life::{Choice, Key},
    tables::Dump,
    testrun::{Buffer, Node, Programs, Ran, TC_NEXT, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX},
    traffic, world,
};

/// Does writes.
pub(crate) fn write_all(bpf: &mut Bpf, writes: &[Write]) -> Result<()> {
    writes.iter().try_for_each(|write| Ok(bpf.write(write)?))
}

/// Both tables of a node.
pub(crate) fn dump(node: &Node) -> Result<Dump> {
    let (flows, replies) = (node.array::<Bucket>(map::FLOWS)?, node.array::<Bucket>(map::REPLIES)?);
    Dump::read(&node.bpf.made_with().into(), &|table, index| {
        Ok(if table == Table::Forward { &flows } else { &replies }.get(&index, 0)?)
    })
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// From clients to backends.
    pub(crate) sent_in: u64,
    /// From backends to clients.
    pub(crate) sent_out: u64,
    /// Dropped.
    pub(crate) dropped: u64,
    /// Untouched.
    pub(crate) passed: u64,
    /// Nothing of these.
    pub(crate) odd: u64,
}

impl Tally {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            sent_in: self.sent_in + other.sent_in,
            sent_out: self.sent_out + other.sent_out,
            dropped: self.dropped + other.dropped,
            passed: self.passed + other.passed,
            odd: self.odd + other.odd,
        }
    }
}

/// Whether a frame goes back to where another came from.
fn is_answer(came: &[u8], goes: &[u8]) -> bool {
    let (source, target) = if came[12..14] == [0x08, 0x00] { (26..30, 30..34) } else { (22..38, 38..54) };
    goes.get(target) == Some(&came[source])
}

/// One sender of packets: a thread.
pub(crate) struct Sender<'a> {
    /// The programs.
    pub(crate) programs: &'a Programs,
    /// Indexes of the interfaces towards clients and towards local backends.
    pub(crate) interfaces: (u32, u32),
    /// The forward table.
    pub(crate) buckets: Array<MapData, Bucket>,
    /// How it is hashed.
    pub(crate) limits: Limits,
    /// What became of what was sent.
    pub(crate) tally: Tally,
}

impl Sender<'_> {
    /// A client sends.
    pub(crate) fn client(&mut self, key: Key, flags: u8, payload: u8, xdp: bool) -> Result<()> {
        let frame = traffic::of_client(key, flags, payload, Shape::default()).frame();
        let mut ran = Ran { action: XDP_PASS, frame: Vec::new() };
        if xdp {
            ran = self.programs.xdp(&frame, self.interfaces.0)?;
        }
        match ran.action {
            XDP_TX => self.tally.sent_in += 1,
            XDP_DROP => self.tally.dropped += 1,
            _ => {
                let ran = self.programs.ingress(&frame, Buffer::of(self.interfaces.0))?;
                match ran.action {
                    TC_REDIRECT if is_answer(&frame, &ran.frame) => self.tally.dropped += 1,
                    TC_REDIRECT => self.tally.sent_in += 1,
                    TC_SHOT => self.tally.dropped += 1,
                    TC_NEXT => self.tally.passed += 1,
                    _ => self.tally.odd += 1,
                }
            }
        }
        Ok(())
    }

    /// The backend of a flow sends, if there is one.
    pub(crate) fn backend(&mut self, key: Key, flags: u8, payload: u8) -> Result<()> {
        let Some(Choice { backend, port }) = self.choice(key) else { return Ok(()) };
        let client = world::client(key.0, key.1, key.2);
        let to = port.map_or(client, |port| SocketAddr::new(world::source(backend), port));
        let interface = if world::is_local(backend) { self.interfaces.1 } else { self.interfaces.0 };
        let frame = traffic::of_backend(backend, to, flags, payload, Shape::default()).frame();
        match self.programs.ingress(&frame, Buffer::of(interface))?.action {
            TC_REDIRECT => self.tally.sent_out += 1,
            TC_SHOT => self.tally.dropped += 1,
            TC_NEXT => self.tally.passed += 1,
            _ => self.tally.odd += 1,
        }
        Ok(())
    }

    /// What the programs chose for a flow.
    pub(crate) fn choice(&self, key: Key) -> Option<Choice> {
        traffic::choice(&self.limits, key, |index| Ok(self.buckets.get(&index, 0)?))
    }
}
