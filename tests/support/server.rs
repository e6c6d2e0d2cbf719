//! A server that answers, on one port over TCP and UDP, everything that tests ask: who it is, an echo, a download, an upload.
//!
//! TCP: the first line says what is wanted: `GET / HTTP/1.1` and headers (answered with the server's name; kept open unless the
//! client says `Connection: close`), `GET /source` (name, space and the client's address as the server sees it), `GET /metrics`
//! (how many connections are open, as Prometheus reads it), `GET /work/N` (name, after N microseconds of CPU time), `echo` (then
//! everything comes back), `put` (then bytes to the end; answered with their count and checksum), `get N` (N bytes, then the end) or
//! `tokens N MS` (N tokens, one every MS milliseconds, and then the next request).
//! UDP: `get N` is answered with N bytes, `source` as over TCP, all else with the name, a space and itself.

use std::{
    hint,
    io::{self, BufRead, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::socket::{Shutdown, shutdown},
    time::ClockId,
};

use crate::{namespace::Namespace, transfer};

/// A running server; dropping it closes its sockets.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    name: String,
    stop: AtomicBool,
    /// Kept connections are closed after their next answer.
    draining: AtomicBool,
    accepted: AtomicU64,
    open: AtomicU64,
    peers: Mutex<Vec<SocketAddr>>,
}

impl Server {
    /// Listens inside a namespace on one port of these addresses.
    pub fn start(namespace: &Namespace, name: &str, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let server = namespace.enter(|| Self::here(name, addresses, port))?;
        server.with_context(|| format!("in {}", namespace.name()))
    }

    /// The same in the calling thread's namespace.
    pub fn here(name: &str, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let sockets = addresses.iter().map(|address| bind(SocketAddr::new(*address, port)));
        let sockets: Vec<_> = sockets.collect::<io::Result<_>>().with_context(|| format!("listen on port {port}"))?;
        let shared = Arc::new(Shared { name: name.to_owned(), ..Shared::default() });
        let mut listeners = Vec::new();
        for (listener, datagrams) in sockets {
            listeners.push(listener.try_clone()?);
            let state = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &state));
            let state = Arc::clone(&shared);
            thread::spawn(move || answer_datagrams(&datagrams, &state));
        }
        Ok(Self { listeners, shared })
    }

    /// From now on asks its clients to open new connections, while it goes on serving.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// TCP connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The addresses its TCP clients came from, as it saw them.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// What a path is answered with.
    fn body(&self, path: &str, peer: SocketAddr) -> io::Result<String> {
        if let Some(work) = path.strip_prefix("/work/") {
            burn(Duration::from_micros(work.parse().unwrap_or(0)))?;
        }
        Ok(match path {
            "/source" => self.source(peer),
            "/metrics" => self.metrics(),
            _ => self.name.clone(),
        })
    }

    /// The name and a client's address, without the form that IPv4 has on a socket of both families.
    fn source(&self, peer: SocketAddr) -> String {
        format!("{} {}", self.name, SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }

    /// In the text format of Prometheus, under a name such as inference servers have.
    fn metrics(&self) -> String {
        let open = self.open.load(Ordering::Relaxed);
        format!("# TYPE test:connections_open gauge\ntest:connections_open{{server=\"{}\"}} {open}\n", self.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes the thread in accept, which then closes the socket.
            _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let datagrams = UdpSocket::bind(address)?;
    datagrams.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok((TcpListener::bind(address)?, datagrams))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else {
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        shared.peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
        let shared = Arc::clone(shared);
        // A client that goes away ends its connection with an error, which is the client's to judge.
        thread::spawn(move || {
            shared.open.fetch_add(1, Ordering::Relaxed);
            drop(serve(stream, peer, &shared));
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("GET", rest) => {
                let body = shared.body(rest.split(' ').next().unwrap_or_default(), peer)?;
                if !answer_request(&mut reader, &mut writer, &body, shared)? {
                    return Ok(());
                }
            }
            ("echo", _) => return io::copy(&mut reader, &mut writer).map(drop),
            ("put", _) => {
                let got = transfer::receive(&mut reader)?;
                return writeln!(writer, "{} {}", got.bytes, got.sha256);
            }
            ("tokens", wanted) => {
                let (count, pause) = wanted.split_once(' ').unwrap_or((wanted, "0"));
                let pause = Duration::from_millis(pause.parse().unwrap_or(0));
                for _ in 0..count.parse().unwrap_or(0) {
                    writer.write_all(b"token\n")?;
                    thread::sleep(pause);
                }
            }
            ("get", count) => {
                return transfer::send(&mut writer, count.parse().unwrap_or(0)).map(drop);
            }
            _ => return writeln!(writer, "unknown request"),
        }
        line.clear();
    }
    Ok(())
}

/// Uses so much CPU time of this thread.
fn burn(time: Duration) -> io::Result<()> {
    let used = || ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from);
    let end = used()? + time;
    while used()? < end {
        (0..1000).for_each(|_| hint::spin_loop());
    }
    Ok(())
}

/// Answers one HTTP request and says whether the connection stays open.
fn answer_request(reader: &mut impl BufRead, writer: &mut TcpStream, body: &str, shared: &Shared) -> io::Result<bool> {
    let mut stay = !shared.draining.load(Ordering::Relaxed);
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        stay &= !header.trim_end().eq_ignore_ascii_case("connection: close");
        header.clear();
    }
    let connection = if stay { "keep-alive" } else { "close" };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}", body.len());
    writer.write_all(answer.as_bytes())?;
    Ok(stay)
}

fn answer_datagrams(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let datagram = &buffer[..length];
        if datagram == b"source" {
            drop(socket.send_to(shared.source(peer).as_bytes(), peer));
            continue;
        }
        let wanted = std::str::from_utf8(datagram).ok().and_then(|text| text.strip_prefix("get ")?.parse().ok());
        let answer = match wanted {
            Some(count) => vec![b'x'; count],
            None => [shared.name.as_bytes(), b" ", datagram].concat(),
        };
        // Too long for the path: the client asks again.
        drop(socket.send_to(&answer, peer));
    }
}
