//! The counters are exact: what the kernel counted is what clients and servers counted.

use std::thread;

use anyhow::Result;
use weir_tests::{
    agent::{Agent, Backend, Options},
    client::{self, Held, Tally, ask_times},
};

use crate::lab::{Lab, vip4, vip6};

const CLIENTS: u64 = 8;

fn idle(agent: &Agent<'_>) -> Result<()> {
    let nothing_open = |backend: &Backend| backend.active_connections == 0 && backend.pending_connections == 0;
    agent.wait_for("nothing is open or pending", |backends| backends.iter().all(nothing_open))
}

/// So many connections by eight clients at once; every one answered.
fn many(lab: &Lab, connections: u64) -> Result<Tally> {
    let tallies = lab.client(|| {
        let client = |_| thread::spawn(|| ask_times(vip4(80), CONNECTIONS_OF_ONE, client::ask));
        assert_eq!(connections, CLIENTS * CONNECTIONS_OF_ONE);
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        Ok(clients.into_iter().map(|client| client.join().expect("a client")).collect::<Vec<_>>())
    })?;
    let mut sum = Tally::default();
    for tally in tallies {
        tally.expect_no_failure()?;
        tally.answers.into_iter().for_each(|(server, count)| *sum.answers.entry(server).or_default() += count);
    }
    Ok(sum)
}

const CONNECTIONS_OF_ONE: u64 = 1250;

fn ten_thousand(datapath: &str, algorithm: &str) -> Result<()> {
    let lab = Lab::mixed(2, 1)?;
    let agent = lab.start(&lab.web().algorithm(algorithm), Options::datapath(datapath))?;
    let tally = many(&lab, 10_000)?;
    assert_eq!(tally.total(), 10_000);
    idle(&agent)?;
    let counted: Vec<_> =
        agent.backends_of("TCP")?.into_iter().filter(|backend| backend.address.contains('.')).collect();
    assert_eq!(counted.iter().map(|backend| backend.connections_total).sum::<u64>(), 10_000);
    for (host, server) in lab.topology.hosts.iter().zip(&lab.servers) {
        let backend = counted.iter().find(|backend| backend.address == host.v4.to_string()).expect("a backend");
        assert_eq!(backend.connections_total, server.accepted(), "{backend:?}");
        assert_eq!(backend.connections_total, tally.answers[&host.name], "{backend:?}");
    }
    assert_eq!(agent.drops()?, []);
    // The metric appears with the first repair.
    assert!(
        !agent.metrics()?.contains(
            "
weir_counter_repairs_total "
        ),
        "{}",
        agent.metrics()?
    );
    Ok(())
}

#[test]
fn ten_thousand_connections_through_tc() -> Result<()> {
    ten_thousand("tc", "least-connections")
}

#[test]
fn ten_thousand_connections_through_generic_xdp() -> Result<()> {
    ten_thousand("xdp-generic", "maglev")
}

#[test]
fn ten_thousand_connections_through_native_xdp() -> Result<()> {
    ten_thousand("xdp", "weighted-round-robin")
}

#[test]
fn open_and_half_closed_connections_are_active_and_reset_ones_are_not() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let agent = lab.start(&lab.web().algorithm("round-robin"), Options::default())?;

    let mut held: Vec<Held> =
        lab.client(|| [vip4(80), vip6(80), vip4(80), vip6(80)].into_iter().map(Held::open).collect())?;
    agent.wait_for("four are open", |backends| backends.iter().map(|b| b.active_connections).sum::<u64>() == 4)?;

    // Half-closed: the client has said its last word, the echo of it is still to come.
    held[0].stream().shutdown(std::net::Shutdown::Write)?;
    agent.wait_for("the server has closed too", |backends| {
        backends.iter().map(|b| b.active_connections).sum::<u64>() == 3
    })?;

    // A close with an answer unread is a reset.
    let reset = held.pop().expect("four");
    socket2::SockRef::from(reset.stream()).set_linger(Some(std::time::Duration::ZERO))?;
    drop(reset);
    agent.wait_for("a reset connection is closed", |backends| {
        backends.iter().map(|b| b.active_connections).sum::<u64>() == 2
    })?;
    drop(held);
    idle(&agent)?;
    assert_eq!(agent.backends()?.iter().map(|backend| backend.connections_total).sum::<u64>(), 4);
    Ok(())
}

#[test]
fn packets_and_bytes_are_those_of_the_wire() -> Result<()> {
    let lab = Lab::local(1)?;
    // Segments of one packet each, so that both sides count the same packets.
    lab.topology.offload_everywhere("tx", false)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let socket = lab.client(|| client::datagram_socket(vip4(80)))?;
    for _ in 0..10 {
        client::exchange(&socket, &[1; 100])?;
    }
    let backends = agent.backends_of("UDP")?;
    let backend = backends.iter().find(|backend| backend.address.contains('.')).expect("an IPv4 backend");
    // IP and UDP headers are 28 bytes; the answer begins with "server-0 ".
    assert_eq!((backend.packets_in, backend.packets_out), (Some(10), Some(10)));
    assert_eq!((backend.bytes_in, backend.bytes_out), (Some(10 * 128), Some(10 * 137)));
    assert_eq!((backend.active_connections, backend.connections_total), (1, 1));
    Ok(())
}
