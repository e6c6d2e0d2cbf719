//! The forms output takes: tables like kubectl's, and kubectl-shaped JSON and YAML.

use comfy_table::{Attribute, Cell as TableCell, Color, presets};
use serde::Serialize;

use super::Error;

/// The version in every JSON and YAML list.
pub const API_VERSION: &str = "weir.dev/v1alpha1";

/// What `-o` takes where a list is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// What `-o` takes elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// A list as kubectl writes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List<'a, T> {
    /// [`API_VERSION`].
    pub api_version: &'static str,
    /// Such as `BackendList`.
    pub kind: &'a str,
    /// The elements.
    pub items: &'a [T],
}

impl<'a, T> List<'a, T> {
    /// A list of this kind.
    pub const fn new(kind: &'a str, items: &'a [T]) -> Self {
        Self { api_version: API_VERSION, kind, items }
    }
}

/// How good the news in a cell is: its colour on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// No news.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a colour.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// A cell with this text, or `-` for none, so that columns stay columns for awk.
    pub fn or_dash(text: &str) -> Self {
        Self::from(if text.is_empty() { "-" } else { text }.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Option<u64>> for Cell {
    fn from(number: Option<u64>) -> Self {
        number.map_or_else(|| "-".into(), Self::from)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        number.to_string().into()
    }
}

/// A table: upper-case header, columns three spaces apart, no lines.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The header.
    pub header: Vec<String>,
    /// The rows, as wide as the header.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// The text, each line ended.
    pub fn render(&self, colour: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(&self.header);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for row in &self.rows {
            table.add_row(row.iter().map(painted).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn painted(cell: &Cell) -> TableCell {
    let plain = TableCell::new(&cell.text);
    match cell.tone {
        Tone::Plain => plain,
        Tone::Good => plain.fg(Color::Green),
        Tone::Warn => plain.fg(Color::Yellow),
        Tone::Bad => plain.fg(Color::Red).add_attribute(Attribute::Bold),
    }
}

/// A value as indented JSON, ended by a new line.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Format { format: "json", reason: error.to_string() })?;
    text.push('\n');
    Ok(text)
}

/// A value as YAML.
pub fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error::Format { format: "yaml", reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "ACTIVE"]);
        table.rows.push(vec!["web".into(), Cell::toned("ready", Tone::Good), 12.into()]);
        table.rows.push(vec!["a-longer-name".into(), Cell::toned("unhealthy", Tone::Bad), Cell::or_dash("")]);
        table
    }

    #[test]
    fn columns_are_aligned_three_spaces_apart_without_lines() {
        let expected = "\
NAME            STATE       ACTIVE
web             ready       12
a-longer-name   unhealthy   -
";
        assert_eq!(sample().render(false), expected);
    }

    #[test]
    fn colours_only_where_asked() {
        assert!(!sample().render(false).contains('\u{1b}'));
        assert!(sample().render(true).contains('\u{1b}'));
    }

    #[test]
    fn lists_are_kubectl_shaped() {
        let text = json(&List::new("BackendList", &[1, 2])).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"apiVersion": "weir.dev/v1alpha1", "kind": "BackendList", "items": [1, 2]})
        );
        assert_eq!(
            yaml(&List::new("NodeList", &["a"])).unwrap(),
            "apiVersion: weir.dev/v1alpha1\nkind: NodeList\nitems:\n- a\n"
        );
    }
}
