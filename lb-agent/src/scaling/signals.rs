//! The numbers that policies read: computed from the counters of a Service's backends, sampled once a second.
//!
//! A replica is what serves every port of the Service, so there are as many as the port with the most backends has. Each number is
//! a sum over the ready backends divided by the ready replicas. Rates are taken over the last [`WINDOW`] of each backend's own
//! samples; a backend seen only once has none yet and is left out of both the sum and the divisor. The time until answers begin is no mean
//! over replicas: it is a quantile of all answers that began within [`ANSWERS`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use lb_common::Protocol;

use super::{
    observation::{Load, Reading},
    policy::SignalName,
    signal::{Quantile, Signal},
};
use crate::signals::requests::RequestLoad;

mod requests;

/// The time over which rates are taken: long enough to be smooth, short enough to see a burst within a rule's `for`.
pub const WINDOW: Duration = Duration::from_secs(5);

/// The time over which answers are looked at: long enough for a quantile of few requests, short enough for a rule to see a change.
pub const ANSWERS: Duration = Duration::from_secs(15);

/// Which backend a sample is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The Service's port.
    pub port: u16,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The backend's address.
    pub address: SocketAddr,
}

/// The counters of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSample {
    /// Which backend.
    pub key: BackendKey,
    /// It takes new connections.
    pub ready: bool,
    /// Connections open now.
    pub active: u64,
    /// Connections, ever.
    pub connections: u64,
    /// IP bytes in both directions, ever.
    pub bytes: u64,
    /// What its requests are like, where they are measured.
    pub requests: Option<RequestLoad>,
    /// What it uses, where that is measured.
    pub usage: Option<UsageSample>,
}

/// What a replica uses of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// CPU time, ever.
    pub cpu: Duration,
    /// Memory, in bytes.
    pub memory: u64,
    /// When that was read.
    pub at: Duration,
}

/// What the containers of a replica request together; none where one of them does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// CPU, in thousandths of one.
    pub cpu: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
}

/// The counters of all backends of a Service that are not removed, over all its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSample {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// When the counters were read, on the clock that decisions are made by.
    pub at: Duration,
    /// Its backends.
    pub backends: Vec<BackendSample>,
    /// What each replica requests.
    pub requests: Requests,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    connections: u64,
    bytes: u64,
}

/// The recent samples of a Service.
#[derive(Debug, Default)]
pub struct Meter {
    tracks: HashMap<BackendKey, VecDeque<Point>>,
    usage: HashMap<BackendKey, VecDeque<UsageSample>>,
    requests: requests::Tracks,
    last: Option<Duration>,
    load: Load,
}

impl Meter {
    /// Takes a sample and says what the replicas carry. A sample that is not newer than the last one changes nothing.
    pub fn measure(&mut self, sample: &ServiceSample) -> &Load {
        if self.last.is_none_or(|last| last < sample.at) {
            self.last = Some(sample.at);
            self.record(sample);
            self.load = self.load(sample);
        }
        &self.load
    }

    /// Says at which quantiles somebody reads the time until answers begin.
    pub fn ask(&mut self, quantiles: BTreeSet<Quantile>) {
        self.requests.ask(quantiles);
    }

    /// What the replicas carried at the last sample.
    pub fn last(&self) -> Option<&Load> {
        self.last.map(|_| &self.load)
    }

    fn record(&mut self, sample: &ServiceSample) {
        let mut tracks = HashMap::with_capacity(sample.backends.len());
        for backend in &sample.backends {
            let mut track = self.tracks.remove(&backend.key).unwrap_or_default();
            while track.front().is_some_and(|point| point.at + WINDOW < sample.at) {
                track.pop_front();
            }
            track.push_back(Point { at: sample.at, connections: backend.connections, bytes: backend.bytes });
            tracks.insert(backend.key, track);
        }
        self.tracks = tracks;
        self.record_usage(sample);
        self.requests.record(sample);
    }

    fn record_usage(&mut self, sample: &ServiceSample) {
        let mut usage = HashMap::new();
        for backend in &sample.backends {
            let Some(new) = backend.usage else { continue };
            let mut track = self.usage.remove(&backend.key).unwrap_or_default();
            while track.front().is_some_and(|point| point.at + WINDOW < new.at) {
                track.pop_front();
            }
            if track.back().is_none_or(|last| last.at < new.at) {
                track.push_back(new);
            }
            usage.insert(backend.key, track);
        }
        self.usage = usage;
    }

