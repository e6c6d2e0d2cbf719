//! `weir map list`: what the pinned maps are, how full they are, and the memory they take.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::names::map;
use serde::Serialize;

use crate::{
    cli::{
        Error,
        output::{Cell, Table, Tone},
    },
    dataplane::{Inspect, Tables, pins::MapInfo},
};

/// From this share on a map is nearly full.
pub const NEARLY_FULL: f64 = 0.9;

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapItem {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Its number of elements; of `flows` and `replies` the buckets.
    pub max_entries: u32,
    /// What it has room for: its elements; of `flows` the flows.
    pub room: u64,
    /// What is in it; null where that is not counted.
    pub entries: Option<u64>,
    /// Kernel memory.
    pub bytes: u64,
}

impl MapItem {
    /// The share of its room that is taken.
    pub fn fill(&self) -> Option<f64> {
        self.entries.filter(|_| self.room > 0).map(|entries| entries as f64 / self.room as f64)
    }
}

/// The items of these maps: what the kernel counts, and of arrays what is in use of them.
pub fn items(maps: &[MapInfo], source: &impl Inspect) -> Result<Vec<MapItem>, Error> {
    let mut used = used(&source.tables()?);
    used.insert(map::FLOWS, source.flows()?.len() as u64);
    let flows = u64::from(source.capacity().flows);
    Ok(maps.iter().map(|info| item(info, used.get(info.name.as_str()).copied(), flows)).collect())
}

fn used(tables: &Tables) -> BTreeMap<&'static str, u64> {
    let slots: usize = tables.slots.values().map(Vec::len).sum();
    let ranges = tables.ranges.values().map(BTreeSet::len).sum();
    let counts = [
        (map::VIPS, tables.vips.len()),
        (map::BACKENDS, tables.backends.len()),
        (map::SLOTS, slots),
        (map::RANGES, ranges),
    ];
    counts.into_iter().map(|(name, count)| (name, count as u64)).collect()
}

fn item(info: &MapInfo, used: Option<u64>, flows: u64) -> MapItem {
    MapItem {
        name: info.name.clone(),
        kind: info.kind.clone(),
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        room: if info.name == map::FLOWS { flows } else { info.max_entries.into() },
        entries: info.entries.or(used),
        bytes: info.bytes,
    }
}

/// The table of these items.
pub fn table(items: &[MapItem]) -> Table {
    let mut table = Table::new(&["MAP", "TYPE", "KEY", "VALUE", "ENTRIES", "ROOM", "FILL", "BYTES"]);
    table.rows = items.iter().map(row).collect();
    table
}

fn row(item: &MapItem) -> Vec<Cell> {
    vec![
        item.name.as_str().into(),
        item.kind.as_str().into(),
        u64::from(item.key_size).into(),
        u64::from(item.value_size).into(),
        item.entries.map_or_else(|| "-".into(), Cell::from),
        item.room.into(),
        item.fill().map_or_else(|| "-".into(), fill_cell),
        item.bytes.into(),
    ]
}

fn fill_cell(fill: f64) -> Cell {
    Cell::toned(format!("{:.1}%", fill * 100.0), if fill >= NEARLY_FULL { Tone::Bad } else { Tone::Plain })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::sample;

    fn info(name: &str, kind: &str, max_entries: u32, entries: Option<u64>) -> MapInfo {
        MapInfo { name: name.into(), kind: kind.into(), key_size: 4, value_size: 64, max_entries, entries, bytes: 4096 }
    }

    #[test]
    fn arrays_count_what_is_used_of_them() {
        let maps = [
            info("frontends", "hash", 100, Some(3)),
            info("backends", "array", 5, None),
            info("slots", "array", 1000, None),
            info("flows", "array", 1, None),
            info("cursors", "array", 10, None),
        ];
        let items = items(&maps, &sample::Memory(sample::view())).unwrap();
        let expected = "\
MAP         TYPE    KEY   VALUE   ENTRIES   ROOM   FILL     BYTES
frontends   hash    4     64      3         100    3.0%     4096
backends    array   4     64      5         5      100.0%   4096
slots       array   4     64      10        1000   1.0%     4096
flows       array   4     64      0         8      0.0%     4096
cursors     array   4     64      -         10     -        4096
";
        assert_eq!(table(&items).render(false), expected);
    }
}
