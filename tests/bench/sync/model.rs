//! What the agent does with objects, in this process: the model is made here and goes the way that every source's changes go, into the
//! real maps of a pin folder of its own; nothing is attached.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_agent::{
    agent::{core::Core, uptime},
    dataplane::{
        Dataplane as _,
        bpf::{Bpf, Options, Sizes},
        pins::maps,
    },
};
use weir_tests::{namespace, pins::PinFolder, requirements, usage::Process};

use crate::{
    Args,
    load::Load,
    report::{Measurement, millis},
};

/// Measures everything.
pub(crate) fn measure(args: &Args, load: Load) -> Result<Vec<Measurement>> {
    requirements::check(&[])?;
    namespace::sweep();
    let pins = PinFolder::new("bench")?;
    let options = Options {
        pin_path: pins.path().to_owned(),
        flow_table_size: 1 << 20,
        sizes: Sizes::default(),
        snat_ports: (61000, 65535),
        tcp_idle: lb_common::abi::timeout::TCP_IDLE,
        bpf_log: false,
        flow_seed: 1,
        test_clock: false,
        delivery_stack: false,
        reset_orphaned: true,
        dsr_port: 0,
    };
    let own = Process::own();
    let started = Instant::now();
    let bpf = Bpf::start(&options)?;
    let loaded = started.elapsed();
    let mut core = Core::new(bpf)?;
    let cpu = own.cpu_time()?;
    let cold_start = cold_start(&mut core, load)?;
    let cold_start_cpu = own.cpu_time()?.saturating_sub(cpu);
    let memory = own.rss_anon_mib()?;
    let mut changes = changes(&mut core, load, args.changes)?;
    changes.sort_unstable();
    let percentile = |part: usize| changes.get(changes.len() * part / 100).copied().unwrap_or_default();
    let idle = idle(&mut core, args.idle)?;
    let memory_after = own.rss_anon_mib()?;
    let take_over = take_over(core, &options)?;
    let bytes: u64 = maps(pins.path())?.iter().map(|map| map.bytes).sum();
    let one = |what, unit, value| Measurement::of(what, "weir", unit, vec![value]);
    Ok(vec![
        one("programs loaded, maps made", "ms", millis(loaded)),
        one("cold start: a whole model into the kernel", "ms", millis(cold_start)).at_most(5000.0),
        one("cold start, CPU time", "ms", millis(cold_start_cpu)),
        one("take-over by another agent", "ms", millis(take_over)),
        one("anonymous memory", "MiB", memory).at_most(95.4),
        one("anonymous memory after the changes", "MiB", memory_after).at_most(95.4),
        one("one change, median", "ms", millis(percentile(50))),
        one("one change, 99 of 100", "ms", millis(percentile(99))).at_most(5.0),
        one("one change, the slowest", "ms", millis(changes.last().copied().unwrap_or_default())),
        one("idle, of one CPU", "%", idle).at_most(1.0),
        one("kernel memory of all maps", "MiB", bytes as f64 / 1024.0 / 1024.0),
    ])
}

/// From the first change of a whole model to everything in the kernel.
fn cold_start(core: &mut Core<Bpf>, load: Load) -> Result<Duration> {
    let started = Instant::now();
    core.apply((0..load.services).map(|number| load.change(number, 0)), uptime());
    core.set_complete(true);
    core.sync(uptime())?;
    let time = started.elapsed();
    ensure!(
        core.is_synced() && core.tables.frontends().len() == load.services as usize,
        "not everything is in the kernel"
    );
    core.settle()?;
    Ok(time)
}

/// The time from each change to the kernel. Grace periods pass beside it, as they do in the agent.
fn changes(core: &mut Core<Bpf>, load: Load, count: u32) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for turn in 0..count {
        let change = load.change(turn.wrapping_mul(7919) % load.services, 1 + turn / load.services);
        let started = Instant::now();
        core.apply([change], uptime());
        ensure!(core.sync(uptime())?, "a change writes something");
        times.push(started.elapsed());
        if core.begin_grace() {
            Bpf::grace_period()?;
            core.retire()?;
        }
    }
    Ok(times)
}

/// The part of a CPU that the second-by-second work takes, in percent.
fn idle(core: &mut Core<Bpf>, seconds: u32) -> Result<f64> {
    core.tick(uptime())?;
    let (cpu, wall) = (Process::own().cpu_time()?, Instant::now());
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        core.tick(uptime())?;
    }
    Ok((Process::own().cpu_time()? - cpu).as_secs_f64() / wall.elapsed().as_secs_f64() * 100.0)
}

/// The time a new agent needs to know again what is in the kernel.
fn take_over(core: Core<Bpf>, options: &Options) -> Result<Duration> {
    let model = core.model.clone();
    drop(core);
    let bpf = Bpf::start(options)?;
    let started = Instant::now();
    let mut core = Core::new(bpf)?;
    core.set_model(model, true, uptime());
    ensure!(!core.sync(uptime())?, "a new agent finds everything as it should be");
    Ok(started.elapsed())
}
