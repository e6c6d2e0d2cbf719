//! What the kernel notes of requests: the maps `requests` and `measures`.

use std::collections::BTreeMap;

use aya::maps::MapError;
use lb_common::{
    Backend, FlowState,
    flow::{WAYS, meta_generation, meta_state},
    names::map,
    request::{Measure, flow_key, flow_of_key},
};

use lb_ebpf::table::NO_LINK;

use super::{
    Error,
    pins::{Pinned, entries, failed, ignore_missing},
};
use crate::signals::requests::Noted;

impl Pinned {
    /// What is noted of requests. Who is not measured costs a look at two empty maps.
    pub(super) fn noted(&self) -> Result<Noted, Error> {
        let measures = entries(map::MEASURES, &self.measures)?;
        let requests = entries(map::REQUESTS, &self.requests)?;
        let (ended, requests): (BTreeMap<_, _>, _) = requests.into_iter().partition(|(key, _)| self.has_ended(*key));
        Ok(Noted { measures, requests, ended: ended.into_keys().collect() })
    }

    /// Whether the connection of a key is a flow of which there will be no answer any more. Its end forgets its requests, unless it had
    /// none: a flow whose time is over, or that had to leave its way for another.
    fn has_ended(&self, key: u64) -> bool {
        let Some((slot, generation)) = flow_of_key(key) else { return false };
        let Some(bucket) = self.flows.get(slot as usize / WAYS) else { return true };
        let meta = bucket.meta[slot as usize % WAYS];
        let is_open = !matches!(meta_state(meta), FlowState::Free | FlowState::FinBackend | FlowState::Closing);
        !is_open || meta_generation(meta) != generation
    }

    /// Deletes what is noted of these connections.
    pub(super) fn forget_requests(&mut self, connections: &[u64]) -> Result<(), Error> {
        let mut delete = |key| ignore_missing(self.requests.remove(key)).map_err(failed(map::REQUESTS, "delete"));
        connections.iter().try_for_each(&mut delete)
    }

    /// Notes requests of flows under the slots to which those have been moved; `slots` has [`NO_LINK`] for a flow that is gone.
    pub(super) fn move_requests(&mut self, slots: &[u32]) -> Result<(), Error> {
        let mut requests = entries(map::REQUESTS, &self.requests)?;
        requests.retain(|key, _| flow_of_key(*key).is_some());
        self.forget_requests(&requests.keys().copied().collect::<Vec<_>>())?;
        for (key, request) in requests {
            let moved = flow_of_key(key).and_then(|(slot, generation)| Some((*slots.get(slot as usize)?, generation)));
            if let Some((slot, generation)) = moved.filter(|(slot, _)| *slot != NO_LINK) {
                let key = flow_key(slot, generation);
                self.requests.insert(key, request, 0).map_err(failed(map::REQUESTS, "write"))?;
            }
        }
        Ok(())
    }

    /// Nobody sees the end of any socket.
    pub(super) fn forget_socket_requests(&mut self) -> Result<(), Error> {
        let keys = entries(map::REQUESTS, &self.requests)?.into_keys();
        self.forget_requests(&keys.filter(|key| flow_of_key(*key).is_none()).collect::<Vec<_>>())
    }

    /// Has what stands in an index measured as the new backend says. One for which there is no room is not, which its counts then show.
    pub(super) fn put_measure(&mut self, index: u32, old: &Backend, new: &Backend) -> Result<(), Error> {
        const BPF_NOEXIST: u64 = 1;
        let (was_measured, is_measured) = (old.response_idle != 0, new.response_idle != 0);
        let is_new = old.incarnation != new.incarnation;
        if was_measured && !is_measured || is_measured && is_new {
            ignore_missing(self.measures.remove(&index)).map_err(failed(map::MEASURES, "delete"))?;
        }
        if !is_measured || was_measured && !is_new {
            return Ok(());
        }
        match self.measures.insert(index, Measure::default(), BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                tracing::error!(backend = %new.key(), "its requests are not measured: the map {} is full", map::MEASURES);
                Ok(())
            }
            other => other.map_err(failed(map::MEASURES, "write")),
        }
    }
}
