//! A layer beside others. What it prints is shown as it comes, behind its name, and all of it once more when the others are done.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Layer, Outcome, follow, output::Counts, privileged_tests, start};
use crate::shell;

/// A layer that runs.
pub(super) struct Background {
    layer: Layer,
    worker: JoinHandle<Ended>,
}

/// What has become of it.
struct Ended {
    counts: Result<Counts>,
    printed: Vec<String>,
    took: Duration,
}

impl Background {
    /// Starts the tests of a layer.
    pub(super) fn start(layer: Layer) -> Self {
        eprintln!("\n== {}, in the background", layer.name());
        Self { layer, worker: thread::spawn(move || run(layer)) }
    }

    /// Waits for them.
    pub(super) fn finish(self) -> Outcome {
        let Ended { counts, printed, took } =
            self.worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let outcome = Outcome::of_tests(self.layer.name(), || {
            printed.iter().for_each(|line| println!("{line}"));
            counts
        });
        Outcome { took, ..outcome }
    }
}

fn run(layer: Layer) -> Ended {
    let (begin, mut printed) = (Instant::now(), Vec::new());
    let counts = shell::in_root().and_then(|shell| start(privileged_tests(&shell, layer, &[])?)).and_then(|tests| {
        follow(tests, |line| {
            println!("{}: {line}", layer.name());
            printed.push(line.to_owned());
        })
    });
    Ended { counts, printed, took: begin.elapsed() }
}
