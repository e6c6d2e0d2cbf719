//! Who runs where: the generator has the last CPU, and what it sends is handled there too, as far as it gets within the sender's system
//! call; clients, servers and the agent have the others.

use anyhow::{Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The CPUs of this process.
pub(crate) struct Cpus {
    generator: CpuSet,
    others: CpuSet,
}

impl Cpus {
    /// Divides those that this thread may use.
    pub(crate) fn divide() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let own: Vec<usize> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect();
        ensure!(own.len() > 1, "a flood needs two CPUs: one for the generator, one for who is to be served");
        let set = |cpus: &[usize]| -> Result<CpuSet> {
            let mut set = CpuSet::new();
            cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
            Ok(set)
        };
        let (others, generator) = own.split_at(own.len() - 1);
        Ok(Self { generator: set(generator)?, others: set(others)? })
    }

    /// Keeps this thread, and what it starts, off the generator's CPU.
    pub(crate) fn stay_with_others(&self) -> Result<()> {
        Ok(sched_setaffinity(Pid::from_raw(0), &self.others)?)
    }

    /// Keeps this thread on the generator's CPU.
    pub(crate) fn stay_with_generator(&self) -> Result<()> {
        Ok(sched_setaffinity(Pid::from_raw(0), &self.generator)?)
    }
}
