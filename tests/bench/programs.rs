//! What the kernel says of the programs: how long each is, and how many instructions the verifier looked at. A change that makes one
//! heavier is seen here first.

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::Program};

use crate::{driver::Driver, report::Report, stage::Stage};

/// Describes Weir's programs (but the iterators), those over an LRU hash, and the benchmark's own.
pub(crate) fn describe(driver: &Driver, stage: &mut Stage, report: &mut Report) -> Result<()> {
    load(stage.object()?)?;
    describe_loaded(stage.object()?, "weir", report);
    describe_loaded(stage.lru.object(), "lru-hash", report);
    describe_loaded(driver.object(), "benchmark", report);
    Ok(())
}

/// Loads the programs of sockets, which are loaded where they are attached.
fn load(object: &mut Ebpf) -> Result<()> {
    for (name, program) in object.programs_mut() {
        let loaded = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            _ => Ok(()),
        };
        loaded.with_context(|| format!("load {name}"))?;
    }
    Ok(())
}

fn describe_loaded(object: &Ebpf, owner: &'static str, report: &mut Report) {
    let mut programs: Vec<_> = object.programs().collect();
    programs.sort_by_key(|(name, _)| *name);
    for (name, program) in programs {
        // What is not loaded has none.
        if let Ok(info) = program.info() {
            const BYTES: u32 = 8;
            report.program(
                owner,
                name,
                info.size_translated().map(|size| size / BYTES),
                info.verified_instruction_count(),
            );
        }
    }
}
