//! A Service without a server, under a policy with `min: 0`: who asks for it has one started, and is served by it when it asks again.

use std::{
    fs,
    io::ErrorKind,
    net::TcpStream,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client,
    manifests::Service,
    process::wait_until,
};

use crate::{
    lab::{DATAPATHS, Lab, vip4, vip6, vips},
    scaling::{SPEC, calls, policy, script},
    sockets_lab::SocketLab,
};

/// From the first packet to the command's first line, on a machine with other work. It is meant to be a tenth of a second.
const WOKEN: Duration = Duration::from_millis(500);
/// TCP sends its SYN again after a second.
const AGAIN: std::ops::Range<Duration> = Duration::from_millis(900)..Duration::from_millis(2500);

fn web(lab: &Lab, servers: usize) -> Service {
    Service::web(&vips(), &lab.topology.hosts[..servers])
}

/// Starts `weir` with the Service without a server, and a command that gives it one and notes when.
fn start(lab: &Lab, options: Options) -> Result<Agent<'_>> {
    fs::write(lab.manifests.path().join(".1"), web(lab, 1).yaml())?;
    let folder = lab.manifests.path().display();
    let action =
        format!("date +%s%N > {folder}/.at\ncp {folder}/.$3 {folder}/.new && mv {folder}/.new {folder}/web.yaml");
    let command = script(lab, &action)?;
    lab.manifests.write("policy.yaml", &policy(SPEC).replace("min: 1", "min: 0"))?;
    lab.start(&web(lab, 0), options.with(&["--scale-command", &command]))
}

/// How long after `asked` the command ran.
fn woken_after(lab: &Lab, asked: SystemTime) -> Result<Duration> {
    let text = fs::read_to_string(lab.manifests.path().join(".at")).context("the command did not run")?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(text.trim().parse()?);
    Ok(at.duration_since(asked)?)
}

/// Asks, and says that it was the second SYN that was served, and that the first one woke the policy at once.
fn served_at_the_second_try(lab: &Lab, ask: impl FnOnce() -> Result<String>) -> Result<()> {
    let (asked, began) = (SystemTime::now(), Instant::now());
    let answer = ask()?;
    let (took, woken) = (began.elapsed(), woken_after(lab, asked)?);
    println!("woken after {woken:?}, answered after {took:?}");
    ensure!(answer == "server-0", "{answer}");
    ensure!(calls(lab) == ["web-policy 0 1 web-policy default 0 1"], "{:?}", calls(lab));
    ensure!(woken < WOKEN, "woken after {woken:?}");
    ensure!(AGAIN.contains(&took), "answered after {took:?}");
    Ok(())
}

#[test]
fn a_client_wakes_a_service_that_has_no_server() -> Result<()> {
    for datapath in DATAPATHS {
        let lab = Lab::local(1)?;
        let agent = start(&lab, Options::datapath(datapath))?;
        ensure!(calls(&lab).is_empty(), "nobody has asked");
        let ask = || lab.client(|| client::ask(vip4(80)));
        served_at_the_second_try(&lab, ask).with_context(|| format!("{datapath}\n{}", agent.log()))?;
        ensure!(lab.client(|| client::ask(vip6(80)))? == "server-0");
        assert_eq!(agent.drops()?, [("no-backend".to_owned(), 1)], "{datapath}: dropped, and not answered");
        // As long as no server is ready, later decisions have other reasons to stay at one.
        ensure!(agent.log().contains("wake-up: a client has asked for it"), "{}", agent.log());
    }
    Ok(())
}

#[test]
fn a_datagram_wakes_too_and_is_lost() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = start(&lab, Options::default())?;
    let asked = SystemTime::now();
    lab.client(|| Ok(client::datagram_socket(vip4(80))?.send(b"hello")?))?;
    agent.wait_for("a server", |backends| backends.len() == 4)?;
    let woken = woken_after(&lab, asked)?;
    ensure!(woken < WOKEN, "woken after {woken:?}");
    ensure!(lab.client(|| client::ask_udp(vip4(80)))? == "server-0");
    Ok(())
}

#[test]
fn a_pods_socket_wakes_and_is_served_by_its_packets() -> Result<()> {
    let lab = SocketLab::mixed(2, 0)?;
    let agent = start(&lab.lab, lab.options("all"))?;
    let pod = &lab.lab.topology.hosts[1].namespace;
    let ask = || lab.within(pod, || client::ask(vip4(80)));
    served_at_the_second_try(&lab.lab, ask).with_context(|| agent.log())?;
    ensure!(lab.within(pod, || client::ask(vip6(80)))? == "server-0", "by its socket");
    let connections: u64 = agent.backends_of("TCP")?.iter().map(|backend| backend.connections_total).sum();
    ensure!(connections == 2, "{connections} connections");
    Ok(())
}

#[test]
fn a_process_of_the_node_is_refused_and_wakes_all_the_same() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = start(&lab.lab, lab.options("all"))?;
    let error = lab.on_node(|| Ok(TcpStream::connect(vip4(80))))?.err().context("there is no server")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    agent.wait_for("a server", |backends| backends.len() == 4)?;
    ensure!(lab.on_node(|| client::ask(vip4(80)))? == "server-0");
    Ok(())
}

#[test]
fn a_policy_that_only_recommends_wakes_nobody() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = start(&lab, Options::default())?;
    let recommends = policy(SPEC).replace("min: 1", "min: 0") + "  mode: Recommend\n";
    lab.manifests.write("policy.yaml", &recommends)?;
    wait_until(PATIENCE, || Ok(agent.json(&["get", "policies"])?["items"][0]["mode"] == "Recommend"))?;
    let error = lab.client(|| Ok(TcpStream::connect_timeout(&vip4(80), client::LIMIT)))?.err().context("no server")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    ensure!(calls(&lab).is_empty(), "{:?}", calls(&lab));
    Ok(())
}
