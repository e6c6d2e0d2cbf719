//! The signals that are made from requests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::{ANSWERS, BackendKey, ServiceSample, WINDOW, replicas};
use crate::{
    scaling::{
        observation::Reading,
        policy::SignalName,
        signal::{Quantile, Signal},
    },
    signals::requests::{Answers, RequestLoad},
};

/// The recent samples of each backend that is measured.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    tracks: HashMap<BackendKey, VecDeque<(Duration, RequestLoad)>>,
    quantiles: BTreeSet<Quantile>,
}

impl Tracks {
    /// Says which quantiles are read.
    pub(super) fn ask(&mut self, quantiles: BTreeSet<Quantile>) {
        self.quantiles = quantiles;
    }

    /// Takes a sample. A backend that was not measured meanwhile begins anew.
    pub(super) fn record(&mut self, sample: &ServiceSample) {
        let mut tracks = HashMap::new();
        for backend in &sample.backends {
            let Some(load) = &backend.requests else { continue };
            let mut track = self.tracks.remove(&backend.key).unwrap_or_default();
            while track.front().is_some_and(|(at, _)| *at + ANSWERS < sample.at) {
                track.pop_front();
            }
            track.push_back((sample.at, load.clone()));
            tracks.insert(backend.key, track);
        }
        self.tracks = tracks;
    }

    /// What the ready replicas' requests are like, as far as it is measured. `at` is the last sample's time.
    pub(super) fn readings(&self, ready: &[BackendKey], count: u32, at: Duration) -> BTreeMap<Signal, Reading> {
        let tracks = || ready.iter().filter_map(|key| Some((*key, self.tracks.get(key)?)));
        let in_flight = tracks().filter_map(|(key, track)| Some((key, track.back()?.1.in_flight as f64)));
        let rates = tracks().filter_map(|(key, track)| Some((key, rate(track, at)?)));
        let means = [
            (SignalName::InFlight, mean(in_flight.collect(), count, at)),
            (SignalName::RequestsPerSecond, mean(rates.collect(), count, at)),
        ];
        let means = means.into_iter().filter_map(|(name, reading)| Some((name.into(), reading?)));
        means.chain(self.answers(ready, count, at)).collect()
    }

    fn answers(&self, ready: &[BackendKey], count: u32, at: Duration) -> Vec<(Signal, Reading)> {
        if self.quantiles.is_empty() {
            return Vec::new();
        }
        let mut all = RequestLoad::default();
        let mut said = Vec::new();
        for key in ready {
            let Some(grown) = self.tracks.get(key).and_then(|track| grown(track, Duration::MAX, at)) else { continue };
            all.add(&grown.1);
            said.push(*key);
        }
        let missing = count.saturating_sub(replicas(said.into_iter()));
        let reading = |quantile: &Quantile| {
            let value = Answers::quantile(&all.answers, quantile.get())?;
            Some((Signal::Ttfb(*quantile), Reading { value, at, missing }))
        };
        self.quantiles.iter().filter_map(reading).collect()
    }
}

/// A mean over those who said something; the others of `count` replicas are missing.
fn mean(values: Vec<(BackendKey, f64)>, count: u32, at: Duration) -> Option<Reading> {
    let said = replicas(values.iter().map(|(key, _)| *key));
    let missing = count.saturating_sub(said);
    super::mean(values).map(|value| Reading { value, at, missing })
}

/// Requests in a second.
fn rate(track: &VecDeque<(Duration, RequestLoad)>, at: Duration) -> Option<f64> {
    let (elapsed, grown) = grown(track, WINDOW, at)?;
    Some(grown.begun as f64 / elapsed.as_secs_f64())
}

