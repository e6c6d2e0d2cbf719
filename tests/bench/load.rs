//! Requests whose both ends one thread serves in turn, pinned to one CPU. A veth hands a packet on within the sender's system call, so
//! the thread's CPU time is that of both ends and of everything between, softirqs included, and contains no waking up and no waiting. Where
//! a proxy stands between, on the same CPU, its own time is added, and being woken is part of both.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::SockRef;

use crate::{driver::cpu_time, peers::Proxy};

const REQUEST: [u8; 128] = [b'q'; 128];
const ANSWER: [u8; 512] = [b'a'; 512];
/// What fills the smallest Ethernet frame.
const DATAGRAM: [u8; 18] = [b'd'; 18];
/// Bytes that are sent at once in bulk; they fit into the sender's socket, where nothing waits for the reader.
const BULK: usize = 64 << 10;
/// Connections, or sockets, that take turns when they are kept.
const KEPT: usize = 16;
/// For how long a datagram may be away before it counts as lost.
pub(crate) const LOST: Duration = Duration::from_secs(2);
/// Requests before the clock starts.
const WARM_UP: u32 = 64;
/// For how long the CPU is left to a proxy before a clock is read: what it has not done yet belongs to the requests before.
const SETTLE: Duration = Duration::from_millis(1);

/// Both ends of the way.
pub(crate) struct Ends<'a> {
    /// Where the client connects to; the calling thread is in the client's namespace.
    pub(crate) frontend: SocketAddr,
    /// The server, in its own namespace.
    pub(crate) listener: &'a TcpListener,
    /// The same for UDP.
    pub(crate) datagrams: &'a UdpSocket,
    /// The process between them, if there is one.
    pub(crate) proxy: Option<&'a Proxy>,
}

/// CPU time in nanoseconds per request on connections that stay open.
pub(crate) fn keep_alive(ends: &Ends<'_>, requests: u32) -> Result<f64> {
    let mut connections = (0..KEPT).map(|_| ends.open()).collect::<Result<Vec<_>>>()?;
    let mut turn = 0;
    ends.timed(requests, || {
        turn = (turn + 1) % KEPT;
        let (client, server) = &mut connections[turn];
        exchange(client, server)
    })
}

/// CPU time in nanoseconds per request on a connection of its own: opened, one request, closed by the server first.
pub(crate) fn new_connections(ends: &Ends<'_>, requests: u32) -> Result<f64> {
    ends.timed(requests, || {
        let (mut client, mut server) = ends.open()?;
        exchange(&mut client, &mut server)?;
        drop(server);
        ensure!(client.read(&mut [0])? == 0, "more than the answer came");
        Ok(())
    })
}

/// CPU time in nanoseconds per connection that carries nothing: opened, closed by the server, then by the client.
pub(crate) fn connect_and_close(ends: &Ends<'_>, connections: u32) -> Result<f64> {
    ends.timed(connections, || {
        let (mut client, server) = ends.open()?;
        drop(server);
        ensure!(client.read(&mut [0])? == 0, "something came");
        Ok(())
    })
}

/// CPU time in nanoseconds per [`BULK`] bytes to the server on one connection.
pub(crate) fn bulk(ends: &Ends<'_>, chunks: u32) -> Result<f64> {
    let (mut client, mut server) = ends.open()?;
    SockRef::from(&client).set_send_buffer_size(4 * BULK)?;
    let (data, mut room) = (vec![b'b'; BULK], vec![0; BULK]);
    ends.timed(chunks, || {
        client.write_all(&data)?;
        Ok(server.read_exact(&mut room)?)
    })
}

/// CPU time in nanoseconds per small datagram to the server and the same one back.
pub(crate) fn datagrams(ends: &Ends<'_>, pairs: u32) -> Result<f64> {
    let open = |_| -> Result<UdpSocket> {
        let any = match ends.frontend.ip() {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(ends.frontend)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(socket)
    };
    let sockets = (0..KEPT).map(open).collect::<Result<Vec<_>>>()?;
    let mut turn = 0;
    ends.timed(pairs, || {
        turn = (turn + 1) % KEPT;
        let mut room = [0; DATAGRAM.len()];
        sockets[turn].send(&DATAGRAM)?;
        let (_, peer) = ends.datagrams.recv_from(&mut room).context("a datagram was lost on its way there")?;
        ends.datagrams.send_to(&room, peer)?;
        let length = sockets[turn].recv(&mut room).context("a datagram was lost on its way back")?;
        ensure!(length == room.len() && room == DATAGRAM, "another datagram came than was sent");
        Ok(())
    })
}

impl Ends<'_> {
    fn open(&self) -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(self.frontend).with_context(|| format!("connect to {}", self.frontend))?;
        let (server, _) = self.listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok((client, server))
    }

    /// Repeats some work, and says how much CPU time a turn took.
    fn timed(&self, turns: u32, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let cpu = last_cpu()?;
        let mut set = CpuSet::new();
        set.set(cpu)?;
        // The calling thread, not the process.
        sched_setaffinity(Pid::from_raw(0), &set)?;
        (0..WARM_UP).try_for_each(|_| work())?;
        thread::sleep(SETTLE);
        let others = self.others(cpu)?;
        let own = cpu_time()?;
        (0..turns).try_for_each(|_| work())?;
        thread::sleep(SETTLE);
        let own = cpu_time()? - own;
        Ok((own.as_nanos() as f64 + self.others(cpu)? - others) / f64::from(turns))
    }

    /// CPU time in nanoseconds that the CPU's softirq thread and the proxy have used.
    fn others(&self, cpu: usize) -> Result<f64> {
        Ok(ksoftirqd(cpu) + self.proxy.map_or(Ok(0.0), Proxy::cpu_time)?)
    }
}

fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let (mut request, mut answer) = ([0; REQUEST.len()], [0; ANSWER.len()]);
    client.write_all(&REQUEST)?;
    server.read_exact(&mut request)?;
    server.write_all(&ANSWER)?;
    client.read_exact(&mut answer)?;
    ensure!(request == REQUEST && answer == ANSWER, "other bytes came than were sent");
    Ok(())
}

/// The CPU on which both ends are, and a proxy.
pub(crate) fn last_cpu() -> Result<usize> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let last = online.trim().rsplit(['-', ',']).next().unwrap_or_default();
    last.parse().with_context(|| format!("/sys/devices/system/cpu/online: {online}"))
}

/// CPU time in nanoseconds that this CPU's softirq thread has used: what a busy CPU leaves to it. 0 where it cannot be seen.
fn ksoftirqd(cpu: usize) -> f64 {
    let name = format!("ksoftirqd/{cpu}\n");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut threads = processes.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name));
    let stat = threads.next().and_then(|path| fs::read_to_string(path.join("schedstat")).ok()).unwrap_or_default();
    stat.split(' ').next().and_then(|used| used.parse().ok()).unwrap_or(0.0)
}
