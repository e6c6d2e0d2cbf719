//! Has forecasts go on where those of the last leader were: what they remember is read once and written now and then.

use std::{collections::BTreeMap, time::Duration};

use kube::Client;

use super::{
    entry::Entry,
    leader::{AT_ONCE, all},
    memory::{self, Due},
    write::PATIENCE,
};
use crate::cluster::allocate::ServiceKey;

/// The policies, by namespace and name.
type Entries = BTreeMap<ServiceKey, Entry>;

fn due(entries: &Entries, what: Due, now: Duration) -> impl Iterator<Item = (&ServiceKey, &Entry)> {
    entries.iter().filter(move |(_, entry)| entry.foresees() && entry.record.due(now) == what)
}

/// Reads what forecasts remembered under the last leader.
pub async fn recall(entries: &mut Entries, client: &Client, now: Duration) {
    let reads = due(entries, Due::Read, now)
        .map(|(key, entry)| async move { (key.clone(), patiently(memory::read(client, &entry.object)).await) });
    for (key, found) in all(reads.collect()).await {
        let Some(entry) = entries.get_mut(&key) else { continue };
        match found {
            Ok(found) => {
                if let Some(Err(error)) = found.as_ref().map(|found| entry.recall(found)) {
                    tracing::warn!(policy = ?key, "{error}");
                }
                entry.record.read(found, now);
            }
            Err(error) => {
                tracing::warn!(policy = ?key, "the forecast's history cannot be read: {error}");
                entry.record.failed(now);
            }
        }
    }
}

/// Writes what forecasts remember, of some at a time: it takes a while to put together.
pub async fn remember(entries: &mut Entries, client: &Client, now: Duration) {
    let due: Vec<_> = due(entries, Due::Write, now).map(|(key, _)| key.clone()).take(AT_ONCE).collect();
    let mut writes = Vec::new();
    for key in due {
        let Some(entry) = entries.get_mut(&key) else { continue };
        let Some(memory) = entry.memory().filter(|memory| entry.record.is_news(memory)) else {
            entry.record.unchanged(now);
            continue;
        };
        let object = entry.object.clone();
        writes.push(async move {
            let written = patiently(memory::write(client, &object, &memory)).await;
            (key, memory, written)
        });
    }
    for (key, memory, written) in all(writes).await {
        let Some(entry) = entries.get_mut(&key) else { continue };
        match written {
            Ok(()) => entry.record.written(memory, now),
            Err(error) => {
                tracing::warn!(policy = ?key, "the forecast's history cannot be written: {error}");
                entry.record.failed(now);
            }
        }
    }
}

/// An answer of the API server, or why there is none.
async fn patiently<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the API server does not answer".to_owned()),
    }
}
