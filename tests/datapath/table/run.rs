//! Runs cases on a subject (the pipeline in memory, or the loaded programs) and says where it does not do what a case states.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_agent::{
    dataplane::{Counters, SweepReport, Write},
    signals::requests::{self, Noted},
};
use lb_common::{Backend, BackendState, DropReason, Traffic, backend::BACKEND_GONE};
use lb_ebpf::{env::Hook, flow::Direction};

use super::{
    case::{Case, Expect, Step},
    net::{Interface, Way, neighbour_mac, place},
    packet::Spec,
    verify,
};

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Left it to the next program, or to the stack.
    Next,
    /// Dropped it.
    Drop,
    /// Sent it out of an interface, where the subject can say of which.
    Out(Option<Interface>),
}

/// The pipeline at work.
pub(crate) trait Subject {
    /// Writes the maps.
    fn write(&mut self, write: &Write) -> anyhow::Result<()>;
    /// Says what time it is.
    fn set_clock(&mut self, seconds: u32) -> anyhow::Result<()>;
    /// Whether it can be given this frame at all.
    fn takes(&self, hook: Hook, frame: &[u8]) -> bool;
    /// Gives a hook a packet; what it did, and the packet afterwards.
    fn run(&mut self, hook: Hook, via: Interface, frame: &[u8]) -> anyhow::Result<(Fate, Vec<u8>)>;
    /// A backend's counts.
    fn counters(&self, backend: u32) -> anyhow::Result<Counters>;
    /// What is noted of requests.
    fn noted(&self) -> anyhow::Result<Noted>;
    /// Drops by reason.
    fn drops(&self) -> anyhow::Result<BTreeMap<DropReason, u64>>;
    /// The services that were told of since this was last asked.
    fn woken(&mut self) -> BTreeSet<u32>;
    /// Flows in the table.
    fn flows(&self) -> anyhow::Result<usize>;
    /// A whole sweep.
    fn sweep(&mut self) -> anyhow::Result<SweepReport>;
    /// Whether its XDP writes link layer addresses.
    fn writes_macs(&self) -> bool;
}

/// Longer than any idle time of the tables.
const LONG: u32 = 20_000;

/// Runs all cases; the number of packets, or every complaint.
pub(crate) fn run_all(subject: &mut impl Subject, cases: &[Case]) -> Result<usize, String> {
    let mut clock = 1_000_000;
    let mut complaints = Vec::new();
    let mut packets = 0;
    for (number, case) in cases.iter().enumerate() {
        let mut running = Running { subject, case: case.clone(), base: number as u32 * 2 + 1, clock, packets: 0 };
        if let Err(complaint) = running.run() {
            complaints.push(format!("{}: {complaint:#}", case.name));
        }
        if let Err(complaint) = running.end() {
            complaints.push(format!("{}: at its end: {complaint:#}", case.name));
        }
        clock = running.clock;
        packets += running.packets;
    }
    if complaints.is_empty() {
        return Ok(packets);
    }
    let shown = complaints.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    Err(format!("{} of {} cases are not as stated:\n{shown}", complaints.len(), cases.len()))
}

struct Running<'a, S> {
    subject: &'a mut S,
    case: Case,
    base: u32,
    clock: u32,
    packets: usize,
}

