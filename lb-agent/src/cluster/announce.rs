//! Announcing addresses on the local network: the kernel answers ARP and neighbour solicitations from the `announced` map; this tells
//! the neighbours when an address comes to this node (gratuitous ARP, RFC 5227; unsolicited neighbour advertisement, RFC 4861
//! section 7.2.6), and hears when another node says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use ipnet::IpNet;
use lb_common::{Addr, Announced};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// An interface by which clients of the local network come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub index: u32,
    /// Its link layer address.
    pub mac: [u8; 6],
    /// Its networks.
    pub networks: Vec<IpNet>,
}

/// The neighbours are told so often when an address comes here, once a second: a frame may be lost.
const REPEATS: u32 = 3;

/// An address that this node has taken, to be told by one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// The address.
    pub address: IpAddr,
    /// The interface.
    pub interface: u32,
    /// Its link layer address.
    pub mac: [u8; 6],
}

/// What is to be announced: what is in the map, and what the neighbours still have to be told.
#[derive(Clone, Debug, Default)]
pub struct Announcer {
    /// What should be in the `announced` map.
    pub map: BTreeMap<Addr, Announced>,
    due: BTreeMap<Announcement, u32>,
    /// Addresses that another node announces while nobody says that they are ours.
    yielded: BTreeSet<IpAddr>,
}

impl Announcer {
    /// What an earlier agent has left in the map; the neighbours know it.
    pub fn taken_over(map: BTreeMap<Addr, Announced>) -> Self {
        Self { map, ..Self::default() }
    }

    /// The addresses in the map.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.map.keys().map(|addr| addr.ip()).collect()
    }

    /// Takes in which addresses are this node's, and by which interfaces. An address in no network of the node is left out.
    pub fn update(&mut self, addresses: &BTreeSet<IpAddr>, uplinks: &[Uplink]) {
        self.yielded.retain(|address| addresses.contains(address));
        let mut map = BTreeMap::new();
        for address in addresses.difference(&self.yielded) {
            let Some(uplink) = uplinks.iter().find(|u| u.networks.iter().any(|n| n.contains(address))) else {
                continue;
            };
            let announced = Announced { interface: uplink.index, mac: uplink.mac, zero: 0 };
            if self.map.get(&Addr::from(*address)) != Some(&announced) {
                let news = Announcement { address: *address, interface: uplink.index, mac: uplink.mac };
                self.due.insert(news, REPEATS);
            }
            map.insert(Addr::from(*address), announced);
        }
        self.map = map;
        let still = |news: &Announcement| self.map.contains_key(&Addr::from(news.address));
        self.due.retain(|news, _| still(news));
    }

    /// What the neighbours are told now; called once a second.
    pub fn due(&mut self) -> Vec<Announcement> {
        let now = self.due.keys().copied().collect();
        self.due.values_mut().for_each(|left| *left -= 1);
        self.due.retain(|_, left| *left > 0);
        now
    }

    /// Takes in that another node announces an address. Unless the coordinator has just said that it is ours, it is not.
    pub fn heard(&mut self, address: IpAddr, mac: [u8; 6], fresh: bool) -> bool {
        let ours = self.map.get(&Addr::from(address)).is_some_and(|announced| announced.mac != mac);
        if !ours || fresh {
            return false;
        }
        self.map.remove(&Addr::from(address));
        self.due.retain(|news, _| news.address != address);
        self.yielded.insert(address)
    }

    /// The coordinator has spoken again: what was yielded is ours if it says so.
    pub fn trust(&mut self) {
        self.yielded.clear();
    }
}

const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;

/// A gratuitous ARP request, which updates every neighbour that knows the address (RFC 5227, section 3).
fn gratuitous(address: Ipv4Addr, mac: [u8; 6]) -> [u8; 28] {
    let mut arp = [0; 28];
    arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[8..14].copy_from_slice(&mac);
    arp[14..18].copy_from_slice(&address.octets());
    arp[24..28].copy_from_slice(&address.octets());
    arp
}

/// Who an ARP packet says has which address; none if it says nothing of the kind. A probe (RFC 5227) has no sender address.
fn arp_sender(packet: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    if packet.len() < 28 || packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let address = Ipv4Addr::new(packet[14], packet[15], packet[16], packet[17]);
    (!address.is_unspecified()).then_some((address.into(), packet[8..14].try_into().ok()?))
}

/// An unsolicited neighbour advertisement with the override flag; the kernel fills in the checksum.
fn unsolicited(address: Ipv6Addr, mac: [u8; 6]) -> [u8; 32] {
    let mut message = [0; 32];
    (message[0], message[4]) = (ADVERTISEMENT, OVERRIDE);
    message[8..24].copy_from_slice(&address.octets());
    // Target link layer address, one unit of eight bytes.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac);
    message
}

/// Who a neighbour advertisement says has which address.
fn advertised(message: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    if message.len() < 32 || message[0] != ADVERTISEMENT || message[24..26] != [2, 1] {
        return None;
    }
    let target: [u8; 16] = message[8..24].try_into().ok()?;
    Some((Ipv6Addr::from(target).into(), message[26..32].try_into().ok()?))
}

/// The sockets by which neighbours are told and heard. Needs CAP_NET_RAW.
pub struct Sockets {
    arp: AsyncFd<OwnedFd>,
    v6: AsyncFd<OwnedFd>,
}

