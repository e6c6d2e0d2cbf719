//! What a pinned set of maps says of itself.

use crate::{assert_size, plain_data};

/// Changes with every change of a shared type, a map's shape or a hash. Maps are pinned in a folder of this name.
pub const ABI_VERSION: u32 = 7;

/// The only element of the pinned `settings` map, written once by the agent that makes the maps; later agents keep to it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Seed of the flow table's hash, random per set of maps: who knows it can aim at one bucket.
    pub flow_seed: u64,
    /// [`ABI_VERSION`] of the writer.
    pub abi: u32,
    /// Buckets of each flow table less one; their number is a power of two.
    pub bucket_mask: u32,
    /// First source port of full NAT.
    pub snat_first: u16,
    /// Last source port of full NAT.
    pub snat_last: u16,
    /// Seconds without a packet after which a TCP connection is forgotten.
    pub tcp_idle: u32,
}

/// Idle times in seconds.
pub mod timeout {
    /// TCP, the SYN not answered or not acknowledged.
    pub const TCP_SYN: u32 = 20;
    /// TCP, open; `--tcp-idle` changes it.
    pub const TCP_IDLE: u32 = 8000;
    /// TCP, after both FINs or a reset.
    pub const TCP_CLOSING: u32 = 10;
    /// TCP that is forwarded, after the client's FIN: what the backend still sends is not seen, the client's acknowledgments are.
    pub const TCP_FORWARDED_FIN: u32 = 120;
    /// UDP, answered, or forwarded.
    pub const UDP: u32 = 60;
    /// UDP, not answered.
    pub const UDP_ONE_WAY: u32 = 30;
}

/// What the sweep is told through its packet's first bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepRequest {
    /// First bucket.
    pub first: u32,
    /// Number of buckets, at most [`SWEEP_BATCH`].
    pub count: u32,
}

/// What the repair of a count is told through its packet's first bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RepairRequest {
    /// The backend.
    pub backend: u32,
    /// Always 0.
    pub zero: u32,
    /// What to add to its active connections.
    pub active: i64,
    /// What to add to its pending connections.
    pub pending: i64,
}

/// What the sweep answers. Only element of the `sweep` array, added to by each run, zeroed by the agent before a pass.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepResult {
    /// Forward entries in use after the sweep.
    pub entries: u64,
    /// Flows forgotten because their time was over.
    pub expired: u64,
    /// Flows forgotten because their frontend or (UDP) backend is gone.
    pub forgotten: u64,
    /// Reply entries removed that no forward entry names.
    pub orphans: u64,
    /// Buckets skipped because they were locked.
    pub busy: u64,
}

/// Buckets in one call of the sweep.
pub const SWEEP_BATCH: u32 = 4096;

plain_data!(Settings, SweepRequest, RepairRequest, SweepResult);
assert_size!(Settings = 24, SweepRequest = 8, RepairRequest = 24, SweepResult = 40);
