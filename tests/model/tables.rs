//! The two flow tables as they stand in the kernel, and what must hold of them whatever has happened.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Result, ensure};
use lb_common::{
    Bucket, Flow, FlowState,
    flow::{WAYS, meta_state},
};
use lb_ebpf::{
    env::{Limits, Table},
    table::FORWARDED,
};

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// bucket * 8 + way.
    pub(crate) slot: u32,
    /// Its state.
    pub(crate) state: FlowState,
    /// What it says.
    pub(crate) flow: Flow,
}

/// Both tables.
pub(crate) struct Dump {
    /// Forward entries.
    pub(crate) forward: Vec<Entry>,
    /// Reply entries.
    pub(crate) reply: Vec<Entry>,
}

impl Dump {
    /// Reads them; `bucket` reads one of their buckets.
    pub(crate) fn read(limits: &Limits, bucket: &dyn Fn(Table, u32) -> Result<Bucket>) -> Result<Self> {
        let entries = |table| entries(limits, table, bucket);
        Ok(Self { forward: entries(Table::Forward)?, reply: entries(Table::Reply)? })
    }

    /// No key twice.
    pub(crate) fn check_keys(&self) -> Result<()> {
        for (name, entries) in [("forward", &self.forward), ("reply", &self.reply)] {
            let mut keys = HashMap::new();
            for entry in entries {
                let key = (socket(&entry.flow), entry.flow.id);
                let other = keys.insert(key, entry);
                ensure!(other.is_none(), "two {name} entries of {key:?}: {other:?} and {entry:?}");
            }
        }
        Ok(())
    }

    /// No key twice, and entries in pairs that name each other; those of flows that are forwarded are alone.
    pub(crate) fn check_links(&self) -> Result<()> {
        self.check_keys()?;
        let replies: HashMap<u32, &Entry> = self.reply.iter().map(|entry| (entry.slot, entry)).collect();
        let paired = || self.forward.iter().filter(|entry| entry.flow.link != FORWARDED);
        for entry in paired() {
            let reply = replies.get(&entry.flow.link);
            ensure!(
                reply.is_some_and(|reply| reply.flow.link == entry.slot && reply.flow.backend == entry.flow.backend),
                "{entry:?} names {reply:?}"
            );
        }
        ensure!(self.reply.len() == paired().count(), "{} of {}", self.reply.len(), paired().count());
        Ok(())
    }
}

/// The client or peer of an entry.
pub(crate) fn socket(flow: &Flow) -> SocketAddr {
    SocketAddr::new(flow.addr.ip(), flow.port.number())
}

fn entries(limits: &Limits, table: Table, bucket: &dyn Fn(Table, u32) -> Result<Bucket>) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for index in 0..=limits.bucket_mask {
        let bucket = bucket(table, index)?;
        ensure!(bucket.lock == 0, "bucket {index} of the {table:?} table is locked");
        for (way, (meta, flow)) in bucket.meta.into_iter().zip(bucket.ways).enumerate() {
            if meta_state(meta) != FlowState::Free {
                found.push(Entry { slot: index * WAYS as u32 + way as u32, state: meta_state(meta), flow });
            }
        }
    }
    Ok(found)
}