    fn load(&self, sample: &ServiceSample) -> Load {
        let ready: Vec<_> = sample.backends.iter().filter(|backend| backend.ready).collect();
        let active: Vec<_> = ready.iter().map(|backend| (backend.key, backend.active as f64)).collect();
        let rates: Vec<_> =
            ready.iter().filter_map(|backend| Some((backend.key, rates(self.tracks.get(&backend.key)?)?))).collect();
        let used = self.used(&ready, sample.at);
        let means = [
            (SignalName::Skew, skew(&active)),
            (SignalName::ActiveConnections, mean(active)),
            (SignalName::ConnectionsPerSecond, mean(rates.iter().map(|(key, rate)| (*key, rate.0)).collect())),
            (SignalName::BytesPerSecond, mean(rates.iter().map(|(key, rate)| (*key, rate.1)).collect())),
        ];
        let keys: Vec<BackendKey> = ready.iter().map(|backend| backend.key).collect();
        let ready = replicas(keys.iter().copied());
        let asked = self.requests.readings(&keys, ready, sample.at);
        let means = means.into_iter().filter_map(|(signal, value)| Some((signal, Reading::new(value?, sample.at))));
        let used = used.into_iter().flat_map(|used| used.readings(ready, sample.requests));
        Load {
            replicas: replicas(sample.backends.iter().map(|backend| backend.key)),
            ready,
            readings: means.chain(used).map(|(signal, reading)| (signal.into(), reading)).chain(asked).collect(),
        }
    }

    /// What the ready replicas use, of those that have said so lately and twice.
    fn used(&self, ready: &[&BackendSample], now: Duration) -> Option<Used> {
        let stale = Signal::from(SignalName::CpuCores).stale();
        let recent = ready.iter().filter_map(|backend| {
            let track = self.usage.get(&backend.key)?;
            let (first, last) = (track.front()?, track.back()?);
            let elapsed = last.at.checked_sub(first.at).filter(|elapsed| !elapsed.is_zero())?;
            let cpu = last.cpu.checked_sub(first.cpu)?.as_secs_f64() / elapsed.as_secs_f64();
            (last.at + stale >= now).then_some((cpu, last.memory, last.at))
        });
        let recent: Vec<_> = recent.collect();
        let said = recent.len() as f64;
        Some(Used {
            cpu: recent.iter().map(|(cpu, ..)| cpu).sum::<f64>() / said,
            memory: recent.iter().map(|(_, memory, _)| *memory as f64).sum::<f64>() / said,
            said: recent.len() as u32,
            at: recent.iter().map(|(.., at)| *at).min()?,
        })
    }
}

/// What replicas use, as a mean over those that have said so.
struct Used {
    /// CPUs.
    cpu: f64,
    /// Bytes.
    memory: f64,
    /// How many have said so.
    said: u32,
    /// When the first of them was looked at.
    at: Duration,
}

impl Used {
    /// What policies read of it.
    fn readings(self, ready: u32, requests: Requests) -> impl Iterator<Item = (SignalName, Reading)> {
        let Self { cpu, memory, said, at } = self;
        let percent = |value: f64, of: Option<u64>| of.filter(|of| *of > 0).map(|of| value / of as f64 * 100.0);
        let values = [
            (SignalName::CpuCores, Some(cpu)),
            (SignalName::MemoryBytes, Some(memory)),
            (SignalName::Cpu, percent(cpu * 1000.0, requests.cpu)),
            (SignalName::Memory, percent(memory, requests.memory)),
        ];
        let missing = ready.saturating_sub(said);
        values.into_iter().filter_map(move |(name, value)| Some((name, Reading { value: value?, at, missing })))
    }
}

/// As many as the port with the most backends has.
fn replicas(backends: impl Iterator<Item = BackendKey>) -> u32 {
    let mut ports: BTreeMap<_, u32> = BTreeMap::new();
    for backend in backends {
        *ports.entry((backend.port, backend.protocol)).or_default() += 1;
    }
    ports.into_values().max().unwrap_or(0)
}

fn mean(values: Vec<(BackendKey, f64)>) -> Option<f64> {
    let replicas = replicas(values.iter().map(|(key, _)| *key));
    (replicas > 0).then(|| values.iter().map(|(_, value)| value).sum::<f64>() / f64::from(replicas))
}

