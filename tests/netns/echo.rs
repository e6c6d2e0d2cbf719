//! Who sends an echo request to an address of a Service is answered; other addresses are as silent, or as talkative, as without Weir.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use weir_tests::agent::Options;

use crate::lab::{Lab, node_addresses, on_each_datapath, vips};

const PATIENCE: Duration = Duration::from_millis(500);

/// Asks with this much text; fails unless just that comes back from the same address. The socket's kernel makes and checks checksum and identifier.
fn ping(to: IpAddr, text: &[u8]) -> Result<()> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let socket = UdpSocket::from(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&[&[request, 0, 0, 0, 0, 0, 0, 1], text].concat(), SocketAddr::new(to, 0))?;
    let mut answer = vec![0; text.len() + 100];
    let (length, from) = socket.recv_from(&mut answer).context("no answer")?;
    ensure!(from.ip() == to, "{from} answers for {to}");
    ensure!(length == text.len() + 8 && answer[0] == reply && answer[8..length] == *text, "{:?}", &answer[..length]);
    Ok(())
}

#[test]
fn addresses_of_services_answer_echo_requests() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = Lab::mixed(1, 1)?;
        lab.topology.client.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
        for vip in vips() {
            ensure!(lab.client(|| ping(vip, b"before")).is_err(), "{datapath}: somebody else answers for {vip}");
        }
        let agent = lab.start(&lab.web(), Options::datapath(datapath))?;
        for to in vips().into_iter().chain(node_addresses()) {
            for text in [&b""[..], b"odd", &[7; 1400]] {
                lab.client(|| ping(to, text)).with_context(|| format!("{datapath}: {to}, {} bytes", text.len()))?;
            }
        }
        let counted: u64 = agent.backends()?.iter().map(|backend| backend.connections_total).sum();
        ensure!(counted == 0, "{datapath}: {counted} connections were counted");
        Ok(())
    })
}
