//! `weir map`: the pinned maps themselves, element by element.

pub mod element;
pub mod list;
pub mod read;

use lb_common::{
    Addr, AffinityKey, AffinityValue, Announced, Backend, BackendLoad, Bucket, DropReason, Frontend, Range, Settings,
    SocketKey, Traffic, Vip,
    abi::SweepResult,
    counters::Recount,
    dsr::Target,
    fragment::{Fragment, FragmentKey},
    names::{Name, NameKey, map},
    request::{Measure, Request},
    socket::{Pod, PodKey},
};
use serde_json::Value;

use self::{element::Element, read::MapFolder};
use super::{
    Error,
    output::{self, Cell, Format, List, Table},
};
use crate::dataplane::Inspect;

/// `weir map`.
#[derive(Clone, Debug, clap::Args)]
pub struct MapArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: MapCommand,
}

/// What can be done with maps.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum MapCommand {
    /// Every pinned map: type, sizes, fill and memory.
    List {
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// The elements of one map. Elements of arrays that are all zero are unused and left out; per-CPU values are summed, and
    /// in JSON also shown for each CPU.
    Dump {
        /// The map, as `weir map list` names it.
        name: String,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
}

/// The pinned map of this name.
pub fn known(name: &str) -> Result<&'static str, Error> {
    let found = map::PINNED.iter().find(|known| **known == name).copied();
    found.ok_or_else(|| Error::UnknownMap { name: name.to_owned(), known: map::PINNED.to_vec() })
}

/// The elements of a map.
pub fn elements(name: &'static str, maps: &MapFolder, source: &impl Inspect) -> Result<Vec<Element>, Error> {
    Ok(match name {
        map::FRONTENDS => hash(maps.hash::<SocketKey, Frontend>(name)?, element::frontend),
        map::ENDPOINTS => hash(maps.hash::<SocketKey, u32>(name)?, |key, id| element::endpoint(key, *id)),
        map::AFFINITY => hash(maps.hash::<AffinityKey, AffinityValue>(name)?, element::affinity),
        map::NAMES => hash(maps.hash::<NameKey, Name>(name)?, |key, name| element::name(key, name.as_str())),
        map::DRAINS => hash(maps.hash::<SocketKey, u32>(name)?, |key, _| element::drain(key)),
        map::INTERFACES => hash(maps.hash::<u32, u32>(name)?, |index, flags| interface(*index, *flags)),
        map::PODS => hash(maps.hash::<PodKey, Pod>(name)?, element::pod),
        map::REQUESTS => hash(maps.hash::<u64, Request>(name)?, |key, request| element::request(*key, request)),
        map::MEASURES => hash(maps.hash::<u32, Measure>(name)?, |index, measure| element::measure(*index, measure)),
        map::TARGETS => hash(maps.hash::<Target, u32>(name)?, |target, index| element::target(target, *index)),
        // The kernel keeps them with the sockets, and lists them for none; what is told is gone once it is heard.
        map::SOCKETS | map::PEERS | map::WAKES => Vec::new(),
        map::RANGES => hash(maps.trie::<Range, u32>(name)?, |(bits, range), _| element::range(*bits, range)),
        map::ANNOUNCED => hash(maps.hash::<Addr, Announced>(name)?, element::announced),
        map::VIPS => array(&maps.array::<Vip>(name)?, element::vip),
        map::BACKENDS => array(&maps.array::<Backend>(name)?, element::backend),
        map::LOADS => array(&maps.array::<BackendLoad>(name)?, element::load),
        map::RECOUNTS => array(&maps.array::<Recount>(name)?, element::recount),
        map::CURSORS => array(&maps.array::<u64>(name)?, |index, cursor| element::cursor(index, *cursor)),
        map::KNOWN => array(&maps.array::<u64>(name)?, |index, bits| element::known(index, *bits)),
        map::KNOCKS => array(&maps.array::<u64>(name)?, |index, at| element::knock(index, *at)),
        map::RATES => array(&maps.array::<u64>(name)?, |frontend, due| element::rate(frontend, *due)),
        map::CLIENT_RATES => hash(maps.hash::<AffinityKey, u64>(name)?, element::client_rate),
        map::ERROR_RATE => maps.array::<u64>(name)?.iter().map(|due| element::error_rate(*due)).collect(),
        map::FRAGMENTS => hash(maps.hash::<FragmentKey, Fragment>(name)?, element::fragment),
        map::FRAGMENT_IDS => array(&maps.array::<u64>(name)?, |counter, given| element::fragment_ids(counter, *given)),
        map::FLOWS | map::REPLIES => buckets(&maps.array::<Bucket>(name)?),
        map::TRAFFIC => traffic(&maps.per_cpu::<Traffic>(name)?),
        map::DROPS => drops(&maps.per_cpu::<u64>(name)?),
        map::SETTINGS => maps.array::<Settings>(name)?.iter().map(element::settings).collect(),
        map::SWEEP => maps.array::<SweepResult>(name)?.iter().map(element::sweep).collect(),
        map::CLOCK => maps.array::<u32>(name)?.iter().map(|seconds| element::clock(*seconds)).collect(),
        // A slot of 0 is also a slot that leads to backend 0: only the runs that frontends name are known to be in use.
        _ => slots(source)?,
    })
}

