//! How much new maps have room for: what is the most of them, flows and selection tables, follows the machine's memory.

/// The share of the memory that flows take at most, and selection tables as well.
const SHARE: u64 = 32;
/// Kernel memory for a flow: its two entries.
const FLOW_BYTES: u64 = 96;
const SLOT_BYTES: u64 = 8;
/// A machine of 3 GiB and more has room for so many flows,
const MOST_FLOWS: u64 = 1 << 20;
/// and every one for these.
const LEAST_FLOWS: u64 = 1 << 16;
const LEAST_SLOTS: u64 = 1 << 20;

/// How much new maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends, and service ports.
    pub frontends: u32,
    /// Backends of all service ports.
    pub backends: u32,
    /// Slots of selection tables, 8 bytes each.
    pub slots: u32,
}

/// Room for 10,000 service ports with 100,000 backends, and for the new tables of those that change.
impl Default for Sizes {
    fn default() -> Self {
        Self { frontends: 1 << 16, backends: 1 << 17, slots: 12 << 20 }
    }
}

impl Sizes {
    /// What a machine with so many bytes of memory has room for; [`Sizes::default`] from 3 GiB on.
    pub fn of_memory(memory: u64) -> Self {
        let most = Self::default();
        let slots = (memory / SHARE / SLOT_BYTES).clamp(LEAST_SLOTS, most.slots.into());
        Self { slots: slots as u32, ..most }
    }
}

/// Flows that a machine with so many bytes of memory has room for: a power of two.
pub fn flows_of_memory(memory: u64) -> u32 {
    let fit = (memory / SHARE / FLOW_BYTES).clamp(LEAST_FLOWS, MOST_FLOWS);
    1 << fit.ilog2()
}

/// Bytes of memory of this machine.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_machines_have_small_maps() {
        const MIB: u64 = 1 << 20;
        for (mib, flows, slots) in [
            (128, 1 << 16, 1 << 20),
            (512, 1 << 17, 2 << 20),
            (1024, 1 << 18, 4 << 20),
            (2048, 1 << 19, 8 << 20),
            (3072, 1 << 20, 12 << 20),
            (1 << 20, 1 << 20, 12 << 20),
        ] {
            assert_eq!((flows_of_memory(mib * MIB), Sizes::of_memory(mib * MIB).slots), (flows, slots), "{mib} MiB");
        }
        assert_eq!(Sizes::of_memory(3 << 30), Sizes::default());
    }
}
