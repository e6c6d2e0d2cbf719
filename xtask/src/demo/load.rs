//! The demo's clients: each opens a connection, asks for the page, reads it to its end, rests a little, and begins again. A closed loop: a
//! client that waits sends nothing meanwhile, so a slow server is if anything flattered.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_millis(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When its connection was begun, since the load's start.
    pub begun: Duration,
    /// From then to the last byte of the answer.
    pub took: Duration,
    /// The server's index, or what went wrong.
    pub result: Result<usize, String>,
}

/// The clients, some of which may be resting.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    frontend: SocketAddr,
    start: Instant,
    working: AtomicUsize,
    busy: AtomicUsize,
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
}

impl Load {
    /// Makes so many clients in a namespace; all rest.
    pub(crate) fn new(namespace: &Namespace, frontend: SocketAddr, clients: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            frontend,
            start: Instant::now(),
            working: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            samples: Mutex::default(),
        });
        // A thread is in the namespace of the thread that starts it.
        let clients = namespace.enter(|| {
            let client = |index| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(index, &shared))
            };
            (0..clients).map(client).collect()
        })?;
        Ok(Self { shared, clients })
    }

    /// Lets the first so many clients work.
    pub(crate) fn set_clients(&self, working: usize) {
        self.shared.working.store(working, Ordering::SeqCst);
    }

    /// How long it has existed.
    pub(crate) fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// All requests that have ended so far, in the order of their ends.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether no client has a request under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.busy.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

fn work(index: usize, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        // Busy before the look at `working`: once that is 0 and nobody is busy, no request can follow.
        shared.busy.fetch_add(1, Ordering::SeqCst);
        let working = index < shared.working.load(Ordering::SeqCst);
        if working {
            request(shared);
        }
        shared.busy.fetch_sub(1, Ordering::SeqCst);
        thread::sleep(REST);
    }
}

fn request(shared: &Shared) {
    let begun = shared.start.elapsed();
    let result = ask(shared.frontend).map_err(|error| format!("{error:#}"));
    let sample = Sample { begun, took: shared.start.elapsed() - begun, result };
    shared.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
}

/// One request on a connection of its own; returns the index in the answer's `X-Server` header.
fn ask(frontend: SocketAddr) -> Result<usize> {
    let mut stream = TcpStream::connect_timeout(&frontend, LIMIT).context("connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(REQUEST).context("send")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("receive")?;
    server_of(&answer)
}

fn server_of(answer: &[u8]) -> Result<usize> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without a head")?;
    let head = std::str::from_utf8(&answer[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{}", head.lines().next().unwrap_or_default());
    ensure!(answer.ends_with(b"0\r\n\r\n"), "an answer that is cut short");
    let header = head.lines().find_map(|line| line.strip_prefix("X-Server: "));
    header.and_then(|value| value.parse().ok()).context("an answer without X-Server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts() {
        let whole = b"HTTP/1.1 200 OK\r\nX-Server: 3\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
        assert_eq!(server_of(whole).unwrap(), 3);
        for (answer, why) in [
            (&whole[..whole.len() - 5], "cut short"),
            (&whole[..20], "without a head"),
            (b"HTTP/1.1 503 Busy\r\nX-Server: 3\r\n\r\n0\r\n\r\n", "503"),
            (b"HTTP/1.1 200 OK\r\n\r\n0\r\n\r\n", "X-Server"),
        ] {
            let error = server_of(answer).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
