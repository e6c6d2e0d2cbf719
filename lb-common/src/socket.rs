//! What the socket hooks remember of a socket, and what the agent tells them of the node's pods.

use crate::{Addr, SocketKey, Traffic, assert_size, plain_data};

/// [`Connection::owner`] and [`Peer::owner`]: nobody.
pub const NOBODY: u32 = 0;
/// [`Connection::owner`]: its backend counts it as established.
pub const OWNER_ESTABLISHED: u32 = 1 << 31;

/// Who counts a socket: a backend's index, and whether as established. 0 is nobody.
#[inline(always)]
pub const fn owner(backend: u32) -> u32 {
    (backend & !OWNER_ESTABLISHED) + 1
}

/// The backend of an owner; `None` for nobody.
#[inline(always)]
pub const fn owner_backend(owner: u32) -> Option<u32> {
    (owner & !OWNER_ESTABLISHED).checked_sub(1)
}

/// A socket that was connected to a frontend. Value of the socket storage `sockets`.
///
/// `owner` is changed by atomic operations, because the last close runs without the socket's lock; everything else under that lock.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// What the process asked for.
    pub frontend: SocketKey,
    /// What it was given: the backend's address.
    pub endpoint: SocketKey,
    /// See [`owner`].
    pub owner: u32,
    /// The backend's index; stays when nobody counts the socket any more, for what is left to send.
    pub backend: u32,
    /// The backend's incarnation.
    pub incarnation: u32,
    /// Always 0.
    pub zero: u32,
    /// What of its TCP connection is in the backend's traffic already, in the kernel's own terms: payload, with 1 for a SYN or FIN.
    pub counted: Traffic,
    /// The socket's cookie.
    pub cookie: u64,
    /// The cookie of its network namespace.
    pub namespace: u64,
}

/// Frontends that one unconnected socket may talk to at a time and be remembered by each.
pub const PEERS: usize = 8;

/// A frontend that an unconnected UDP socket talks to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// What the process asks for.
    pub frontend: SocketKey,
    /// What it is given.
    pub endpoint: SocketKey,
    /// See [`owner`]; of a peer in use always established.
    pub owner: u32,
    /// The backend's incarnation.
    pub incarnation: u32,
    /// [`Peers::turn`] when it was last sent to; 0: then its backend was sent to directly, and so answers under its own name.
    pub turn: u32,
    /// When it was last sent to, in seconds of the monotonic clock.
    pub last: u32,
}

/// The frontends that an unconnected UDP socket talks to. Value of the socket storage `peers`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    /// Counts the datagrams sent to frontends.
    pub turn: u32,
    /// Always 0.
    pub zero: u32,
    /// In no order.
    pub peers: [Peer; PEERS],
}

/// [`PodKey::kind`]: what holds for sockets of which nothing else is known; [`PodKey::id`] is 0.
pub const POD_DEFAULT: u64 = 0;
/// [`PodKey::kind`]: a network namespace by its cookie.
pub const POD_NAMESPACE: u64 = 1;
/// [`PodKey::kind`]: a cgroup by its id, for everything below it.
pub const POD_CGROUP: u64 = 2;

/// Where a process is. Key of the hash `pods`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PodKey {
    /// `POD_*`.
    pub kind: u64,
    /// The cookie or the id.
    pub id: u64,
}

/// [`Pod::flags`]: its sockets are left alone (`weir.dev/socket-lb: off`).
pub const POD_EXCLUDED: u32 = 1;
/// [`Pod::flags`] of [`POD_DEFAULT`]: there are [`POD_CGROUP`] keys.
pub const POD_ASK_CGROUPS: u32 = 2;
/// [`Pod::flags`] of the [`POD_NAMESPACE`] of the node itself: what its processes send passes no interface at which frontends are looked up.
pub const POD_NODE: u32 = 4;

/// What the agent knows of a pod, or of the node itself. Value of the hash `pods`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pod {
    /// Its IPv4 address, or [`Addr::NONE`].
    pub v4: Addr,
    /// Its IPv6 address, or [`Addr::NONE`].
    pub v6: Addr,
    /// `POD_*` flags.
    pub flags: u32,
    /// Always 0.
    pub zero: u32,
}

plain_data!(Connection, Peer, Peers, PodKey, Pod);
assert_size!(Connection = 104, Peer = 56, Peers = 456, PodKey = 16, Pod = 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_name_their_backend() {
        assert_eq!(owner_backend(NOBODY), None);
        assert_eq!(owner_backend(owner(0)), Some(0));
        assert_eq!(owner_backend(owner(4_194_303) | OWNER_ESTABLISHED), Some(4_194_303));
    }
}
