//! What a Service's fields allow: traffic policies, source ranges, terminating endpoints, node ports, and what
//! the node tells load balancers.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options, PATIENCE, http_get},
    client::{self, ask_times},
    manifests::Service,
    process::wait_until,
    topology::{NODE4, NODE6, socket},
};

use crate::{
    lab::{Lab, on_each_datapath, vip4, vip6},
    sockets_lab::SocketLab,
};

/// So long a test looks whether nothing comes back.
const SILENCE: Duration = Duration::from_millis(1500);

/// Nothing comes back: the packets are dropped.
fn is_silent(frontend: SocketAddr) -> Result<()> {
    let error = TcpStream::connect_timeout(&frontend, SILENCE).err().context("it answers")?;
    ensure!(error.kind() == ErrorKind::TimedOut, "{frontend}: {error}");
    Ok(())
}

fn drops(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    Ok(agent.drops()?.into_iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| count))
}

/// Waits until a dropped packet is in the metrics, which are as old as a second.
fn was_dropped(agent: &Agent<'_>, reason: &str) -> Result<()> {
    wait_until(PATIENCE, || Ok(drops(agent, reason)? > 0)).with_context(|| format!("nothing was dropped for {reason}"))
}

/// Writes a Service anew, and waits until its first frontend does what it should.
fn change(lab: &Lab, service: &Service, works: impl Fn() -> Result<()> + Send + Sync) -> Result<()> {
    lab.write(service)?;
    let mut last = None;
    let waited = wait_until(PATIENCE, || {
        last = lab.client(&works).err();
        Ok(last.is_none())
    });
    waited.with_context(|| format!("{last:?}"))
}

#[test]
fn external_policy_local_is_for_clients_outside() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = SocketLab::mixed(1, 1)?;
        let local = lab.lab.web().algorithm("round-robin").with("externalTrafficPolicy", "Local");
        let options = Options { datapath: datapath.into(), ..lab.options("all") };
        let agent = lab.lab.start(&local, options)?;
        for frontend in [vip4(80), vip6(80)] {
            let outside = lab.lab.client(|| Ok(ask_times(frontend, 10, client::ask)))?;
            outside.expect_no_failure()?;
            assert_eq!(outside.answers.keys().collect::<Vec<_>>(), ["server-0"], "{datapath}: {outside:?}");
            let inside = lab.on_node(|| Ok(ask_times(frontend, 10, client::ask)))?;
            assert_eq!(inside.answers.values().collect::<Vec<_>>(), [&5, &5], "{datapath}: {inside:?}");
        }
        let clients: Vec<IpAddr> = ["10.10.0.1", "fd10::1"].map(|text| text.parse().expect("an address")).into();
        let seen = lab.lab.servers[0].peers();
        let of_clients = seen.iter().filter(|peer| clients.contains(&peer.ip().to_canonical())).count();
        assert_eq!(of_clients, 20, "{datapath}: the client's address is kept: {seen:?}");

        // With its only local backend gone, clients outside get nothing, as a load balancer in front is to find out by the health check.
        let mut remote = local.clone();
        remote.endpoints.retain(|endpoint| !endpoint.local);
        change(&lab.lab, &remote, || is_silent(vip4(80)))?;
        lab.lab.client(|| is_silent(vip6(80)))?;
        was_dropped(&agent, "no-local-backend")?;
        assert_eq!(lab.on_node(|| client::ask(vip4(80)))?, "server-1", "{datapath}");
        Ok(())
    })
}

#[test]
fn internal_policy_local_binds_clients_everywhere() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let mut service = lab.lab.web().algorithm("round-robin").with("internalTrafficPolicy", "Local");
    service.frontends.clear();
    service.spec.extend(["clusterIP: 10.99.0.1".to_owned(), "clusterIPs: [10.99.0.1, 'fd99::1']".to_owned()]);
    let agent = lab.start(&service)?;
    for frontend in [vip4(80), vip6(80)] {
        for tally in [
            lab.lab.client(|| Ok(ask_times(frontend, 10, client::ask)))?,
            lab.on_node(|| Ok(ask_times(frontend, 10, client::ask)))?,
        ] {
            tally.expect_no_failure()?;
            assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["server-0"], "{frontend}");
        }
    }
    service.endpoints.retain(|endpoint| !endpoint.local);
    change(&lab.lab, &service, || is_silent(vip4(80)))?;
    was_dropped(&agent, "no-local-backend")
}

#[test]
fn source_ranges_keep_others_out_and_follow_their_change() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = Lab::mixed(1, 1)?;
        let mut service =
            lab.web().with("loadBalancerIP", "10.99.0.1").with("loadBalancerSourceRanges", "[10.10.0.0/24]");
        // The IPv4 address is the load balancer's alone; the IPv6 one an external IP, which ranges do not bind.
        service.frontends.retain(IpAddr::is_ipv6);
        let agent = lab.start(&service, Options::datapath(datapath))?;
        lab.client(|| client::ask(vip4(80)))?;
        lab.client(|| client::ask_udp(vip4(80)))?;
        let other = service.clone().with("loadBalancerSourceRanges", "[192.0.2.0/24, 'fd55::/16']");
        change(&lab, &other, || is_silent(vip4(80)))?;
        lab.client(|| client::ask(vip6(80)))?;
        was_dropped(&agent, "source-range")?;
        let one = service.clone().with("loadBalancerSourceRanges", "[192.0.2.0/24, 10.10.0.1/32]");
        change(&lab, &one, || client::ask(vip4(80)).map(drop))?;
        Ok(())
    })
}

