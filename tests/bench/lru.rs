//! The programs whose flow table is a kernel LRU hash (lb-ebpf/bench/lru), over the maps of a stage: all but the flow tables are shared.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::{Program, ProgramFd},
};
use lb_common::{
    Addr, Bucket, FlowState, Port,
    names::{map, program},
};

use crate::{
    driver::{self, Hook},
    frontends::{endpoint, front},
    stage::answered,
    traffic::{Tuple, Wire, sender},
};

/// `BPF_EXIST`.
const EXIST: u64 = 2;

/// Address, then id, then port.
type Key = [u32; 6];
/// State, backend, when it was last seen, source port.
type Entry = [u32; 4];

/// The loaded programs and their own tables.
pub(crate) struct Lru {
    object: Ebpf,
    clients: HashMap<MapData, Key, Entry>,
    answers: HashMap<MapData, Key, Key>,
}

impl Lru {
    /// Loads the object over the maps that are pinned in a folder, with room for so many flows.
    pub(crate) fn load(object: &Path, pins: &Path, flows: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("lru_clients", flows).map_max_entries("lru_answers", flows);
        for name in [map::FLOWS, map::REPLIES] {
            loader.map_max_entries(name, 1);
        }
        for name in map::PINNED.iter().filter(|name| ![map::FLOWS, map::REPLIES].contains(*name)) {
            loader.map_pin_path(name, pins.join(name));
        }
        let mut object = loader.load_file(object).with_context(|| format!("load {}", object.display()))?;
        for name in [program::XDP, program::INGRESS] {
            match object.program_mut(name).with_context(|| format!("program {name}"))? {
                Program::Xdp(xdp) => xdp.load().context(name)?,
                Program::SchedClassifier(tc) => tc.load().context(name)?,
                _ => anyhow::bail!("{name} is of another type"),
            }
        }
        let mut take = |name: &str| object.take_map(name).with_context(|| format!("map {name}"));
        mark(take(map::REPLIES)?)?;
        let (clients, answers) = (HashMap::try_from(take("lru_clients")?)?, HashMap::try_from(take("lru_answers")?)?);
        Ok(Self { object, clients, answers })
    }

    /// The program at a hook.
    pub(crate) fn program(&self, hook: Hook) -> Result<ProgramFd> {
        driver::descriptor(&self.object, hook.program())
    }

    /// All programs.
    pub(crate) fn object(&self) -> &Ebpf {
        &self.object
    }

    /// Makes every flow an answered one.
    pub(crate) fn establish(&mut self) -> Result<()> {
        let entries: Vec<_> = self.clients.iter().collect::<Result<_, MapError>>()?;
        for (key, [state, backend, last, port]) in entries {
            let state = answered(FlowState::from_number(state as u8)) as u32;
            self.clients.insert(key, [state, backend, last, port], EXIST)?;
        }
        Ok(())
    }

    /// Forgets the flows of these clients of a frontend.
    pub(crate) fn forget(&mut self, frontend: u32, clients: &[Tuple]) -> Result<()> {
        let wire = front(frontend).wire;
        for tuple in clients {
            let client = key(wire, tuple, frontend);
            let [_, backend, ..] = self.clients.get(&client, 0)?;
            self.clients.remove(&client)?;
            self.answers.remove(&key(wire, tuple, endpoint(backend)))?;
        }
        Ok(())
    }
}

/// Writes into the one element that it stands for the table of answers.
fn mark(replies: Map) -> Result<()> {
    let mut replies: Array<_, Bucket> = Array::try_from(replies)?;
    let element = Bucket { zero: 1, ..replies.get(&0, 0)? };
    Ok(replies.set(0, element, 0)?)
}

/// The key of a tuple's sender, with a frontend's id or an endpoint's.
fn key(wire: Wire, tuple: &Tuple, id: u32) -> Key {
    let sender = sender(tuple);
    let [a, b, c, d] = Addr::from(wire.address(*sender.ip())).0;
    let [low, high] = Port::new(sender.port()).0.to_ne_bytes();
    [a, b, c, d, id, u32::from_ne_bytes([low, high, 0, 0])]
}
