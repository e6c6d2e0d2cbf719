//! Who is to be served: connections that were open before the flood, and clients that come during it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use weir_tests::{
    client::{Held, ask},
    namespace::Namespace,
};

/// Connections that are kept open, each with a thread that exchanges a few bytes after the other.
const KEPT: usize = 8;
/// Time between two new clients.
const PAUSE: Duration = Duration::from_millis(20);
/// Who is not served within this time has gone away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A SYN that is lost is sent again after a second: who is served within this time had no need of that.
const AT_ONCE: Duration = Duration::from_millis(900);

/// The connections that are kept open.
pub(crate) struct Kept {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    exchanges: AtomicU64,
    resets: AtomicU64,
    stalled: AtomicU64,
}

/// What the kept connections have done and suffered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exchanges: u64,
    /// Connections that were reset or closed.
    pub(crate) resets: u64,
    /// Connections on which nothing came back for ten seconds.
    pub(crate) stalled: u64,
}

impl Kept {
    /// Opens them, one thread for each.
    pub(crate) fn open(client: &Namespace, frontend: SocketAddr) -> Result<Self> {
        let mut kept = Self { shared: Arc::default(), threads: Vec::new() };
        let held = client.enter(|| (0..KEPT).map(|_| Held::open(frontend)).collect::<Result<Vec<_>>>())??;
        for connection in held {
            let shared = Arc::clone(&kept.shared);
            kept.threads.push(thread::spawn(move || exchange(connection, &shared)));
        }
        Ok(kept)
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { exchanges, resets, stalled, .. } = &*self.shared;
        Counts { exchanges: read(exchanges), resets: read(resets), stalled: read(stalled) }
    }
}

impl Drop for Kept {
    /// Closes them.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Goes on until it is told to stop, or the connection breaks.
fn exchange(mut connection: Held, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Err(error) = connection.check() else {
            shared.exchanges.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let silent = matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        let count = if silent { &shared.stalled } else { &shared.resets };
        count.fetch_add(1, Ordering::Relaxed);
        return;
    }
}

/// What new clients have met with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Newcomers {
    pub(crate) came: u64,
    /// Those who had their answer within [`PATIENCE`].
    pub(crate) served: u64,
    /// Those who had it with their first SYN.
    pub(crate) at_once: u64,
}

/// Lets new clients come for so long, whether those before them are served or not; each asks for one thing on a connection of its own.
pub(crate) fn newcomers(client: &Namespace, frontend: SocketAddr, time: Duration) -> Result<Newcomers> {
    client.enter(|| {
        let begun = Instant::now();
        thread::scope(|scope| {
            let mut clients = Vec::new();
            while PAUSE * (clients.len() as u32) < time {
                let due = begun + PAUSE * (clients.len() as u32);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                clients.push(scope.spawn(move || {
                    let came = Instant::now();
                    ask(frontend).ok().map(|_| came.elapsed())
                }));
            }
            let took: Vec<_> = clients.into_iter().map(|client| client.join().unwrap_or_default()).collect();
            let within = |limit: Duration| took.iter().flatten().filter(|time| **time <= limit).count() as u64;
            Newcomers { came: took.len() as u64, served: within(PATIENCE), at_once: within(AT_ONCE) }
        })
    })
}