#[test]
fn terminating_endpoints_serve_where_no_others_do() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let mut service = lab.web();
    let agent = lab.start(&service, Options::default())?;
    service.endpoints.iter_mut().for_each(|endpoint| endpoint.terminating = !endpoint.local);
    lab.write(&service)?;
    agent.wait_for("one terminates", |backends| backends.iter().any(|backend| backend.state == "terminating"))?;
    let tally = lab.client(|| Ok(ask_times(vip4(80), 20, client::ask)))?;
    tally.expect_no_failure()?;
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["server-0"]);
    service.endpoints.iter_mut().for_each(|endpoint| endpoint.terminating = true);
    lab.write(&service)?;
    agent.wait_for("all terminate", |backends| backends.iter().all(|backend| backend.state == "terminating"))?;
    let tally = lab.client(|| Ok(ask_times(vip4(80), 40, client::ask)))?;
    tally.expect_no_failure()?;
    assert_eq!(tally.answers.len(), 2, "{tally:?}");
    Ok(())
}

#[test]
fn node_ports_are_on_the_chosen_addresses() -> Result<()> {
    let lab = Lab::local(1)?;
    let mut service = lab.web().with("type", "NodePort");
    service.frontends.clear();
    service.spec.push(format!("clusterIP: {}", vip4(80).ip()));
    let yaml = service.yaml().replace("name: tcp, port: 80,", "name: tcp, port: 80, nodePort: 30080,");
    lab.manifests.write("web.yaml", &yaml)?;
    let options = Options::default().with(&["--nodeport-addresses", "10.10.0.0/24"]);
    let agent = Agent::start(&lab.topology, &lab.manifests, options)?;
    agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
    // IPv6 networks are not named: all addresses of that family have node ports.
    for address in [NODE4, NODE6] {
        assert_eq!(lab.client(|| client::ask(socket(address, 30080)))?, "server-0");
    }
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    let gateway = lab.client(|| Ok(TcpStream::connect_timeout(&socket("10.20.0.1", 30080), SILENCE)))?;
    assert!(gateway.is_err(), "this address of the node is not in the network");
    Ok(())
}

#[test]
fn the_health_check_node_port_says_whether_a_backend_is_here() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let service = lab
        .web()
        .with("type", "LoadBalancer")
        .with("externalTrafficPolicy", "Local")
        .with("healthCheckNodePort", "31999");
    let agent = lab.start(&service, Options::default().with(&["--healthz-listen", "0.0.0.0:10256"]))?;
    let says = |port: u16, words: &[&str]| -> Result<()> {
        let mut last = String::new();
        let waited = wait_until(PATIENCE, || {
            last = http_get(&lab.topology.client, &socket(NODE4, port).to_string(), "/").unwrap_or_default();
            Ok(words.iter().all(|word| last.contains(word)))
        });
        waited.with_context(|| format!("{words:?} are not all in {last:?}"))
    };
    says(31999, &["HTTP/1.1 200", "\"localEndpoints\":1", "\"name\":\"web\"", "\"namespace\":\"default\""])?;
    let v6 = http_get(&lab.topology.client, &socket(NODE6, 31999).to_string(), "/")?;
    assert!(v6.starts_with("HTTP/1.1 200") && v6.contains("\"localEndpoints\":1"), "{v6}");

    let mut moved = service.clone().with("healthCheckNodePort", "31998");
    moved.endpoints.iter_mut().for_each(|endpoint| endpoint.terminating = endpoint.local);
    lab.write(&moved)?;
    says(31998, &["HTTP/1.1 503", "\"localEndpoints\":0", "\"serviceProxyHealthy\":true"])?;
    let old = lab.client(|| Ok(TcpStream::connect_timeout(&socket(NODE4, 31999), SILENCE)))?;
    assert!(old.is_err(), "the old port is closed");
    let healthz = http_get(&lab.topology.client, "10.10.0.2:10256", "/healthz")?;
    assert!(healthz.starts_with("HTTP/1.1 200") && healthz.contains("\"nodeEligible\":true"), "{healthz}");
    lab.manifests.remove("web.yaml")?;
    agent.wait_for("it is gone", |backends| backends.iter().all(|backend| backend.state != "ready"))?;
    let closed = || Ok(lab.client(|| Ok(TcpStream::connect_timeout(&socket(NODE4, 31998), SILENCE)))?.is_err());
    wait_until(PATIENCE, closed)?;
    Ok(())
}
