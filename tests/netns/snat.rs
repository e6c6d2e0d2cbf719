//! Full NAT takes no source port that a process of the node uses itself.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};
use weir_tests::{
    agent::{Options, PATIENCE},
    client::Held,
    process::wait_until,
    topology::SERVER_PORT,
};

use crate::lab::{Lab, on_each_datapath, vip4, vip6};

/// All that there are, and which of them the node uses itself.
const RANGE: &str = "61000-61003";
const TAKEN: [u16; 3] = [61000, 61001, 61003];
/// Too short for a SYN that was dropped to be sent again.
const SHORT: Duration = Duration::from_millis(300);

/// A connection from a port of the node's own choice.
fn connect_from(port: u16, to: SocketAddr) -> Result<Held> {
    let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if to.is_ipv6() {
        // Beside what is left of connections of IPv4.
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(any, port).into()).with_context(|| format!("bind {port}"))?;
    socket.connect_timeout(&to.into(), PATIENCE).with_context(|| format!("connect {port} to {to}"))?;
    Held::on(TcpStream::from(socket))
}

#[test]
fn source_ports_of_the_node_s_own_connections_are_left_alone() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = Lab::mixed(0, 1)?;
        let agent = lab.start(&lab.web(), Options::datapath(datapath).with(&["--snat-ports", RANGE]))?;
        for frontend in [vip4(80), vip6(80)] {
            let server = SocketAddr::new(lab.topology.hosts[0].address(frontend.ip()), SERVER_PORT);
            let connect = || -> Result<Vec<Held>> { TAKEN.iter().map(|port| connect_from(*port, server)).collect() };
            let mut own = lab.topology.node.enter(connect)??;
            let mut through = lab.client(|| Held::open(frontend)).with_context(|| format!("{datapath}: {frontend}"))?;
            let before = exhausted(&agent.drops()?);
            let fifth = lab.client(|| Ok(TcpStream::connect_timeout(&frontend, SHORT).is_ok()))?;
            ensure!(!fifth, "{datapath}: {frontend}: a fifth connection from four ports");
            wait_until(PATIENCE, || Ok(exhausted(&agent.drops()?) > before))?;
            own.iter_mut().try_for_each(Held::check).with_context(|| format!("{datapath}: the node's own"))?;
            through.check()?;
        }
        Ok(())
    })
}

fn exhausted(drops: &[(String, u64)]) -> u64 {
    drops.iter().find(|(reason, _)| reason == "snat-ports-exhausted").map_or(0, |(_, count)| *count)
}
