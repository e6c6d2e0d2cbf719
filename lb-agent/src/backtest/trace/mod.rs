//! Reads load traces: comma-separated text with a header, plain or gzipped. `TIMESTAMP,ContextTokens,GeneratedTokens` is one row per
//! request, as in Azure's public traces of language models. Otherwise the first column is the time, in seconds or as ISO 8601, and
//! the second the load: a rate where its name ends in `per_second`, requests of the interval where it is `count` or `requests`.

mod arrivals;
mod table;
mod time;

use std::{fmt, io, path::PathBuf};

pub use arrivals::{Replay, ServiceTime, workload};
pub use time::{Place, place};

/// What a trace holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The file.
    pub file: PathBuf,
    /// The time of the first row, in seconds since the Unix epoch, where the trace says it.
    pub epoch: Option<f64>,
    /// The load.
    pub load: Load,
}

/// The load of a trace. Times are seconds from its first row.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Requests, in the order of their arrival.
    Requests(Vec<Tokens>),
    /// Rates at points in time.
    Rates(Vec<Rate>),
}

/// A request to a language model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tokens {
    /// When it arrives.
    pub at: f64,
    /// Tokens it brings.
    pub context: f64,
    /// Tokens it is answered with.
    pub generated: f64,
}

/// A rate at a time; between two of them it is interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// When.
    pub at: f64,
    /// Requests in a second.
    pub rate: f64,
    /// The line that says so.
    pub line: u64,
}

/// What is wrong with a trace, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file's text is no trace.
    #[error("{}{place}: {problem}", file.display())]
    Text {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: Spot,
        /// What is wrong, with the value.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl TraceError {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::File { .. } => "check that it exists and may be read",
            Self::Text { remedy, .. } => remedy,
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column's name.
    pub column: Option<String>,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        self.column.as_ref().map_or(Ok(()), |column| write!(f, ", column {column}"))
    }
}

/// Reads a trace.
pub fn read(file: &std::path::Path) -> Result<Trace, TraceError> {
    table::Table::open(file)?.trace()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
