//! Datagrams that are larger than the way takes travel in fragments, in both directions, and never get mixed up.

use std::{net::SocketAddr, thread};

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::Options,
    client::{datagram_socket, exchange},
};

use crate::lab::{Lab, on_each_datapath, vip4, vip6};

/// Exchanges datagrams of several sizes, all of them in fragments.
fn large(frontend: SocketAddr, seed: usize) -> Result<()> {
    let socket = datagram_socket(frontend)?;
    for round in 0..40 {
        let size = 1600 + (round * 997 + seed * 131) % 12_000;
        let payload: Vec<u8> = (0..size).map(|at| (at * 7 + round + seed * 31) as u8).collect();
        exchange(&socket, &payload).with_context(|| format!("{size} bytes from {:?}", socket.local_addr()))?;
    }
    Ok(())
}

#[test]
fn datagrams_in_fragments_come_through() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = Lab::mixed(1, 1)?;
        let agent = lab.start(&lab.web().algorithm("round-robin"), Options::datapath(datapath))?;
        for frontend in [vip4(80), vip6(80)] {
            lab.client(|| {
                thread::scope(|scope| {
                    let clients: Vec<_> = (0..6).map(|seed| scope.spawn(move || large(frontend, seed))).collect();
                    clients
                        .into_iter()
                        .try_for_each(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                })
            })
            .with_context(|| format!("{datapath} {frontend}: dropped {:?}", agent.drops()))?;
        }
        Ok(())
    })
}
