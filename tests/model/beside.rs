//! Runs operations on the loaded programs and on the model, and compares all that can be seen.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use lb_agent::dataplane::{Dataplane as _, Inspect as _, SweepReport};
use lb_common::{BackendState, Bucket, names::map};
use lb_ebpf::env::Limits;

use crate::{
    frames::Datagram,
    life::{Fate, Key, Presence},
    operations::Operation,
    reference::Model,
    tables,
    testrun::{Buffer, Node, Ran, TC_NEXT, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, hex},
    traffic::{self, choice},
    world::{self, Condition},
};

const START: u32 = 1000;

/// The programs and the model.
pub(crate) struct Pair<'a> {
    node: &'a mut Node,
    /// The model.
    pub(crate) model: Model,
    /// Everything that sweeps have found.
    pub(crate) swept: SweepReport,
    buckets: Array<MapData, Bucket>,
    limits: Limits,
    turn: u32,
}

/// What each hook calls it.
struct Actions {
    pass: u32,
    drop: u32,
    send: u32,
}

const XDP: Actions = Actions { pass: XDP_PASS, drop: XDP_DROP, send: XDP_TX };
const INGRESS: Actions = Actions { pass: TC_NEXT, drop: TC_SHOT, send: TC_REDIRECT };
const EGRESS: Actions = Actions { pass: TC_NEXT, drop: TC_SHOT, send: TC_NEXT };

impl<'a> Pair<'a> {
    /// Every backend ready, no flow.
    pub(crate) fn new(node: &'a mut Node) -> Result<Self> {
        let conditions = vec![Condition::ready(1); world::FRONTENDS * world::BACKENDS];
        for (index, condition) in conditions.iter().enumerate() {
            world::put_backend(&mut node.bpf, index as u32, *condition)?;
        }
        let selections: Vec<_> = (0..world::FRONTENDS).map(|f| world::selection(f, &conditions)).collect();
        for (frontend, selection) in selections.iter().enumerate() {
            world::put_frontend(&mut node.bpf, frontend, selection, 0)?;
        }
        node.set_clock(START)?;
        Ok(Self {
            model: Model::new(conditions, selections, START),
            swept: SweepReport::default(),
            buckets: node.array(map::FLOWS)?,
            limits: tables::limits(&node.bpf.made_with()),
            turn: 0,
            node,
        })
    }

