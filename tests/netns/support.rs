//! The network of the tests without `weir`: what the other tests take for granted.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use weir_tests::{
    client::{self, Held, Load},
    foreign::ForeignXdp,
    requirements,
    topology::{Layout, SERVER_PORT, Topology, UPLINK},
};

use crate::{
    lab::Lab,
    pmtu::{Narrow, has_learned},
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
fn a_narrow_place_is_learned_of_by_plain_routing() -> Result<()> {
    for narrow in [Narrow::NodeToClient, Narrow::NodeToServer, Narrow::BeforeClient, Narrow::BeforeServer] {
        let lab = Lab::new(Layout { local: 1, remote: 1, client_router: true, ..Layout::default() })?;
        let router = lab.topology.router.as_ref().context("a router")?;
        router.route("10.9.0.0/24", "10.40.0.2")?;
        router.route("fd09::/64", "fd40::2")?;
        narrow.apply(&lab)?;
        let host = &lab.topology.hosts[1];
        for (server, client) in [(host.v4, "10.9.0.2"), (host.v6, "fd09::2")] {
            let server = SocketAddr::new(server, SERVER_PORT);
            lab.client(|| narrow.through(server))?;
            match narrow {
                Narrow::NodeToClient | Narrow::BeforeClient => has_learned(&host.namespace, client.parse()?)?,
                Narrow::NodeToServer | Narrow::BeforeServer => has_learned(&lab.topology.client, server.ip())?,
            }
        }
    }
    Ok(())
}

#[test]
fn a_foreign_xdp_program_can_be_attached_and_goes() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let topology = Topology::new(Layout { local: 1, ..Layout::default() })?;
    let shown = || topology.node.run("ip", &["-details", "link", "show", UPLINK]);
    let foreign = ForeignXdp::attach(&topology.node, UPLINK)?;
    assert!(shown()?.contains("xdp"), "{}", shown()?);
    assert!(ForeignXdp::attach(&topology.node, UPLINK).is_err(), "the place is taken");
    drop(foreign);
    assert!(!shown()?.contains("xdp"), "{}", shown()?);
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
