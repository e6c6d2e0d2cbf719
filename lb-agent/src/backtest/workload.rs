//! What is replayed: requests, each with its arrival and the time it needs on a replica.

use std::time::Duration;

/// A point in time or a span of it, in nanoseconds: whole numbers make a replay the same on every machine.
pub type Nanos = u64;

/// A second.
pub const SECOND: Nanos = 1_000_000_000;

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds in nanoseconds; what is negative or no number is 0.
pub fn from_seconds(seconds: f64) -> Nanos {
    (seconds * 1e9).round() as Nanos
}

/// Nanoseconds in seconds.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it arrives, from the start of the workload.
    pub at: Nanos,
    /// How long it occupies a slot of a replica.
    pub service: Nanos,
}

/// Requests in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The requests.
    pub requests: Vec<Request>,
    /// How long it lasts.
    pub length: Nanos,
    /// The time of day and of the week at its start, in seconds since the Unix epoch, where the trace says it.
    pub epoch: Option<i64>,
}

impl Workload {
    /// Slots that would be occupied at each full second if no request ever waited: the load itself, whatever the replicas do.
    pub fn busy_slots(&self) -> Vec<u32> {
        let ticks = self.ticks();
        let mut change = vec![0_i64; ticks + 1];
        let tick = |at: Nanos| usize::try_from(at.div_ceil(SECOND)).map_or(ticks, |tick| tick.min(ticks));
        for request in &self.requests {
            change[tick(request.at)] += 1;
            change[tick(request.at + request.service)] -= 1;
        }
        let running = change.iter().take(ticks).scan(0, |sum, step| {
            *sum += step;
            Some(u32::try_from(*sum).unwrap_or(0))
        });
        running.collect()
    }

    /// How many full seconds it has, the one at its start included.
    pub fn ticks(&self) -> usize {
        usize::try_from(self.length / SECOND).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_slots_are_the_requests_that_are_being_served() {
        let request = |at: f64, service: f64| Request { at: from_seconds(at), service: from_seconds(service) };
        let requests = vec![request(0.5, 2.0), request(1.0, 0.5), request(1.2, 9.0)];
        let workload = Workload { requests, length: from_seconds(4.0), epoch: None };
        assert_eq!(workload.busy_slots(), [0, 2, 2, 1, 1]);
    }
}
