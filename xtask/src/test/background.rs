//! Layers beside others, one after the other and at low priority. What they print is shown as it comes, behind their name, and all of it once more
//! when the others are done.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Layer, Outcome, Priority, command, follow, output::Counts, start};
use crate::shell;

/// Layers that run.
pub(super) struct Background(JoinHandle<Vec<Ended>>);

/// What has become of one.
struct Ended {
    layer: Layer,
    counts: Result<Counts>,
    printed: Vec<String>,
    took: Duration,
}

impl Background {
    /// Starts the tests of layers.
    pub(super) fn start(layers: &'static [Layer]) -> Self {
        eprintln!("\n== {}, in the background", layers.iter().map(|layer| layer.name()).collect::<Vec<_>>().join(", "));
        Self(thread::spawn(|| layers.iter().copied().map(run).collect()))
    }

    /// Waits for them.
    pub(super) fn finish(self) -> Vec<Outcome> {
        let ended = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let outcome = |Ended { layer, counts, printed, took }| {
            let outcome = Outcome::of_tests(Layer::name(layer), || {
                printed.iter().for_each(|line| println!("{line}"));
                counts
            });
            Outcome { took, ..outcome }
        };
        ended.into_iter().map(outcome).collect()
    }
}

fn run(layer: Layer) -> Ended {
    let (begin, mut printed) = (Instant::now(), Vec::new());
    let tests = shell::in_root().and_then(|shell| start(command(&shell, layer, &[], Priority::Low)?));
    let counts = tests.and_then(|tests| {
        follow(tests, |line| {
            println!("{}: {line}", layer.name());
            printed.push(line.to_owned());
        })
    });
    Ended { layer, counts, printed, took: begin.elapsed() }
}