    /// Does one operation on both.
    pub(crate) fn step(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Client { key, flags, payload, xdp } => self.client(key, flags, payload, xdp),
            Operation::Backend { key, backend, flags, payload, first } => {
                self.backend(key, backend, flags, payload, first)
            }
            Operation::Wait(seconds) => {
                self.model.now += seconds;
                self.node.set_clock(self.model.now)
            }
            Operation::Sweep => self.sweep(),
            Operation::Backing { index, state, unlisted } => {
                let old = self.model.conditions[index as usize];
                self.condition(index, Condition { state, unlisted, ..old })
            }
            Operation::Renew { index } => self.renew(index),
            Operation::Frontend(frontend) => self.frontend(frontend),
        }
    }

    fn client(&mut self, key: Key, flags: u8, payload: u8, xdp: bool) -> Result<()> {
        let packet = traffic::of_client(key, flags, payload);
        let frame = packet.frame();
        if xdp {
            let ran = self.node.programs.xdp(&frame, self.node.uplink)?;
            let fate = self.predict(key, packet, true)?;
            compare(&ran, fate, &frame, &XDP)?;
            if fate != Fate::Passes {
                return Ok(());
            }
        }
        let ran = self.node.programs.ingress(&frame, Buffer::of(self.node.uplink))?;
        let fate = self.predict(key, packet, false)?;
        compare(&ran, fate, &frame, &INGRESS)
    }

    fn predict(&mut self, key: Key, packet: Datagram, xdp: bool) -> Result<Fate> {
        let (buckets, limits) = (&self.buckets, &self.limits);
        let choice = || choice(buckets, limits, key);
        self.model.client_sends(key, packet, xdp, &choice).map_err(anyhow::Error::msg)
    }

    fn backend(&mut self, key: Key, number: usize, flags: u8, payload: u8, first: bool) -> Result<()> {
        let flow = self.model.flows.get(&key);
        let index = flow.map_or(world::index(key.2, number), |flow| flow.backend);
        let dst = if flow.is_some() { self.model.peer(key) } else { world::client(key.0, key.1, key.2) };
        let packet = traffic::of_backend(index, dst, flags, payload);
        let frame = packet.frame();
        let programs = &self.node.programs;
        let egress = world::is_local(index) && first;
        let (ran, actions) = match (world::is_local(index), first) {
            (true, true) => (programs.egress(&frame, Buffer::of(self.node.uplink))?, EGRESS),
            (true, false) => (programs.ingress(&frame, Buffer::of(self.node.pod))?, INGRESS),
            (false, true) => (programs.xdp(&frame, self.node.uplink)?, XDP),
            (false, false) => (programs.ingress(&frame, Buffer::of(self.node.uplink))?, INGRESS),
        };
        compare(&ran, self.model.backend_sends(index, packet, egress), &frame, &actions)
    }

    fn sweep(&mut self) -> Result<()> {
        let report = self.node.bpf.sweep()?;
        let (expired, forgotten) = self.model.sweep();
        let counts: BTreeMap<u32, (u64, u64)> = (0..self.model.conditions.len() as u32)
            .map(|index| (index, self.model.load(index)))
            .filter(|(_, load)| load.active + load.pending > 0)
            .map(|(index, load)| (index, (load.active, load.pending)))
            .collect();
        let recounts = report.recounts.iter().map(|(index, found)| (*index, (found.active, found.pending))).collect();
        equal("recounts", &counts, &recounts)?;
        let found = (report.entries, report.expired, report.forgotten, report.orphans, report.busy);
        equal("the sweep", &(self.model.flows.len() as u64, expired, forgotten, 0, 0), &found)?;
        self.swept.expired += expired;
        self.swept.forgotten += forgotten;
        Ok(())
    }

    /// Swaps the table first, so that no new flow goes to a backend that is on its way out.
    fn condition(&mut self, index: u32, condition: Condition) -> Result<()> {
        self.model.conditions[index as usize] = condition;
        let frontend = world::frontend_of(index);
        self.model.selections[frontend] = world::selection(frontend, &self.model.conditions);
        if self.model.presence[frontend] == Presence::Live {
            self.put_frontend(frontend)?;
        }
        world::put_backend(&mut self.node.bpf, index, condition)
    }

    fn put_frontend(&mut self, frontend: usize) -> Result<()> {
        self.turn += 1;
        world::put_frontend(&mut self.node.bpf, frontend, &self.model.selections[frontend], self.turn)
    }

    fn renew(&mut self, index: u32) -> Result<()> {
        self.sweep()?;
        let load = self.model.load(index);
        let old = self.model.conditions[index as usize];
        if old.state != BackendState::Removed || load.active + load.pending > 0 {
            return Ok(());
        }
        self.model.renew(index);
        self.condition(index, Condition::ready(old.incarnation + 1))
    }

    fn frontend(&mut self, frontend: usize) -> Result<()> {
        match self.model.presence[frontend] {
            Presence::Live => {
                self.model.presence[frontend] = Presence::Removed;
                world::remove_frontend(&mut self.node.bpf, frontend)
            }
            Presence::Removed => Ok(()),
            Presence::Forgotten => {
                self.model.presence[frontend] = Presence::Live;
                self.put_frontend(frontend)
            }
        }
    }

    /// Compares every counter.
    pub(crate) fn check_counters(&self) -> Result<()> {
        let indexes: Vec<u32> = (0..self.model.conditions.len() as u32).collect();
        for (index, found) in indexes.iter().zip(self.node.bpf.counters(&indexes)?) {
            equal(&format!("load of backend {index}"), &self.model.load(*index), &found.load)?;
            equal(&format!("traffic of backend {index}"), &self.model.traffic[*index as usize], &found.traffic)?;
        }
        equal("drops", &self.model.drops, &self.node.bpf.drops()?)
    }

    /// Compares the flow tables, entry by entry.
    pub(crate) fn check_tables(&self) -> Result<()> {
        let dump = tables::Dump::read(self.node)?;
        dump.check_links()?;
        let mut found = BTreeMap::new();
        for entry in &dump.forward {
            let socket = tables::socket(&entry.flow);
            let port = Some(entry.flow.snat_port.number()).filter(|port| *port != 0);
            found.insert((socket, entry.flow.id), (entry.state, entry.flow.backend, entry.flow.last, port));
        }
        let flows = self.model.flows.iter();
        let expected = flows.map(|(key, flow)| {
            ((world::client(key.0, key.1, key.2), key.2 as u32), (flow.state, flow.backend, flow.last, flow.port))
        });
        equal("the flow table", &expected.collect(), &found)
    }
}

/// Link layer addresses are left out: tc's are written after the program, XDP's are the packet tests' business.
fn compare(ran: &Ran, fate: Fate, frame: &[u8], actions: &Actions) -> Result<()> {
    let (action, expected) = match fate {
        // What the answer is in bytes is the packet tests' business.
        Fate::Refused if ran.action == actions.send && ran.frame != frame => return Ok(()),
        Fate::Refused => (actions.send, frame.to_vec()),
        Fate::Passes => (actions.pass, frame.to_vec()),
        Fate::Drops => (actions.drop, frame.to_vec()),
        Fate::Becomes(packet) => (actions.send, packet.frame()),
    };
    let same = ran.action == action && ran.frame.get(12..) == expected.get(12..);
    if same {
        Ok(())
    } else {
        bail!("{fate:?}: expected {action} {}, is {} {}", hex(&expected), ran.action, hex(&ran.frame))
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: &T) -> Result<()> {
    ensure!(expected == found, "{what}: expected\n{expected:?}, is\n{found:?}");
    Ok(())
}

/// Runs operations; after which one what was wrong.
pub(crate) fn run(pair: &mut Pair<'_>, operations: &[Operation], every: usize) -> Result<(), (usize, anyhow::Error)> {
    for (number, operation) in operations.iter().enumerate() {
        let mut done = pair.step(*operation);
        if number % every == every - 1 || number + 1 == operations.len() {
            done = done.and_then(|()| pair.check_counters());
        }
        if number % (every * 32) == every * 32 - 1 || number + 1 == operations.len() {
            done = done.and_then(|()| pair.check_tables());
        }
        done.with_context(|| format!("operation {number}: {operation:?}")).map_err(|error| (number, error))?;
    }
    Ok(())
}
