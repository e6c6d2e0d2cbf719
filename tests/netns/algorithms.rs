//! All six algorithms do what their names say, on real connections.

use std::net::IpAddr;

use anyhow::Result;
use weir_tests::{
    agent::Options,
    client::{self, Held, Tally, ask_times},
};

use crate::lab::{Lab, vip4, vip6};

/// The answers to so many connections, by server, in the servers' order.
fn shares(lab: &Lab, algorithm: &str, weights: &[u16], times: u64) -> Result<Vec<u64>> {
    let _agent = lab.start(&lab.web().algorithm(algorithm).weights(&repeat(weights)), Options::default())?;
    let tally = lab.client(|| Ok(ask_times(vip4(80), times, client::ask)))?;
    tally.expect_no_failure()?;
    Ok(counts(lab, &tally))
}

/// Endpoints come by host, and for each host by family.
fn repeat(weights: &[u16]) -> Vec<u16> {
    weights.iter().flat_map(|weight| [*weight, *weight]).collect()
}

fn counts(lab: &Lab, tally: &Tally) -> Vec<u64> {
    lab.topology.hosts.iter().map(|host| tally.answers.get(&host.name).copied().unwrap_or(0)).collect()
}

#[test]
fn random_follows_the_weights() -> Result<()> {
    let shares = shares(&Lab::mixed(2, 1)?, "random", &[100, 100, 0], 200)?;
    // 100 expected each, standard deviation 7: five of them.
    assert!(shares[2] == 0 && shares[..2].iter().all(|share| (65..=135).contains(share)), "{shares:?}");
    Ok(())
}

#[test]
fn round_robin_gives_each_the_same_and_the_drained_nothing() -> Result<()> {
    assert_eq!(shares(&Lab::mixed(3, 1)?, "round-robin", &[1, 9, 0, 1], 60)?, [20, 20, 0, 20]);
    Ok(())
}

#[test]
fn weighted_round_robin_is_exact() -> Result<()> {
    assert_eq!(shares(&Lab::mixed(2, 1)?, "weighted-round-robin", &[5, 1, 1], 70)?, [50, 10, 10]);
    Ok(())
}

#[test]
fn least_connections_levels_what_is_open() -> Result<()> {
    let lab = Lab::mixed(2, 1)?;
    let agent = lab.start(&lab.web().algorithm("least-connections"), Options::default())?;
    let held: Vec<Held> = lab.client(|| (0..60).map(|_| Held::open(vip4(80))).collect())?;
    let active: Vec<u64> =
        agent.backends_of("TCP")?.iter().filter(|b| b.address.contains('.')).map(|b| b.active_connections).collect();
    assert_eq!(active.iter().sum::<u64>(), held.len() as u64);
    // 20 each; plain random choice would leave these bounds in most runs, two choices practically never.
    assert!(active.iter().all(|count| (17..=23).contains(count)), "{active:?}");
    Ok(())
}

#[test]
fn ip_hash_keeps_an_address_on_its_server() -> Result<()> {
    let lab = Lab::mixed(2, 1)?;
    let _agent = lab.start(&lab.web().algorithm("ip-hash"), Options::default())?;
    let sources: Vec<IpAddr> = (100..140).map(|last| IpAddr::from([10, 10, 0, last])).collect();
    for source in &sources {
        lab.topology.client.address("eth0", &[&format!("{source}/24")])?;
    }
    let mut tally = Tally::default();
    for source in sources {
        let servers = lab.client(|| (0..3).map(|_| client::ask_from(source, vip4(80))).collect::<Result<Vec<_>>>())?;
        assert!(servers.iter().all(|server| *server == servers[0]), "{source}: {servers:?}");
        tally.add(Ok(servers[0].clone()));
    }
    // 13 expected each of 40.
    assert!(counts(&lab, &tally).iter().all(|count| *count >= 2), "{tally:?}");
    Ok(())
}

#[test]
fn maglev_spreads_connections_and_is_the_default() -> Result<()> {
    let lab = Lab::mixed(2, 1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let services = agent.json(&["get", "services"])?;
    assert_eq!(services["items"][0]["algorithm"], "maglev", "{services}");
    for frontend in [vip4(80), vip6(80)] {
        let tally = lab.client(|| Ok(ask_times(frontend, 150, client::ask)))?;
        tally.expect_no_failure()?;
        // 50 expected each, standard deviation 6.
        assert!(counts(&lab, &tally).iter().all(|count| (20..=80).contains(count)), "{tally:?}");
    }
    Ok(())
}

#[test]
fn a_udp_socket_keeps_its_server_and_the_next_gets_the_next() -> Result<()> {
    let lab = Lab::mixed(2, 1)?;
    let _agent = lab.start(&lab.web().algorithm("round-robin"), Options::default())?;
    let mut tally = Tally::default();
    for _ in 0..9 {
        let servers = lab.client(|| {
            let socket = client::datagram_socket(vip6(80))?;
            (0..5).map(|_| client::exchange(&socket, b"again")).collect::<Result<Vec<_>>>()
        })?;
        assert!(servers.iter().all(|server| *server == servers[0]), "{servers:?}");
        tally.add(Ok(servers[0].clone()));
    }
    assert_eq!(counts(&lab, &tally), [3, 3, 3]);
    Ok(())
}
