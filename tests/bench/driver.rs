//! Runs programs under the restoring driver (lb-ebpf/bench) and says how much CPU time of this thread that took. Wall clock would
//! also measure whoever else is on the CPU.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use lb_common::names::program;
use nix::time::{ClockId, clock_gettime};

use crate::traffic::Tuple;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    pub(crate) const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    /// Weir's program there.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Xdp => program::XDP,
            Self::Tc => program::INGRESS,
        }
    }
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) hook: Hook,
    /// The packet; the driver writes the tuples into it.
    pub(crate) template: &'a [u8],
    /// The tuples that take turns.
    pub(crate) tuples: Tuples,
    pub(crate) turns: u32,
}

/// Tuples in the driver's map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuples {
    first: u32,
    count: u32,
}

impl Tuples {
    pub(crate) const fn len(self) -> u32 {
        self.count
    }

    /// The first of them alone.
    pub(crate) const fn one(self) -> Self {
        Self { count: 1, ..self }
    }
}

/// The loaded driver.
pub(crate) struct Driver {
    object: Ebpf,
    control: Array<MapData, [u32; 4]>,
    tuples: Array<MapData, [u32; 4]>,
    used: u32,
    interface: u32,
}

/// This thread's CPU time. Softirqs count, as this kernel has no separate account of them for threads.
pub(crate) fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

impl Driver {
    /// Loads the object. Packets will seem to come by the interface of this index.
    pub(crate) fn load(object: &Path, interface: u32) -> Result<Self> {
        let context = || format!("load {}", object.display());
        let mut object = Ebpf::load_file(object).with_context(context)?;
        for (name, program) in object.programs_mut() {
            match program {
                aya::programs::Program::Xdp(xdp) => xdp.load().with_context(|| name.to_owned())?,
                aya::programs::Program::SchedClassifier(tc) => tc.load().with_context(|| name.to_owned())?,
                _ => anyhow::bail!("{name} is of another type"),
            }
        }
        let control = Array::try_from(object.take_map("control").context("map control")?)?;
        let tuples = Array::try_from(object.take_map("tuples").context("map tuples")?)?;
        Ok(Self { object, control, tuples, used: 0, interface })
    }

    /// Adds tuples.
    pub(crate) fn add(&mut self, tuples: &[Tuple]) -> Result<Tuples> {
        let added = Tuples { first: self.used, count: tuples.len() as u32 };
        self.replace(added, tuples)?;
        self.used += added.count;
        Ok(added)
    }

    /// Writes as many others in the place of tuples.
    pub(crate) fn replace(&mut self, place: Tuples, tuples: &[Tuple]) -> Result<()> {
        for (index, tuple) in (place.first..place.first + place.count).zip(tuples) {
            self.tuples.set(index, tuple, 0)?;
        }
        Ok(())
    }

    /// Forgets the tuples that were added last.
    pub(crate) fn take_back(&mut self, last: Tuples) {
        self.used = last.first;
    }

    /// Tells the stateless NAT its frontend and backends.
    pub(crate) fn configure_nat(&mut self, frontend: [u32; 2], backends: &[[u32; 2]]) -> Result<()> {
        let map = self.object.map_mut("nat_backends").context("map nat_backends")?;
        let mut array: Array<_, [u32; 2]> = Array::try_from(map)?;
        for (index, backend) in (0..).zip(backends) {
            array.set(index, backend, 0)?;
        }
        let map = self.object.map_mut("nat_frontend").context("map nat_frontend")?;
        let mut array: Array<_, [u32; 4]> = Array::try_from(map)?;
        Ok(array.set(0, [frontend[0], frontend[1], backends.len() as u32, 0], 0)?)
    }

    /// All programs of the benchmark's object.
    pub(crate) fn object(&self) -> &Ebpf {
        &self.object
    }

    /// A program of the benchmark's object: `empty`, `nat`, `parse` or `back`.
    pub(crate) fn program(&self, hook: Hook, name: &str) -> Result<ProgramFd> {
        descriptor(&self.object, &format!("bench_{}_{name}", hook.name()))
    }

    /// Makes the driver jump to a program, and runs it; the CPU time of all turns, and the last turn's verdict.
    pub(crate) fn run(&mut self, subject: &ProgramFd, run: Run<'_>) -> Result<(Duration, u32)> {
        let map = self.object.map_mut(&format!("{}_subject", run.hook.name())).context("the driver's jump table")?;
        ProgramArray::try_from(map)?.set(0, subject, 0)?;
        self.control.set(0, [0, run.tuples.first, run.tuples.count, run.template.len() as u32], 0)?;
        let context = context(run.hook, self.interface, run.template.len());
        let options = TestRunOptions {
            data_in: Some(run.template),
            ctx_in: Some(&context),
            repeat: run.turns,
            ..TestRunOptions::new()
        };
        let name = format!("bench_{}_driver", run.hook.name());
        let program = self.object.program(&name).with_context(|| name.clone())?;
        let before = cpu_time()?;
        let result = match run.hook {
            Hook::Xdp => <&Xdp>::try_from(program)?.test_run(options),
            Hook::Tc => <&SchedClassifier>::try_from(program)?.test_run(options),
        };
        let took = cpu_time()? - before;
        Ok((took, result.with_context(|| format!("run {name}"))?.return_value))
    }
}

/// The descriptor of a loaded program.
pub(crate) fn descriptor(object: &Ebpf, name: &str) -> Result<ProgramFd> {
    let program = object.program(name).with_context(|| format!("no program {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

/// `struct xdp_md` or `struct __sk_buff` of a packet of this length that came by this interface.
fn context(hook: Hook, interface: u32, length: usize) -> Vec<u8> {
    let (size, fields) = match hook {
        Hook::Xdp => (24, vec![(4, length as u32), (12, interface)]),
        Hook::Tc => (192, vec![(36, interface), (40, interface)]),
    };
    let mut context = vec![0; size];
    for (offset, value) in fields {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
