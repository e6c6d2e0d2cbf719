//! What the model runs beside: the loaded programs, or the same pipeline in memory.

use std::collections::BTreeMap;

use anyhow::Result;
use lb_agent::dataplane::{Counters, SweepReport, Write};
use lb_common::{Bucket, DropReason};
use lb_ebpf::env::{Hook, Limits, Table};

/// Where a packet comes by, or at egress leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The interface towards clients and remote backends.
    Uplink,
    /// The interface towards local backends.
    Pod,
}

/// What a hook did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// It goes on to the next hook, or through the stack.
    On,
    /// It ends.
    Ends,
    /// It leaves by an interface.
    Out,
}

/// The pipeline at work.
pub(crate) trait Subject {
    /// Makes it as it was when it was new, without a frontend, a backend or a flow, with every count 0; the time from then on.
    fn reset(&mut self) -> Result<u32>;
    /// Writes the maps.
    fn write(&mut self, write: &Write) -> Result<()>;
    /// Says what time it is, in seconds.
    fn set_clock(&mut self, seconds: u32) -> Result<()>;
    /// Gives a hook a packet; what it did, and the packet afterwards.
    fn run(&mut self, hook: Hook, via: Via, frame: &[u8]) -> Result<(Goes, Vec<u8>)>;
    /// The counts of these backends.
    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>>;
    /// Drops by reason.
    fn drops(&self) -> Result<BTreeMap<DropReason, u64>>;
    /// A whole sweep.
    fn sweep(&mut self) -> Result<SweepReport>;
    /// Size and seed of the flow tables.
    fn limits(&self) -> Result<Limits>;
    /// A bucket of a flow table.
    fn bucket(&self, table: Table, index: u32) -> Result<Bucket>;
    /// The agent ends, and another one begins, with a flow table of another size.
    fn restart(&mut self) -> Result<()>;
}

/// What is done with a subject.
pub(crate) type Work<'a> = dyn FnMut(&mut dyn Subject) -> Result<()> + Send + 'a;

/// Makes a subject and works with it.
pub(crate) type Stage = fn(&mut Work<'_>) -> Result<()>;
