//! The maps in memory, for tests of what is on our side of the boundary: what a kernel does by itself, a test does by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lb_common::{
    DropReason, Settings, SocketKey,
    socket::{Connection, Pod, PodKey},
};

use super::{
    Capacity, Counters, Dataplane, Error, FlowEntry, Inspect, SweepReport, Tables, Write,
    attach::Datapath,
    bpf::{Loading, Programs},
};
use crate::{
    agent::{
        attach::Attach,
        sockets::{Listing, Sockets},
    },
    node::{Role, link::Link, namespaces::Namespace},
    signals::requests::Noted,
    telemetry::InterfaceStatus,
};

/// What the fake kernel holds.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The maps that the agent writes.
    pub tables: Tables,
    /// What the backends carry.
    pub counters: BTreeMap<u32, Counters>,
    /// What is noted of requests.
    pub noted: Noted,
    /// Connections whose requests were forgotten.
    pub forgotten: Vec<u64>,
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
    /// Interfaces that were let go of, in order.
    pub let_go: Vec<u32>,
    /// Whether delivery is up the stack.
    pub stack: bool,
    /// The interface that cannot be attached.
    pub refused: Option<String>,
    /// The cgroup that has the socket hooks.
    pub cgroup: Option<PathBuf>,
    /// The cgroup whose packets are looked at for requests.
    pub followed: Option<PathBuf>,
    /// What the socket hooks know of processes.
    pub pods: BTreeMap<PodKey, Pod>,
    /// Connected sockets.
    pub connections: Vec<Connection>,
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

    fn slots(&self, offset: u32, len: u32) -> Result<Vec<u64>, Error> {
        let run = self.state().tables.slots.get(&offset).cloned().unwrap_or_default();
        Ok(run.into_iter().take(len as usize).collect())
    }

    fn counters(&self, backends: &[u32]) -> Result<Vec<Counters>, Error> {
        let state = self.state();
        Ok(backends.iter().map(|index| state.counters.get(index).copied().unwrap_or_default()).collect())
    }

    fn noted(&self) -> Result<Noted, Error> {
        Ok(self.state().noted.clone())
    }

    fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        Ok(self.state().drops.clone())
    }

    fn drains(&self) -> Result<BTreeSet<SocketKey>, Error> {
        Ok(self.state().drains.clone())
    }

    fn announced(&self) -> Result<BTreeMap<lb_common::Addr, lb_common::Announced>, Error> {
        Ok(self.state().tables.announced.clone())
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

    fn forget_requests(&mut self, connections: &[u64]) -> Result<(), Error> {
        self.state().forgotten.extend(connections);
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

    fn sweep_part(&mut self, _: Duration) -> Result<Option<SweepReport>, Error> {
        Ok(Some(self.state().sweep.clone()))
    }

    fn grace_period() -> Result<(), Error> {
        Ok(())
    }

    fn set_remote(&mut self, backend: u32, active: u64) -> Result<(), Error> {
        self.state().counters.entry(backend).or_default().load.remote = active;
        Ok(())
    }

    fn repair(&mut self, backend: u32, active: i64, pending: i64) -> Result<(), Error> {
        self.state().repairs.push((backend, active, pending));
        Ok(())
    }
}

impl Sockets for Fake {
    fn attach_sockets(&mut self, cgroup: &Path) -> Result<(), Error> {
        self.state().cgroup = Some(cgroup.into());
        Ok(())
    }

    fn detach_sockets(&mut self) -> Result<(), Error> {
        self.state().cgroup = None;
        Ok(())
    }

    fn follow_requests(&mut self, cgroup: Option<&Path>) -> Result<(), Error> {
        self.state().followed = cgroup.map(Into::into);
        Ok(())
    }

    fn set_pods(&mut self, pods: &BTreeMap<PodKey, Pod>) -> Result<(), Error> {
        self.state().pods.clone_from(pods);
        Ok(())
    }

    fn listing(&self, _: Vec<Namespace>) -> Listing {
        let connections = self.state().connections.clone();
        Box::new(move || Ok(connections))
    }
}

impl Attach for Fake {
    fn loading(&mut self) -> Option<Loading> {
        None
    }

    fn set_programs(&mut self, _: Programs) -> Result<(), Error> {
        Ok(())
    }

    fn move_flows(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn thaw(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn attach(&mut self, link: &Link, role: Role, _: Datapath) -> Result<InterfaceStatus, Error> {
        let mut state = self.state();
        if state.refused.as_ref() == Some(&link.name) {
            return Err(Error::XdpHeld { interface: link.name.clone(), holder: "of a test".into() });
        }
        state.attached.push((link.name.clone(), role));
        Ok(InterfaceStatus { interface: link.name.clone(), mode: "fake".into(), why: "in memory".into() })
    }

    fn let_go(&mut self, index: u32) -> Result<(), Error> {
        self.state().let_go.push(index);
        Ok(())
    }

    fn let_go_of_others(&mut self, _: &BTreeSet<u32>) -> Result<(), Error> {
        Ok(())
    }

    fn set_delivery(&mut self, stack: bool) -> Result<(), Error> {
        self.state().stack = stack;
        Ok(())
    }
}
