//! What the numbers were measured on.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    cpu: String,
    cpus: usize,
    memory_mib: u64,
    kernel: String,
    /// The mean number of tasks that ran or wanted to, over the last minute, at the end.
    load: f64,
}

/// This one.
pub fn describe() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
    let (cpus, memory, load) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?, read("/proc/loadavg")?);
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    Ok(Machine {
        cpu: model.map_or("?", |(_, name)| name).to_owned(),
        cpus: std::thread::available_parallelism()?.get(),
        memory_mib: kib.context("no MemTotal")?.trim().parse::<u64>()? / 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        load: load.split(' ').next().unwrap_or_default().parse()?,
    })
}
