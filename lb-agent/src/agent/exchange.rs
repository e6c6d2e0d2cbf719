//! What this node and the others tell each other, through the coordinator, of what backends carry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::{Algorithm, Backend, BackendState, Frontend, SocketKey};
use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::{
        agent::{Speech, Word},
        counts::{BackendName, Carried, Counts},
    },
    dataplane::Counters,
    plan::Image,
    scaling::AWAKE,
    signals::requests::RequestLoad,
};

use super::report;

/// This node's part in it.
pub struct Exchange {
    word: watch::Receiver<Word>,
    speech: watch::Sender<Speech>,
    /// Those that were told last, with the incarnations of their indexes.
    names: BTreeMap<u32, (u32, Arc<BackendName>)>,
}

impl Exchange {
    /// A part that nothing was said in.
    pub const fn new(word: watch::Receiver<Word>, speech: watch::Sender<Speech>) -> Self {
        Self { word, speech, names: BTreeMap::new() }
    }

    /// Tells what backends carry here.
    pub fn tell(&mut self, tables: &Image, load: &report::Carried<'_>) {
        let told = told(tables, load.counters);
        let before = std::mem::take(&mut self.names);
        for (index, backend) in &told {
            let known = before.get(index).filter(|(incarnation, _)| *incarnation == backend.incarnation).cloned();
            let named = known.or_else(|| Some((backend.incarnation, Arc::new(name(tables, backend)?))));
            self.names.extend(named.map(|named| (*index, named)));
        }
        let carried = self.names.iter().map(|(index, (_, name))| {
            let counters = load.counters.get(index).copied().unwrap_or_default();
            (*index, (Arc::clone(name), counts(&counters, load.requests.get(index))))
        });
        let carried = Arc::new(carried.collect::<Carried>());
        self.speech.send_modify(|speech| speech.carried = Some((Instant::now(), carried)));
    }

    /// What backends carry through other nodes, by index; nothing while no coordinator says so.
    pub fn elsewhere(&self, tables: &Image) -> BTreeMap<u32, u64> {
        let word = self.word.borrow();
        if !word.is_fresh(Instant::now()) {
            return BTreeMap::new();
        }
        let is_it = |(index, (told, active)): &(&u32, &(Arc<BackendName>, u64))| {
            let named = self.names.get(index).filter(|(_, name)| name == told);
            let backend = tables.backends().get(index).filter(|_| *active > 0);
            named.zip(backend).is_some_and(|((incarnation, _), backend)| backend.incarnation == *incarnation)
        };
        word.elsewhere.iter().filter(is_it).map(|(index, (_, active))| (*index, *active)).collect()
    }

    /// The Services whose requests the coordinator wants to know of, if it has ever said so; the last word stays.
    pub fn measured(&self) -> Option<BTreeSet<(String, String)>> {
        self.word.borrow().followed.clone()
    }

    /// The same of Services that who asks in vain wakes.
    pub fn waking(&self) -> Option<BTreeSet<(String, String)>> {
        self.word.borrow().waking.clone()
    }

    /// Tells that clients ask for these Services in vain: news at once, all else with the next report.
    pub fn knock(&self, services: BTreeSet<(String, String)>, now: Duration) {
        self.speech.send_if_modified(|speech| {
            speech.knocks.retain(|_, at| now.saturating_sub(at) < AWAKE);
            let news: Vec<_> =
                services.into_iter().filter(|service| speech.knocks.note(service.clone(), now)).collect();
            !news.is_empty()
        });
    }

    /// The backends that the coordinator drains; the last word stays.
    pub fn draining(&self) -> BTreeSet<SocketKey> {
        self.word.borrow().draining.clone()
    }
}

/// Backends that have carried something here; where connections are counted to decide, those beside them too, because what other nodes
/// have with them counts.
fn told<'a>(tables: &'a Image, counters: &BTreeMap<u32, Counters>) -> BTreeMap<u32, &'a Backend> {
    let is_there = |backend: &&Backend| backend.state != BackendState::Removed as u8;
    let with = |index: &u32| Some((*index, tables.backends().get(index).filter(is_there)?));
    let mut told: BTreeMap<u32, &Backend> = counters.keys().filter_map(with).collect();
    let services: BTreeSet<u32> = told.values().map(|backend| backend.service).collect();
    for service in services.into_iter().filter(|service| compares(tables, *service)) {
        told.extend(tables.backends_of(service).filter(|(_, backend)| is_there(backend)));
    }
    told
}

fn compares(tables: &Image, service: u32) -> bool {
    let frontend = tables.frontends_of(service).next().and_then(|key| tables.frontends().get(&key));
    frontend.is_some_and(|frontend| {
        let Frontend { algorithm, max_connections, .. } = *frontend;
        algorithm == Algorithm::LeastConnections as u8 || max_connections != 0
    })
}

fn name(tables: &Image, backend: &Backend) -> Option<BackendName> {
    let id = tables.service(backend.service)?;
    Some(BackendName { service: (id.namespace, id.name), socket: backend.key() })
}

fn counts(counters: &Counters, requests: Option<&RequestLoad>) -> Counts {
    let Counters { load, traffic } = counters;
    Counts {
        active: load.open(),
        pending: load.pending,
        connections: load.connections,
        bytes: traffic.bytes_in + traffic.bytes_out,
        requests: requests.cloned().map(Box::new),
    }
}
