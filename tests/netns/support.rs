//! The network of the tests without `weir`: what the other tests take for granted.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::Result;
use weir_tests::{
    client::{self, Held, Load},
    requirements,
    topology::{Layout, SERVER_PORT, Topology},
};

fn frontends(topology: &Topology) -> Vec<SocketAddr> {
    topology
        .hosts
        .iter()
        .flat_map(|host| [host.v4, host.v6])
        .map(|address| SocketAddr::new(address, SERVER_PORT))
        .collect()
}

#[test]
fn local_servers_are_reached_by_plain_routing() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let topology = Topology::new(Layout { local: 2, client_router: true, ..Layout::default() })?;
    let servers = topology.start_servers()?;
    for frontend in frontends(&topology) {
        topology.client.enter(|| -> Result<()> {
            let name = client::ask(frontend)?;
            assert_eq!(client::ask_udp(frontend)?, name);
            client::upload(frontend, 1_000_000)?;
            client::download(frontend, 1_000_000)?;
            Held::open(frontend)?.check()
        })??;
    }
    assert_eq!(servers.iter().map(|server| server.accepted()).collect::<Vec<_>>(), [8, 8]);
    Ok(())
}

#[test]
fn remote_servers_are_reached_by_the_node_only() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let topology = Topology::new(Layout { local: 0, remote: 1, ..Layout::default() })?;
    let _servers = topology.start_servers()?;
    for frontend in frontends(&topology) {
        assert_eq!(topology.node.enter(|| client::ask(frontend))??, "server-0");
        let client =
            topology.client.enter(|| std::net::TcpStream::connect_timeout(&frontend, Duration::from_secs(2)))?;
        assert!(client.is_err(), "the router must not know a way back to the client");
    }
    Ok(())
}

#[test]
fn a_load_counts_answers_and_failures() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let topology = Topology::new(Layout { local: 1, ..Layout::default() })?;
    let servers = topology.start_servers()?;
    let frontend = frontends(&topology)[0];
    let load = Load::start(&topology.client, frontend, 2, Duration::ZERO)?;
    load.wait_for_more(50)?;
    drop(servers);
    load.wait_for_more(10)?;
    let tally = load.finish();
    assert!(tally.total() >= 50 - 2, "{tally:?}");
    assert!(!tally.failures.is_empty(), "a server that is gone must be seen");
    assert!(tally.expect_no_failure().is_err());
    Ok(())
}

#[test]
fn what_runs_in_a_namespace_ends_with_it() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let topology = Topology::new(Layout { local: 1, ..Layout::default() })?;
    topology.offload_everywhere("tx", false)?;
    let host = &topology.hosts[0].namespace;
    assert!(host.run("ethtool", &["-k", "eth0"])?.contains("tx-checksumming: off"));
    let mut child = host.command("sleep")?.arg("60").spawn()?;
    let path = host.path();
    drop(topology);
    assert!(!path.exists());
    assert!(!child.wait()?.success(), "it was killed");
    std::io::stdout().flush()?;
    Ok(())
}
