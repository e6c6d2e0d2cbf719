//! Traffic needs no agent: it may be killed, replaced and detached.

use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::{Agent, Options, PATIENCE, is_empty},
    client::{self, Held, Load},
    process::{text, wait_until},
    topology::UPLINK,
};

use crate::lab::{DATAPATHS, Lab, vip4, vip6};

/// Four clients make less than 500 connections a second then: a port towards the remote server is taken for ten seconds after a connection,
/// and there are 4536.
const PAUSE: Duration = Duration::from_millis(8);

fn total(agent: &Agent<'_>) -> Result<u64> {
    Ok(agent.backends()?.iter().map(|backend| backend.connections_total).sum())
}

fn killed_under_load(datapath: &str) -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let mut agent = lab.start(&lab.web().algorithm("least-connections"), Options::datapath(datapath))?;
    let mut held: Vec<Held> =
        lab.client(|| [vip4(80), vip6(80), vip4(80), vip6(80)].into_iter().map(Held::open).collect())?;
    let load = Load::start(&lab.topology.client, vip4(80), 4, PAUSE)?;
    load.wait_for_more(200)?;

    agent.kill9()?;
    let before = total(&agent)?;
    load.wait_for_more(300)?;
    held.iter_mut().try_for_each(Held::check)?;
    assert!(total(&agent)? >= before + 290, "the kernel counts without an agent");

    agent.restart()?;
    load.wait_for_more(300)?;
    held.iter_mut().try_for_each(Held::check)?;
    let tally = load.finish();
    tally.expect_no_failure()?;
    let open = held.len() as u64;
    agent.wait_for("only the held connections are open", |backends| {
        backends.iter().map(|backend| backend.active_connections).sum::<u64>() == open
    })?;
    assert_eq!(total(&agent)?, tally.total() + open);
    assert_eq!(agent.drops()?, []);
    Ok(())
}

#[test]
fn kill_9_under_load_on_tc() -> Result<()> {
    killed_under_load("tc")
}

#[test]
fn kill_9_under_load_on_generic_xdp() -> Result<()> {
    killed_under_load("xdp-generic")
}

#[test]
fn kill_9_under_load_on_native_xdp() -> Result<()> {
    killed_under_load("xdp")
}

#[test]
fn an_agent_that_was_stopped_leaves_the_traffic_alone_too() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let mut agent = lab.start(&lab.web(), Options::default())?;
    let mut held = lab.client(|| Held::open(vip4(80)))?;
    agent.stop()?;
    held.check()?;
    assert!(lab.client(|| client::ask(vip6(80))).is_ok());
    agent.restart()?;
    held.check()
}

#[test]
fn what_changed_while_no_agent_ran_is_done_by_the_next() -> Result<()> {
    let lab = Lab::local(2)?;
    let mut agent = lab.start(&lab.web(), Options::default())?;
    agent.kill9()?;
    let mut service = lab.web();
    service.endpoints.retain(|endpoint| lab.host("server-1").address(endpoint.address) == endpoint.address);
    lab.write(&service)?;
    agent.restart()?;
    agent.wait_for("one server is left", |backends| backends.iter().all(|backend| backend.address != "10.20.0.2"))?;
    let tally = lab.client(|| Ok(client::ask_times(vip4(80), 30, client::ask)))?;
    tally.expect_no_failure()?;
    assert_eq!(tally.answers.into_keys().collect::<Vec<_>>(), ["server-1"]);
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let output =
        agent.run_command_with(&Options { metrics: "127.0.0.1:9101".to_owned(), ..Options::default() })?.output()?;
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("running"), "{error}");
    assert!(error.contains("--pin-path"), "{error}");
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    Ok(())
}

#[test]
fn detach_removes_everything() -> Result<()> {
    for datapath in DATAPATHS {
        let lab = Lab::mixed(1, 1)?;
        let mut agent = lab.start(&lab.web(), Options::datapath(datapath))?;
        assert!(lab.client(|| client::ask(vip4(80))).is_ok());
        assert!(!agent.pins().contents().is_empty());
        let refused = agent.weir(&["detach"])?;
        assert_eq!(refused.status.code(), Some(1), "not under a running agent");

        agent.kill9()?;
        agent.weir_ok(&["detach"])?;
        assert!(is_empty(agent.pins().path()), "{datapath}: {:?}", agent.pins().contents());
        // The kernel takes its time to free a link.
        let shown = || lab.topology.node.run("ip", &["-details", "link", "show", UPLINK]);
        wait_until(PATIENCE, || Ok(!shown()?.contains("xdp"))).with_context(|| format!("{:?}", shown()))?;
        assert!(lab.client(|| Ok(client::ask(vip4(80))))?.is_err(), "nobody answers for the frontend");
        let nothing = agent.weir(&["get", "backends"])?;
        assert_eq!(nothing.status.code(), Some(1));
        assert!(text(&nothing.stderr).contains("no Weir maps are pinned"), "{}", text(&nothing.stderr));
    }
    Ok(())
}

#[test]
fn two_nodes_of_one_machine_do_not_meet() -> Result<()> {
    let (one, two) = (Lab::local(1)?, Lab::local(1)?);
    let _first = one.start(&one.web(), Options::default())?;
    let second = two.start(&two.web(), Options::default())?;
    assert!(one.client(|| client::ask(vip4(80))).is_ok());
    assert_eq!(total(&second)?, 0);
    assert!(two.client(|| client::ask(vip4(80))).is_ok());
    assert_eq!(total(&second)?, 1);
    Ok(())
}
