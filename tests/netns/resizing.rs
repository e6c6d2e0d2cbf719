//! A flow table of another size: it takes effect when the agent starts again, and no flow ends.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options},
    client::{self, Held, Load},
};

use crate::lab::{Lab, on_each_datapath, vip4, vip6};

/// Less than 500 connections a second: see [`crate::survival`].
const PAUSE: Duration = Duration::from_millis(8);

fn with_room(datapath: &str, flows: &str) -> Options {
    Options::datapath(datapath).with(&["--flow-table-size", flows])
}

/// The flows that the table has room for.
fn room(agent: &Agent<'_>) -> Result<u64> {
    let maps = agent.json(&["map", "list"])?;
    let flows = maps["items"].as_array().into_iter().flatten().find(|map| map["name"] == "flows");
    flows.and_then(|map| map["room"].as_u64()).context("the map is not listed")
}

/// Connections and datagrams of a client, to servers on the node and elsewhere.
struct Open {
    held: Vec<Held>,
    sockets: Vec<(UdpSocket, String)>,
}

impl Open {
    fn new(lab: &Lab) -> Result<Self> {
        lab.client(|| {
            let frontends = |count| [vip4(80), vip6(80)].into_iter().cycle().take(count);
            let socket = |frontend| {
                let socket = client::datagram_socket(frontend)?;
                let name = client::exchange(&socket, b"who")?;
                Ok((socket, name))
            };
            let held = frontends(24).map(Held::open).collect::<Result<_>>()?;
            Ok(Self { held, sockets: frontends(8).map(socket).collect::<Result<_>>()? })
        })
    }

    fn check(&mut self) -> Result<()> {
        self.held.iter_mut().try_for_each(Held::check)?;
        for (socket, name) in &self.sockets {
            let answered = client::exchange(socket, b"who")?;
            ensure!(answered == *name, "{answered} answers where {name} did");
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        (self.held.len() + self.sockets.len()) as u64
    }
}

fn moves(datapath: &str) -> Result<()> {
    let lab = Lab::mixed(1, 1)?;
    let mut agent = lab.start(&lab.web().algorithm("least-connections"), with_room(datapath, "8192"))?;
    let mut open = Open::new(&lab)?;
    let load = Load::start(&lab.topology.client, vip4(80), 4, PAUSE)?;
    load.wait_for_more(200)?;
    for flows in ["65536", "4096"] {
        agent.stop()?;
        agent.restart_with(with_room(datapath, flows))?;
        ensure!(room(&agent)?.to_string() == flows, "{} of {flows} flows\n{}", room(&agent)?, agent.log());
        open.check()?;
        load.wait_for_more(200)?;
    }
    let tally = load.finish();
    tally.expect_no_failure()?;
    let held = open.count();
    agent.wait_for("only what is held is open", |backends| {
        backends.iter().map(|backend| backend.active_connections).sum::<u64>() == held
    })?;
    let connections: u64 = agent.backends()?.iter().map(|backend| backend.connections_total).sum();
    ensure!(connections == tally.total() + held, "{connections} were counted, {} made", tally.total() + held);
    open.check()
}

#[test]
fn a_table_of_another_size_keeps_what_is_open() -> Result<()> {
    on_each_datapath(moves)
}
