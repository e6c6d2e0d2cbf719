//! Requests at their times, and what came of each: the `peer` program reads and prints them as JSON. Times are microseconds.

use serde::{Deserialize, Serialize};

/// A request that comes at its time, whatever became of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// From the start.
    pub at: u64,
    /// CPU time that it costs the server.
    pub work: u64,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The request.
    pub arrival: Arrival,
    /// From the time it was to begin until it was answered or given up.
    pub took: u64,
    /// The server that answered, or why none did.
    pub answer: Result<String, String>,
}
