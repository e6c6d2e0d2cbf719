//! What backends' requests are like: how many are in flight, how many have begun, and how long their answers took to begin; from what
//! the kernel notes of each connection ([`lb_common::request`]).

use std::{collections::BTreeMap, time::Duration};

use lb_common::{
    Backend,
    request::{BUCKETS, Measure, Request, bucket_start},
};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// What the kernel has noted, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Each backend that is measured, by its index.
    pub measures: BTreeMap<u32, Measure>,
    /// The last request of each measured connection, by its key.
    pub requests: BTreeMap<u64, Request>,
    /// Connections among them that have ended and could not say so.
    pub ended: Vec<u64>,
}

/// What a backend's requests are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestLoad {
    /// Begun and not fully answered.
    pub in_flight: u64,
    /// Begun, ever.
    pub begun: u64,
    /// Those of them that `in_flight` does not know of, for want of room, ever.
    pub unseen: u64,
    /// Their answers that began, ever.
    pub answers: Answers,
}

/// Answers, by the time from a request's first payload to the answer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// By bucket; what is behind the end is 0.
    counts: Vec<u64>,
    /// All those times together.
    nanoseconds: u64,
}

/// What the requests of each measured backend are like, `now` on the monotonic clock.
pub fn loads(noted: &Noted, backends: &BTreeMap<u32, Backend>, now: Duration) -> BTreeMap<u32, RequestLoad> {
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let is_measured = |index: &u32| backends.get(index).is_some_and(|backend| backend.response_idle != 0);
    let measures = noted.measures.iter().filter(|(index, _)| is_measured(index));
    let mut loads: BTreeMap<u32, RequestLoad> = measures.map(|(index, measure)| (*index, measure.into())).collect();
    for request in noted.requests.values() {
        let Some(idle) = idle(request, backends) else { continue };
        if let Some(load) = loads.get_mut(&request.backend).filter(|_| request.is_in_flight(now, idle)) {
            load.in_flight += 1;
        }
    }
    loads
}

/// The keys of requests that nobody counts any more.
pub fn stale(noted: &Noted, backends: &BTreeMap<u32, Backend>) -> Vec<u64> {
    let orphans = noted.requests.iter().filter(|(_, request)| idle(request, backends).is_none());
    orphans.map(|(key, _)| *key).chain(noted.ended.iter().copied()).collect()
}

/// After how many nanoseconds of silence an answer to this request is over; none if its backend is not measured any more.
fn idle(request: &Request, backends: &BTreeMap<u32, Backend>) -> Option<u64> {
    let backend = backends.get(&request.backend)?;
    let is_same = backend.incarnation == request.incarnation && backend.response_idle != 0;
    is_same.then(|| u64::from(backend.response_idle) * 1_000_000)
}

impl From<&Measure> for RequestLoad {
    fn from(measure: &Measure) -> Self {
        let Measure { requests, unseen, nanoseconds, buckets, .. } = measure;
        let answers = Answers::new(buckets.to_vec(), *nanoseconds);
        Self { in_flight: 0, begun: *requests, unseen: *unseen, answers }
    }
}

impl RequestLoad {
    /// Adds what another one carries.
    pub fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.begun += other.begun;
        self.unseen += other.unseen;
        self.answers.add(&other.answers);
    }

    /// What has come since an earlier look at the same counters; those that are less than before have started again from 0. In flight
    /// is what is so now.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            in_flight: self.in_flight,
            begun: grown(before.begun, self.begun),
            unseen: grown(before.unseen, self.unseen),
            answers: self.answers.since(&before.answers),
        }
    }
}

/// What a counter has grown by; one that is less than before has started again from 0.
pub(crate) const fn grown(before: u64, after: u64) -> u64 {
    if after >= before { after - before } else { after }
}

impl Answers {
    /// So many answers in each bucket, which took so many nanoseconds together. Buckets that do not exist count as the last one.
    pub fn new(mut counts: Vec<u64>, nanoseconds: u64) -> Self {
        if counts.len() > BUCKETS {
            let beyond: u64 = counts.drain(BUCKETS..).fold(0, u64::wrapping_add);
            counts[BUCKETS - 1] = counts[BUCKETS - 1].wrapping_add(beyond);
        }
        counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        Self { counts, nanoseconds }
    }

