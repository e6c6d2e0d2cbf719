//! Fragments of IP packets: what the first one, which has the ports, tells of those that follow.

use crate::{Addr, Port, assert_size, plain_data};

/// Which packet a fragment is of (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The identification: a number in IPv4, of IPv6 the word as it stands in the packet.
    pub id: u32,
    /// IPv4: the protocol's IANA number. IPv6: 0.
    pub protocol: u32,
}

/// What becomes of a packet's fragments. Value of the LRU hash `fragments`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Fragment {
    /// Their source address.
    pub src: Addr,
    /// Their destination address.
    pub dst: Addr,
    /// Their identification, in the same form: no other packet of ours between the two has had it lately.
    pub id: u32,
    /// The flow's backend.
    pub backend: u32,
    /// When the first one was seen, in seconds of the monotonic clock.
    pub seen: u32,
    /// The flow's source port of full NAT, or 0; where it is forwarded, the frontend's port.
    pub snat_port: Port,
    /// [`FRAGMENT_IN`], [`FRAGMENT_OUT`] or [`FRAGMENT_FORWARDED`].
    pub way: u8,
    /// The transport protocol's IANA number.
    pub protocol: u8,
}

/// Towards the backend.
pub const FRAGMENT_IN: u8 = 0;
/// From the backend.
pub const FRAGMENT_OUT: u8 = 1;
/// Towards the backend's node, encapsulated and unchanged.
pub const FRAGMENT_FORWARDED: u8 = 2;

/// Seconds after which nobody waits for fragments any more: Linux' `ipfrag_time`.
pub const FRAGMENT_TIME: u32 = 30;
/// Counters of identifications, a power of two: packets between two addresses share one.
pub const FRAGMENT_COUNTERS: u32 = 1024;

plain_data!(FragmentKey, Fragment);
assert_size!(FragmentKey = 40, Fragment = 48);
