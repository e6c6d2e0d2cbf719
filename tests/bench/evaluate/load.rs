//! The load: a part of a trace, each request with the CPU time that it costs, at the scale of this machine.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lb_agent::backtest::trace::{self, Place, Replay, ServiceTime};
use weir_tests::replay::Arrival;

/// Seconds of a language model for each token that comes and each that goes; only their ratio matters here.
const MODEL: ServiceTime = ServiceTime { constant: None, prefill: 0.000_25, decode: 0.025 };

/// Requests in the order of their times.
pub(crate) struct Load {
    /// The trace's file.
    pub(crate) name: String,
    /// How long it lasts.
    pub(crate) seconds: f64,
    /// The requests.
    pub(crate) arrivals: Vec<Arrival>,
}

impl Load {
    /// Reads so many seconds of a trace; what requests cost is scaled so that they need so many CPUs on average.
    pub(crate) fn read(file: &Path, from: f64, seconds: f64, cpus: f64) -> Result<Self> {
        ensure!(seconds >= 30.0 && cpus > 0.0, "at least 30 seconds and more than 0 CPUs");
        let (from, to) = (Some(Place::After(from)), Some(Place::After(from + seconds)));
        let replay = Replay { from, to, scale: 1.0, service: MODEL, seed: 1 };
        let workload = trace::workload(&trace::read(file)?, &replay)?;
        let all: u64 = workload.requests.iter().map(|request| request.service).sum();
        ensure!(all > 0, "{}: its requests cost nothing", file.display());
        let scale = seconds * cpus * 1e6 / all as f64;
        let arrival = |request: &lb_agent::backtest::workload::Request| Arrival {
            at: request.at / 1000,
            work: (request.service as f64 * scale) as u64,
        };
        Ok(Self {
            name: file.file_name().context("a file")?.to_string_lossy().into_owned(),
            seconds,
            arrivals: workload.requests.iter().map(arrival).collect(),
        })
    }

    /// Seconds of CPU time that a request costs on average.
    pub(crate) fn mean_work(&self) -> f64 {
        let all: u64 = self.arrivals.iter().map(|arrival| arrival.work).sum();
        all as f64 / 1e6 / self.arrivals.len().max(1) as f64
    }

    /// The requests of one of so many clients, who take turns.
    pub(crate) fn share(&self, client: usize, clients: usize) -> Vec<Arrival> {
        self.arrivals.iter().skip(client).step_by(clients.max(1)).copied().collect()
    }
}
