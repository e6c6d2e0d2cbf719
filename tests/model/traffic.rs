//! Packets of clients and backends, sent through the programs they would meet, without a model: what became of them is counted.

use anyhow::Result;
use aya::maps::{Array, MapData};
use lb_common::{Bucket, Port, flow::meta_state};
use lb_ebpf::{
    env::Limits,
    table::{Key as TableKey, Place},
};

use crate::{
    frames::Datagram,
    life::{Choice, Key},
    testrun::{Buffer, Programs, Ran, TC_NEXT, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX},
    world,
};

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

/// A client's packet to a frontend.
pub(crate) fn of_client(key: Key, flags: u8, payload: u8) -> Datagram {
    let vip = world::vip(key.2);
    let flags = (vip.protocol == 6).then_some(flags);
    Datagram { src: world::client(key.0, key.1, key.2), dst: vip.socket(), flags, payload, ttl: 64 }
}

/// The packet of the backend of this index to whom it takes for its client.
pub(crate) fn of_backend(index: u32, to: std::net::SocketAddr, flags: u8, payload: u8) -> Datagram {
    let endpoint = world::endpoint(index);
    let flags = (endpoint.protocol == 6).then_some(flags);
    Datagram { src: endpoint.socket(), dst: to, flags, payload, ttl: 63 }
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
        let frame = of_client(key, flags, payload).frame();
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
        let to = port.map_or(client, |port| std::net::SocketAddr::new(world::source(backend), port));
        let interface = if world::is_local(backend) { self.interfaces.1 } else { self.interfaces.0 };
        let frame = of_backend(backend, to, flags, payload).frame();
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
        choice(&self.buckets, &self.limits, key)
    }
}

/// What the programs chose for a flow.
pub(crate) fn choice(buckets: &Array<MapData, Bucket>, limits: &Limits, key: Key) -> Option<Choice> {
    let socket = world::client(key.0, key.1, key.2);
    let wanted = TableKey { addr: socket.ip().into(), id: key.2 as u32, port: Port::new(socket.port()) };
    let bucket = buckets.get(&Place::of(limits, &wanted).bucket(), 0).ok()?;
    let mut ways = bucket.meta.iter().zip(&bucket.ways).filter(|(meta, _)| meta_state(**meta) as u8 != 0);
    let (_, flow) = ways.find(|(_, flow)| (flow.addr, flow.id, flow.port) == (wanted.addr, wanted.id, wanted.port))?;
    Some(Choice { backend: flow.backend, port: Some(flow.snat_port.number()).filter(|port| *port != 0) })
}
