//! What may change under traffic: drains, removed and ill servers, weights, affinity. No request fails, no connection moves.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::{Options, PATIENCE},
    client::{self, Held, Load, ask_times},
    manifests::Endpoint,
    process::wait_until,
    server::Server,
    topology::SERVER_PORT,
};

use crate::lab::{Lab, vip4, vip6};

const PAUSE: Duration = Duration::from_millis(2);
/// Four clients make less than 250 connections a second then: where all go to one remote server, a port towards it is taken for ten
/// seconds after a connection, and there are 4536.
const SELDOM: Duration = Duration::from_millis(16);
/// An endpoint may be in no slice for three seconds before it counts as gone.
const LONGER_THAN_A_MOVE: Duration = Duration::from_secs(6);

#[test]
fn drain_under_load() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let agent = lab.start(&lab.web().algorithm("round-robin"), Options::default())?;
    // Round robin: one of two neighbours is on each server.
    let mut held: Vec<Held> = lab.client(|| (0..2).map(|_| Held::open(vip4(80))).collect())?;
    let load = Load::start(&lab.topology.client, vip4(80), 4, PAUSE)?;
    load.wait_for_more(100)?;

    let drained = format!("{}:{SERVER_PORT}/TCP", lab.host("server-0").v4);
    agent.weir_ok(&["drain", &drained])?;
    agent.wait_for("it is draining", |backends| {
        backends.iter().any(|b| {
            b.address == "10.20.0.2" && b.protocol == "TCP" && b.state == "draining" && b.effective_weight == 0
        })
    })?;
    let others = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    assert_eq!(others.answers.keys().collect::<Vec<_>>(), ["server-1"]);
    held.iter_mut().try_for_each(Held::check)?;
    load.wait_for_more(100)?;

    agent.weir_ok(&["undrain", &drained])?;
    agent.wait_for("it is ready again", |backends| backends.iter().all(|backend| backend.state == "ready"))?;
    let both = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    assert_eq!(both.answers.len(), 2, "{both:?}");
    load.finish().expect_no_failure()?;
    held.iter_mut().try_for_each(Held::check)
}

#[test]
fn a_drain_survives_a_restart() -> Result<()> {
    let lab = Lab::local(2)?;
    let mut agent = lab.start(&lab.web(), Options::default())?;
    agent.weir_ok(&["drain", "10.20.0.2:8080"])?;
    agent.kill9()?;
    agent.restart()?;
    let tally = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    tally.expect_no_failure()?;
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["server-1"]);
    Ok(())
}

#[test]
fn a_server_that_is_not_ready_keeps_its_connections_and_one_that_is_gone_does_not() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let service = lab.web().algorithm("round-robin");
    let agent = lab.start(&service, Options::default())?;
    let mut held: Vec<Held> = lab.client(|| (0..4).map(|_| Held::open(vip4(80))).collect())?;
    let load = Load::start(&lab.topology.client, vip4(80), 4, SELDOM)?;
    load.wait_for_more(100)?;

    let gone = lab.host("server-0");
    let is_his = |endpoint: &Endpoint| endpoint.address == gone.v4 || endpoint.address == gone.v6;
    let mut smaller = service.clone();
    smaller.endpoints.iter_mut().filter(|endpoint| is_his(endpoint)).for_each(|endpoint| endpoint.resting = true);
    lab.write(&smaller)?;
    agent.wait_for("it takes no new connections", |backends| {
        backends.iter().all(|b| b.address != gone.v4.to_string() || b.state != "ready")
    })?;
    let others = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    assert_eq!(others.answers.keys().collect::<Vec<_>>(), ["server-1"]);
    load.wait_for_more(100)?;
    thread::sleep(LONGER_THAN_A_MOVE);
    held.iter_mut().try_for_each(Held::check).context("a connection to the server that is not ready")?;

    smaller.endpoints.retain(|endpoint| !is_his(endpoint));
    lab.write(&smaller)?;
    wait_until(PATIENCE, || Ok(held.iter_mut().filter_map(|held| held.check().err()).count() == 2))?;
    load.finish().expect_no_failure()?;
    let resets = held.iter_mut().filter_map(|held| held.check().err());
    assert_eq!(resets.count(), 2, "those of the other server go on");
    wait_until(PATIENCE, || Ok(agent.drops()?.iter().any(|(reason, count)| reason == "backend-gone" && *count >= 2)))?;

    drop(held);
    lab.write(&service)?;
    agent.wait_for("it is back", |backends| backends.iter().filter(|backend| backend.state == "ready").count() == 8)?;
    let both = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    both.expect_no_failure()?;
    assert_eq!(both.answers.len(), 2, "{both:?}");
    agent.wait_for("nothing is open", |backends| backends.iter().all(|backend| backend.active_connections == 0))
}

#[test]
fn a_removed_service_is_nobodys() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    assert!(lab.client(|| client::ask(vip4(80))).is_ok());
    lab.manifests.remove("web.yaml")?;
    agent.wait_for("no backend is left", |backends| backends.iter().all(|backend| backend.state != "ready"))?;
    assert!(lab.client(|| Ok(client::ask(vip4(80))))?.is_err());
    lab.write(&lab.web())?;
    agent.wait_for("it is back", |backends| backends.iter().filter(|backend| backend.state == "ready").count() == 4)?;
    assert!(lab.client(|| client::ask(vip4(80))).is_ok());
    Ok(())
}

