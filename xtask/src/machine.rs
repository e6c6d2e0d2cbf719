//! What a benchmark ran on, as the measuring program describes it.

use std::fmt;

use serde::Deserialize;

/// A machine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    memory_mib: u64,
    kernel: String,
    /// The mean number of tasks that ran or wanted to, over the last minute, at the end.
    pub(crate) load: f64,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, memory_mib, kernel, .. } = self;
        write!(f, "{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel}")
    }
}
