//! Balancing at the socket: processes of the node reach a frontend without a packet that names it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Backend},
    client::{self, Held, ask_times},
    process::{text, wait_until},
};

use crate::{
    lab::{vip4, vip6},
    sockets_lab::{self, SocketLab},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The IPv4 frontend as an IPv6 socket names it.
pub(crate) fn mapped(port: u16) -> SocketAddr {
    let std::net::IpAddr::V4(v4) = vip4(port).ip() else { unreachable!("an IPv4 frontend") };
    SocketAddr::new(v4.to_ipv6_mapped().into(), port)
}

#[test]
fn processes_of_the_node_reach_every_server_and_see_the_frontend() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let agent = lab.start(&lab.lab.web().algorithm("round-robin"))?;
    for frontend in [vip4(80), vip6(80), mapped(80)] {
        let tally = lab.on_node(|| Ok(ask_times(frontend, 20, client::ask)))?;
        tally.expect_no_failure()?;
        assert_eq!(tally.answers.values().collect::<Vec<_>>(), [&10, &10], "{frontend}: {tally:?}");
        lab.on_node(|| {
            let held = Held::open(frontend)?;
            assert_eq!(held.stream().peer_addr()?, frontend);
            Ok(())
        })?;
    }
    // Not one packet had the frontend's address: the flow table is empty.
    assert_eq!(agent.json(&["get", "flows"])?["items"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn processes_elsewhere_are_left_alone() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = lab.start(&lab.lab.web())?;
    // In the node's network namespace, but not in its cgroup.
    let outside =
        lab.lab.topology.node.enter(|| TcpStream::connect_timeout(&vip4(80), std::time::Duration::from_secs(1)))?;
    ensure!(outside.is_err(), "the frontend is on no interface");
    assert_eq!(agent.backends()?.iter().map(|backend| backend.connections_total).sum::<u64>(), 0);
    // Packets from outside are balanced as ever.
    assert_eq!(lab.lab.client(|| client::ask(vip4(80)))?, "server-0");
    Ok(())
}

#[test]
fn datagrams_have_one_backend_a_frontend_and_answers_have_its_name() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let _agent = lab.start(&lab.lab.web().algorithm("round-robin"))?;
    for (bind, frontend) in [("0.0.0.0:0", vip4(80)), ("[::]:0", vip6(80)), ("[::]:0", mapped(80))] {
        lab.on_node(|| {
            let socket = UdpSocket::bind(bind)?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            let ask = || -> Result<(String, SocketAddr)> {
                socket.send_to(b"hello", frontend)?;
                let mut buffer = [0; 100];
                let (length, from) = socket.recv_from(&mut buffer).context("an answer")?;
                Ok((text(&buffer[..length]), from))
            };
            let first = ask()?;
            assert_eq!(first.1, frontend, "the answer has the frontend's name");
            for _ in 0..5 {
                assert_eq!(ask()?, first, "one socket stays with its backend");
            }
            Ok(())
        })?;
        let tally = lab.on_node(|| Ok(ask_times(frontend, 10, client::ask_udp)))?;
        tally.expect_no_failure()?;
        assert_eq!(tally.answers.len(), 2, "connected sockets are balanced one by one: {tally:?}");
    }
    Ok(())
}

#[test]
fn without_a_backend_connect_is_refused_at_once() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let mut service = lab.lab.web();
    let agent = lab.start(&service)?;
    service.endpoints.clear();
    lab.lab.write(&service)?;
    agent.wait_for("nobody is left", |backends| backends.iter().all(|backend| backend.state != "ready"))?;
    for frontend in [vip4(80), vip6(80), mapped(80)] {
        let error = lab.on_node(|| Ok(TcpStream::connect(frontend)))?.err().context("refused")?;
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{frontend}: {error}");
        let error = lab.on_node(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            let to = if frontend.is_ipv4() { mapped(80) } else { frontend };
            Ok(socket.send_to(b"hello", to))
        })?;
        assert_eq!(error.err().map(|e| e.kind()), Some(std::io::ErrorKind::ConnectionRefused));
    }
    let counted = || Ok(agent.drops()?.contains(&("no-backend".to_owned(), 6)));
    wait_until(PATIENCE, counted).with_context(|| format!("{:?}", agent.drops()))
}

