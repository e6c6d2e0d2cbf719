//! Runs operations on a subject and on the model, and compares all that can be seen.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use lb_agent::dataplane::{SweepReport, Write};
use lb_common::{BackendState, counters::Recount};
use lb_ebpf::env::{Hook, Limits, Table};

use crate::{
    errors::IcmpError,
    frames::{Datagram, Part, Shape, carrier},
    life::{Fate, Key, Presence},
    operations::Operation,
    reference::Model,
    subject::{Goes, Subject, Via},
    table::verify,
    tables,
    traffic::{self, choice},
    world::{self, ALL, Condition},
};

/// A subject and the model.
pub(crate) struct Pair<'a> {
    subject: &'a mut dyn Subject,
    /// The model.
    pub(crate) model: Model,
    /// Everything that sweeps have found.
    pub(crate) swept: SweepReport,
    limits: Limits,
    turn: u32,
}

impl<'a> Pair<'a> {
    /// Every backend ready, no flow, whatever the subject was used for.
    pub(crate) fn new(subject: &'a mut dyn Subject) -> Result<Self> {
        let now = subject.reset()?;
        let conditions = vec![Condition::ready(1); ALL as usize];
        let selections: Vec<_> = (0..world::FRONTENDS).map(|f| world::selection(f, &conditions)).collect();
        let limits = subject.limits()?;
        let model = Model::new(conditions.clone(), selections.clone(), now);
        let mut pair = Self { subject, model, swept: SweepReport::default(), limits, turn: 0 };
        for (index, condition) in conditions.iter().enumerate() {
            pair.write(&world::backend(index as u32, *condition))?;
        }
        pair.write(&world::all_admitted())?;
        for (frontend, selection) in selections.iter().enumerate() {
            pair.write(&world::frontend(frontend, selection, 0))?;
        }
        Ok(pair)
    }

    fn write(&mut self, writes: &[Write]) -> Result<()> {
        writes.iter().try_for_each(|write| self.subject.write(write))
    }