impl<S: Subject> Running<'_, S> {
    fn run(&mut self) -> anyhow::Result<()> {
        self.subject.set_clock(self.clock)?;
        self.write(&self.case.world.make(self.base))?;
        for (number, step) in self.case.steps.clone().iter().enumerate() {
            self.step(step).map_err(|e| e.context(format!("step {number}")))?;
        }
        Ok(())
    }

    /// Empties everything; whatever the case did, all flows end, each of them with both of its entries.
    fn end(&mut self) -> anyhow::Result<()> {
        let world = self.case.world.clone();
        self.write(&world.remove_frontends())?;
        self.wait(LONG)?;
        let left = self.subject.sweep()?;
        anyhow::ensure!((left.entries, left.orphans, left.busy) == (0, 0, 0), "a sweep leaves or finds {left:?}");
        for index in 0..world.indexes() {
            let load = self.subject.counters(index as u32)?.load;
            anyhow::ensure!((load.active, load.pending) == (0, 0), "backend {index} keeps {load:?}");
        }
        self.write(&world.clear())
    }

    fn write(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        writes.iter().try_for_each(|write| self.subject.write(write))
    }

    fn wait(&mut self, seconds: u32) -> anyhow::Result<()> {
        self.clock += seconds;
        self.subject.set_clock(self.clock)
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Send { hook, via, frame, expect } => self.send(*hook, *via, frame, expect),
            Step::Wait(seconds) => self.wait(*seconds),
            Step::State(index, state) => self.state(*index, *state, 0),
            Step::Gone(index) => self.state(*index, BackendState::Removed, BACKEND_GONE),
            Step::Weights(weights) => {
                for ((_, old), new) in self.case.world.backends.iter_mut().zip(weights) {
                    *old = *new;
                }
                self.write(&self.case.world.select(self.base))
            }
            Step::LocalOutside => {
                self.case.world.local_outside = true;
                self.write(&self.case.world.select(self.base))
            }
            Step::Ranges(ranges) => {
                self.write(&self.case.world.forbid())?;
                self.case.world.ranges.clone_from(ranges);
                self.write(&self.case.world.admit())
            }
            Step::RemoveFrontends => self.write(&self.case.world.remove_frontends()),
            Step::Sweep(expected) => {
                let found = self.subject.sweep()?;
                let found = (found.entries, found.expired, found.forgotten, found.orphans);
                equal("the sweep", &found, &(expected[0], expected[1], expected[2], 0))
            }
            Step::Load(index, expected) => {
                let load = self.subject.counters(*index as u32)?.load;
                let found = [load.active, load.pending, load.connections, load.closed, load.resets];
                equal(&format!("active, pending, connections, closed, resets of backend {index}"), &found, expected)
            }
            Step::Requests(index, expected) => self.requests(*index, expected),
            Step::Flows(expected) => equal("flows", &self.subject.flows()?, expected),
            Step::Woken(expected) => {
                let frontends: Vec<u32> = self.subject.woken().into_iter().map(|service| service - self.base).collect();
                equal("woken", &frontends, expected)
            }
        }
    }

    fn requests(&self, index: usize, expected: &[u64; 3]) -> anyhow::Result<()> {
        let backend = self.case.world.backend(index, self.base, BackendState::Ready);
        let backends = [(index as u32, backend)].into();
        let now = Duration::from_secs(self.clock.into());
        let load = requests::loads(&self.subject.noted()?, &backends, now).remove(&(index as u32)).unwrap_or_default();
        let found = [load.in_flight, load.begun, load.answers.total()];
        equal(&format!("in flight, begun, answers begun of backend {index}"), &found, expected)
    }

    fn state(&mut self, index: usize, state: BackendState, flag: u8) -> anyhow::Result<()> {
        let backend = self.case.world.backend(index, self.base, state);
        let backend = Backend { flags: backend.flags | flag, ..backend };
        self.subject.write(&Write::PutBackend(index as u32, backend))
    }

    fn send(&mut self, hook: Hook, via: Interface, frame: &[u8], expect: &Expect) -> anyhow::Result<()> {
        if !self.subject.takes(hook, frame) {
            return Ok(());
        }
        self.packets += 1;
        let before = self.observe()?;
        let (fate, after) = self.subject.run(hook, via, frame)?;
        let mut now = before.clone();
        let (expected_fate, expected_frame) = match expect {
            Expect::Pass | Expect::Defer => (Fate::Next, frame.to_vec()),
            Expect::Drop(reason) | Expect::DropLate(reason) => {
                *now.drops.entry(*reason).or_default() += 1;
                (Fate::Drop, frame.to_vec())
            }
            Expect::Answered(reason, out) => {
                *now.drops.entry(*reason).or_default() += 1;
                (Fate::Out(Some(via)), out.frame())
            }
            Expect::Reply(answer) => (Fate::Out(Some(via)), answer.clone()),
            Expect::Out { way, out, counted, carried } => {
                if let Some((index, direction)) = counted {
                    now.traffic[*index] = added(now.traffic[*index], *direction, out.ip().len());
                }
                let macs = hook == Hook::Xdp && self.subject.writes_macs();
                let out = out.as_ref().clone().seen_in(&after);
                (fate_of(*way), expected_frame(&out, *way, macs, frame, *carried))
            }
        };
        let seen = self.observe()?;
        let same_fate = fate == expected_fate || fate == Fate::Out(None) && matches!(expected_fate, Fate::Out(_));
        anyhow::ensure!(
            same_fate,
            "at {hook:?}: {fate:?} instead of {}; drops {:?} before, {:?} after",
            expect.in_short(),
            before.drops,
            seen.drops
        );
        let made = match expect {
            Expect::Out { .. } | Expect::Answered(..) => true,
            // ARP has no checksum.
            Expect::Reply(answer) => answer.get(12..14) == Some(&[0x86, 0xdd]),
            _ => false,
        };
        if made {
            verify::checksums(&after).map_err(|e| anyhow::anyhow!("at {hook:?}: {e} in {}", hex(&after)))?;
        }
        equal(&format!("the packet after {hook:?}"), &hex(&after), &hex(&expected_frame))?;
        equal("drops", &seen.drops, &now.drops)?;
        equal("packets and bytes", &seen.traffic, &now.traffic)?;
        use DropReason::{BackendGone, BackendsFull, NoBackend, NoFlow};
        let refused = matches!(expect, Expect::Answered(NoBackend | NoFlow | BackendGone | BackendsFull, _));
        if refused || matches!(expect, Expect::Pass | Expect::Drop(_) | Expect::Reply(_)) {
            equal("flows", &seen.flows, &before.flows)?;
        }
        Ok(())
    }

    fn observe(&self) -> anyhow::Result<Observed> {
        let counters = |index| Ok(self.subject.counters(index as u32)?.traffic);
        Ok(Observed {
            drops: self.subject.drops()?.into_iter().filter(|(_, n)| *n > 0).collect(),
            traffic: (0..self.case.world.indexes()).map(counters).collect::<anyhow::Result<_>>()?,
            flows: self.subject.flows()?,
        })
    }
}