    /// By bucket; what is behind the end is 0.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All times together, in nanoseconds.
    pub const fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.nanoseconds += other.nanoseconds;
    }

    fn since(&self, before: &Self) -> Self {
        let before_at = |index: usize| before.counts.get(index).copied().unwrap_or(0);
        let counts = self.counts.iter().enumerate().map(|(index, count)| grown(before_at(index), *count));
        Self::new(counts.collect(), grown(before.nanoseconds, self.nanoseconds))
    }

    /// The seconds within which this part (0 to 1) of the answers began, to a quarter at worst; none without any. What took longer than
    /// the buckets reach, some nine minutes, took as long as that.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let total = self.total();
        let wanted = part * total as f64;
        let mut before = 0_u64;
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (before + count) as f64 >= wanted {
                let (start, end) = (bucket_start(index) as f64, bucket_start(index + 1) as f64);
                let share = ((wanted - before as f64) / *count as f64).clamp(0.0, 1.0);
                return Some((start + (end - start) * share) / SECOND);
            }
            before += count;
        }
        None
    }

    /// Bounds in seconds, each twice the one before, with the answers that took longer than the bound before and not longer than this
    /// one; the last bound is infinite.
    pub fn doublings(&self) -> Vec<(f64, u64)> {
        /// Where half a millisecond ends, and where two minutes do.
        const FIRST: usize = 16;
        const LAST: usize = 96 - 8;
        let between = |from: usize, to: usize| self.counts.iter().take(to).skip(from).sum();
        let mut bounds = vec![(bucket_start(FIRST) as f64 / SECOND, between(0, FIRST))];
        bounds.extend(
            (FIRST..LAST).step_by(4).map(|from| (bucket_start(from + 4) as f64 / SECOND, between(from, from + 4))),
        );
        bounds.push((f64::INFINITY, between(LAST, BUCKETS)));
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn backend(incarnation: u32, response_idle: u32) -> Backend {
        Backend { incarnation, response_idle, ..Backend::default() }
    }

    fn request(backend: u32, answered: u64) -> Request {
        Request { backend, incarnation: 7, begun: 1, answered: answered * MILLISECOND, ..Request::default() }
    }

    #[test]
    fn what_is_in_flight_is_told_by_the_times() {
        let backends =
            BTreeMap::from([(1, backend(7, 1000)), (2, backend(7, 100)), (3, backend(8, 1000)), (4, backend(7, 0))]);
        let measure = Measure { requests: 9, ..Measure::default() };
        let requests = [request(1, 0), request(1, 4200), request(1, 3900), request(2, 4950), request(2, 4900)];
        let gone = [request(3, 0), request(4, 0), request(5, 0)];
        let noted = Noted {
            measures: [1, 2, 3, 4, 5].map(|index| (index, measure)).into(),
            requests: (100..).zip(requests.into_iter().chain(gone)).collect(),
            ended: vec![77],
        };
        let loads = loads(&noted, &backends, Duration::from_secs(5));
        let shown: Vec<_> = loads.iter().map(|(index, load)| (*index, load.in_flight, load.begun)).collect();
        assert_eq!(shown, [(1, 2, 9), (2, 1, 9), (3, 0, 9)]);
        assert_eq!(stale(&noted, &backends), [105, 106, 107, 77]);
    }

    fn answers(milliseconds: &[u64]) -> Answers {
        let mut counts = vec![0; BUCKETS];
        milliseconds.iter().for_each(|time| counts[lb_common::request::bucket(time * MILLISECOND)] += 1);
        Answers::new(counts, milliseconds.iter().sum::<u64>() * MILLISECOND)
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        assert_eq!(answers(&[]).quantile(0.5), None);
        let times: Vec<u64> = (1..=1000).collect();
        let answers = answers(&times);
        for part in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let (found, truth) = (answers.quantile(part).unwrap(), part);
            assert!((found / truth - 1.0).abs() < 0.13, "{part}: {found}");
        }
        let slow = super::tests::answers(&[3_600_000]);
        assert!((500.0..600.0).contains(&slow.quantile(0.5).unwrap()));
    }

    #[test]
    fn what_has_come_since_is_what_was_not_there() {
        let early = RequestLoad { begun: 4, answers: answers(&[1, 80]), ..RequestLoad::default() };
        let mut late = early.clone();
        late.add(&RequestLoad { in_flight: 2, begun: 3, unseen: 0, answers: answers(&[80, 900]) });
        let since = late.since(&early);
        assert_eq!((since.in_flight, since.begun, since.answers), (2, 3, answers(&[80, 900])));
        let again = RequestLoad { begun: 1, answers: answers(&[5]), ..RequestLoad::default() };
        assert_eq!(again.since(&late), again, "the counters have started again");
    }

    #[test]
    fn bounds_double_and_leave_nothing_out() {
        let answers = answers(&[0, 1, 100, 100, 500_000]);
        let bounds = answers.doublings();
        assert!(bounds.windows(2).all(|two| two[1].0 >= two[0].0 * 1.9));
        assert_eq!(bounds.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(bounds.iter().filter(|(_, count)| *count > 0).count(), 4);
        let last = bounds[bounds.len() - 2].0;
        assert!((100.0..200.0).contains(&last), "{last}");
        assert_eq!(Answers::new(vec![1; BUCKETS + 2], 0).total(), BUCKETS as u64 + 2);
    }
}
