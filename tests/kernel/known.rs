//! The filter before the maps of frontends and endpoints: at every moment it has the keys of both, and at rest nothing else.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_agent::dataplane::{
    Dataplane as _, Inspect as _, Write,
    bpf::{Bpf, Sizes},
    pins::map_folder,
};
use lb_common::{
    Frontend, Protocol, SocketKey,
    known::{BITS, bit, place},
    names::map,
};
use weir_tests::{pins::PinFolder, requirements};

use crate::node;

/// Room for so many frontends.
const ROOM: u32 = 4;

#[test]
fn what_is_in_the_maps_is_known_and_nothing_else() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let pins = PinFolder::new("known")?;
    let options = || {
        let sizes = Sizes { frontends: ROOM, backends: 64, slots: 64 };
        lb_agent::dataplane::bpf::Options { sizes, ..node::options(pins.path()) }
    };
    let mut bpf = Bpf::open(&options())?;
    let mut map = filter(pins.path())?;
    let [one, other] = two_of_one_bit();
    let put = |key| Write::PutFrontend(key, Frontend::default());
    let writes = [
        put(one),
        put(one),
        Write::PutEndpoint(one, 1),
        put(other),
        Write::DeleteFrontend(one),
        Write::DeleteFrontend(one),
        Write::DeleteEndpoint(one),
        put(SocketKey::other_ports(one.addr)),
        put(SocketKey::echo(one.addr)),
    ];
    for write in writes {
        bpf.write(&write)?;
        agree(&bpf, &map)?;
    }
    let more: Vec<_> = (1..=ROOM as u16).map(|port| put(key(10_000 + port))).collect();
    ensure!(more.iter().any(|write| bpf.write(write).is_err()), "a map took more than it has room for");
    agree(&bpf, &map)?;
    drop(bpf);
    // What an agent leaves that is killed between the filter and the map.
    let (word, mask) = place(bit(&key(9)));
    map.set(word, map.get(&word, 0)? | mask, 0)?;
    let mut bpf = Bpf::open(&options())?;
    agree(&bpf, &map)?;
    bpf.write(&Write::DeleteFrontend(other))?;
    agree(&bpf, &map)
}

fn key(port: u16) -> SocketKey {
    SocketKey::new(([10, 96, 0, 1], port).into(), Protocol::Tcp)
}

/// Two keys that meet.
fn two_of_one_bit() -> [SocketKey; 2] {
    let mut seen = std::collections::BTreeMap::new();
    let keys = (0..=u8::MAX).flat_map(|last| {
        (1..=u16::MAX).map(move |port| SocketKey::new(([10, 0, 0, last], port).into(), Protocol::Udp))
    });
    let mut pairs = keys.filter_map(|key| seen.insert(bit(&key), key).map(|earlier| [earlier, key]));
    pairs.next().unwrap_or_else(|| unreachable!("there are more keys than {BITS} bits"))
}

fn filter(pins: &Path) -> Result<Array<MapData, u64>> {
    Ok(Map::Array(MapData::from_pin(map_folder(pins).join(map::KNOWN))?).try_into()?)
}

/// Fails unless the filter has the bits of all keys, and no others.
fn agree(bpf: &Bpf, filter: &Array<MapData, u64>) -> Result<()> {
    let tables = bpf.frame()?;
    let right: BTreeSet<u32> = tables.frontends.keys().chain(tables.endpoints.keys()).map(bit).collect();
    let mut found = BTreeSet::new();
    for (word, bits) in (0..).zip(filter.iter()) {
        let bits = bits?;
        found.extend((0..u64::BITS).filter(|at| bits >> at & 1 != 0).map(|at| word * u64::BITS + at));
    }
    ensure!(found == right, "the filter has {found:?}, the maps {right:?}");
    Ok(())
}
