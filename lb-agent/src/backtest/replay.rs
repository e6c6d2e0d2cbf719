//! Replays a workload: once a second a scaler sees what a balancer in front of the replicas sees, and says how many there should be.

use super::{
    fleet::{Fleet, Shape},
    workload::{Nanos, SECOND, Workload},
};

/// What is seen at a full second: never a request's service time, never what is yet to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Seconds since the start.
    pub second: u64,
    /// Replicas that are ready or will be.
    pub replicas: u32,
    /// Replicas that take requests.
    pub ready: u32,
    /// Requests at the ready replicas and before them, waiting ones included.
    pub in_flight: u32,
    /// Requests that have arrived so far.
    pub arrived: u64,
}

/// Decides how many replicas there should be.
pub trait Scaler {
    /// Called once a second.
    fn desired(&mut self, seen: &Observation) -> u32;
}

/// How a replay goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// How replicas are.
    pub shape: Shape,
    /// Replicas at the start.
    pub initial: u32,
    /// The time at the start that is not scored.
    pub warmup: Nanos,
}

/// The fleet at a full second, before the scaler's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas that cost something.
    pub present: u32,
}

/// What happened, after the warm-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Arrival and waiting time of every request, in the order of the beginning of its service.
    pub waits: Vec<(Nanos, Nanos)>,
    /// The fleet at each full second, warm-up included.
    pub ticks: Vec<Tick>,
    /// Replica-seconds.
    pub replica_seconds: f64,
    /// Seconds in which a slot served a request.
    pub busy_seconds: f64,
    /// Changes of the number of replicas, as (second, from, to), warm-up included.
    pub changes: Vec<(u64, u32, u32)>,
}

/// Replays a workload under a scaler. `progress` hears of every thousand requests.
pub fn replay(workload: &Workload, setup: &Setup, scaler: &mut dyn Scaler, progress: &dyn Fn(u64)) -> Record {
    let mut fleet = Fleet::new(setup.shape, setup.initial);
    let mut record = Record { waits: Vec::with_capacity(workload.requests.len()), ..Record::default() };
    let mut requests = workload.requests.iter().copied().peekable();
    let mut before = fleet.totals();
    let mut arrived = 0;
    for second in 0..workload.ticks() as u64 {
        let now = second * SECOND;
        while let Some(request) = requests.next_if(|request| request.at <= now) {
            fleet.arrive(request);
            arrived += 1;
            if arrived % 1000 == 0 {
                progress(1000);
            }
        }
        fleet.advance(now);
        if now <= setup.warmup {
            before = fleet.totals();
        }
        collect(&mut fleet, setup.warmup, &mut record);
        record.ticks.push(Tick { ready: fleet.ready(), present: fleet.present() });
        let (replicas, ready) = (fleet.wanted(), fleet.ready());
        let seen = Observation { second, replicas, ready, in_flight: fleet.in_flight(), arrived };
        let desired = scaler.desired(&seen).max(1);
        if desired != replicas {
            record.changes.push((second, replicas, desired));
            fleet.scale(desired);
        }
    }
    let after = fleet.totals();
    record.replica_seconds = (after.replicas - before.replicas) as f64 / SECOND as f64;
    record.busy_seconds = (after.busy - before.busy) as f64 / SECOND as f64;
    for request in requests {
        fleet.arrive(request);
    }
    fleet.finish_all();
    collect(&mut fleet, setup.warmup, &mut record);
    record
}

fn collect(fleet: &mut Fleet, warmup: Nanos, record: &mut Record) {
    let scored = fleet.started().filter(|started| started.arrived >= warmup);
    record.waits.extend(scored.map(|started| (started.arrived, started.waited)));
}
