//! What is attached. Another XDP program on the interface is left alone: `auto` goes beside it through tc, `xdp` says who holds the place.

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use serde_json::Value;
use weir_tests::{
    agent::{self, Agent, Options},
    client,
    foreign::{self, ForeignXdp},
    namespace::Namespace,
    process::text,
    topology::UPLINK,
};

use crate::lab::{Lab, vip4, vip6};

#[test]
fn auto_goes_beside_a_foreign_xdp_program() -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let _foreign = ForeignXdp::attach(&lab.topology.node, UPLINK)?;
    let agent = lab.start(&lab.web(), Options::datapath("auto"))?;
    for frontend in [vip4(80), vip6(80)] {
        lab.client(|| client::ask_times(frontend, 20, client::ask).expect_no_failure())?;
    }
    let status = agent.weir(&["status"])?;
    assert!(text(&status.stdout).contains("tcx"), "{}", text(&status.stdout));
    Ok(())
}

#[test]
fn the_time_of_a_run_is_shown_once_the_kernel_has_measured_it() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::datapath("tc"))?;
    // Of all programs of the machine, while this is held.
    let measuring = enable_stats(Stats::RunTime)?;
    lab.client(|| client::ask_times(vip4(80), 20, client::ask).expect_no_failure())?;
    drop(measuring);
    let status: Value = serde_json::from_slice(&agent.weir(&["status", "--output=json"])?.stdout)?;
    let mut hooks = status["hooks"].as_array().into_iter().flatten();
    let uplink = hooks.find(|hook| hook["interface"] == UPLINK && hook["hook"] == "tcx-ingress").context("no hook")?;
    // From the client alone a connection takes four packets at least.
    ensure!(uplink["runs"].as_u64() >= Some(80), "{uplink}");
    ensure!(uplink["nanosecondsPerRun"].as_u64().is_some_and(|time| (20..1_000_000).contains(&time)), "{uplink}");
    Ok(())
}

#[test]
fn from_another_network_interfaces_are_numbers() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::datapath("xdp-generic"))?;
    let places = |network: &Namespace| -> Result<Vec<String>> {
        let mut status = network.command(agent::binary()?)?;
        let output = status.args(["status", "--output=json", "--pin-path"]).arg(agent.pins().path()).output()?;
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let hooks = status["hooks"].as_array().into_iter().flatten();
        Ok(hooks.filter_map(|hook| hook["interface"].as_str().map(str::to_owned)).collect())
    };
    let here = places(&lab.topology.node)?;
    ensure!(here.iter().any(|place| place == UPLINK) && !here.iter().any(|place| place.starts_with('#')), "{here:?}");
    let elsewhere = places(&lab.topology.client)?;
    // Their indexes are the same as those of the client's own.
    ensure!(elsewhere.len() == here.len() && elsewhere.iter().all(|place| place.starts_with('#')), "{elsewhere:?}");
    Ok(())
}

#[test]
fn xdp_is_refused_and_the_holder_is_named() -> Result<()> {
    for datapath in ["xdp", "xdp-generic"] {
        let lab = Lab::local(1)?;
        let foreign = ForeignXdp::attach(&lab.topology.node, UPLINK)?;
        lab.write(&lab.web())?;
        let mut agent = Agent::prepare(&lab.topology, &lab.manifests, Options::datapath(datapath))?;
        let output = agent.run_command()?.output()?;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(foreign::NAME) && error.contains(UPLINK), "{datapath}: {error}");
        assert_eq!(agent.pins().contents(), [""; 0], "nothing half-done stays");

        drop(foreign);
        agent.restart()?;
        agent.wait_for("it is served once the place is free", |backends| backends.len() == 4)?;
        assert!(lab.client(|| client::ask(vip4(80))).is_ok());
    }
    Ok(())
}