fn hash<K, V>(elements: Vec<(K, V)>, show: impl Fn(&K, &V) -> Element) -> Vec<Element> {
    let mut shown: Vec<Element> = elements.iter().map(|(key, value)| show(key, value)).collect();
    shown.sort_by_cached_key(|element| element.fields.iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>());
    shown
}

fn array<V: Default + PartialEq>(elements: &[V], show: impl Fn(u32, &V) -> Element) -> Vec<Element> {
    let unused = V::default();
    let used = elements.iter().enumerate().filter(|(_, element)| **element != unused);
    used.map(|(index, element)| show(index as u32, element)).collect()
}

fn traffic(elements: &[Vec<Traffic>]) -> Vec<Element> {
    let used = elements.iter().enumerate().filter(|(_, cpus)| cpus.iter().any(|cpu| *cpu != Traffic::default()));
    used.map(|(index, cpus)| element::traffic(index as u32, cpus)).collect()
}

/// Every reason there is, and whatever else was counted.
fn drops(elements: &[Vec<u64>]) -> Vec<Element> {
    let known = |index: usize, cpus: &[u64]| index < DropReason::ALL.len() || cpus.iter().any(|count| *count > 0);
    let shown = elements.iter().enumerate().filter(|(index, cpus)| known(*index, cpus));
    shown.map(|(index, cpus)| element::drops(index as u32, cpus)).collect()
}

fn buckets(buckets: &[Bucket]) -> Vec<Element> {
    buckets.iter().enumerate().flat_map(|(index, bucket)| element::ways(index as u32, bucket)).collect()
}

fn slots(source: &impl Inspect) -> Result<Vec<Element>, Error> {
    let runs = source.tables()?.slots;
    let slots = runs.iter().flat_map(|(offset, run)| (*offset..).zip(run));
    Ok(slots.map(|(index, slot)| element::slot(index, *slot)).collect())
}

fn interface(index: u32, flags: u32) -> Element {
    element::interface(index, crate::dataplane::sys::interface_name(index).as_deref(), flags)
}

/// The elements in this form.
pub fn show(elements: &[Element], format: Format, colour: bool) -> Result<String, Error> {
    match (format, elements.first()) {
        (Format::Json, _) => output::json(&List::new("MapElementList", elements)),
        (Format::Table, None) => Ok(String::new()),
        (Format::Table, Some(first)) => {
            let mut table =
                Table { header: first.fields.iter().map(|(name, _)| header(name)).collect(), rows: Vec::new() };
            table.rows = elements.iter().map(|e| e.fields.iter().map(|(_, value)| cell(value)).collect()).collect();
            Ok(table.render(colour))
        }
    }
}

/// `tableOffset` becomes `TABLE-OFFSET`.
fn header(name: &str) -> String {
    let mut header = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            header.push('-');
        }
        header.push(letter.to_ascii_uppercase());
    }
    header
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => Cell::or_dash(text),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_maps_name_the_known() {
        assert_eq!(known("flows").unwrap(), "flows");
        let error = known("conntrack").unwrap_err();
        assert_eq!(error.to_string(), "there is no map \"conntrack\"");
        assert!(error.remedy().contains("frontends, vips, backends"));
    }

    #[test]
    fn unused_elements_of_arrays_are_left_out() {
        let loads = [BackendLoad::default(), BackendLoad { active: 3, connections: 8, ..Default::default() }];
        let shown = show(&array(&loads, element::load), Format::Table, false).unwrap();
        let expected = "\
INDEX   ACTIVE   PENDING   CONNECTIONS   RESETS   REMOTE   CLOSED   ESTABLISHED   SOCKETS
1       3        0         8             0        0        0        0             0
";
        assert_eq!(shown, expected);
        assert_eq!(show(&[], Format::Table, false).unwrap(), "");
    }

    #[test]
    fn json_is_a_list_with_each_cpu() {
        let traffic = traffic(&[vec![Traffic::default(); 2], vec![Traffic { bytes_in: 5, ..Default::default() }; 2]]);
        let text = show(&traffic, Format::Json, false).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["kind"], "MapElementList");
        assert_eq!(value["items"][0]["index"], 1);
        assert_eq!(value["items"][0]["bytesIn"], 10);
        assert_eq!(value["items"][0]["perCpu"][1]["bytesIn"], 5);
    }

    #[test]
    fn drop_reasons_show_even_at_0_and_unknown_ones_if_counted() {
        let mut counts = vec![vec![0, 0]; DropReason::ALL.len() + 3];
        assert_eq!(drops(&counts).len(), DropReason::ALL.len());
        counts[DropReason::ALL.len() + 1] = vec![0, 2];
        assert_eq!(drops(&counts).last().map(|element| element.fields[0].1.clone()), Some("?".into()));
    }

    #[test]
    fn headers_are_words() {
        assert_eq!(header("tableOffset"), "TABLE-OFFSET");
        assert_eq!(header("id"), "ID");
    }
}