#[test]
fn new_weights_are_in_force_at_once() -> Result<()> {
    let lab = Lab::local(2)?;
    let service = lab.web().algorithm("weighted-round-robin");
    let agent = lab.start(&service, Options::default())?;
    for (weights, expected) in [([1, 1, 4, 4], [10, 40]), ([7, 7, 0, 0], [50, 0]), ([3, 3, 2, 2], [30, 20])] {
        lab.write(&service.clone().weights(&weights))?;
        let wanted = |address: &str| {
            u32::from(if address.contains("20.0.2") || address == "fd20::2" { weights[0] } else { weights[2] })
        };
        agent.wait_for("the new weights", |backends| {
            backends.iter().all(|b| b.effective_weight == wanted(&b.address))
        })?;
        let tally = lab.client(|| Ok(ask_times(vip4(80), 50, client::ask)))?;
        tally.expect_no_failure()?;
        let counts = ["server-0", "server-1"].map(|name| tally.answers.get(name).copied().unwrap_or(0));
        assert_eq!(counts, expected, "weights {weights:?}");
    }
    Ok(())
}

#[test]
fn an_ill_server_gets_nothing_until_it_is_well() -> Result<()> {
    for check in ["tcp", "http:/"] {
        let mut lab = Lab::mixed(1, 1)?;
        let service = lab
            .web()
            .algorithm("round-robin")
            .annotate("weir.dev/health-check", check)
            .annotate("weir.dev/health-check-interval", "200ms")
            .annotate("weir.dev/health-check-threshold", "2");
        let ill = lab.servers.remove(0);
        let agent = lab.start(&service, Options::default())?;
        drop(ill);
        let tcp_state_of_ill = |wanted: &str| {
            agent.wait_for(&format!("server 0 is {wanted}"), |backends| {
                backends.iter().filter(|b| b.address == "10.20.0.2" && b.protocol == "TCP").all(|b| b.state == wanted)
            })
        };
        tcp_state_of_ill("unhealthy")?;
        let tally = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
        tally.expect_no_failure()?;
        assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["server-1"], "{check}");

        let host = lab.host("server-0");
        let _well = Server::start(&host.namespace, &host.name, &[host.v4, host.v6], SERVER_PORT)?;
        tcp_state_of_ill("ready")?;
        let tally = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
        tally.expect_no_failure()?;
        assert_eq!(tally.answers.len(), 2, "{check}: {tally:?}");
    }
    Ok(())
}

#[test]
fn where_all_are_ill_all_are_used() -> Result<()> {
    let lab = Lab::local(2)?;
    let service = lab
        .web()
        .algorithm("round-robin")
        .annotate("weir.dev/health-check", "http:/")
        .annotate("weir.dev/health-check-interval", "200ms")
        .annotate("weir.dev/health-check-threshold", "1");
    let agent = lab.start(&service, Options::default())?;
    // The node cannot reach them any more; clients can, once the hole is filled again.
    for host in &lab.topology.hosts {
        lab.topology.node.ip(&format!("link set {} down", host.peer_interface))?;
    }
    agent.wait_for("all are ill", |backends| backends.iter().all(|b| b.protocol != "TCP" || b.state == "unhealthy"))?;
    let unusable = agent.backends_of("TCP")?.iter().all(|backend| backend.effective_weight == 0);
    assert!(!unusable, "with nobody well everybody keeps a weight: {:#?}", agent.backends()?);
    Ok(())
}

#[test]
fn client_ip_affinity_holds_until_its_time_is_over() -> Result<()> {
    let lab = Lab::local(3)?;
    let mut service = lab.web().algorithm("random");
    service.affinity = Some(2);
    let _agent = lab.start(&service, Options::default())?;
    let sources: Vec<IpAddr> = (100..130).map(|last| IpAddr::from([10, 10, 0, last])).collect();
    for source in &sources {
        lab.topology.client.address("eth0", &[&format!("{source}/24")])?;
    }
    let ask_all =
        || lab.client(|| sources.iter().map(|source| client::ask_from(*source, vip4(80))).collect::<Result<Vec<_>>>());
    let first = ask_all()?;
    for _ in 0..3 {
        assert_eq!(ask_all()?, first);
    }
    assert!(first.iter().any(|server| *server != first[0]), "thirty clients on three servers: {first:?}");
    // Twice the timeout: the clock that affinity is kept by counts whole seconds.
    thread::sleep(Duration::from_secs(5));
    assert_ne!(ask_all()?, first, "thirty random choices are made anew");

    let one = lab.client(|| Ok(ask_times(vip6(80), 20, client::ask)))?;
    one.expect_no_failure()?;
    assert_eq!(one.answers.len(), 1, "IPv6 has affinity too: {one:?}");
    Ok(())
}

#[test]
fn a_changed_algorithm_moves_no_connection() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let mut held: Vec<Held> = lab.client(|| (0..6).map(|_| Held::open(vip4(80))).collect())?;
    for algorithm in ["random", "round-robin", "weighted-round-robin", "least-connections", "ip-hash", "maglev"] {
        lab.write(&lab.web().algorithm(algorithm))?;
        weir_tests::process::wait_until(Duration::from_secs(20), || {
            Ok(agent.json(&["get", "services"])?["items"][0]["algorithm"] == algorithm)
        })?;
        held.iter_mut().try_for_each(Held::check).context(algorithm)?;
        assert!(lab.client(|| client::ask(vip6(80))).is_ok(), "{algorithm}");
    }
    Ok(())
}
