//! `weir get`: lists of what is in force and what it carries, read from the pinned maps, so that no agent need run.
//!
//! With `--watch` the whole list is written again every two seconds, on a terminal in place of the last one, until Ctrl-C.

pub mod agents;
pub mod backends;
pub mod flows;
pub mod services;

use std::time::Duration;

use serde::Serialize;

use super::{
    Error, Screen,
    output::{self, Cell, List, ListFormat, Table},
    screen,
    view::View,
};
use crate::dataplane::Inspect;

/// Time between two lists of `--watch`.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// `weir get`.
#[derive(Clone, Debug, clap::Args)]
pub struct GetArgs {
    /// What to list.
    pub resource: Resource,
    /// Only this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: ListFormat,
    /// Show the list again every two seconds.
    #[arg(short, long)]
    pub watch: bool,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Resource {
    /// Service ports and how they select backends.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Backends and what they carry.
    #[value(alias = "backend")]
    Backends,
    /// Tracked connections.
    #[value(alias = "flow")]
    Flows,
    /// Scaling policies and their last decisions (asks the agent).
    #[value(alias = "policy")]
    Policies,
    /// Nodes (asks the agent).
    #[value(alias = "node")]
    Nodes,
}

/// A list that is read from the maps, in the wanted form.
pub fn from_maps(
    resource: Resource,
    namespace: Option<&str>,
    form: Form,
    source: &impl Inspect,
    now: u32,
) -> Result<String, Error> {
    match resource {
        Resource::Services => {
            form.render("ServiceList", &services::items(&View::read(source)?, namespace), services::table)
        }
        Resource::Flows => {
            form.render("FlowList", &flows::items(&source.tables()?, &source.flows()?, now, namespace), flows::table)
        }
        _ => form.render("BackendList", &backends::items(&View::read(source)?, namespace), backends::table),
    }
}

/// How a list is shown.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// `-o`.
    pub output: ListFormat,
    /// Whether colours may be used.
    pub colour: bool,
}

impl Form {
    /// The text of a list; of an empty table none.
    pub fn render<T: Serialize>(
        self,
        kind: &str,
        items: &[T],
        table: impl Fn(&[T], bool) -> Table,
    ) -> Result<String, Error> {
        match self.output {
            ListFormat::Json => output::json(&List::new(kind, items)),
            ListFormat::Yaml => output::yaml(&List::new(kind, items)),
            ListFormat::Table | ListFormat::Wide if items.is_empty() => Ok(String::new()),
            ListFormat::Table => Ok(table(items, false).render(self.colour)),
            ListFormat::Wide => Ok(table(items, true).render(self.colour)),
        }
    }
}

/// Shows what `list` gives: once, or until the process is ended.
pub fn show(
    args: &GetArgs,
    screen: &mut Screen<'_>,
    list: impl Fn(bool) -> Result<String, Error>,
) -> Result<(), Error> {
    loop {
        let text = list(screen.colour)?;
        if args.watch {
            screen.clear()?;
        }
        if text.is_empty() {
            screen::note(&format!("No {} found.", name(args.resource)));
        }
        screen.print(&text)?;
        if !args.watch {
            return Ok(());
        }
        if args.output == ListFormat::Yaml {
            screen.print("---\n")?;
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

const fn name(resource: Resource) -> &'static str {
    match resource {
        Resource::Services => "services",
        Resource::Backends => "backends",
        Resource::Flows => "flows",
        Resource::Policies => "policies",
        Resource::Nodes => "nodes",
    }
}

/// The first of several, and how many more there are.
fn first_of(names: &[String]) -> Cell {
    match names {
        [] => "-".into(),
        [only] => only.as_str().into(),
        [first, rest @ ..] => format!("{first} + {}...", rest.len()).into(),
    }
}

/// `ADDR:PORT/PROTO` from an item's fields.
fn socket_text(address: &str, port: u16, protocol: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}/{protocol}")
    } else {
        format!("{address}:{port}/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_names_are_counted() {
        let names = |n: usize| (0..n).map(|i| format!("f{i}")).collect::<Vec<_>>();
        for (n, text) in [(0, "-"), (1, "f0"), (2, "f0 + 1..."), (4, "f0 + 3...")] {
            assert_eq!(first_of(&names(n)), Cell::from(text));
        }
    }

    #[test]
    fn sockets_put_ipv6_in_brackets() {
        assert_eq!(socket_text("fd00::1", 80, "TCP"), "[fd00::1]:80/TCP");
        assert_eq!(socket_text("10.0.0.1", 53, "UDP"), "10.0.0.1:53/UDP");
    }

    #[test]
    fn an_empty_list_is_no_table_but_a_json_list() {
        let table = |_: &[u8], _: bool| Table::new(&["NAME"]);
        let form = |output| Form { output, colour: false };
        assert_eq!(form(ListFormat::Table).render::<u8>("FlowList", &[], table).unwrap(), "");
        assert!(form(ListFormat::Json).render::<u8>("FlowList", &[], table).unwrap().contains("\"items\": []"));
    }
}
