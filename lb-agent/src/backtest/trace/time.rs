//! Times in traces and on the command line: seconds, or ISO 8601.

use std::time::Duration;

/// A place in a trace, as `--from` and `--to` name it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// Seconds from the trace's first row.
    After(f64),
    /// Seconds since the Unix epoch.
    At(f64),
}

impl Place {
    /// Seconds from the first row of a trace that begins at this epoch.
    pub fn offset(self, epoch: Option<f64>) -> Option<f64> {
        match self {
            Self::After(seconds) => Some(seconds),
            Self::At(seconds) => epoch.map(|epoch| seconds - epoch),
        }
    }
}

/// Reads a place: seconds or a duration (`90m`) from the start of the trace, or a time as the trace writes it.
pub fn place(text: &str) -> Result<Place, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return if seconds >= 0.0 { Ok(Place::After(seconds)) } else { Err(format!("{text:?} is before the start")) };
    }
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Place::After(Duration::as_secs_f64(&duration)));
    }
    iso(text).map(Place::At).ok_or_else(|| format!("{text:?} is neither seconds, a duration such as 90m, nor ISO 8601"))
}

/// Seconds since the Unix epoch; a time without a zone is UTC.
pub(super) fn iso(text: &str) -> Option<f64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_duration().as_secs_f64());
    }
    let civil = text.parse::<jiff::civil::DateTime>().ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_duration().as_secs_f64())
}
