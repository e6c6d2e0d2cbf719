//! The pipeline in memory as the model's subject: the code of the programs without a kernel, and with the same chance in every run.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Result, anyhow};
use fastrand::Rng;
use lb_agent::dataplane::{Counters, SweepReport, Write};
use lb_common::{Bucket, DropReason};
use lb_ebpf::env::{Env as _, Hook, Limits, Table};

use crate::{
    host::Memory,
    life::TCP_IDLE,
    subject::{Goes, Subject, Via, Work},
    table::{
        net::Interface,
        run::{Fate, Subject as _},
    },
};

/// When its time begins.
const START: u32 = 1000;
/// Random numbers that one packet may take.
const CHANCES: usize = 12;

/// As many flows and source ports as the loaded programs have in these tests.
const LIMITS: Limits =
    Limits { flow_seed: 0x5eed, bucket_mask: 511, snat_first: 61000, snat_last: 65535, tcp_idle: TCP_IDLE };

/// The pipeline in memory.
pub(crate) struct InMemory {
    memory: Memory,
    chance: Rng,
    lost: fn(&Write) -> bool,
}

/// Makes one and works with it.
pub(crate) fn stage(work: &mut Work<'_>) -> Result<()> {
    work(&mut InMemory::new())
}

impl InMemory {
    /// Nothing is in it.
    pub(crate) fn new() -> Self {
        Self::losing(|_| false)
    }

    /// One that these writes never reach: what follows from that is a disagreement.
    pub(crate) fn losing(lost: fn(&Write) -> bool) -> Self {
        Self { memory: Memory::with(LIMITS), chance: Rng::with_seed(0), lost }
    }
}

impl Subject for InMemory {
    fn reset(&mut self) -> Result<u32> {
        *self = Self::losing(self.lost);
        self.set_clock(START)?;
        Ok(START)
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        if !(self.lost)(write) {
            self.memory.write(write);
        }
        Ok(())
    }

    fn set_clock(&mut self, seconds: u32) -> Result<()> {
        self.memory.clock = seconds;
        Ok(())
    }

    fn run(&mut self, hook: Hook, via: Via, frame: &[u8]) -> Result<(Goes, Vec<u8>)> {
        let (memory, chance) = (&mut self.memory, &mut self.chance);
        memory.events.get_mut().clear();
        memory.random.get_mut().clear();
        memory.random.get_mut().extend((0..CHANCES).map(|_| chance.u32(..)));
        let via = if via == Via::Uplink { Interface::Up0 } else { Interface::Pod0 };
        let ran = catch_unwind(AssertUnwindSafe(|| memory.run(hook, via, frame)));
        let (fate, after) = ran.map_err(|_| anyhow!("the pipeline panicked"))??;
        let goes = match fate {
            Fate::Next => Goes::On,
            Fate::Drop => Goes::Ends,
            Fate::Out(_) => Goes::Out,
        };
        Ok((goes, after))
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>> {
        Ok(backends.iter().map(|index| self.memory.counters(*index)).collect())
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>> {
        let count = |reason: &DropReason| (*reason, self.memory.drops.get(reason).copied().unwrap_or(0));
        Ok(DropReason::ALL.iter().map(count).collect())
    }

    fn sweep(&mut self) -> Result<SweepReport> {
        Ok(self.memory.sweep())
    }

    fn limits(&self) -> Result<Limits> {
        Ok(self.memory.limits)
    }

    fn bucket(&self, table: Table, index: u32) -> Result<Bucket> {
        let env = self.memory.at(Hook::Ingress, Interface::Up0);
        let bucket = env.bucket(table, index).ok_or_else(|| anyhow!("no bucket {index}"))?;
        // SAFETY: the place is valid as long as the memory, and no packet is under way.
        Ok(unsafe { *bucket.ptr() })
    }

    /// Maps outlive an agent, and here there is nothing else.
    fn restart(&mut self) -> Result<()> {
        Ok(())
    }
}
