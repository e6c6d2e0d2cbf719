//! The client: some workers that ask one after the other, over a connection each or over one that they keep.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{client, report::Report};

#[derive(clap::Args)]
pub(crate) struct Ask {
    /// HOST:PORT; the host may be a name
    target: String,
    /// How many requests in all
    #[arg(long, default_value_t = 1)]
    requests: u64,
    /// Ask until standard input ends instead
    #[arg(long)]
    until_eof: bool,
    /// How many ask at the same time
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Keep the connection (TCP) or the socket (UDP) for the next request
    #[arg(long)]
    keep: bool,
    /// Over UDP
    #[arg(long)]
    udp: bool,
    /// Milliseconds between two requests of a client
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// How long an answer may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

impl Ask {
    pub(crate) fn run(&self) -> Result<Report> {
        let target = self.target.to_socket_addrs().with_context(|| format!("look up {}", self.target))?.next();
        let target = target.with_context(|| format!("{} has no address", self.target))?;
        let report = Mutex::new(Report::default());
        let (begun, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let more = || match self.until_eof {
            true => !ended.load(Ordering::Relaxed),
            false => begun.fetch_add(1, Ordering::Relaxed) < self.requests,
        };
        thread::scope(|scope| {
            if self.until_eof {
                scope.spawn(|| {
                    // Also an error is an end.
                    drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
                    ended.store(true, Ordering::Relaxed);
                });
            }
            for _ in 0..self.clients {
                scope.spawn(|| self.work(target, &more, &report));
            }
        });
        Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn work(&self, target: SocketAddr, more: &dyn Fn() -> bool, report: &Mutex<Report>) {
        let mut kept = None;
        while more() {
            let start = Instant::now();
            let answer = if self.udp { self.ask_udp(target, &mut kept) } else { self.ask_tcp(target, &mut kept) };
            report.lock().unwrap_or_else(PoisonError::into_inner).add(answer, start.elapsed());
            thread::sleep(Duration::from_millis(self.pause));
        }
    }

    fn ask_tcp(&self, target: SocketAddr, kept: &mut Option<Socket>) -> Result<String> {
        let stream = match kept.take() {
            Some(Socket::Tcp(stream)) => stream,
            _ => self.connect(target)?,
        };
        let mut reader = BufReader::new(stream);
        let connection = if self.keep { "keep-alive" } else { "close" };
        let request = format!("GET /source HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", self.target);
        reader.get_mut().write_all(request.as_bytes()).context("send the request")?;
        let (body, stays) = read_answer(&mut reader)?;
        if self.keep && stays {
            *kept = Some(Socket::Tcp(reader.into_inner()));
        }
        Ok(body)
    }

    fn ask_udp(&self, target: SocketAddr, kept: &mut Option<Socket>) -> Result<String> {
        let socket = match kept.take() {
            Some(Socket::Udp(socket)) => socket,
            _ => client::datagram_socket(target)?,
        };
        socket.set_read_timeout(Some(self.patience()))?;
        socket.send(b"source").context("send a datagram")?;
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).context("wait for the answer to a datagram")?;
        if self.keep {
            *kept = Some(Socket::Udp(socket));
        }
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn connect(&self, target: SocketAddr) -> Result<TcpStream> {
        let stream =
            TcpStream::connect_timeout(&target, self.patience()).with_context(|| format!("connect to {target}"))?;
        stream.set_read_timeout(Some(self.patience()))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// What a client keeps between two requests.
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// An answer's body, and whether the server keeps the connection.
pub(crate) fn read_answer(reader: &mut BufReader<TcpStream>) -> Result<(String, bool)> {
    let (mut line, mut length, mut stays, mut first) = (String::new(), 0, true, true);
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line).context("read the answer")? > 0, "the connection ended before the answer");
        let header = line.trim_end().to_ascii_lowercase();
        if first {
            ensure!(header.starts_with("http/1.1 200 "), "not a 200: {header}");
            first = false;
        } else if header.is_empty() {
            break;
        } else if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().context("a length")?;
        } else if header == "connection: close" {
            stays = false;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).context("read the answer's body")?;
    Ok((String::from_utf8_lossy(&body).into_owned(), stays))
}
