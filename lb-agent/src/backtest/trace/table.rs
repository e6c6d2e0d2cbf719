//! The rows of a trace, each value checked where it stands.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use csv::StringRecord;
use flate2::read::MultiGzDecoder;

use super::{Load, Rate, Spot, Tokens, Trace, TraceError, time};

/// A trace as text.
pub(super) struct Table {
    file: PathBuf,
    header: StringRecord,
    rows: Vec<StringRecord>,
}

/// What the second column counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    PerSecond,
    PerInterval,
}

/// A time in a trace: its seconds, and whether they are since the Unix epoch.
#[derive(Clone, Copy)]
struct Instant {
    seconds: f64,
    dated: bool,
}

/// Rows farther apart than so many usual intervals have others missing between them.
const GAP: f64 = 1.5;

const TOKENS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

impl Table {
    pub(super) fn open(file: &Path) -> Result<Self, TraceError> {
        let failed = |source| TraceError::File { file: file.to_owned(), source };
        let plain = BufReader::new(File::open(file).map_err(failed)?);
        let zipped = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let text: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(plain)) } else { Box::new(plain) };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let refused = |error: csv::Error| {
            let line = error.position().map(csv::Position::line);
            match error.into_kind() {
                csv::ErrorKind::Io(source) => failed(source),
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => TraceError::Text {
                    file: file.to_owned(),
                    place: Spot { line, column: None },
                    problem: format!("it has {len} values, the header has {expected_len}"),
                    remedy: "give each row one value per column",
                },
                _ => TraceError::Text {
                    file: file.to_owned(),
                    place: Spot { line, column: None },
                    problem: "it is not UTF-8".to_owned(),
                    remedy: "write the trace as comma-separated UTF-8 text",
                },
            }
        };
        let header = reader.headers().map_err(refused)?.clone();
        let rows = reader.into_records().collect::<Result<_, _>>().map_err(refused)?;
        Ok(Self { file: file.to_owned(), header, rows })
    }

    pub(super) fn trace(&self) -> Result<Trace, TraceError> {
        if self.rows.len() < 2 {
            let problem = format!("it has {} rows", self.rows.len());
            return Err(self.wrong(Spot::default(), problem, "give a header and two rows or more"));
        }
        let (epoch, times) = self.times()?;
        let load = if self.header.iter().eq(TOKENS) {
            Load::Requests(self.requests(&times)?)
        } else {
            Load::Rates(self.rates(&times, self.unit()?)?)
        };
        Ok(Trace { file: self.file.clone(), epoch, load })
    }

    fn unit(&self) -> Result<Unit, TraceError> {
        match self.header.get(1) {
            Some(name) if name.ends_with("per_second") => Ok(Unit::PerSecond),
            Some("count" | "requests") => Ok(Unit::PerInterval),
            other => {
                let problem = format!("the second column is {:?}", other.unwrap_or(""));
                let remedy =
                    "name it ..._per_second, count or requests; or use TIMESTAMP,ContextTokens,GeneratedTokens";
                Err(self.wrong(Spot { line: Some(1), column: None }, problem, remedy))
            }
        }
    }

    /// The epoch of the first row, and the seconds of every row from there.
    fn times(&self) -> Result<(Option<f64>, Vec<f64>), TraceError> {
        let times = self.rows.iter().map(|row| self.time(row)).collect::<Result<Vec<_>, _>>()?;
        let first = times[0];
        for (row, pair) in self.rows.iter().skip(1).zip(times.windows(2)) {
            let remedy = if pair[0].dated == pair[1].dated { "sort the rows by time" } else { "write all times alike" };
            if pair[0].dated != pair[1].dated || pair[1].seconds < pair[0].seconds {
                let problem = format!("{:?} comes after a later time", row.get(0).unwrap_or(""));
                return Err(self.wrong(self.spot(row, 0), problem, remedy));
            }
        }
        let offsets = times.iter().map(|time| time.seconds - first.seconds).collect();
        Ok((first.dated.then_some(first.seconds), offsets))
    }

    fn time(&self, row: &StringRecord) -> Result<Instant, TraceError> {
        let text = row.get(0).unwrap_or("");
        if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()) {
            if seconds < 0.0 {
                return Err(self.wrong(self.spot(row, 0), format!("{text} is negative"), "count time from 0"));
            }
            return Ok(Instant { seconds, dated: false });
        }
        let iso = time::iso(text).map(|seconds| Instant { seconds, dated: true });
        iso.ok_or_else(|| {
            let remedy = "write seconds, or ISO 8601 such as 2023-11-16T18:17:03Z";
            self.wrong(self.spot(row, 0), format!("{text:?} is not a time"), remedy)
        })
    }

    fn requests(&self, times: &[f64]) -> Result<Vec<Tokens>, TraceError> {
        let request = |(row, at): (&StringRecord, &f64)| {
            Ok(Tokens { at: *at, context: self.number(row, 1)?, generated: self.number(row, 2)? })
        };
        self.rows.iter().zip(times).map(request).collect()
    }

    fn rates(&self, times: &[f64], unit: Unit) -> Result<Vec<Rate>, TraceError> {
        let steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut sorted = steps.clone();
        sorted.sort_by(f64::total_cmp);
        let usual = sorted[sorted.len() / 2];
        for (row, step) in self.rows.iter().skip(1).zip(&steps) {
            if *step <= 0.0 {
                let problem = format!("{:?} is there twice", row.get(0).unwrap_or(""));
                return Err(self.wrong(self.spot(row, 0), problem, "give one row for each time"));
            }
            if *step > usual * GAP {
                let problem = format!("a gap: {step} s since the row before, usual are {usual} s");
                return Err(self.wrong(self.spot(row, 0), problem, "fill in the missing rows, or cut the trace there"));
            }
        }
        let rate = |(index, row): (usize, &StringRecord)| {
            let number = self.number(row, 1)?;
            let line = row.position().map_or(0, csv::Position::line);
            let step = steps.get(index).copied().unwrap_or(usual);
            Ok(match unit {
                Unit::PerSecond => Rate { at: times[index], rate: number, line },
                // What came in an interval is the rate in its middle.
                Unit::PerInterval => Rate { at: times[index] + step / 2.0, rate: number / step, line },
            })
        };
        self.rows.iter().enumerate().map(rate).collect()
    }

    fn number(&self, row: &StringRecord, column: usize) -> Result<f64, TraceError> {
        let text = row.get(column).unwrap_or("");
        let (problem, remedy) = match text.parse::<f64>() {
            _ if text.is_empty() => ("it is empty: a gap".to_owned(), "fill in the value, or cut the trace there"),
            Ok(number) if number < 0.0 => (format!("{text} is negative"), "use a number that is not negative"),
            Ok(number) if number.is_finite() => return Ok(number),
            _ => (format!("{text:?} is not a number"), "use a number that is not negative"),
        };
        Err(self.wrong(self.spot(row, column), problem, remedy))
    }

    fn spot(&self, row: &StringRecord, column: usize) -> Spot {
        let line = row.position().map(csv::Position::line);
        Spot { line, column: self.header.get(column).map(str::to_owned) }
    }

    fn wrong(&self, place: Spot, problem: String, remedy: &'static str) -> TraceError {
        TraceError::Text { file: self.file.clone(), place, problem, remedy }
    }
}
