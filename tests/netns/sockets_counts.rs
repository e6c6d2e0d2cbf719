//! What the socket hooks count is exact, whatever becomes of the sockets: at the end nothing is open, and the total is right.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, UnixAddr, recvmsg, sendmsg, sendto, socketpair,
};
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::{
    agent::Agent, client, manifests::Service, namespace::Namespace, process::wait_until, topology::socket,
};

use crate::{
    lab::{vip4, vip6, vips},
    sockets::mapped,
    sockets_lab::{SocketLab, Sockets, counted},
};

/// The port of servers that end every connection at once, and of their frontend.
const SINK: u16 = 9090;
/// A port on which nobody listens, and its frontend.
const NOBODY: u16 = 9191;
const PATIENCE: Duration = Duration::from_secs(20);

/// Accepts connections on `SINK` and ends each: in peace, or (`reset`) at once.
fn sink(namespace: &Namespace, reset: bool) -> Result<()> {
    let listener = namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SINK)).into())?;
        socket.listen(4096)?;
        anyhow::Ok(TcpListener::from(socket))
    })??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if reset {
                drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
            }
        }
    });
    Ok(())
}

fn service(lab: &SocketLab, port: u16) -> Service {
    let mut service = Service::web(&vips(), &lab.lab.topology.hosts);
    (service.name, service.port, service.target_port) = (format!("on-{port}"), port, port);
    service.algorithm("round-robin")
}

/// A node with one server, and frontends of its port, of `SINK` and of `NOBODY`.
fn stage(lab: &SocketLab, reset: bool) -> Result<Agent<'_>> {
    sink(&lab.lab.topology.hosts[0].namespace, reset)?;
    for port in [SINK, NOBODY] {
        lab.lab.write(&service(lab, port))?;
    }
    lab.lab.write(&lab.lab.web())?;
    let agent = Agent::start(&lab.lab.topology, &lab.lab.manifests, lab.options("all"))?;
    agent.wait_for("three Services are served", |backends| backends.len() == 3 * 4)?;
    Ok(agent)
}

/// Waits until nothing is open, and returns how many connections there were since `before`.
fn settled(agent: &Agent<'_>, before: Sockets) -> Result<Sockets> {
    let mut now = Sockets::default();
    let waited = wait_until(PATIENCE, || {
        now = counted(agent)?;
        Ok(now.open == 0 && now.established == 0)
    });
    waited.with_context(|| format!("nothing is open any more: {now:?}"))?;
    ensure!(now.connections == now.closed, "what began has ended: {now:?}");
    Ok(Sockets {
        open: 0,
        established: 0,
        connections: now.connections - before.connections,
        closed: now.closed - before.closed,
        resets: now.resets - before.resets,
    })
}

/// Something that is done to sockets, and how many connections it makes.
type Case = (&'static str, fn() -> Result<i64>);

fn run(cases: &[Case]) -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = stage(&lab, false)?;
    for (name, case) in cases {
        let before = counted(&agent)?;
        let made = lab.on_node(case).with_context(|| (*name).to_owned())?;
        let counted = settled(&agent, before).with_context(|| (*name).to_owned())?;
        assert_eq!(counted.connections, made, "{name}: {counted:?}");
    }
    Ok(())
}

fn stream(v6: bool) -> Result<Socket> {
    Ok(Socket::new(if v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, Some(Protocol::TCP))?)
}

/// `connect` to AF_UNSPEC, which undoes a connection; the standard library has no word for it.
fn disconnect(socket: &impl std::os::fd::AsRawFd) -> Result<()> {
    // SAFETY: all zero is a valid address, and AF_UNSPEC is 0.
    let address: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and an address of the length that is given.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &address, size_of_val(&address) as u32) };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

fn graceful() -> Result<i64> {
    for _ in 0..3000 {
        // The server ends first.
        TcpStream::connect(vip4(SINK))?.read_to_end(&mut Vec::new())?;
    }
    for _ in 0..3000 {
        // Both, in any order.
        drop(TcpStream::connect(vip4(SINK))?);
    }
    Ok(6000)
}

