//! The agent and kube-proxy on a node of a real cluster, one after the other, with the same objects and the same changes.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use weir_tests::{
    cluster::{self, Cluster, Config, Proxy, layout::Name, programs::Programs},
    process::wait_until,
};

use crate::{
    Args, api,
    histogram::Histogram,
    load::Load,
    report::{Measurement, millis},
    subject::{Kind, Subject},
    talk::talk,
};

/// The cluster's name.
const NAME: &str = "bench";
/// How long a cold start may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// After the start, until what it took is given back, and after the last change: kube-proxy gathers changes for a second.
const REST: Duration = Duration::from_secs(5);

/// A cluster with all objects; dropping it removes it unless it is kept.
struct Stage {
    cluster: Cluster,
    keep: bool,
}

impl Stage {
    /// The one that was kept, if it has the same objects; else a new one.
    fn enter(load: Load, keep: bool) -> Result<Self> {
        let name: Name = NAME.parse()?;
        let made = record(&name);
        if fs::read_to_string(&made).is_ok_and(|made| made == format!("{load:?}")) {
            return Ok(Self { cluster: Cluster::open(&name, &Programs::find()?)?, keep });
        }
        let config = Config { name, nodes: 1, proxy: Proxy::None };
        let cluster = Cluster::up(&config, &Programs::find()?, &cluster::print_progress());
        let stage = Self { cluster: cluster.inspect_err(|_| remove(&config.name))?, keep };
        talk(&stage.cluster, |client| api::make(client, load))?;
        fs::write(made, format!("{load:?}"))?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            remove(self.cluster.name());
        }
    }
}

fn record(name: &Name) -> PathBuf {
    name.folder().join("bench")
}

fn remove(name: &Name) {
    if let Err(error) = cluster::down(name) {
        eprintln!("cluster {name}: {error:#}");
    }
}

/// Measures everything.
pub(crate) fn measure(args: &Args, load: Load) -> Result<Vec<Measurement>> {
    let stage = Stage::enter(load, args.keep)?;
    let mut measurements = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| args.only.is_none_or(|only| only == *kind)) {
        eprintln!("{}", kind.name());
        measurements.extend(measure_one(args, load, &stage.cluster, kind).with_context(|| kind.name())?);
    }
    Ok(measurements)
}

fn measure_one(args: &Args, load: Load, cluster: &Cluster, kind: Kind) -> Result<Vec<Measurement>> {
    let node = &cluster.nodes()[0];
    let (mut times, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..args.starts.max(1) {
        if let Some(subject) = last.take() {
            Subject::stop(subject)?;
        }
        let started = Instant::now();
        let mut subject = Subject::start(kind, cluster, node)?;
        wait_until(PATIENCE, || subject.is_done()).context("the first sync")?;
        times.push(millis(started.elapsed()));
        cpu.push(millis(subject.process()?.cpu_time()?));
        eprintln!("  a cold start took {:.0} ms", times.last().unwrap_or(&f64::NAN));
        subject.check(load)?;
        thread::sleep(REST);
        memory.push(subject.process()?.rss_anon_mib()?);
        last = Some(subject);
    }
    let subject = last.context("no start")?;
    let many = |what, unit, values| Measurement::of(what, kind.name(), unit, values);
    let ours = |measurement: Measurement, most| match kind {
        Kind::Weir => measurement.at_most(most),
        Kind::KubeProxy => measurement,
    };
    let mut measurements = vec![
        ours(many("cold start", "ms", times), 5000.0),
        many("cold start, CPU time", "ms", cpu),
        ours(many("anonymous memory", "MiB", memory), 95.4),
    ];
    let busy = || subject.process()?.busy_percent(Duration::from_secs(args.idle.into()));
    measurements.push(ours(many("idle, of one CPU", "%", vec![busy()?]), 1.0));
    measurements.extend(changes(args, load, cluster, &subject, kind)?);
    thread::sleep(REST);
    let memory = subject.process()?.rss_anon_mib()?;
    measurements.push(ours(many("anonymous memory after the changes", "MiB", vec![memory]), 95.4));
    // The agent looks for the sockets of backends that have gone for a minute.
    measurements.push(many("just after the changes, of one CPU", "%", vec![busy()?]));
    subject.stop()?;
    Ok(measurements)
}

/// One endpoint after the other.
fn changes(args: &Args, load: Load, cluster: &Cluster, subject: &Subject<'_>, kind: Kind) -> Result<Vec<Measurement>> {
    let names = kind.histograms();
    let look = || -> Result<(Histogram, Histogram)> {
        let page = subject.metrics()?;
        let read = |(name, label)| Histogram::read(&page, name, label);
        Ok((read(names.own)?, read(names.whole)?))
    };
    let before = look()?;
    let busy = subject.process()?.cpu_time()?;
    let asked = talk(cluster, |client| api::change(client, load, args.changes, args.rate))?;
    thread::sleep(REST);
    let busy = subject.process()?.cpu_time()?.saturating_sub(busy);
    let (own, whole) = look()?;
    let after = (own.of_something(names.own.0)?, whole.of_something(names.whole.0)?);
    let (own, whole) = (after.0.since(&before.0), after.1.since(&before.1));
    eprintln!("  {} changes, the API server took {:.1} ms for each", args.changes, millis(asked));
    let one = |what, seconds: f64| Measurement::of(what, kind.name(), "ms", vec![seconds * 1e3]);
    let mut measurements = vec![
        one("one sync, mean", own.mean()),
        one("one sync, median", own.quantile(0.5)),
        one("one sync, 99 of 100", own.quantile(0.99)),
        one("from the API request to the kernel, median", whole.quantile(0.5)),
        one("from the API request to the kernel, 99 of 100", whole.quantile(0.99)),
        one("CPU time for one change", busy.as_secs_f64() / f64::from(args.changes.max(1))),
        Measurement::of("syncs for the changes", kind.name(), "", vec![own.count()]),
    ];
    if kind == Kind::Weir {
        measurements[2].at_most = Some(5.0);
    }
    Ok(measurements)
}
