//! `weir fit`: multiple linear regression over a table, from recorded load to what it needs; and what of it goes into a policy.

mod derived;
mod plot;
mod report;
mod table;

use std::path::PathBuf;

use clap::Args;
use humantime::Duration;

pub use table::TableError;

use self::{plot::Point, report::Report, table::Table};
use super::{
    Error, Screen,
    output::{self, Format},
};
use crate::scaling::{
    checked::{Feature, feature},
    forecast::{
        ols::{self, Column, OlsError},
        series::slots,
    },
};

/// What `weir fit` takes.
#[derive(Clone, Debug, Args)]
pub struct FitArgs {
    /// The table: comma-separated values with a header; `.gz` too.
    #[arg(long, value_name = "FILE.csv")]
    pub data: PathBuf,
    /// The column to explain: a resource, or the load itself.
    #[arg(long, value_name = "COLUMN")]
    pub target: String,
    /// The columns to explain it by; or features of a forecast, as lag:1m,mean:5m,hourOfDay: then the first column is the time, in
    /// seconds or as ISO 8601, and the target is explained by what was known a horizon before.
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    pub features: Vec<String>,
    /// How far ahead features of a forecast look.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub horizon: Duration,
    /// Where a replica is full: the value of the target at which the load that one replica carries is computed; with one feature.
    #[arg(long, value_name = "VALUE")]
    pub at: Option<f64>,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Where to draw the residuals.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// Why nothing was fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The regression cannot be computed.
    #[error("{file}: {source}")]
    Ols {
        /// The file.
        file: String,
        /// Why.
        source: OlsError,
    },
    /// A feature is neither a column nor one of a forecast.
    #[error("{name:?} is neither a column nor a feature of a forecast: {why}")]
    Feature {
        /// What was asked for.
        name: String,
        /// Why it is no feature.
        why: String,
    },
    /// Columns and features of a forecast do not go together.
    #[error("{column:?} is a column and {feature:?} a feature of a forecast")]
    Mixed {
        /// A column.
        column: String,
        /// A feature.
        feature: String,
    },
    /// `--at` cannot be answered.
    #[error("--at {at}: {why}")]
    At {
        /// The value.
        at: f64,
        /// What is in the way.
        why: String,
    },
    /// The plot cannot be written.
    #[error("{}: {why}", file.display())]
    Plot {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
}

impl FitError {
    /// What to do about it, in one line.
    pub fn remedy(&self) -> String {
        match self {
            Self::Table(error) => error.remedy(),
            Self::Ols { .. } => "give more rows, or fewer features".into(),
            Self::Feature { .. } => {
                "name a column, or use lag:1m, mean:5m, max:5m, rate, hourOfDay or dayOfWeek".into()
            }
            Self::Mixed { .. } => "use only columns, or only features of a forecast".into(),
            Self::At { .. } => "use one feature, and a value that the target reaches under load".into(),
            Self::Plot { .. } => "name a file that can be written".into(),
        }
    }
}

/// Fits, and shows.
pub fn run(args: &FitArgs, screen: &mut Screen<'_>) -> Result<(), Error> {
    let (report, points) = fit(args)?;
    if let Some(file) = &args.plot {
        plot::draw(file, &args.target, &points)
            .map_err(|error| FitError::Plot { file: file.clone(), why: error.to_string() })?;
    }
    screen.print(&match args.output {
        Format::Json => output::json(&report)?,
        Format::Table => report.text(screen.colour),
    })
}

fn fit(args: &FitArgs) -> Result<(Report, Vec<Point>), FitError> {
    let table = Table::read(&args.data)?;
    let features = features(&table, &args.features)?;
    let (columns, target) = match &features {
        Some(features) => derived(args, &table, features)?,
        None => plain(args, &table)?,
    };
    let file = || args.data.display().to_string();
    let regression = ols::fit(&columns, &target).map_err(|source| FitError::Ols { file: file(), source })?;
    let points = (0..target.values.len()).map(|row| {
        let value =
            |name: &str| columns.iter().find(|column| column.name == name).map_or(0.0, |column| column.values[row]);
        Point { fitted: regression.predict(value), actual: target.values[row] }
    });
    let points = points.collect();
    Ok((Report::new(args, regression, features.is_some())?, points))
}

/// The features of a forecast; none where all of them are columns.
fn features(table: &Table, names: &[String]) -> Result<Option<Vec<Feature>>, FitError> {
    let (columns, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| table.has(name));
    let Some(first) = others.first() else {
        return Ok(None);
    };
    let read = |name: &String| {
        feature("--features", name).map_err(|error| FitError::Feature { name: name.clone(), why: error.problem })
    };
    let features = others.iter().copied().map(read).collect::<Result<_, _>>()?;
    match columns.first() {
        None => Ok(Some(features)),
        Some(column) => Err(FitError::Mixed { column: (*column).clone(), feature: (*first).clone() }),
    }
}

fn plain(args: &FitArgs, table: &Table) -> Result<(Vec<Column>, Column), FitError> {
    let columns = args.features.iter().map(|name| table.numbers(name)).collect::<Result<_, _>>()?;
    Ok((columns, table.numbers(&args.target)?))
}

fn derived(args: &FitArgs, table: &Table, features: &[Feature]) -> Result<(Vec<Column>, Column), FitError> {
    let load = table.numbers(&args.target)?;
    let wanted = "a time: seconds, or ISO 8601";
    let times = table.values(table.first(), wanted, time)?;
    if let Some(row) = times.windows(2).position(|pair| pair[1] < pair[0]) {
        return Err(table.wrong_value(row + 1, table.first(), "later than the line before it").into());
    }
    let (columns, mut target) = derived::columns(&times, &load.values, features, slots(*args.horizon).max(1));
    target.name = load.name;
    Ok((columns, target))
}

/// Seconds since the Unix epoch, not negative; a time without a zone is UTC.
fn time(text: &str) -> Option<f64> {
    let seconds = |text: &str| {
        if let Ok(seconds) = text.parse::<f64>() {
            return Some(seconds);
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Some(time.as_duration().as_secs_f64());
        }
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_duration().as_secs_f64())
    };
    seconds(text).filter(|seconds| (0.0..1e11).contains(seconds))
}

#[cfg(test)]
mod tests;
