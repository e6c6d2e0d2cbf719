//! A frame in memory as the pipeline's [`Packet`], and the hooks' way with verdicts.

use std::collections::{BTreeMap, BTreeSet};

use lb_agent::{
    dataplane::{Counters, SweepReport, Write},
    signals::requests::Noted,
};
use lb_common::DropReason;
use lb_ebpf::{
    answer::{self, Complaint},
    checksum,
    env::Hook,
    header,
    packet::{Packet, Plain, TransportChange},
    pipeline::{self, Action, Verdict},
};

use crate::{
    host::Memory,
    table::{
        net::Interface,
        run::{Fate, Subject},
    },
};

const ETHERNET: usize = 14;

/// Bytes, of which only so many are in reach: the others are as in a socket buffer's fragments.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reach: usize,
    pub(crate) segments: (u32, u32),
    /// The type of a packet without an Ethernet header.
    pub(crate) bare: Option<u16>,
}

impl Frame {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), reach: bytes.len(), segments: (1, 0), bare: None }
    }
}

impl Frame {
    /// Puts an Ethernet header before a packet that has none.
    fn give_ethernet(&mut self) {
        if let Some(kind) = self.bare.take() {
            self.bytes.splice(..0, [[0; 12].as_slice(), &kind.to_be_bytes()].concat());
            self.reach += ETHERNET;
        }
    }
}

impl Packet for Frame {
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let start = offset as usize;
        let bytes = self.bytes[..self.reach].get(start..start + size_of::<T>())?;
        // SAFETY: as many bytes as `T` has, and `Plain` has no invalid patterns.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Plain>(&mut self, offset: u32, value: T) -> Option<()> {
        let start = offset as usize;
        let bytes = self.bytes.get_mut(start..start + size_of::<T>())?;
        // SAFETY: as many bytes as `T` has.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segments(&self) -> (u32, u32) {
        self.segments
    }

    fn fix_ip_checksum(&mut self, offset: u32, difference: u32) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        self.store(offset, checksum::apply(field, difference))
    }

    fn fix_transport_checksum(&mut self, offset: u32, change: TransportChange) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        if change.zero_is_none && field == 0 {
            return Some(());
        }
        let new = checksum::apply(field, checksum::add(change.pseudo, change.data));
        self.store(offset, if change.zero_is_none && new == 0 { 0xffff } else { new })
    }

    fn bare(&self) -> Option<u16> {
        self.bare
    }

    fn encapsulate(&mut self, l3: u32, room: u32, _v4: bool) -> Option<u32> {
        self.give_ethernet();
        // tc takes a tag out first; XDP has none here.
        self.bytes.drain(12..12 + (l3 as usize).saturating_sub(ETHERNET));
        self.bytes.splice(ETHERNET..ETHERNET, vec![0xee; room as usize]);
        self.reach += room as usize;
        Some(ETHERNET as u32)
    }

    fn decapsulate(&mut self, _l3: u32, room: u32) -> Option<()> {
        self.give_ethernet();
        self.bytes.drain(ETHERNET..ETHERNET + room as usize);
        self.reach = self.reach.saturating_sub(room as usize);
        Some(())
    }

    fn reshape(&mut self, length: u32, room: i32) -> Option<()> {
        self.bytes.resize(length as usize, 0xee);
        let gone = room.min(0).unsigned_abs() as usize;
        self.bytes.splice(ETHERNET..ETHERNET + gone, vec![0xee; room.max(0) as usize]);
        self.reach = self.bytes.len();
        Some(())
    }
}

impl Memory {
    /// Gives a frame to the pipeline, and if it carries another one, that.
    pub(crate) fn verdict(&mut self, hook: Hook, via: Interface, frame: &mut Frame) -> Verdict {
        self.forget_target();
        let verdict = pipeline::run(frame, &self.at(hook, via));
        if verdict == Verdict::AGAIN { pipeline::run(frame, &self.at(hook, via)) } else { verdict }
    }

    fn drop_packet(&mut self, reason: DropReason) -> Fate {
        *self.drops.entry(reason).or_default() += 1;
        Fate::Drop
    }

