//! Sockets of this thread's network namespace, listed and ended through sock_diag(7).

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Message types and flags of `linux/sock_diag.h` and `linux/netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// Bytes of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_sockid`, and of what of `struct inet_diag_msg` is read.
const HEADER: usize = 16;
const REQUEST: usize = 8;
const ID: usize = 48;
const ANSWER: usize = 4 + ID;
/// Bytes of `struct inet_diag_msg`, behind which attributes are.
const ANSWER_WHOLE: usize = ANSWER + 20;
/// The attribute with the id of the socket's cgroup, of version 2 (Linux 5.9).
const INET_DIAG_CGROUP_ID: u16 = 21;

/// TCP states: waiting for the answer to a SYN.
const SYN_SENT: u8 = 2;
/// Waiting for connections; of UDP, a socket that is connected to nobody has the other one.
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;
/// Retransmissions without an answer after which nobody is believed to be there: with Linux' timers about two seconds.
const HOPELESS: u8 = 3;

/// A socket as sock_diag names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    family: u8,
    state: u8,
    retransmits: u8,
    id: [u8; ID],
}

impl Found {
    /// The socket's cookie, the last eight bytes of its name.
    fn cookie(&self) -> u64 {
        let half =
            |at: usize| u64::from(u32::from_ne_bytes([self.id[at], self.id[at + 1], self.id[at + 2], self.id[at + 3]]));
        half(40) | half(44) << 32
    }

    /// Whether its peer does not answer any more.
    const fn is_stuck(&self) -> bool {
        self.state == SYN_SENT || self.retransmits >= HOPELESS
    }
}

/// Whether the kernel can end sockets (`CONFIG_INET_DIAG_DESTROY`).
pub fn can_end() -> io::Result<bool> {
    let nobody = Found { family: libc::AF_INET as u8, state: 0, retransmits: 0, id: [0; ID] };
    match destroy(&open()?, libc::IPPROTO_TCP as u8, &nobody) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A socket for one question at a time.
fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Ends the sockets of this protocol with these cookies; of TCP only those whose peer does not answer. Returns how many.
pub fn end(protocol: u8, cookies: &BTreeSet<u64>) -> io::Result<usize> {
    let socket = open()?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let found = list(&socket, family, protocol, read)?;
        let is_tcp = protocol == libc::IPPROTO_TCP as u8;
        for found in found.iter().filter(|f| cookies.contains(&f.cookie()) && (!is_tcp || f.is_stuck())) {
            ended += usize::from(destroy(&socket, protocol, found)?);
        }
    }
    Ok(ended)
}

/// A socket at which a server waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address; unspecified if any will do.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// The id of the cgroup of version 2 of who has opened it.
    pub cgroup: u64,
}

/// The sockets of this protocol at which servers wait.
pub fn listeners(protocol: u8) -> io::Result<Vec<Listener>> {
    let socket = open()?;
    let state = if protocol == libc::IPPROTO_TCP as u8 { LISTEN } else { CLOSE };
    let mut all = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        all.extend(list(&socket, family, protocol, |body| listener(body, state))?);
    }
    Ok(all)
}

fn listener(body: &[u8], state: u8) -> Option<Listener> {
    let found = read(body).filter(|found| found.state == state)?;
    let ip = match i32::from(found.family) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(&found.id[4..8]).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(&found.id[4..20]).ok()?),
    };
    let cgroup = attribute(body.get(ANSWER_WHOLE..)?, INET_DIAG_CGROUP_ID)?;
    let port = u16::from_be_bytes([found.id[0], found.id[1]]);
    Some(Listener { ip, port, cgroup: u64::from_ne_bytes(cgroup.try_into().ok()?) })
}

/// The value of the attribute of this type (`struct nlattr`).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A message: `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, protocol: u8, id: &[u8; ID]) -> Vec<u8> {
    let length = (HEADER + REQUEST + ID) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: one question at a time, and the kernel fills in the rest.
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    // Every state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(id);
    message
}

fn list<T>(socket: &Socket, family: u8, protocol: u8, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    socket.send(&request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol, &[0; ID]), 0)?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => error(body)?,
                SOCK_DIAG_BY_FAMILY => found.extend(read(body)),
                _ => {}
            }
        }
    }
}

/// Ends one socket; `false` if it was gone already.
fn destroy(socket: &Socket, protocol: u8, found: &Found) -> io::Result<bool> {
    socket.send(&request(SOCK_DESTROY, NLM_F_ACK, found.family, protocol, &found.id), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let result = messages(&answer).find(|(kind, _)| *kind == NLMSG_ERROR).map_or(Ok(()), |(_, body)| error(body));
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Types and bodies of the messages in a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn error(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn read(body: &[u8]) -> Option<Found> {
    let body = body.get(..ANSWER)?;
    Some(Found { family: body[0], state: body[1], retransmits: body[3], id: body[4..].try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_is_found_among_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&stream).unwrap();
        let found = list(&open().unwrap(), libc::AF_INET as u8, libc::IPPROTO_TCP as u8, read).unwrap();
        let own = found.iter().find(|found| found.cookie() == cookie).expect("in the list");
        assert!(!own.is_stuck());
        assert_eq!(end(libc::IPPROTO_TCP as u8, &[cookie].into()).unwrap(), 0, "who is answered is left alone");
    }

    #[test]
    fn a_server_is_found_with_its_cgroup() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(("::1", listener.local_addr().unwrap().port())).unwrap();
        let of = |protocol: i32, port: u16| {
            let all = listeners(protocol as u8).unwrap();
            all.into_iter().filter(|found| found.port == port).collect::<Vec<_>>()
        };
        let found = of(libc::IPPROTO_TCP, listener.local_addr().unwrap().port());
        assert_eq!(found.len(), 1, "not its connections: {found:?}");
        assert!(found[0].ip.is_unspecified() && found[0].cgroup != 0, "{found:?}");
        let found = of(libc::IPPROTO_UDP, datagrams.local_addr().unwrap().port());
        assert_eq!(found.iter().map(|found| found.ip).collect::<Vec<_>>(), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(of(libc::IPPROTO_TCP, tcp.port()), [], "one that is closed again");
    }

    #[test]
    fn attributes_are_walked_to_the_one_wanted() {
        let attribute_of = |kind: u16, value: &[u8]| {
            let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let both = [attribute_of(8, &[1]), attribute_of(21, &[1, 2, 3, 4, 5, 6, 7, 8])].concat();
        assert_eq!(attribute(&both, 21), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
        assert_eq!(attribute(&both, 8), Some(&[1][..]));
        assert_eq!(attribute(&both, 9), None);
        assert_eq!(attribute(&both[..9], 21), None);
        assert_eq!(attribute(&[0; 8], 21), None, "one of no length ends it");
    }

    #[test]
    fn messages_that_are_cut_short_end_the_list() {
        let whole = request(SOCK_DIAG_BY_FAMILY, 0, 2, 6, &[7; ID]);
        assert_eq!(messages(&whole).count(), 1);
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0);
        }
        assert!(error(&(-2_i32).to_ne_bytes()).is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        assert_eq!(read(&[0; ANSWER - 1]), None);
    }
}
