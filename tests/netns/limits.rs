//! What a Service limits binds packets and sockets together: connections of a backend, and new ones in a second.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client::{self, Held},
    process::wait_until,
};

use crate::{
    lab::{DATAPATHS, Lab, vip4, vip6},
    sockets_lab::SocketLab,
};

/// Too short for a SYN that was dropped to be sent again.
const SHORT: Duration = Duration::from_millis(300);

fn is_refused(frontend: SocketAddr) -> Result<()> {
    let error = TcpStream::connect(frontend).err().context("it answers")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{frontend}: {error}");
    Ok(())
}

fn drops(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    Ok(agent.drops()?.into_iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| count))
}

#[test]
fn a_full_service_refuses_until_somebody_leaves() -> Result<()> {
    for datapath in DATAPATHS {
        let lab = Lab::mixed(1, 1)?;
        let service = lab.web().annotate("weir.dev/max-connections-per-backend", "2");
        let agent = lab.start(&service, Options::datapath(datapath))?;
        for frontend in [vip4(80), vip6(80)] {
            let mut held: Vec<Held> = lab.client(|| (0..4).map(|_| Held::open(frontend)).collect())?;
            lab.client(|| is_refused(frontend)).with_context(|| datapath.to_owned())?;
            held.iter_mut().try_for_each(Held::check)?;
            drop(held.pop());
            let mut another = None;
            wait_until(PATIENCE, || {
                another = lab.client(|| Ok(Held::open(frontend).ok()))?;
                Ok(another.is_some())
            })?;
            lab.client(|| is_refused(frontend)).with_context(|| datapath.to_owned())?;
        }
        wait_until(PATIENCE, || Ok(drops(&agent, "backends-full")? >= 4))?;
    }
    Ok(())
}

#[test]
fn packets_and_sockets_share_the_places() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let agent = lab.start(&lab.lab.web().annotate("weir.dev/max-connections-per-backend", "2"))?;
    let outside: Vec<Held> = lab.lab.client(|| (0..2).map(|_| Held::open(vip4(80))).collect())?;
    let mut inside: Vec<Held> = lab.on_node(|| (0..2).map(|_| Held::open(vip4(80))).collect())?;
    lab.on_node(|| is_refused(vip4(80)))?;
    lab.lab.client(|| is_refused(vip4(80)))?;
    drop(outside);
    wait_until(PATIENCE, || {
        inside.extend(lab.on_node(|| Ok(Held::open(vip4(80)).ok()))?);
        Ok(inside.len() == 4)
    })?;
    lab.lab.client(|| is_refused(vip4(80)))?;
    inside.iter_mut().try_for_each(Held::check)?;
    drop(inside);
    lab.lab.client(|| client::ask(vip4(80)))?;
    wait_until(PATIENCE, || Ok(drops(&agent, "backends-full")? >= 3)).with_context(|| format!("{:?}", agent.drops()))
}

#[test]
fn a_client_that_comes_too_often_waits() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let service = lab.lab.web().annotate("weir.dev/max-new-per-second-per-client", "5");
    let agent = lab.start(&service)?;
    let burst = || {
        let begun = Instant::now();
        let came = (0..12).filter(|_| TcpStream::connect_timeout(&vip4(80), SHORT).is_ok()).count();
        Ok((came, 5 + begun.elapsed().as_secs() as usize * 5 + 5))
    };
    let (outside, most) = lab.lab.client(burst)?;
    ensure!((5..=most).contains(&outside) && outside < 12, "{outside} came, {most} may have");
    let (inside, most) = lab.on_node(burst)?;
    ensure!((5..=most).contains(&inside) && inside < 12, "{inside} came, {most} may have");
    wait_until(PATIENCE, || Ok(drops(&agent, "client-rate")? >= 2))
}
