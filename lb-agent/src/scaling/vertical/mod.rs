//! The size of a replica: how much CPU and memory one of its containers should request, from what it uses ([`estimate`]) and what rules
//! say, within the policy's bounds ([`decide()`]). Without I/O; whoever has pods resizes them.

pub mod decide;
pub mod estimate;
pub mod histogram;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signals::Requests;

pub use decide::{Sizes, decide};
pub use estimate::{Estimate, Estimator};

/// What is sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// CPU, in thousandths of one.
    Cpu,
    /// Memory, in bytes.
    Memory,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    /// As Kubernetes calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// Its amount in a request.
    pub const fn of(self, requests: &Requests) -> Option<u64> {
        match self {
            Self::Cpu => requests.cpu,
            Self::Memory => requests.memory,
        }
    }

    /// Its place in a request.
    pub const fn place(self, requests: &mut Requests) -> &mut Option<u64> {
        match self {
            Self::Cpu => &mut requests.cpu,
            Self::Memory => &mut requests.memory,
        }
    }

    /// An amount as a quantity of Kubernetes, in whole thousandths of a CPU or whole mebibytes where it is one.
    pub fn quantity(self, amount: u64) -> String {
        match self {
            Self::Cpu => format!("{amount}m"),
            Self::Memory if amount.is_multiple_of(MIB) => format!("{}Mi", amount / MIB),
            Self::Memory => amount.to_string(),
        }
    }

    /// The least request of at least this amount that is written: whole thousandths, whole mebibytes.
    pub fn round_up(self, amount: f64) -> u64 {
        match self {
            Self::Cpu => amount.ceil().max(1.0) as u64,
            Self::Memory => (amount / MIB as f64).ceil().max(1.0) as u64 * MIB,
        }
    }
}

const MIB: u64 = 1 << 20;

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Requests in words: `cpu 250m, memory 64Mi`.
pub fn in_words(requests: &Requests) -> String {
    let part =
        |resource: Resource| resource.of(requests).map(|amount| format!("{resource} {}", resource.quantity(amount)));
    Resource::ALL.into_iter().filter_map(part).collect::<Vec<_>>().join(", ")
}