/// What has come in the last `window` before `at`, and in which time; none from fewer than two samples.
fn grown(track: &VecDeque<(Duration, RequestLoad)>, window: Duration, at: Duration) -> Option<(Duration, RequestLoad)> {
    let recent = || track.iter().filter(|(then, _)| at.saturating_sub(*then) <= window);
    let (first, last) = (recent().next()?, recent().next_back()?);
    let elapsed = last.0.checked_sub(first.0).filter(|elapsed| !elapsed.is_zero())?;
    let mut sum = RequestLoad::default();
    recent().zip(recent().skip(1)).for_each(|((_, before), (_, after))| sum.add(&after.since(before)));
    Some((elapsed, sum))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lb_common::Protocol;

    use super::*;
    use crate::scaling::{BackendSample, signals::Meter};

    /// In flight, begun, and answers that took a millisecond, and a second.
    fn load([in_flight, begun, fast, slow]: [u64; 4]) -> Option<RequestLoad> {
        let mut counts = vec![0; 96];
        counts[lb_common::request::bucket(1_000_000)] = fast;
        counts[lb_common::request::bucket(1_000_000_000)] = slow;
        Some(RequestLoad { in_flight, begun, unseen: 0, answers: Answers::new(counts, 0) })
    }

    fn sample(at: u64, loads: &[Option<RequestLoad>]) -> ServiceSample {
        let backend = |(host, load): (u8, &Option<RequestLoad>)| {
            let address = SocketAddr::from(([10, 0, 0, host], 80));
            let key = BackendKey { port: 80, protocol: Protocol::Tcp, address };
            BackendSample { key, ready: true, active: 0, connections: 0, bytes: 0, requests: load.clone(), usage: None }
        };
        let backends = (1..).zip(loads).map(backend).collect();
        ServiceSample { at: Duration::from_secs(at), backends, ..ServiceSample::default() }
    }

    fn read(meter: &Meter, signal: impl Into<Signal>) -> Option<(f64, u32)> {
        meter.last()?.readings.get(&signal.into()).map(|reading| (reading.value, reading.missing))
    }

    #[test]
    fn means_are_over_those_that_are_measured() {
        let mut meter = Meter::default();
        meter.measure(&sample(1, &[load([3, 10, 0, 0]), load([1, 0, 0, 0]), None]));
        assert_eq!(read(&meter, SignalName::InFlight), Some((2.0, 1)));
        assert_eq!(read(&meter, SignalName::RequestsPerSecond), None, "no rate from one sample");
        meter.measure(&sample(3, &[load([0, 16, 0, 0]), load([1, 2, 0, 0]), load([5, 9, 0, 0])]));
        assert_eq!(read(&meter, SignalName::InFlight), Some((2.0, 0)));
        assert_eq!(read(&meter, SignalName::RequestsPerSecond), Some((2.0, 1)));
        meter.measure(&sample(4, &[None, None, None]));
        assert_eq!(read(&meter, SignalName::InFlight), None, "nothing is measured");
    }

    #[test]
    fn answers_of_all_replicas_make_one_quantile() {
        let (half, most) = (Quantile::new(0.5), Quantile::new(0.95));
        let mut meter = Meter::default();
        meter.ask([half, most].into());
        meter.measure(&sample(1, &[load([0, 0, 500, 0]), load([0, 0, 0, 0])]));
        assert_eq!(read(&meter, Signal::Ttfb(half)), None, "nobody knows when these were");
        meter.measure(&sample(2, &[load([0, 0, 590, 0]), load([0, 0, 0, 10])]));
        let seconds = |signal| read(&meter, signal).map(|(value, missing)| ((value * 4.0).round() / 4.0, missing));
        assert_eq!((seconds(Signal::Ttfb(half)), seconds(Signal::Ttfb(most))), (Some((0.0, 0)), Some((1.0, 0))));
        meter.ask([half].into());
        meter.measure(&sample(3, &[load([0, 0, 590, 0]), load([0, 0, 0, 10])]));
        assert!(read(&meter, Signal::Ttfb(half)).is_some() && read(&meter, Signal::Ttfb(most)).is_none());
        for second in 4..=19 {
            meter.measure(&sample(second, &[load([0, 0, 590, 0]), load([0, 0, 0, 10])]));
        }
        assert_eq!(read(&meter, Signal::Ttfb(half)), None, "the last answer is too long ago");
    }
}
