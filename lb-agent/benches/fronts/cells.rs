//! The cells that are compared: each trace, at two start-up delays, two sizes of a replica, and both queues.

use std::{fmt, path::Path};

use lb_agent::backtest::{
    fleet::{Queue, Shape},
    run::{Conditions, Trial},
    trace::{self, Place, Replay, ServiceTime, TraceError},
    workload::{SECOND, Workload},
};

/// A trace, and the slots of a replica that suit it.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The name in tables.
    pub(crate) name: &'static str,
    file: &'static str,
    scale: f64,
    slots: [u32; 2],
}

/// All traces.
pub(crate) const SOURCES: [Source; 3] = [
    Source { name: "code", file: "AzureLLMInferenceTrace_code.csv.gz", scale: 1.0, slots: [1, 8] },
    Source { name: "conversation", file: "AzureLLMInferenceTrace_conv.csv.gz", scale: 1.0, slots: [2, 8] },
    Source { name: "ServeGen", file: "servegen-m-large-rps.csv.gz", scale: 0.02, slots: [1, 8] },
];

/// What is replayed of a trace.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// The seed of what is random: arrivals of rates, and which requests of others a scale leaves out.
    pub(crate) seed: u64,
    /// Multiplies every trace's load.
    pub(crate) scale: f64,
    /// The end of ServeGen's, in hours.
    pub(crate) hours: Option<f64>,
}

/// Where the scalers are compared.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    /// The trace.
    pub(crate) trace: &'static str,
    /// Seconds until a replica is ready.
    pub(crate) startup: u64,
    /// Slots of a replica.
    pub(crate) slots: u32,
    /// Where requests wait.
    pub(crate) queue: Queue,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = if self.queue == Queue::Central { "central" } else { "replica" };
        write!(f, "{}, {} s, {} slots, {queue}", self.trace, self.startup, self.slots)
    }
}

impl Source {
    /// The requests.
    pub(crate) fn workload(&self, folder: &Path, part: Part) -> Result<Workload, TraceError> {
        let trace = trace::read(&folder.join(self.file))?;
        let service = ServiceTime { constant: None, prefill: 0.25e-3, decode: 25e-3 };
        let to = part.hours.map(|hours| Place::After(hours * 3600.0));
        trace::workload(&trace, &Replay { from: None, to, scale: self.scale * part.scale, service, seed: part.seed })
    }

    /// Its cells.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for startup in [30, 120] {
            for slots in self.slots {
                for queue in [Queue::Replica, Queue::Central] {
                    cells.push(Cell { trace: self.name, startup, slots, queue });
                }
            }
        }
        cells
    }
}

impl Cell {
    /// A workload in this cell.
    pub(crate) fn trial(&self, workload: Workload) -> Trial {
        let shape = Shape { concurrency: self.slots, startup: self.startup * SECOND, queue: self.queue };
        let conditions = Conditions {
            shape,
            initial: None,
            target: PEER_TARGET,
            warmup: 600 * SECOND,
            slo: SECOND,
            metrics_delay: 22,
        };
        Trial::new(workload, &conditions)
    }

    /// Whether this one is drawn: one for each trace.
    pub(crate) fn is_drawn(&self) -> bool {
        self.startup == 30 && self.slots < 8 && self.queue == Queue::Replica
    }
}

/// The share of the slots that peers aim at where there is one number for all.
pub(crate) const PEER_TARGET: f64 = 0.7;