fn aborts() -> Result<i64> {
    for _ in 0..10_000 {
        let stream = TcpStream::connect(vip4(SINK))?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(10_000)
}

fn families() -> Result<i64> {
    for frontend in [vip4(80), vip6(80), mapped(80)] {
        for _ in 0..10 {
            client::ask(frontend)?;
        }
    }
    Ok(30)
}

fn refused() -> Result<i64> {
    for _ in 0..10_000 {
        ensure!(TcpStream::connect(vip4(NOBODY)).is_err(), "nobody listens there");
    }
    Ok(0)
}

fn disconnected_and_reused() -> Result<i64> {
    let socket = stream(false)?;
    for port in [80, SINK, 80] {
        socket.connect(&vip4(port).into())?;
        disconnect(&socket)?;
    }
    socket.connect(&vip4(80).into())?;
    disconnect(&socket)?;
    // Elsewhere: nobody counts it any more.
    socket.connect(&socket_of_server(80).into()).map(|()| drop(socket))?;
    Ok(4)
}

/// The server under its own name.
fn socket_of_server(_: u16) -> SocketAddr {
    socket("10.20.0.2", weir_tests::topology::SERVER_PORT)
}

fn half_closed() -> Result<i64> {
    let streams: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(vip4(SINK))).collect::<std::io::Result<_>>()?;
    for stream in &streams {
        // A server that has gone already makes this an error.
        drop(stream.shutdown(std::net::Shutdown::Write));
    }
    Ok(100)
}

fn inherited_and_killed() -> Result<i64> {
    let sockets: Vec<Socket> = (0..50).map(|_| stream(false)).collect::<Result<_>>()?;
    for socket in &sockets {
        socket.connect(&vip4(80).into())?;
        socket.set_cloexec(false)?;
    }
    let mut child = Command::new("sleep").arg("60").spawn()?;
    drop(sockets);
    child.kill()?;
    child.wait()?;
    Ok(50)
}

fn duplicated() -> Result<i64> {
    let first = TcpStream::connect(vip4(80))?;
    let copies: Vec<TcpStream> = (0..10).map(|_| first.try_clone()).collect::<std::io::Result<_>>()?;
    drop(first);
    drop(copies);
    Ok(1)
}