/// The most that one has, as a multiple of the mean; where nobody has any, all have the same.
fn skew(values: &[(BackendKey, f64)]) -> Option<f64> {
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64;
    (!values.is_empty()).then(|| if mean > 0.0 { most / mean } else { 1.0 })
}

/// Connections and bytes in a second.
fn rates(track: &VecDeque<Point>) -> Option<(f64, f64)> {
    let elapsed = track.back()?.at.checked_sub(track.front()?.at)?.as_secs_f64();
    if elapsed <= 0.0 {
        return None;
    }
    let steps = || track.iter().zip(track.iter().skip(1));
    let connections: u64 = steps().map(|(a, b)| increase(a.connections, b.connections)).sum();
    let bytes: u64 = steps().map(|(a, b)| increase(a.bytes, b.bytes)).sum();
    Some((connections as f64 / elapsed, bytes as f64 / elapsed))
}

/// A counter that is less than before has started again from 0.
const fn increase(before: u64, after: u64) -> u64 {
    if after >= before { after - before } else { after }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(port: u16, host: u8, ready: bool, counts: [u64; 3]) -> BackendSample {
        let [active, connections, bytes] = counts;
        let key =
            BackendKey { port, protocol: Protocol::Tcp, address: SocketAddr::from(([10, 0, 0, host], 8000 + port)) };
        BackendSample { key, ready, active, connections, bytes, requests: None, usage: None }
    }

    fn sample(at: u64, backends: Vec<BackendSample>) -> ServiceSample {
        let (namespace, name) = ("default".to_owned(), "web".to_owned());
        ServiceSample { namespace, name, at: Duration::from_secs(at), backends, ..ServiceSample::default() }
    }

    /// Values of active connections, connections and bytes in a second.
    fn values(load: &Load) -> [Option<f64>; 3] {
        [SignalName::ActiveConnections, SignalName::ConnectionsPerSecond, SignalName::BytesPerSecond]
            .map(|name| load.readings.get(&name.into()).map(|reading| reading.value))
    }

    #[test]
    fn means_are_over_ready_replicas() {
        let mut meter = Meter::default();
        let at = |t, a: [u64; 3], b, c| {
            sample(t, vec![backend(80, 1, true, a), backend(80, 2, true, b), backend(80, 3, false, c)])
        };
        let first = meter.measure(&at(1, [4, 100, 1000], [8, 10, 0], [90, 0, 0])).clone();
        assert_eq!((first.replicas, first.ready), (3, 2));
        assert_eq!(values(&first), [Some(6.0), None, None], "no rate from one sample");
        let next = meter.measure(&at(3, [0, 104, 1400], [0, 20, 600], [90, 500, 9000]));
        assert_eq!(values(next), [Some(0.0), Some((2.0 + 5.0) / 2.0), Some((200.0 + 300.0) / 2.0)]);
        assert_eq!(next.readings[&SignalName::ActiveConnections.into()].at, Duration::from_secs(3));
    }

    #[test]
    fn a_replica_serves_every_port() {
        let mut meter = Meter::default();
        let backends =
            vec![backend(80, 1, true, [4, 0, 0]), backend(80, 2, true, [6, 0, 0]), backend(443, 1, true, [10, 0, 0])];
        let load = meter.measure(&sample(1, backends));
        assert_eq!((load.replicas, load.ready), (2, 2));
        assert_eq!(values(load)[0], Some(10.0));
    }

    #[test]
    fn nothing_ready_means_nothing_known() {
        let mut meter = Meter::default();
        let load = meter.measure(&sample(1, vec![backend(80, 1, false, [4, 0, 0])]));
        assert_eq!((load.replicas, load.ready, load.readings.len()), (1, 0, 0));
        let load = meter.measure(&sample(2, vec![]));
        assert_eq!((load.replicas, load.ready, load.readings.len()), (0, 0, 0));
    }

    #[test]
    fn counters_that_start_again_count_from_zero() {
        let mut meter = Meter::default();
        meter.measure(&sample(1, vec![backend(80, 1, true, [0, 1000, 5000])]));
        meter.measure(&sample(2, vec![backend(80, 1, true, [0, 1010, 5100])]));
        let load = meter.measure(&sample(3, vec![backend(80, 1, true, [0, 4, 60])]));
        assert_eq!(values(load), [Some(0.0), Some(7.0), Some(80.0)]);
    }

    #[test]
    fn a_new_backend_is_left_out_of_rates_until_it_has_one() {
        let mut meter = Meter::default();
        meter.measure(&sample(1, vec![backend(80, 1, true, [2, 10, 0])]));
        let both = |t, old, new| sample(t, vec![backend(80, 1, true, [2, old, 0]), backend(80, 2, true, [0, new, 0])]);
        assert_eq!(values(meter.measure(&both(2, 20, 9)))[..2], [Some(1.0), Some(10.0)]);
        assert_eq!(values(meter.measure(&both(3, 30, 9)))[..2], [Some(1.0), Some(5.0)]);
    }

    #[test]
    fn a_backend_that_comes_back_starts_anew() {
        let mut meter = Meter::default();
        meter.measure(&sample(1, vec![backend(80, 1, true, [0, 10, 0])]));
        meter.measure(&sample(2, vec![]));
        let load = meter.measure(&sample(3, vec![backend(80, 1, true, [0, 900, 0])]));
        assert_eq!(values(load)[1], None);
    }

    #[test]
    fn rates_forget_what_is_older_than_the_window() {
        let mut meter = Meter::default();
        for t in 0..=10 {
            let total = if t <= 4 { t * 100 } else { 400 };
            meter.measure(&sample(t, vec![backend(80, 1, true, [0, total, 0])]));
        }
        assert_eq!(values(meter.last().unwrap())[1], Some(0.0));
        let load = meter.measure(&sample(17, vec![backend(80, 1, true, [0, 9000, 0])]));
        assert_eq!(values(load)[1], None, "a gap longer than the window leaves one point");
    }

    #[test]
    fn what_replicas_use_is_a_mean_over_those_that_say_so() {
        let mut meter = Meter::default();
        let used = |backend: BackendSample, cpu_millis, memory, at| BackendSample {
            usage: Some(UsageSample { cpu: Duration::from_millis(cpu_millis), memory, at: Duration::from_secs(at) }),
            ..backend
        };
        let at = |t: u64, requests| {
            let idle = |host| backend(80, host, true, [0, 0, 0]);
            let backends = vec![used(idle(1), t * 900, 300, t), used(idle(2), t * 100, 100, t), idle(3)];
            ServiceSample { requests, ..sample(t, backends) }
        };
        let names = [SignalName::CpuCores, SignalName::MemoryBytes, SignalName::Cpu, SignalName::Memory];
        let read = |load: &Load| names.map(|name| load.readings.get(&name.into()).copied());
        let requests = Requests { cpu: Some(250), memory: Some(400) };
        assert_eq!(read(meter.measure(&at(10, requests))), [None; 4], "no rate from one look");
        let seconds = Duration::from_secs(11);
        let reading = |value| Some(Reading { value, at: seconds, missing: 1 });
        let load = meter.measure(&at(11, requests));
        assert_eq!(read(load), [0.5, 200.0, 200.0, 50.0].map(reading));
        let load = meter.measure(&at(12, Requests::default()));
        assert_eq!(read(load)[2..], [None, None], "no part of what is not requested");
        let mut late = at(15, requests);
        late.backends[0] = used(late.backends[0].clone(), 11_000, 300, 12);
        let load = meter.measure(&late);
        assert_eq!(read(load)[0].map(|cpu| (cpu.value, cpu.missing)), Some((0.1, 2)), "one has not spoken for 3 s");
    }

    #[test]
    fn skew_is_the_most_over_the_mean() {
        let skew = |actives: &[u64]| {
            let backends = actives.iter().zip(1..).map(|(active, host)| backend(80, host, true, [*active, 0, 0]));
            let load = Meter::default().measure(&sample(1, backends.collect())).clone();
            load.readings.get(&SignalName::Skew.into()).map(|reading| reading.value)
        };
        assert_eq!([skew(&[9, 3, 0]), skew(&[0, 0]), skew(&[])], [Some(2.25), Some(1.0), None]);
    }

    #[test]
    fn a_sample_that_is_not_newer_changes_nothing() {
        let mut meter = Meter::default();
        let first = meter.measure(&sample(5, vec![backend(80, 1, true, [3, 10, 0])])).clone();
        for t in [5, 4] {
            let again = meter.measure(&sample(t, vec![backend(80, 1, true, [9, 90, 0])]));
            assert_eq!(*again, first, "at {t}");
        }
    }
}
