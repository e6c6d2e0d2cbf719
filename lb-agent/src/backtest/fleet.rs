//! The queueing model: replicas with so many slots each, which start, serve, and leave once they are empty. Who waits, waits first
//! come first served, at the replica that was chosen at arrival or in one queue before all of them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::workload::{Nanos, Request};

/// Where requests wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Queue {
    /// At the replica with the fewest requests at the time of the arrival, as behind a balancer that counts connections.
    #[default]
    Replica,
    /// In one queue for all, as behind a gateway that sends a request only to a free slot.
    Central,
}

/// How replicas are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Requests that a replica serves at a time.
    pub concurrency: u32,
    /// From the decision to the first request.
    pub startup: Nanos,
    /// Where requests wait.
    pub queue: Queue,
}

/// A request whose service has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// When it arrived.
    pub arrived: Nanos,
    /// How long it waited.
    pub waited: Nanos,
}

/// Sums over time, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Replica-nanoseconds, from the decision to start one until it is gone.
    pub replicas: u128,
    /// Slot-nanoseconds in which a request was served.
    pub busy: u128,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Absent,
    Starting,
    Ready,
    Draining,
}

#[derive(Clone, Debug, Default)]
struct Replica {
    phase: Phase,
    running: u32,
    waiting: VecDeque<Request>,
}

/// All replicas at a time.
#[derive(Clone, Debug)]
pub struct Fleet {
    shape: Shape,
    replicas: Vec<Replica>,
    /// Requests at each replica that takes new ones, [`CLOSED`] for the others: what the choice at arrival looks through.
    open: Vec<u32>,
    starting: VecDeque<(Nanos, usize)>,
    ends: BinaryHeap<Reverse<(Nanos, usize)>>,
    central: VecDeque<Request>,
    started: Vec<Started>,
    now: Nanos,
    totals: Totals,
    present: u32,
    ready: u32,
    running: u32,
}

const CLOSED: u32 = u32::MAX;

impl Fleet {
    /// So many replicas, ready.
    pub fn new(shape: Shape, initial: u32) -> Self {
        let mut fleet = Self {
            shape,
            replicas: Vec::new(),
            open: Vec::new(),
            starting: VecDeque::new(),
            ends: BinaryHeap::new(),
            central: VecDeque::new(),
            started: Vec::new(),
            now: 0,
            totals: Totals::default(),
            present: 0,
            ready: 0,
            running: 0,
        };
        for _ in 0..initial {
            let index = fleet.place();
            fleet.open(index);
        }
        fleet
    }

    /// Replicas that are ready or will be.
    pub fn wanted(&self) -> u32 {
        self.ready + self.starting.len() as u32
    }

    /// Replicas that take requests.
    pub const fn ready(&self) -> u32 {
        self.ready
    }

    /// Replicas that cost something: starting, ready, draining.
    pub const fn present(&self) -> u32 {
        self.present
    }

    /// Requests at the ready replicas and before them, waiting ones included: what a balancer sees of replicas that take requests.
    pub fn in_flight(&self) -> u32 {
        let open = self.open.iter().filter(|load| **load != CLOSED).sum::<u32>();
        open + self.central.len() as u32
    }