impl Sockets {
    /// Opens them.
    pub fn open() -> io::Result<Self> {
        let arp = Socket::new_raw(
            Domain::PACKET,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::from(i32::from(ETHERTYPE_ARP.to_be()))),
        )?;
        let v6 = Socket::new_raw(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
        v6.set_multicast_hops_v6(255)?;
        v6.set_unicast_hops_v6(255)?;
        only_advertisements(&v6)?;
        Ok(Self { arp: watched(arp)?, v6: watched(v6)? })
    }

    /// Tells the neighbours.
    pub fn tell(&self, news: &Announcement) -> io::Result<()> {
        match news.address {
            IpAddr::V4(address) => {
                let to = link_address(news.interface, BROADCAST);
                send(self.arp.get_ref(), &gratuitous(address, news.mac), &to)
            }
            IpAddr::V6(address) => {
                let to = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, news.interface));
                send(self.v6.get_ref(), &unsolicited(address, news.mac), &to)
            }
        }
    }

    /// Waits for a neighbour that says it has an address.
    pub async fn hear(&self) -> io::Result<(IpAddr, [u8; 6])> {
        loop {
            let heard = tokio::select! {
                heard = receive(&self.arp, arp_sender) => heard?,
                heard = receive(&self.v6, advertised) => heard?,
            };
            if let Some(heard) = heard {
                return Ok(heard);
            }
        }
    }
}

fn watched(socket: Socket) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same descriptor as long as it lives, and is closed only with it.
    unsafe { AsyncFd::register(socket.into()) }.map_err(Into::into)
}

async fn receive<T>(from: &AsyncFd<OwnedFd>, read: fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
    let mut buffer = [0; 128];
    let length = from
        .async_io(Interest::READABLE, |fd| {
            let (length, _) = rustix::net::recv(fd, &mut buffer[..], rustix::net::RecvFlags::empty())?;
            Ok(length)
        })
        .await?;
    Ok(read(&buffer[..length.min(buffer.len())]))
}

fn send(from: &OwnedFd, bytes: &[u8], to: &SockAddr) -> io::Result<()> {
    socket2::SockRef::from(from).send_to(bytes, to).map(drop)
}

/// The address of a neighbour, or of all, on a link.
fn link_address(interface: u32, mac: [u8; 6]) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain data that fits into the storage of every address, which says so itself.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ETHERTYPE_ARP.to_be();
    link.sll_ifindex = interface as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&mac);
    // SAFETY: the storage holds a `sockaddr_ll`, of that size.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

/// Lets only neighbour advertisements through (RFC 3542, section 3.2).
fn only_advertisements(socket: &Socket) -> io::Result<()> {
    const ICMP6_FILTER: i32 = 1;
    let mut filter = [u32::MAX; 8];
    filter[usize::from(ADVERTISEMENT >> 5)] &= !(1 << (ADVERTISEMENT & 31));
    // SAFETY: the option's value is `filter`, of that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            filter.as_ptr().cast(),
            size_of_val(&filter) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn uplinks() -> Vec<Uplink> {
        let networks = vec!["192.0.2.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        vec![Uplink { index: 2, mac: MAC, networks }]
    }

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn neighbours_are_told_a_few_times_when_an_address_comes() {
        let mut announcer = Announcer::default();
        announcer.update(&set(&["192.0.2.1", "198.51.100.1"]), &uplinks());
        assert_eq!(announcer.addresses(), set(&["192.0.2.1"]), "the other one is in none of our networks");
        for _ in 0..REPEATS {
            assert_eq!(announcer.due().len(), 1);
        }
        assert_eq!(announcer.due(), []);
        announcer.update(&set(&["192.0.2.1", "fd00::1"]), &uplinks());
        assert_eq!(announcer.due().len(), 1, "only the new one");
        announcer.update(&set(&[]), &uplinks());
        assert_eq!((announcer.due(), announcer.map.len()), (vec![], 0));
        let mut next = Announcer::taken_over(announcer.map.clone());
        next.update(&set(&[]), &uplinks());
        assert!(next.due().is_empty());
    }

    #[test]
    fn who_is_cut_off_yields_to_who_announces() {
        let mut announcer = Announcer::default();
        let ours = set(&["192.0.2.1"]);
        let address = IpAddr::from([192, 0, 2, 1]);
        let other = [2, 0, 0, 0, 0, 9];
        announcer.update(&ours, &uplinks());
        assert!(!announcer.heard(address, MAC, false), "our own announcement");
        assert!(!announcer.heard(address, other, true), "the coordinator says it is ours");
        assert!(announcer.heard(address, other, false));
        announcer.update(&ours, &uplinks());
        assert!(announcer.map.is_empty(), "the last word is older than what was heard");
        announcer.trust();
        announcer.update(&ours, &uplinks());
        assert_eq!(announcer.addresses(), ours);
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(arp_sender(&gratuitous(v4, MAC)), Some((v4.into(), MAC)));
        let mut probe = gratuitous(v4, MAC);
        probe[14..18].fill(0);
        assert_eq!(arp_sender(&probe), None);
        assert_eq!(arp_sender(&[0; 10]), None);
        let v6: Ipv6Addr = "fd00::1".parse().unwrap();
        assert_eq!(advertised(&unsolicited(v6, MAC)), Some((v6.into(), MAC)));
        assert_eq!(advertised(&[0; 32]), None);
    }
}