#[derive(Clone)]
struct Observed {
    drops: BTreeMap<DropReason, u64>,
    traffic: Vec<Traffic>,
    flows: usize,
}

fn fate_of(way: Way) -> Fate {
    match way {
        Way::Out(interface) => Fate::Out(Some(interface)),
        Way::Stack => Fate::Next,
        Way::Hole => Fate::Drop,
    }
}

/// The stated packet as a frame; what stands behind the end of the IP packet stays. Of what came so many bytes have been taken away.
fn expected_frame(out: &Spec, way: Way, macs: bool, came: &[u8], carried: usize) -> Vec<u8> {
    let mut out = out.clone();
    if let (true, Way::Out(interface)) = (macs, way) {
        let (network, host) = place(out.dst.ip());
        out.macs = [neighbour_mac(network, host), interface.mac()];
    }
    let mut frame = out.frame();
    // A tag that it came with is gone.
    let tag = if came.get(12..14) == Some(&[0x81, 0]) { 4 } else { 0 };
    frame.extend(came.get(frame.len() + tag + carried - out.overhead()..).unwrap_or_default());
    frame
}

fn added(mut traffic: Traffic, direction: Direction, bytes: usize) -> Traffic {
    let (packets, sum) = match direction {
        Direction::In => (&mut traffic.packets_in, &mut traffic.bytes_in),
        Direction::Out => (&mut traffic.packets_out, &mut traffic.bytes_out),
    };
    *packets += 1;
    *sum += bytes as u64;
    traffic
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> anyhow::Result<()> {
    anyhow::ensure!(found == expected, "{what}: {found:?} instead of {expected:?}");
    Ok(())
}