    /// Sums over time until now.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Takes the requests whose service has begun since the last call.
    pub fn started(&mut self) -> std::vec::Drain<'_, Started> {
        self.started.drain(..)
    }

    /// Lets time pass: requests end, replicas become ready.
    pub fn advance(&mut self, to: Nanos) {
        loop {
            let end = self.ends.peek().map(|Reverse((at, _))| *at);
            let start = self.starting.front().map(|(at, _)| *at);
            match (end, start) {
                (Some(end), start) if end <= to && start.is_none_or(|start| end <= start) => self.finish(),
                (_, Some(start)) if start <= to => self.begin(),
                _ => break,
            }
        }
        self.account(to);
    }

    /// Lets time pass until every request is served.
    pub fn finish_all(&mut self) {
        while let Some(at) = self.ends.peek().map(|Reverse((at, _))| *at).or(self.starting.front().map(|(at, _)| *at)) {
            self.advance(at);
        }
    }

    /// A request arrives now.
    pub fn arrive(&mut self, request: Request) {
        self.advance(request.at);
        let Some(index) = self.least() else {
            self.central.push_back(request);
            return;
        };
        if self.open[index] < self.shape.concurrency {
            self.open[index] += 1;
            self.serve(index, request);
        } else if self.shape.queue == Queue::Central {
            self.central.push_back(request);
        } else {
            self.open[index] += 1;
            self.replicas[index].waiting.push_back(request);
        }
    }

    /// Starts or removes replicas until so many are ready or starting. Starting ones go first, then those with the fewest requests.
    pub fn scale(&mut self, wanted: u32) {
        while self.wanted() < wanted {
            let index = self.place();
            if self.shape.startup == 0 {
                self.open(index);
            } else {
                self.replicas[index].phase = Phase::Starting;
                self.starting.push_back((self.now + self.shape.startup, index));
            }
        }
        while self.wanted() > wanted {
            if let Some((_, index)) = self.starting.pop_back() {
                self.remove(index);
            } else if let Some(index) = self.least() {
                self.drain(index);
            }
        }
    }

    /// The ready replica with the fewest requests.
    fn least(&self) -> Option<usize> {
        // Two passes that the compiler can vectorise are faster than one that it cannot.
        let least = self.open.iter().copied().min().filter(|load| *load != CLOSED)?;
        self.open.iter().position(|load| *load == least)
    }

    fn account(&mut self, to: Nanos) {
        let passed = u128::from(to.saturating_sub(self.now));
        self.totals.replicas += passed * u128::from(self.present);
        self.totals.busy += passed * u128::from(self.running);
        self.now = self.now.max(to);
    }

    fn serve(&mut self, index: usize, request: Request) {
        self.replicas[index].running += 1;
        self.running += 1;
        self.started.push(Started { arrived: request.at, waited: self.now - request.at });
        self.ends.push(Reverse((self.now + request.service, index)));
    }

    fn finish(&mut self) {
        let Some(Reverse((at, index))) = self.ends.pop() else {
            return;
        };
        self.account(at);
        self.running -= 1;
        let replica = &mut self.replicas[index];
        replica.running -= 1;
        let ready = replica.phase == Phase::Ready;
        if ready {
            self.open[index] -= 1;
        }
        if let Some(request) = replica.waiting.pop_front() {
            self.serve(index, request);
        } else if ready {
            self.fill(index);
        } else if self.replicas[index].running == 0 {
            self.remove(index);
        }
    }

    fn begin(&mut self) {
        let Some((at, index)) = self.starting.pop_front() else {
            return;
        };
        self.account(at);
        self.open(index);
    }

    fn open(&mut self, index: usize) {
        self.replicas[index].phase = Phase::Ready;
        self.open[index] = 0;
        self.ready += 1;
        self.fill(index);
    }

    /// Takes from the common queue what a replica has slots for.
    fn fill(&mut self, index: usize) {
        while self.open[index] < self.shape.concurrency {
            let Some(request) = self.central.pop_front() else {
                return;
            };
            self.open[index] += 1;
            self.serve(index, request);
        }
    }

    fn drain(&mut self, index: usize) {
        self.open[index] = CLOSED;
        self.ready -= 1;
        self.replicas[index].phase = Phase::Draining;
        if self.replicas[index].running == 0 {
            self.remove(index);
        }
    }

    fn place(&mut self) -> usize {
        self.present += 1;
        if let Some(index) = self.replicas.iter().position(|replica| replica.phase == Phase::Absent) {
            return index;
        }
        self.replicas.push(Replica::default());
        self.open.push(CLOSED);
        self.replicas.len() - 1
    }

    fn remove(&mut self, index: usize) {
        self.replicas[index].phase = Phase::Absent;
        self.present -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::workload::{SECOND, from_seconds, seconds};

    /// The probability that a request waits in M/M/c, for `load` busy slots of `slots`.
    fn erlang_c(slots: u32, load: f64) -> f64 {
        let blocked = (1..=slots).fold(1.0, |blocked, n| load * blocked / (f64::from(n) + load * blocked));
        blocked / (1.0 - load / f64::from(slots) * (1.0 - blocked))
    }

    /// Waiting times of Poisson arrivals with exponential service times of mean 1 s.
    fn waits(shape: Shape, replicas: u32, load: f64) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut exponential = |mean: f64| -mean * (1.0 - rng.f64()).ln();
        let mut fleet = Fleet::new(shape, replicas);
        let mut at = 0.0;
        for _ in 0..400_000 {
            at += exponential(1.0 / load);
            fleet.arrive(Request { at: from_seconds(at), service: from_seconds(exponential(1.0)) });
        }
        fleet.finish_all();
        fleet.started().map(|started| seconds(started.waited)).collect()
    }

    #[test]
    fn waiting_is_what_theory_says() {
        let cases = [
            ("M/M/1", 1, 1, Queue::Replica, 0.7),
            ("M/M/4, one replica", 4, 1, Queue::Replica, 3.2),
            ("M/M/4, one queue before four replicas", 1, 4, Queue::Central, 3.2),
            ("M/M/16, one queue before two replicas", 8, 2, Queue::Central, 14.0),
        ];
        for (name, concurrency, replicas, queue, load) in cases {
            let waits = waits(Shape { concurrency, startup: 0, queue }, replicas, load);
            let slots = concurrency * replicas;
            let waiting = erlang_c(slots, load);
            let spare = f64::from(slots) - load;
            let mean = waits.iter().sum::<f64>() / waits.len() as f64;
            let share = |above: f64| waits.iter().filter(|wait| **wait > above).count() as f64 / waits.len() as f64;
            assert!((share(0.0) / waiting - 1.0).abs() < 0.03, "{name}: {} wait, not {waiting}", share(0.0));
            let (expected, late) = (waiting / spare, waiting * (-spare).exp());
            assert!((mean / expected - 1.0).abs() < 0.06, "{name}: they wait {mean} s, not {expected}");
            assert!((share(1.0) / late - 1.0).abs() < 0.08, "{name}: {} wait over 1 s, not {late}", share(1.0));
        }
    }

    #[test]
    fn a_queue_at_each_replica_is_no_better_than_one_for_all() {
        let mean = |queue| {
            let waits = waits(Shape { concurrency: 1, startup: 0, queue }, 4, 3.2);
            waits.iter().sum::<f64>() / waits.len() as f64
        };
        assert!(mean(Queue::Replica) > 1.1 * mean(Queue::Central));
    }

    const fn request(at: u64, service: u64) -> Request {
        Request { at: at * SECOND, service: service * SECOND }
    }

    fn waited(fleet: &mut Fleet) -> Vec<u64> {
        fleet.started().map(|started| started.waited / SECOND).collect()
    }

    #[test]
    fn replicas_start_late_and_leave_when_empty() {
        let shape = Shape { concurrency: 1, startup: 30 * SECOND, queue: Queue::Replica };
        let mut fleet = Fleet::new(shape, 2);
        fleet.arrive(request(0, 10));
        fleet.arrive(request(0, 20));
        fleet.arrive(request(1, 5));
        fleet.scale(3);
        assert_eq!((fleet.ready(), fleet.wanted(), fleet.present(), fleet.in_flight()), (2, 3, 3, 3));
        fleet.advance(12 * SECOND);
        assert_eq!(waited(&mut fleet), [0, 0, 9]);
        fleet.scale(1);
        assert_eq!((fleet.ready(), fleet.wanted(), fleet.present()), (1, 1, 2), "the starting one goes, one drains");
        fleet.advance(14 * SECOND);
        assert_eq!(fleet.present(), 2, "it still serves");
        fleet.advance(20 * SECOND);
        assert_eq!((fleet.present(), fleet.in_flight()), (1, 0));
        fleet.scale(2);
        fleet.advance(49 * SECOND);
        assert_eq!(fleet.ready(), 1);
        fleet.advance(50 * SECOND);
        assert_eq!(fleet.ready(), 2);
        let seconds = |sum: u128| sum / u128::from(SECOND);
        assert_eq!(seconds(fleet.totals().busy), 35);
        // Two from 0 to 1, three to 12, two to 15, one to 20, two to 50.
        assert_eq!(seconds(fleet.totals().replicas), 2 + 33 + 6 + 5 + 60);
    }

    #[test]
    fn one_queue_waits_for_whoever_is_ready_first() {
        for (queue, expected) in [(Queue::Central, vec![0, 5]), (Queue::Replica, vec![0, 20])] {
            let mut fleet = Fleet::new(Shape { concurrency: 1, startup: 5 * SECOND, queue }, 1);
            fleet.arrive(request(0, 20));
            fleet.arrive(request(0, 20));
            fleet.scale(2);
            fleet.finish_all();
            assert_eq!(waited(&mut fleet), expected, "{queue:?}");
        }
    }
}
