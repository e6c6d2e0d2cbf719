//! Who answers for an address on a link: the questions that a neighbour asks by ARP (RFC 826).

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::namespace::Namespace;

const ETHERTYPE: u16 = 0x0806;
/// Hardware type, protocol type and lengths of Ethernet and IPv4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The hardware addresses that answer within `patience` when somebody at `asker` asks for an address.
pub fn answers(
    namespace: &Namespace,
    interface: &str,
    asker: Ipv4Addr,
    address: Ipv4Addr,
    patience: Duration,
) -> Result<BTreeSet<[u8; 6]>> {
    namespace.enter(|| ask(interface, asker, address, patience))?.with_context(|| format!("ask who has {address}"))
}

fn ask(interface: &str, asker: Ipv4Addr, address: Ipv4Addr, patience: Duration) -> io::Result<BTreeSet<[u8; 6]>> {
    let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    let everybody = broadcast(if_nametoindex(interface)?);
    socket.bind(&everybody)?;
    let mut question = [0; 28];
    question[..6].copy_from_slice(&KIND);
    question[7] = 1;
    question[14..18].copy_from_slice(&asker.octets());
    question[24..].copy_from_slice(&address.octets());
    question[8..14].copy_from_slice(&hardware_address(&socket)?);
    socket.send_to(&question, &everybody)?;
    let (end, mut found) = (Instant::now() + patience, BTreeSet::new());
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; 64];
        match (&socket).read(&mut buffer) {
            Ok(length) => found.extend(answer(&buffer[..length], address)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The hardware address in an answer about this address.
fn answer(packet: &[u8], address: Ipv4Addr) -> Option<[u8; 6]> {
    let is_answer = packet.len() >= 28 && packet[..6] == KIND && packet[7] == 2 && packet[14..18] == address.octets();
    if is_answer { packet[8..14].try_into().ok() } else { None }
}

/// The hardware address of the interface that a socket is bound to.
fn hardware_address(socket: &Socket) -> io::Result<[u8; 6]> {
    let local = socket.local_addr()?;
    // SAFETY: a bound packet socket has an address of this kind.
    let link = unsafe { &*local.as_ptr().cast::<libc::sockaddr_ll>() };
    Ok([0, 1, 2, 3, 4, 5].map(|at| link.sll_addr[at]))
}

fn broadcast(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain data that fits into the storage of every address, which says so itself.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ETHERTYPE.to_be();
    link.sll_ifindex = interface as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].fill(0xff);
    // SAFETY: the storage holds a `sockaddr_ll`, of that size.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_about_the_address_count() {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let mut packet = [0; 28];
        packet[..6].copy_from_slice(&KIND);
        packet[7] = 2;
        packet[8..14].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        packet[14..18].copy_from_slice(&address.octets());
        assert_eq!(answer(&packet, address), Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(answer(&packet, Ipv4Addr::new(192, 0, 2, 2)), None);
        assert_eq!(answer(&packet[..27], address), None);
        packet[7] = 1;
        assert_eq!(answer(&packet, address), None, "a question");
    }
}