#[test]
fn open_connections_add_to_the_traffic() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = lab.start(&lab.lab.web())?;
    let traffic = || -> Result<(u64, u64, u64, u64)> {
        let backends = agent.backends_of("TCP")?;
        let sum = |field: fn(&Backend) -> Option<u64>| backends.iter().map(field).sum::<Option<u64>>().unwrap_or(0);
        Ok((sum(|b| b.bytes_in), sum(|b| b.bytes_out), sum(|b| b.packets_in), sum(|b| b.packets_out)))
    };
    const MEGABYTE: u64 = 1_000_000;
    let held = lab.on_node(|| {
        let held = Held::open(vip4(80))?;
        let mut back = vec![0; MEGABYTE as usize];
        let mut writer = held.stream().try_clone()?;
        std::thread::scope(|scope| -> Result<()> {
            let sent = scope.spawn(move || writer.write_all(&vec![1; MEGABYTE as usize]));
            (&mut held.stream()).read_exact(&mut back)?;
            Ok(sent.join().expect("a thread that writes")?)
        })?;
        Ok(held)
    })?;
    // While it is open.
    let near = |bytes: u64| (MEGABYTE..MEGABYTE * 11 / 10).contains(&bytes);
    wait_until(PATIENCE, || traffic().map(|(bytes_in, bytes_out, ..)| near(bytes_in) && near(bytes_out)))
        .with_context(|| format!("{:?}", traffic()))?;
    let open = traffic()?;
    drop(held);
    agent.wait_for("it is closed", |backends| backends.iter().all(|backend| backend.active_connections == 0))?;
    std::thread::sleep(Duration::from_secs(2));
    let closed = traffic()?;
    assert!(near(closed.0) && near(closed.1) && closed.2 > open.2 && closed.3 > open.3, "{open:?} {closed:?}");
    Ok(())
}

#[test]
fn host_mode_leaves_pods_alone() -> Result<()> {
    let lab = SocketLab::mixed(2, 0)?;
    let agent = lab.lab.start(&lab.lab.web(), lab.options("host"))?;
    assert!(lab.on_node(|| client::ask(vip4(80))).is_ok());
    let counted = |agent: &Agent<'_>| -> Result<i64> { Ok(sockets_lab::counted(agent)?.connections) };
    assert_eq!(counted(&agent)?, 1);
    let pod = &lab.lab.topology.hosts[0].namespace;
    let from_pod = lab.within(pod, || Ok(TcpStream::connect_timeout(&vip4(80), Duration::from_secs(2))));
    drop(from_pod?);
    let sockets = |agent: &Agent<'_>| -> Result<u64> {
        let flows = agent.json(&["get", "flows"])?;
        Ok(flows["items"].as_array().map_or(0, Vec::len) as u64)
    };
    // What its packets meet is another matter: not its socket.
    assert!(counted(&agent)? - i64::try_from(sockets(&agent)?)? <= 1);
    Ok(())
}

#[test]
fn a_pods_own_address_decides_for_whom_a_service_is() -> Result<()> {
    let lab = SocketLab::mixed(3, 0)?;
    let agent = lab.start(&lab.lab.web().algorithm("ip-hash"))?;
    let known = agent.json(&["map", "dump", "pods"])?;
    let addresses: Vec<&str> =
        known["items"].as_array().into_iter().flatten().filter_map(|item| item["ipv4"].as_str()).collect();
    for host in &lab.lab.topology.hosts {
        assert!(addresses.contains(&host.v4.to_string().as_str()), "{} in {addresses:?}", host.v4);
        // The packet path would have said the same.
        let explained = agent.weir_ok(&["explain", "10.99.0.1:80", "--from", &host.v4.to_string()])?;
        let answer = lab.within(&host.namespace, || client::ask(vip4(80)))?;
        let backend = lab.lab.host(&answer).v4.to_string();
        assert!(explained.contains(&backend), "{answer} is not in {explained}");
    }
    Ok(())
}

