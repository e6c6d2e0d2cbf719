//! The maps in memory, for tests of what is on our side of the boundary: what a kernel does by itself, a test does by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::{DropReason, Settings, SocketKey};

use super::{
    Capacity, Counters, Dataplane, Error, FlowEntry, Inspect, SweepReport, Tables, Write,
    attach::{Datapath, Role},
};
use crate::{agent::attach::Attach, telemetry::InterfaceStatus};

/// What the fake kernel holds.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The maps that the agent writes.
    pub tables: Tables,
    /// What the backends carry.
    pub counters: BTreeMap<u32, Counters>,
    /// Dropped packets.
    pub drops: BTreeMap<DropReason, u64>,
    /// Backends drained by hand.
    pub drains: BTreeSet<SocketKey>,
    /// Forward entries.
    pub flows: Vec<FlowEntry>,
    /// What the next sweep reports.
    pub sweep: SweepReport,
    /// Everything that was written.
    pub writes: Vec<Write>,
    /// Repairs: backend, active, pending.
    pub repairs: Vec<(u32, i64, i64)>,
    /// Interfaces that were attached, in order.
    pub attached: Vec<(String, Role)>,
    /// Writes that still succeed; none: all.
    pub writes_left: Option<usize>,
}

/// Maps in memory. Clones share them, as agents share the kernel.
#[derive(Clone, Debug)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    capacity: Capacity,
}

impl Fake {
    /// Empty maps of this capacity.
    pub fn new(capacity: Capacity) -> Self {
        Self { state: Arc::default(), capacity }
    }

    /// What the fake kernel holds, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inspect for Fake {
    fn tables(&self) -> Result<Tables, Error> {
        Ok(self.state().tables.clone())
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error> {
        let state = self.state();
        Ok(backends.iter().map(|index| state.counters.get(index).copied().unwrap_or_default()).collect())
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        Ok(self.state().drops.clone())
    }

    fn drains(&self) -> Result<BTreeSet<SocketKey>, Error> {
        Ok(self.state().drains.clone())
    }

    fn flows(&self) -> Result<Vec<FlowEntry>, Error> {
        Ok(self.state().flows.clone())
    }

    fn settings(&self) -> Result<Settings, Error> {
        Ok(Settings { abi: lb_common::ABI_VERSION, ..Settings::default() })
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

impl Dataplane for Fake {
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        let mut state = self.state();
        match &mut state.writes_left {
            Some(0) => {
                let source = io::Error::from(io::ErrorKind::OutOfMemory);
                return Err(Error::Map { map: "fake", operation: "write", source });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        write.apply(&mut state.tables);
        if let Write::FreeBackend(index) = write {
            state.counters.remove(index);
        }
        state.writes.push(write.clone());
        Ok(())
    }

    fn set_drain(&mut self, backend: SocketKey, drained: bool) -> Result<(), Error> {
        let mut state = self.state();
        if drained {
            state.drains.insert(backend)
        } else {
            state.drains.remove(&backend)
        };
        Ok(())
    }

    fn sweep(&mut self) -> Result<SweepReport, Error> {
        Ok(self.state().sweep.clone())
    }

    fn repair(&mut self, backend: u32, active: i64, pending: i64) -> Result<(), Error> {
        self.state().repairs.push((backend, active, pending));
        Ok(())
    }
}

impl Attach for Fake {
    fn attach(&mut self, interface: &str, role: Role, _: Datapath) -> Result<InterfaceStatus, Error> {
        self.state().attached.push((interface.into(), role));
        Ok(InterfaceStatus { interface: interface.into(), mode: "fake".into(), why: "in memory".into() })
    }
}
