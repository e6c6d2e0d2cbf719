//! A hundred megabytes each way arrive as they were sent: on each datapath, with checksums made by the "hardware" and without.

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::{Agent, Options},
    client,
};

use crate::lab::{Lab, vip4, vip6};

const BYTES: u64 = 100_000_000;

fn both_ways(datapath: &str, offload: bool) -> Result<()> {
    deliver(Options::datapath(datapath), offload)
}

fn deliver(options: Options, offload: bool) -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    lab.topology.offload_everywhere("tx", offload)?;
    lab.write(&lab.web_of(true).named("near", 81))?;
    lab.write(&lab.web_of(false).named("far", 82))?;
    let agent = Agent::start(&lab.topology, &lab.manifests, options)?;
    agent.wait_for("both Services are served", |backends| backends.len() == 8)?;
    for frontend in [vip4(81), vip6(81), vip4(82), vip6(82)] {
        let transfer = || client::upload(frontend, BYTES).and_then(|()| client::download(frontend, BYTES));
        lab.client(transfer).with_context(|| frontend.to_string())?;
    }
    agent.wait_for("nothing is open", |backends| backends.iter().all(|backend| backend.active_connections == 0))?;
    for backend in agent.backends_of("TCP")? {
        assert_eq!(backend.connections_total, 2, "{backend:?}");
        assert!(backend.bytes_in > Some(BYTES) && backend.bytes_out > Some(BYTES), "{backend:?}");
    }
    assert_eq!(agent.drops()?, []);
    Ok(())
}

#[test]
fn tc() -> Result<()> {
    both_ways("tc", true)
}

#[test]
fn tc_without_checksum_offload() -> Result<()> {
    both_ways("tc", false)
}

#[test]
fn generic_xdp() -> Result<()> {
    both_ways("xdp-generic", true)
}

#[test]
fn generic_xdp_without_checksum_offload() -> Result<()> {
    both_ways("xdp-generic", false)
}

#[test]
fn native_xdp() -> Result<()> {
    both_ways("xdp", true)
}

#[test]
fn native_xdp_without_checksum_offload() -> Result<()> {
    both_ways("xdp", false)
}

fn by_the_stack(datapath: &str, offload: bool) -> Result<()> {
    deliver(Options::datapath(datapath).with(&["--delivery", "stack"]), offload)
}

#[test]
fn tc_by_the_stack() -> Result<()> {
    by_the_stack("tc", true)
}

#[test]
fn tc_by_the_stack_without_checksum_offload() -> Result<()> {
    by_the_stack("tc", false)
}

#[test]
fn native_xdp_by_the_stack() -> Result<()> {
    by_the_stack("xdp", true)
}
