//! Unconnected UDP sockets: one backend for each frontend that a socket talks to, and replies under the frontend's name.
//!
//! All of this runs under the socket's lock; only its last close does not, and takes the owners by exchange.

use core::ptr::addr_of_mut;

use lb_common::{
    BackendState, SocketKey,
    abi::timeout,
    socket::{NOBODY, OWNER_ESTABLISHED, PEERS, Peer, Peers, owner, owner_backend},
};

use crate::{
    env::{Env, Shared},
    socket::hand_over,
};

/// Where a frontend's peer is, or would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is known, and its backend still there.
    Known(usize),
    /// It needs a backend; whoever was here before leaves.
    Place(usize),
}

#[inline(always)]
fn peer(peers: Shared<Peers>, at: usize) -> *mut Peer {
    // SAFETY: in bounds: every caller's index is below `PEERS`.
    unsafe { addr_of_mut!((*peers.ptr()).peers).cast::<Peer>().add(at & (PEERS - 1)) }
}

const _: () = assert!(PEERS.is_power_of_two());

/// The backend of the frontend's peer, if the socket has talked to it within the time that a UDP flow is remembered and it is still there;
/// else the place for a new one, which is the one used longest ago.
#[inline(always)]
pub fn find<E: Env>(env: &E, peers: Shared<Peers>, frontend: &SocketKey, now: u32) -> Found {
    let (mut oldest, mut place) = (u32::MAX, 0);
    for at in 0..PEERS {
        // SAFETY: under the socket's lock; a plain copy.
        let known = unsafe { &*peer(peers, at) };
        let (age, free) = (now.wrapping_sub(known.last), known.owner == NOBODY);
        if !free && known.frontend == *frontend {
            return if age < timeout::UDP && still_there(env, known) { Found::Known(at) } else { Found::Place(at) };
        }
        let rank = if free { 0 } else { known.last };
        if rank < oldest {
            (oldest, place) = (rank, at);
        }
    }
    Found::Place(place)
}

#[inline(always)]
fn still_there<E: Env>(env: &E, peer: &Peer) -> bool {
    let backend = owner_backend(peer.owner).and_then(|index| env.backend(index));
    backend.is_some_and(|b| b.incarnation == peer.incarnation && b.state != BackendState::Removed as u8)
}

/// The socket talks to a frontend through this backend from now on.
#[inline(always)]
pub fn put<E: Env>(env: &E, peers: Shared<Peers>, at: usize, frontend: &SocketKey, index: u32) -> Option<()> {
    let backend = env.backend(index)?;
    let peer = peer(peers, at);
    // SAFETY: under the socket's lock; the owner is changed by `hand_over`.
    unsafe {
        (*peer).frontend = *frontend;
        (*peer).endpoint = backend.key();
        (*peer).incarnation = backend.incarnation;
        hand_over(env, addr_of_mut!((*peer).owner), owner(index) | OWNER_ESTABLISHED);
    }
    Some(())
}

/// A datagram is sent to a known peer: what is its backend's address?
#[inline(always)]
pub fn sent(peers: Shared<Peers>, at: usize, now: u32) -> SocketKey {
    let peer = peer(peers, at);
    // SAFETY: under the socket's lock.
    unsafe {
        let turn = (*peers.ptr()).turn.wrapping_add(1).max(1);
        (*peers.ptr()).turn = turn;
        (*peer).turn = turn;
        (*peer).last = now;
        (*peer).endpoint
    }
}

/// A datagram is sent to an address that is no frontend: if a backend is there, its answers keep their name.
#[inline(always)]
pub fn sent_directly(peers: Shared<Peers>, to: &SocketKey) {
    for at in 0..PEERS {
        let peer = peer(peers, at);
        // SAFETY: under the socket's lock.
        unsafe {
            if (*peer).endpoint == *to {
                (*peer).turn = 0;
            }
        }
    }
}

/// The frontend that a datagram from this address answers: of those that have a backend there, the one sent to last.
#[inline(always)]
pub fn answered(peers: Shared<Peers>, from: &SocketKey) -> Option<SocketKey> {
    let (mut newest, mut frontend) = (0, None);
    for at in 0..PEERS {
        // SAFETY: under the socket's lock; a plain copy.
        let known = unsafe { &*peer(peers, at) };
        if known.turn > newest && known.endpoint == *from {
            (newest, frontend) = (known.turn, Some(known.frontend));
        }
    }
    frontend
}

/// The socket is closed.
#[inline(always)]
pub fn release<E: Env>(env: &E, peers: Shared<Peers>) {
    for at in 0..PEERS {
        // SAFETY: the owner is changed by `hand_over` only.
        unsafe { hand_over(env, addr_of_mut!((*peer(peers, at)).owner), NOBODY) };
    }
}

#[cfg(test)]
mod tests;
