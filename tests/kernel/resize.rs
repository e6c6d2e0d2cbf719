//! What an agent leaves that dies while it moves the flows into a table of another size, and what the next one makes of it.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_agent::dataplane::{
    Inspect as _,
    bpf::{Bpf, Options},
    pins::map_folder,
};
use lb_common::{Bucket, names::map};
use weir_tests::{pins::PinFolder, requirements};

use crate::{node, table::world::BUCKETS};

/// The lock of a bucket that is being moved.
const FROZEN: u32 = 2;
const TABLES: [&str; 2] = [map::FLOWS, map::REPLIES];
const NEXT: [&str; 2] = ["flows_next", "replies_next"];

fn sized(pins: &Path, buckets: u32) -> Options {
    Options { flow_table_size: buckets * 8, ..node::options(pins) }
}

fn buckets(pins: &Path, name: &str) -> Result<Array<MapData, Bucket>> {
    Ok(Map::Array(MapData::from_pin(map_folder(pins).join(name))?).try_into()?)
}

fn freeze(pins: &Path, name: &str) -> Result<()> {
    let mut table = buckets(pins, name)?;
    for index in 0..table.len() {
        let bucket = table.get(&index, 0)?;
        table.set(index, Bucket { lock: FROZEN, ..bucket }, 0)?;
    }
    Ok(())
}

/// As many buckets, none of them locked, and nothing beside them.
fn is_whole(pins: &Path, count: u32) -> Result<()> {
    for name in TABLES {
        let table = buckets(pins, name)?;
        ensure!(table.len() == count, "{name} has {} buckets", table.len());
        for index in 0..table.len() {
            ensure!(table.get(&index, 0)?.lock == 0, "bucket {index} of {name} is locked");
        }
    }
    ensure!(NEXT.iter().all(|name| !map_folder(pins).join(name).exists()), "something is left over");
    Ok(())
}

/// An agent that has loaded its programs for a larger table, and dies.
fn dies_before_it_moves(pins: &Path) -> Result<()> {
    let mut bpf = Bpf::open(&sized(pins, 4 * BUCKETS))?;
    let programs = bpf.loading().map(|loading| loading()).transpose()?;
    programs.map_or(Ok(()), |programs| bpf.set_programs(programs))?;
    ensure!(bpf.capacity().flows == BUCKETS * 8, "nothing is moved yet");
    Ok(())
}

#[test]
fn what_was_begun_is_taken_back_or_finished() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let pins = PinFolder::new("resize")?;
    drop(Bpf::start(&sized(pins.path(), BUCKETS))?);
    is_whole(pins.path(), BUCKETS)?;

    // Before anything was in place: what is attached goes on with the old tables, at once.
    dies_before_it_moves(pins.path())?;
    TABLES.iter().chain(&NEXT).try_for_each(|name| freeze(pins.path(), name))?;
    let bpf = Bpf::open(&sized(pins.path(), BUCKETS))?;
    is_whole(pins.path(), BUCKETS)?;
    drop(bpf);

    // While they were made, or taken back: either may be alone.
    for name in NEXT {
        dies_before_it_moves(pins.path())?;
        fs::remove_file(map_folder(pins.path()).join(name))?;
        drop(Bpf::open(&sized(pins.path(), BUCKETS))?);
        is_whole(pins.path(), BUCKETS)?;
    }

    // Between the two steps that put the new ones in place.
    dies_before_it_moves(pins.path())?;
    NEXT.iter().try_for_each(|name| freeze(pins.path(), name))?;
    let folder = map_folder(pins.path());
    fs::rename(folder.join(NEXT[0]), folder.join(TABLES[0]))?;
    let bpf = Bpf::start(&sized(pins.path(), 4 * BUCKETS))?;
    is_whole(pins.path(), 4 * BUCKETS)?;
    ensure!(bpf.settings()?.bucket_mask == 4 * BUCKETS - 1 && bpf.capacity().flows == 4 * BUCKETS * 8, "it is said");
    drop(bpf);

    // And back.
    drop(Bpf::start(&sized(pins.path(), BUCKETS))?);
    is_whole(pins.path(), BUCKETS)
}
