//! Whole maps, read from their pins.

use std::{
    collections::HashSet,
    hash::Hash,
    io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use lb_common::{AffinityKey, AffinityValue, names};

use crate::{
    cli::Error,
    dataplane::{self, pins},
};

/// The folder of pinned maps.
#[derive(Clone, Debug)]
pub struct MapFolder(PathBuf);

/// An element of a trie: the length of its prefix and its key, and its value.
pub type Prefix<K, V> = ((u32, K), V);

impl MapFolder {
    /// The maps of this version under a pin path.
    pub fn new(pin_path: &Path) -> Self {
        Self(pins::map_folder(pin_path))
    }

    /// A hash map. What is changed meanwhile may be missing, nothing comes twice.
    pub fn hash<K: Pod + Eq + Hash, V: Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, Error> {
        let map: HashMap<_, K, V> = self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        let mut seen = HashSet::new();
        let mut elements = Vec::new();
        for element in map.iter() {
            let (key, value) = element.map_err(|error| failed(name, "read", error))?;
            if seen.insert(key) {
                elements.push((key, value));
            }
        }
        Ok(elements)
    }

    /// A trie: the bits that each key compares, and the key.
    pub fn trie<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Vec<Prefix<K, V>>, Error> {
        let map: LpmTrie<_, K, V> = self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        let element = |element: Result<(Key<K>, V), MapError>| {
            let (key, value) = element.map_err(|error| failed(name, "read", error))?;
            Ok(((key.prefix_len(), key.data()), value))
        };
        map.iter().map(element).collect()
    }

    /// An array.
    pub fn array<V: Pod>(&self, name: &'static str) -> Result<Vec<V>, Error> {
        let map: Array<_, V> = self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        map.iter().collect::<Result<_, _>>().map_err(|error| failed(name, "read", error))
    }

    /// A per-CPU array.
    pub fn per_cpu<V: Pod>(&self, name: &'static str) -> Result<Vec<Vec<V>>, Error> {
        let map: PerCpuArray<_, V> = self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        let elements = map.iter().map(|element| element.map(|values| values.to_vec()));
        elements.collect::<Result<_, _>>().map_err(|error| failed(name, "read", error))
    }

    /// What session affinity remembers of a client.
    pub fn affinity(&self, key: &AffinityKey) -> Result<Option<AffinityValue>, Error> {
        let name = names::map::AFFINITY;
        let map: HashMap<_, AffinityKey, AffinityValue> =
            self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        match map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(name, "read", error)),
        }
    }

    /// A service's round-robin cursor.
    pub fn cursor(&self, service: u32) -> Result<u64, Error> {
        let name = names::map::CURSORS;
        let map: Array<_, u64> = self.open(name)?.try_into().map_err(|error| failed(name, "open", error))?;
        map.get(&service, 0).map_err(|error| failed(name, "read", error))
    }

    fn open(&self, name: &'static str) -> Result<Map, Error> {
        let data = MapData::from_pin(self.0.join(name)).map_err(|error| match failed(name, "open", error) {
            Error::Dataplane(dataplane::Error::Map { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Error::NotPinned { path: self.0.clone() }
            }
            other => other,
        })?;
        Map::from_map_data(data).map_err(|error| failed(name, "open", error))
    }
}

fn failed(map: &'static str, operation: &'static str, error: MapError) -> Error {
    let source = match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    dataplane::Error::Map { map, operation, source }.into()
}