#[test]
fn a_datagram_socket_of_a_removed_server_is_ended_at_once() -> Result<()> {
    let lab = SocketLab::mixed(2, 0)?;
    let service = lab.lab.web().algorithm("round-robin");
    let agent = lab.start(&service)?;
    let pod = &lab.lab.topology.hosts[1].namespace;
    for (namespace, frontend) in
        [(&lab.lab.topology.node, vip4(80)), (pod, vip4(80)), (pod, mapped(80)), (pod, vip6(80))]
    {
        lab.lab.write(&service)?;
        agent.wait_for("both are there", |backends| backends.iter().filter(|b| b.state == "ready").count() == 8)?;
        // Round robin: one of two neighbours is on each server.
        let sockets: Vec<UdpSocket> = lab.within(namespace, || (0..2).map(|_| connected(frontend)).collect())?;
        for socket in &sockets {
            client::exchange(socket, b"hello")?;
        }
        let gone = lab.lab.host("server-0");
        let mut smaller = service.clone();
        smaller.endpoints.retain(|endpoint| endpoint.address != gone.v4 && endpoint.address != gone.v6);
        lab.lab.write(&smaller)?;
        let ended = || Ok(sockets.iter().filter(|socket| socket.send(b"hello").is_err()).count() == 1);
        wait_until(PATIENCE, ended).with_context(|| format!("one of two is ended: {frontend}, {}", agent.log()))?;
        let left = sockets.iter().filter(|socket| client::exchange(socket, b"hello").is_ok()).count();
        assert_eq!(left, 1, "the other is not touched");
    }
    Ok(())
}

/// A connected datagram socket; for mapped addresses an IPv6 one.
fn connected(frontend: SocketAddr) -> Result<UdpSocket> {
    client::datagram_socket(frontend)
}

#[test]
fn a_connection_to_a_server_that_vanished_is_ended_and_one_that_still_answers_is_not() -> Result<()> {
    let lab = SocketLab::mixed(1, 2)?;
    let service = lab.lab.web().algorithm("round-robin");
    let agent = lab.start(&service)?;
    let mut held: Vec<Held> = lab.on_node(|| (0..3).map(|_| Held::open(vip4(80))).collect())?;
    held.iter_mut().try_for_each(Held::check)?;
    // The second server goes without a word; the third is only taken out of the Service.
    let vanished = lab.lab.host("server-1");
    vanished.namespace.ip("link set eth0 down")?;
    let mut smaller = service.clone();
    smaller.endpoints.retain(|endpoint| lab.lab.host("server-0").address(endpoint.address) == endpoint.address);
    lab.lab.write(&smaller)?;
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let checks: Vec<_> = held.iter_mut().map(|held| scope.spawn(|| held.check())).collect();
        checks.into_iter().map(|check| check.join().expect("a check")).collect()
    });
    let broken: Vec<String> = results.iter().filter_map(|r| r.as_ref().err().map(|e| format!("{e:#}"))).collect();
    assert_eq!(broken.len(), 1, "{broken:?}\n{}", agent.log());
    // A read that had timed out would say so.
    assert!(broken[0].contains("abort"), "{broken:?}");
    held.retain_mut(|held| held.check().is_ok());
    assert_eq!(held.len(), 2);
    drop(held);
    agent.wait_for("nothing is open", |backends| backends.iter().all(|backend| backend.active_connections == 0))
}

#[test]
fn the_hooks_outlive_the_agent_and_are_taken_over() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let mut agent = lab.start(&lab.lab.web())?;
    let mut held = lab.on_node(|| Held::open(vip4(80)))?;
    agent.kill9()?;
    assert_eq!(lab.on_node(|| client::ask(vip4(80)))?.split('-').next(), Some("server"), "no agent is needed");
    agent.restart()?;
    held.check()?;
    let status = text(&agent.weir(&["status"])?.stdout);
    for hook in ["connect4", "connect6", "sendmsg4", "recvmsg6", "getpeername4", "sock-release", "sock-ops"] {
        assert!(status.contains(hook), "{hook} in {status}");
    }
    assert!(status.contains(lab.cgroup.path().to_str().unwrap_or_default()), "{status}");
    agent.wait_for("the held connection is counted", |backends| {
        backends.iter().map(|backend| backend.active_connections).sum::<u64>() == 1
    })?;
    drop(held);
    agent.wait_for("it is not any more", |backends| backends.iter().all(|backend| backend.active_connections == 0))?;

    agent.kill9()?;
    let removed = agent.weir_ok(&["detach"])?;
    assert!(removed.contains("removed connect4 from"), "{removed}");
    // The kernel lets go of a link that nobody holds a moment later.
    wait_until(PATIENCE, || lab.on_node(|| Ok(TcpStream::connect_timeout(&vip4(80), Duration::from_secs(1)).is_err())))
        .context("nobody translates any more")
}
