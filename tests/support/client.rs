//! Clients. Every function here makes its sockets in the calling thread's namespace: call it inside [`Namespace::enter`].

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use crate::{
    namespace::Namespace,
    process::wait_until,
    transfer::{self, Checked},
};

/// How long a client waits for a connection or for bytes.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Opens a connection.
pub fn connect(frontend: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&frontend, LIMIT).with_context(|| format!("connect to {frontend}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a connection from one of the client's addresses.
pub fn connect_from(source: IpAddr, frontend: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(frontend), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into()).with_context(|| format!("bind to {source}"))?;
    socket.connect_timeout(&frontend.into(), LIMIT).with_context(|| format!("connect {source} to {frontend}"))?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket.into())
}

/// One HTTP request on a connection of its own; returns the answering server's name.
pub fn ask(frontend: SocketAddr) -> Result<String> {
    request(connect(frontend)?)
}

/// The same from one of the client's addresses.
pub fn ask_from(source: IpAddr, frontend: SocketAddr) -> Result<String> {
    request(connect_from(source, frontend)?)
}

fn request(mut stream: TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").context("send the request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("cut short: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not a 200: {head}");
    ensure!(!body.is_empty(), "an empty answer");
    Ok(body.to_owned())
}

/// One UDP exchange from a socket of its own; returns the answering server's name.
pub fn ask_udp(frontend: SocketAddr) -> Result<String> {
    exchange(&datagram_socket(frontend)?, b"hello")
}

/// A UDP socket connected to a frontend.
pub fn datagram_socket(frontend: SocketAddr) -> Result<UdpSocket> {
    let any = if frontend.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(frontend)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// Sends a datagram, checks its echo, returns the server's name.
pub fn exchange(socket: &UdpSocket, payload: &[u8]) -> Result<String> {
    socket.send(payload).context("send a datagram")?;
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).context("wait for the answer to a datagram")?;
    let answer = &buffer[..length];
    let space = answer.iter().position(|byte| *byte == b' ').context("an answer without a name")?;
    ensure!(&answer[space + 1..] == payload, "another payload came back");
    Ok(String::from_utf8_lossy(&answer[..space]).into_owned())
}

/// Uploads so many bytes; the server's count and checksum must be ours.
pub fn upload(frontend: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = connect(frontend)?;
    stream.write_all(b"put\n")?;
    let sent = transfer::send(&mut stream, bytes).context("upload")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the server's checksum")?;
    ensure!(answer.trim_end() == format!("{} {}", sent.bytes, sent.sha256), "sent {sent:?}, the server got {answer}");
    Ok(())
}

/// Downloads so many bytes; count and checksum must be those of the bytes the server makes.
pub fn download(frontend: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = connect(frontend)?;
    writeln!(stream, "get {bytes}")?;
    let got = transfer::receive(&mut stream).context("download")?;
    let expected: Checked = transfer::send(&mut std::io::sink(), bytes)?;
    ensure!(got == expected, "expected {expected:?}, got {got:?}");
    Ok(())
}

/// A connection that stays open and echoes: what must survive everything that happens to the node.
#[derive(Debug)]
pub struct Held {
    stream: TcpStream,
    sent: u64,
}

impl Held {
    /// Opens it.
    pub fn open(frontend: SocketAddr) -> Result<Self> {
        Self::on(connect(frontend)?)
    }

    /// The same on a connection that is open.
    pub fn on(mut stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"echo\n")?;
        let mut held = Self { stream, sent: 0 };
        held.check()?;
        Ok(held)
    }

    /// Sends a number and waits for it to come back.
    pub fn check(&mut self) -> Result<()> {
        self.sent += 1;
        self.stream.write_all(&self.sent.to_be_bytes()).context("send on a held connection")?;
        let mut back = [0; 8];
        self.stream.read_exact(&mut back).context("read from a held connection")?;
        ensure!(u64::from_be_bytes(back) == self.sent, "another number came back");
        Ok(())
    }

    /// The client's address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// What a load has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered requests by the server that answered.
    pub answers: BTreeMap<String, u64>,
    /// Why requests failed.
    pub failures: Vec<String>,
}

impl Tally {
    /// Answered requests.
    pub fn total(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Adds one request's end.
    pub fn add(&mut self, result: Result<String>) {
        match result {
            Ok(server) => *self.answers.entry(server).or_default() += 1,
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    /// Fails if a request failed.
    pub fn expect_no_failure(&self) -> Result<()> {
        match self.failures.first() {
            None => Ok(()),
            Some(first) => bail!("{} of {} requests failed; the first: {first}", self.failures.len(), self.total()),
        }
    }
}

/// Makes so many requests one after the other.
pub fn ask_times(frontend: SocketAddr, times: u64, ask: fn(SocketAddr) -> Result<String>) -> Tally {
    let mut tally = Tally::default();
    (0..times).for_each(|_| tally.add(ask(frontend)));
    tally
}

/// Clients that make one short connection after the other until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many clients inside a namespace.
    pub fn start(namespace: &Namespace, frontend: SocketAddr, clients: usize, pause: Duration) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), done: Arc::default(), tally: Arc::default(), clients: Vec::new() };
        for _ in 0..clients {
            let client = namespace.enter(|| load.spawn(frontend, pause))?;
            load.clients.push(client);
        }
        Ok(load)
    }

    /// A thread is in the namespace of the thread that starts it.
    fn spawn(&self, frontend: SocketAddr, pause: Duration) -> JoinHandle<()> {
        let (stop, done, tally) = (Arc::clone(&self.stop), Arc::clone(&self.done), Arc::clone(&self.tally));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let result = ask(frontend);
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(result);
                done.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        })
    }

    /// Waits until so many more requests have ended, well or not.
    pub fn wait_for_more(&self, requests: u64) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + requests;
        wait_until(Duration::from_secs(60), || Ok(self.done.load(Ordering::Relaxed) >= goal))
            .with_context(|| format!("{requests} more requests; so far {:?}", self.tally()))
    }

    /// What has been done so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it: every request that was begun is waited for.
    pub fn finish(mut self) -> Tally {
        self.stop();
        self.tally()
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            drop(client.join());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}