/// One descriptor goes to who closes it, one to who never looks.
fn passed_on() -> Result<i64> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType};
    let pair = || socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let send = |to: &OwnedFd| -> Result<()> {
        let stream = TcpStream::connect(vip4(80))?;
        let descriptors = [stream.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<UnixAddr>(to.as_raw_fd(), &[std::io::IoSlice::new(b"x")], &message, MsgFlags::empty(), None)?;
        Ok(())
    };
    let (near, far) = pair()?;
    send(&near)?;
    let mut byte = [0];
    let mut into = [std::io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(i32);
    let got = recvmsg::<UnixAddr>(far.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty())?;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            // SAFETY: descriptors that this process has just been given.
            descriptors.into_iter().for_each(|fd| drop(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let (near, far) = pair()?;
    send(&near)?;
    drop((near, far));
    Ok(2)
}

fn fast_open() -> Result<i64> {
    for _ in 0..10 {
        let socket = stream(false)?;
        let to = SockaddrStorage::from(vip4(80));
        sendto(
            socket.as_raw_fd(),
            b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            &to,
            MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
        )?;
        let mut answer = String::new();
        TcpStream::from(socket).read_to_string(&mut answer)?;
        ensure!(answer.ends_with("server-0"), "{answer}");
    }
    Ok(10)
}

fn connected_datagrams() -> Result<i64> {
    for frontend in [vip4(80), vip6(80), mapped(80)] {
        for _ in 0..1000 {
            let any = if frontend.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(frontend)?;
        }
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for port in [80, SINK, 80, NOBODY] {
        socket.connect(vip4(port))?;
    }
    // A connection to no frontend ends the last one to one.
    socket.connect(socket_of_server(80))?;
    socket.connect(vip4(80))?;
    disconnect(&socket)?;
    Ok(3005)
}

fn unconnected_datagrams() -> Result<i64> {
    for _ in 0..1000 {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for port in [80, SINK, 80, SINK] {
            socket.send_to(b"hello", vip4(port))?;
        }
    }
    Ok(2000)
}

#[test]
fn streams() -> Result<()> {
    run(&[
        ("three forms of address", families),
        ("graceful ends", graceful),
        ("aborts", aborts),
        ("refused", refused),
        ("half closed", half_closed),
    ])
}

#[test]
fn odd_lives() -> Result<()> {
    run(&[
        ("disconnected and used again", disconnected_and_reused),
        ("inherited, and the heir killed", inherited_and_killed),
        ("duplicated descriptors", duplicated),
        ("passed descriptors", passed_on),
        ("fast open", fast_open),
    ])
}

#[test]
fn datagrams() -> Result<()> {
    run(&[("connected", connected_datagrams), ("unconnected", unconnected_datagrams)])
}

#[test]
fn connects_that_are_given_up_at_once() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = stage(&lab, false)?;
    let before = counted(&agent)?;
    lab.on_node(|| {
        for _ in 0..10_000 {
            let socket = stream(false)?;
            socket.set_nonblocking(true)?;
            drop(socket.connect(&vip4(SINK).into()));
        }
        Ok(())
    })?;
    // Some were answered before they were given up.
    assert!((0..=10_000).contains(&settled(&agent, before)?.connections));
    Ok(())
}

#[test]
fn resets_by_the_server_are_known() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = stage(&lab, true)?;
    let before = counted(&agent)?;
    lab.on_node(|| {
        for _ in 0..500 {
            let mut stream = TcpStream::connect(vip4(SINK))?;
            ensure!(stream.read_to_end(&mut Vec::new()).is_err(), "it was reset");
        }
        Ok(())
    })?;
    let counted = settled(&agent, before)?;
    assert_eq!((counted.connections, counted.resets), (500, 500));
    Ok(())
}

#[test]
fn multipath_sockets_end_too() -> Result<()> {
    const MPTCP: i32 = 262;
    let lab = SocketLab::mixed(1, 0)?;
    let agent = stage(&lab, false)?;
    let before = counted(&agent)?;
    lab.on_node(|| {
        for _ in 0..200 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(MPTCP)))?;
            socket.connect(&vip4(80).into())?;
        }
        Ok(())
    })?;
    assert_eq!(settled(&agent, before)?.connections, 200);
    Ok(())
}

#[test]
fn what_is_open_is_seen() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = stage(&lab, false)?;
    let (streams, datagrams) = lab.on_node(|| {
        let streams: Vec<TcpStream> = (0..7).map(|_| TcpStream::connect(vip4(80))).collect::<std::io::Result<_>>()?;
        let datagrams: Vec<UdpSocket> = (0..5).map(|_| client::datagram_socket(vip4(80))).collect::<Result<_>>()?;
        Ok((streams, datagrams))
    })?;
    let sum = |protocol: &str| -> Result<u64> {
        Ok(agent.backends_of(protocol)?.iter().map(|backend| backend.active_connections).sum())
    };
    assert_eq!((sum("TCP")?, sum("UDP")?), (7, 5));
    let now = counted(&agent)?;
    assert_eq!((now.open, now.established), (12, 12));
    // Nothing counts the datagrams of sockets: their number is not known, which is not 0.
    for backend in agent.backends_of("UDP")? {
        let counted = (backend.active_connections == 0).then_some(0);
        assert_eq!((backend.packets_in, backend.bytes_out), (counted, counted), "{backend:?}");
    }
    assert!(agent.backends_of("TCP")?.iter().all(|backend| backend.packets_in.is_some()));
    drop((streams, datagrams));
    settled(&agent, Sockets::default()).map(drop)
}