    /// Does one operation on both.
    fn step(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Client { key, flags, payload, shape, xdp } => {
                self.client(key, traffic::of_client(key, flags, payload, shape), xdp)
            }
            Operation::Backend { key, backend, flags, payload, shape, first } => {
                self.backend(key, backend, first, (flags, payload, shape))
            }
            Operation::Forwarded { key, backend, flags, payload, shape } => {
                self.forwarded(key, world::index(key.2, backend % 2), traffic::of_client(key, flags, payload, shape))
            }
            Operation::Error { key, reply: true, router, first, .. } => self.reply_is_lost(key, router, first),
            Operation::Error { key, backend, reply: false, router, first } => {
                self.packet_is_lost(key, backend, router, first)
            }
            Operation::Wait(seconds) => {
                self.model.now += seconds;
                self.subject.set_clock(self.model.now)
            }
            Operation::Sweep => self.sweep(),
            Operation::Backing { index, state, unlisted } => {
                let old = self.model.conditions[index as usize];
                self.condition(index, Condition { state, unlisted, ..old })
            }
            Operation::Renew { index } => self.renew(index),
            Operation::Frontend(frontend) => self.frontend(frontend),
            Operation::Admit { frontend, client, admitted } => {
                let outside = &mut self.model.outside;
                if admitted {
                    outside.remove(&(client, frontend))
                } else {
                    outside.insert((client, frontend))
                };
                self.subject.write(&world::range(frontend, client, admitted))
            }
            Operation::Restart => {
                self.subject.restart()?;
                self.limits = self.subject.limits()?;
                Ok(())
            }
        }
    }

    fn client(&mut self, key: Key, packet: Datagram, xdp: bool) -> Result<()> {
        let frame = packet.frame();
        let hooks = if xdp { &[Hook::Xdp, Hook::Ingress][..] } else { &[Hook::Ingress] };
        for hook in hooks {
            let ran = self.subject.run(*hook, Via::Uplink, &frame)?;
            let (subject, limits) = (&*self.subject, &self.limits);
            let choice = || choice(limits, key, |index| subject.bucket(Table::Forward, index));
            let fate = self.model.client_sends(key, packet, *hook == Hook::Xdp, &choice).map_err(Error::msg)?;
            let fate = self.numbered(packet, fate, &ran.1)?;
            compare(&frame, fate, *hook, &ran)?;
            if fate != Fate::Passes {
                break;
            }
        }
        Ok(())
    }

    fn forwarded(&mut self, key: Key, target: u32, packet: Datagram) -> Result<()> {
        if !world::forwards(key.2) {
            return Ok(());
        }
        let inner = packet.frame();
        let from = SocketAddr::new(world::router(key.2), 50_000);
        let outer = carrier(&inner, from, world::endpoint(target), world::vip(key.2));
        let ran = self.subject.run(Hook::Ingress, Via::Uplink, &outer)?;
        let (subject, limits) = (&*self.subject, &self.limits);
        let choice = || choice(limits, key, |index| subject.bucket(Table::Forward, index));
        let fate = self.model.node_sends(key, packet, target, &choice).map_err(Error::msg)?;
        let fate = self.numbered(packet, fate, &ran.1)?;
        // What is known is taken out of it, whatever becomes of that.
        compare(if fate == Fate::Passes { &outer } else { &inner }, fate, Hook::Ingress, &ran)
    }

    fn backend(
        &mut self,
        key: Key,
        number: usize,
        first: bool,
        (flags, payload, shape): (u8, u8, Shape),
    ) -> Result<()> {
        let (index, peer) = self.partners(key, number);
        let packet = traffic::of_backend(index, peer, flags, payload, shape);
        let (hook, via) = hook_of(index, first);
        let frame = packet.frame();
        let ran = self.subject.run(hook, via, &frame)?;
        let fate = self.model.backend_sends(index, packet, hook);
        let fate = self.numbered(packet, fate, &ran.1)?;
        compare(&frame, fate, hook, &ran)
    }

    /// The backend of a flow, or if there is none the one of this number, and whom it takes for the client.
    fn partners(&self, key: Key, number: usize) -> (u32, SocketAddr) {
        match self.model.flows.get(&key) {
            Some(flow) => (flow.backend, self.model.peer(key)),
            None => (world::index(key.2, number), world::client(key.0, key.1, key.2)),
        }
    }

    fn reply_is_lost(&mut self, key: Key, router: bool, first: bool) -> Result<()> {
        let (vip, client) = (world::vip(key.2), world::client(key.0, key.1, key.2));
        let src = if router { world::router(key.2) } else { client.ip() };
        let (from, to) = (vip.socket(), client);
        let error = IcmpError { src, dst: from.ip(), from, to, tcp: vip.protocol == 6, ttl: 64 };
        let frame = error.frame();
        let hook = if first { Hook::Xdp } else { Hook::Ingress };
        let ran = self.subject.run(hook, Via::Uplink, &frame)?;
        let fate = if first { Fate::Passes } else { self.model.reply_is_lost(key, error) };
        compare(&frame, fate, hook, &ran)
    }

    fn packet_is_lost(&mut self, key: Key, number: usize, router: bool, first: bool) -> Result<()> {
        let (index, from) = self.partners(key, number);
        let endpoint = world::endpoint(index);
        let to = endpoint.socket();
        let src = if router { world::router(key.2) } else { to.ip() };
        let error = IcmpError { src, dst: from.ip(), from, to, tcp: endpoint.protocol == 6, ttl: 63 };
        let (hook, via) = hook_of(index, first);
        let frame = error.frame();
        let ran = self.subject.run(hook, via, &frame)?;
        let fate = match hook {
            Hook::Xdp => Fate::Passes,
            hook => self.model.packet_is_lost(index, error, hook),
        };
        compare(&frame, fate, hook, &ran)
    }

    /// Which number the fragments of a packet get is the subject's choice.
    fn numbered(&mut self, packet: Datagram, fate: Fate, after: &[u8]) -> Result<Fate> {
        let Fate::Becomes(to) = fate else { return Ok(fate) };
        let Part::First(_) = to.shape.part else { return Ok(fate) };
        let id = to.id_in(after).with_context(|| format!("no identification in {}", hex(after)))?;
        self.model.number(packet, id).map_err(Error::msg)?;
        Ok(Fate::Becomes(Datagram { shape: Shape { part: Part::First(id), ..to.shape }, ..to }))
    }

    fn sweep(&mut self) -> Result<()> {
        let report = self.subject.sweep()?;
        let (expired, forgotten) = self.model.sweep();
        let counts: BTreeMap<u32, Recount> = (0..ALL)
            .map(|index| (index, self.model.recount(index)))
            .filter(|(_, counts)| *counts != Recount::default())
            .collect();
        equal("recounts", &counts, &report.recounts)?;
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
        self.write(&world::backend(index, condition))
    }

    fn put_frontend(&mut self, frontend: usize) -> Result<()> {
        self.turn += 1;
        let writes = world::frontend(frontend, &self.model.selections[frontend], self.turn);
        self.write(&writes)
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
                self.write(&world::no_frontend(frontend))
            }
            Presence::Removed => Ok(()),
            Presence::Forgotten => {
                self.model.presence[frontend] = Presence::Live;
                self.put_frontend(frontend)
            }
        }
    }

    /// Compares every counter.
    fn check_counters(&self) -> Result<()> {
        let indexes: Vec<u32> = (0..ALL).collect();
        for (index, found) in indexes.iter().zip(self.subject.counters(&indexes)?) {
            let (load, traffic) = (self.model.load(*index), &self.model.traffic[*index as usize]);
            ensure!(load == found.load, "load of backend {index}: expected {load:?}, is {:?}", found.load);
            ensure!(
                *traffic == found.traffic,
                "traffic of backend {index}: expected {traffic:?}, is {:?}",
                found.traffic
            );
        }
        equal("drops", &self.model.drops, &self.subject.drops()?)
    }

    /// Compares the flow tables, entry by entry.
    fn check_tables(&self) -> Result<()> {
        let dump = tables::Dump::read(&self.limits, &|table, index| self.subject.bucket(table, index))?;
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

/// Which hook sees what comes from a backend, and where.
fn hook_of(backend: u32, first: bool) -> (Hook, Via) {
    match (world::is_local(backend), first) {
        (true, true) => (Hook::Egress, Via::Uplink),
        (true, false) => (Hook::Ingress, Via::Pod),
        (false, true) => (Hook::Xdp, Via::Uplink),
        (false, false) => (Hook::Ingress, Via::Uplink),
    }
}

/// Compares what became of a frame. Link layer addresses are left out: tc's are written after the program, XDP's are the packet tests'
/// business.
fn compare(sent: &[u8], fate: Fate, hook: Hook, (goes, after): &(Goes, Vec<u8>)) -> Result<()> {
    let forwarded = if hook == Hook::Egress { Goes::On } else { Goes::Out };
    let (expected, frame) = match fate {
        // What the answer says is the packet tests' business too.
        Fate::Refused if *goes == Goes::Out && after != sent => {
            return verify::checksums(after).map_err(|wrong| Error::msg(format!("{wrong} of {}", hex(after))));
        }
        Fate::Refused => (Goes::Out, sent.to_vec()),
        Fate::Passes => (Goes::On, sent.to_vec()),
        Fate::Drops => (Goes::Ends, sent.to_vec()),
        Fate::Becomes(packet) => (forwarded, packet.frame()),
        Fate::Translated(error) => (forwarded, error.frame()),
        Fate::Forwarded(packet, backend, frontend) => {
            let packet = packet.frame();
            let from = SocketAddr::new(world::source(backend), source_port(world::is_v4(frontend), after));
            (forwarded, carrier(&packet, from, world::endpoint(backend), world::vip(frontend)))
        }
    };
    if *goes == expected && after.get(12..) == frame.get(12..) {
        return Ok(());
    }
    bail!("at {hook:?}, {fate:?}: expected {expected:?} {}, is {goes:?} {}", hex(&frame), hex(after))
}

/// Which port a carrier comes from is the programs' choice, as long as it is a dynamic one.
fn source_port(v4: bool, frame: &[u8]) -> u16 {
    let at = if v4 { 34 } else { 54 };
    let port = frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if port >= 0xc000 { port } else { 0 }
}

/// Bytes as text, for messages.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: &T) -> Result<()> {
    ensure!(expected == found, "{what}: expected\n{expected:?}, is\n{found:?}");
    Ok(())
}

/// How often everything is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Operations from one look at the counters to the next.
    pub(crate) counters: usize,
    /// The same for the flow tables, which are larger.
    pub(crate) tables: usize,
}

/// Runs operations, and counts them in `done`; after which one what was wrong.
pub(crate) fn run(
    pair: &mut Pair<'_>,
    operations: &[Operation],
    pace: Pace,
    done: &AtomicU64,
) -> Result<(), (usize, Error)> {
    let last = operations.len().saturating_sub(1);
    for (number, operation) in operations.iter().enumerate() {
        let mut right = pair.step(*operation);
        if number % pace.counters == pace.counters - 1 || number == last {
            right = right.and_then(|()| pair.check_counters());
            done.fetch_add((number % pace.counters + 1) as u64, Ordering::Relaxed);
        }
        if number % pace.tables == pace.tables - 1 || number == last {
            right = right.and_then(|()| pair.check_tables());
        }
        right.with_context(|| format!("operation {number}: {operation:?}")).map_err(|error| (number, error))?;
    }
    Ok(())
}
