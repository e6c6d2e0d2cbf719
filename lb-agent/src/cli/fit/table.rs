//! A table of numbers: comma-separated text with a header, plain or gzipped. What is wrong with it is said with file, line, column and
//! value.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use csv::StringRecord;
use flate2::read::MultiGzDecoder;

use crate::scaling::forecast::ols::Column;

/// A table as text.
#[derive(Debug)]
pub(super) struct Table {
    file: PathBuf,
    header: StringRecord,
    rows: Vec<StringRecord>,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not comma-separated text, or has more or fewer values than the header.
    #[error("{}, line {line}: {why}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// There is no such column.
    #[error("{} has no column {name:?}", file.display())]
    Column {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A value is not what its column holds.
    #[error("{}, line {line}, column {name:?}: {value:?} is not {wanted}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// The column.
        name: String,
        /// The value.
        value: String,
        /// What was expected.
        wanted: &'static str,
    },
}

impl TableError {
    /// What to do about it, in one line.
    pub fn remedy(&self) -> String {
        match self {
            Self::File { .. } => "check that it exists and may be read".into(),
            Self::Line { .. } => "write one row a line, with as many values as the header has names".into(),
            Self::Column { known, .. } => format!("name one of: {}", known.join(", ")),
            Self::Value { .. } => "correct the value, or remove the line".into(),
        }
    }
}

impl Table {
    /// Reads a file; one whose name ends in `.gz` is unpacked.
    pub(super) fn read(file: &Path) -> Result<Self, TableError> {
        let io = |source| TableError::File { file: file.to_owned(), source };
        let plain = BufReader::new(File::open(file).map_err(io)?);
        let reader: Box<dyn Read> = match file.extension() {
            Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(plain)),
            _ => Box::new(plain),
        };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let wrong = |error: csv::Error| wrong(file, error);
        let header = reader.headers().map_err(wrong)?.clone();
        let rows = reader.into_records().collect::<Result<_, _>>().map_err(wrong)?;
        Ok(Self { file: file.to_owned(), header, rows })
    }

    /// Whether there is a column of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.header.iter().any(|column| column == name)
    }

    /// The name of the first column.
    pub(super) fn first(&self) -> &str {
        self.header.get(0).unwrap_or_default()
    }

    /// A column of numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<Column, TableError> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        let values = self.values(name, "a finite number", number)?;
        Ok(Column { name: name.to_owned(), values })
    }

    /// A column, each value read.
    pub(super) fn values<T>(
        &self,
        name: &str,
        wanted: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, TableError> {
        let Some(at) = self.header.iter().position(|column| column == name) else {
            let known = self.header.iter().map(str::to_owned).collect();
            return Err(TableError::Column { file: self.file.clone(), name: name.to_owned(), known });
        };
        let value = |(index, row): (usize, &StringRecord)| {
            let value = row.get(at).unwrap_or_default();
            read(value).ok_or_else(|| self.wrong_value(index, name, wanted))
        };
        self.rows.iter().enumerate().map(value).collect()
    }

    /// An error about a value of a row, from 0.
    pub(super) fn wrong_value(&self, row: usize, name: &str, wanted: &'static str) -> TableError {
        let at = self.header.iter().position(|column| column == name);
        let value = at.and_then(|at| self.rows.get(row)?.get(at)).unwrap_or_default().to_owned();
        let line = self.rows.get(row).and_then(StringRecord::position).map_or(0, csv::Position::line);
        TableError::Value { file: self.file.clone(), line, name: name.to_owned(), value, wanted }
    }
}

fn wrong(file: &Path, error: csv::Error) -> TableError {
    let file = file.to_owned();
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => TableError::File { file, source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            TableError::Line { file, line, why: format!("{len} values where the header has {expected_len} names") }
        }
        csv::ErrorKind::Utf8 { err, .. } => TableError::Line { file, line, why: err.to_string() },
        other => TableError::Line { file, line, why: format!("{other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn table(name: &str, bytes: &[u8]) -> Result<Table, TableError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        Table::read(&file)
    }

    #[test]
    fn gzipped_or_not() {
        let text = b"time, load\n1, 2.5\n2, -3e2\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text).unwrap();
        for (name, bytes) in [("a.csv", text.to_vec()), ("a.csv.gz", gzip.finish().unwrap())] {
            let table = table(name, &bytes).unwrap();
            assert_eq!(table.numbers("load").unwrap().values, [2.5, -300.0], "{name}");
            assert_eq!(table.first(), "time");
        }
    }

    #[test]
    fn errors_name_file_line_column_and_value() {
        for (text, column, wanted) in [
            ("a,b\n1,2\n3,x\n", "b", "a.csv, line 3, column \"b\": \"x\" is not a finite number"),
            ("a,b\n1,2\n3,\n", "b", "a.csv, line 3, column \"b\": \"\" is not a finite number"),
            ("a,b\n1,NaN\n", "b", "a.csv, line 2, column \"b\": \"NaN\" is not a finite number"),
            ("a,b\n1,2\n3\n", "b", "a.csv, line 3: 1 values where the header has 2 names"),
            ("a,b\n1,2\n", "c", "a.csv has no column \"c\""),
        ] {
            let error = table("a.csv", text.as_bytes()).and_then(|table| table.numbers(column)).unwrap_err();
            assert!(error.to_string().ends_with(wanted), "{error}");
            assert!(!error.remedy().is_empty());
        }
        let missing = Table::read(Path::new("/nowhere/a.csv")).unwrap_err();
        assert!(missing.to_string().starts_with("/nowhere/a.csv: "), "{missing}");
    }
}