    /// Drops a packet, of which its sender is told where that is possible.
    fn tell(&mut self, frame: &mut Frame, via: Interface, what: Complaint, limit: u32, reason: DropReason) -> Fate {
        let dropped = self.drop_packet(reason);
        let mut parsed = self.parsed();
        let tagged = parsed.l3 == 18;
        if tagged {
            // tc takes the tag out, and the kernel keeps beside the packet what tc puts back.
            frame.bytes.drain(12..16);
            frame.reach = frame.bytes.len();
            (parsed.l3, parsed.l4) = (14, parsed.l4 - 4);
        }
        if !answer::answer(frame, &self.at(Hook::Ingress, via), &parsed, what, limit) {
            return dropped;
        }
        if tagged {
            header::turn_link(frame);
        }
        Fate::Out(Some(via))
    }
}

fn reason(verdict: Verdict) -> anyhow::Result<DropReason> {
    let known = DropReason::ALL.iter().find(|reason| **reason as u32 == verdict.value());
    known.copied().ok_or_else(|| anyhow::anyhow!("no reason has number {}", verdict.value()))
}

impl Subject for Memory {
    fn write(&mut self, write: &Write) -> anyhow::Result<()> {
        self.write(write);
        Ok(())
    }

    fn set_clock(&mut self, seconds: u32) -> anyhow::Result<()> {
        self.clock = seconds;
        Ok(())
    }

    fn takes(&self, _hook: Hook, _frame: &[u8]) -> bool {
        true
    }

    fn run(&mut self, hook: Hook, via: Interface, frame: &[u8]) -> anyhow::Result<(Fate, Vec<u8>)> {
        let mut frame = Frame::new(frame);
        let verdict = self.verdict(hook, via, &mut frame);
        let xdp = hook == Hook::Xdp;
        let is_passed = matches!(verdict.action(), Action::Pass | Action::Truncated | Action::Again);
        if self.is_forwarded() && is_passed {
            return Ok((self.drop_packet(DropReason::StaleTable), frame.bytes));
        }
        let fate = match verdict.action() {
            Action::Pass | Action::Truncated | Action::Again | Action::Stack => Fate::Next,
            Action::Interface => {
                if !xdp && frame.bytes[12..14] == [0x81, 0] {
                    // tc takes the tag out.
                    frame.bytes.drain(12..16);
                }
                Fate::Out(Interface::ALL.into_iter().find(|i| u32::from(i.number()) == verdict.value()))
            }
            Action::Drop => {
                let reason = reason(verdict)?;
                self.drop_packet(reason)
            }
            Action::TooBig | Action::TimeExceeded | Action::Refuse if xdp => Fate::Next,
            Action::Reply => Fate::Out(Some(via)),
            Action::Refuse => {
                let reason = reason(verdict)?;
                self.tell(&mut frame, via, Complaint::Refused, 0, reason)
            }
            Action::TooBig => self.tell(&mut frame, via, Complaint::TooBig, verdict.value(), DropReason::TooBig),
            Action::TimeExceeded => self.tell(&mut frame, via, Complaint::TimeExceeded, 0, DropReason::TtlExceeded),
        };
        Ok((fate, frame.bytes))
    }

    fn counters(&self, backend: u32) -> anyhow::Result<Counters> {
        Ok(self.counters(backend))
    }

    fn noted(&self) -> anyhow::Result<Noted> {
        Ok(self.noted())
    }

    fn drops(&self) -> anyhow::Result<BTreeMap<DropReason, u64>> {
        Ok(self.drops.clone())
    }

    fn woken(&mut self) -> BTreeSet<u32> {
        self.woken.take()
    }

    fn flows(&self) -> anyhow::Result<usize> {
        let (forward, replies, forwarded) = self.flows();
        anyhow::ensure!(forward == replies, "{forward} forward entries have {replies} reply entries");
        Ok(forward + forwarded)
    }

    fn sweep(&mut self) -> anyhow::Result<SweepReport> {
        Ok(self.sweep())
    }

    fn writes_macs(&self) -> bool {
        false
    }
}
