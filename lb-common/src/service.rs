//! Frontends: what clients address, and how a backend is selected for them.

use crate::{Addr, SocketKey, assert_size, plain_data};

/// How a new connection's backend is selected. Discriminants are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Algorithm {
    /// Weighted random (alias table).
    Random = 1,
    /// Smooth round robin, weights ignored except 0 (sequence table).
    RoundRobin = 2,
    /// Smooth weighted round robin (sequence table).
    WeightedRoundRobin = 3,
    /// Two weighted random choices, the less loaded wins (alias table).
    LeastConnections = 4,
    /// Client address to backend by consistent hash (Maglev table).
    IpHash = 5,
    /// 5-tuple to backend by consistent hash (Maglev table).
    #[default]
    Maglev = 6,
}

impl Algorithm {
    /// Every algorithm, in the order of the design's table.
    pub const ALL: [Self; 6] =
        [Self::Random, Self::RoundRobin, Self::WeightedRoundRobin, Self::LeastConnections, Self::IpHash, Self::Maglev];

    /// The name in annotations and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::LeastConnections => "least-connections",
            Self::IpHash => "ip-hash",
            Self::Maglev => "maglev",
        }
    }

    /// The algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The algorithm of this discriminant.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|a| *a as u8 == number)
    }

    /// The kind of selection table this algorithm reads.
    pub const fn table(self) -> TableKind {
        match self {
            Self::Random | Self::LeastConnections => TableKind::Alias,
            Self::RoundRobin | Self::WeightedRoundRobin => TableKind::Sequence,
            Self::IpHash | Self::Maglev => TableKind::Maglev,
        }
    }
}

/// The three forms of a selection table. All are runs of `u64` slots in the one `slots` map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TableKind {
    /// Walker's alias method, two slots per backend: slot `2i` = threshold << 32 | backend, slot `2i + 1` = alias backend.
    /// A random `u32` below `threshold` takes `backend`, else the alias; [`Selection::len`] is the number of pairs.
    Alias,
    /// One period of a smooth weighted round robin: each slot a backend, walked by a cursor per service.
    Sequence,
    /// A Maglev lookup table of prime length (Eisenbud et al., NSDI 2016): each slot a backend.
    Maglev,
}

/// Frontend flag: `sessionAffinity: ClientIP`.
pub const FRONTEND_AFFINITY: u8 = 1;
/// Frontend flag: only clients of the `ranges` map may use it.
pub const FRONTEND_RANGES: u8 = 2;
/// Frontend flag: where clients inside have no backend, some exist on other nodes (`internalTrafficPolicy: Local`): dropped, not refused.
pub const FRONTEND_DROP_INSIDE: u8 = 4;
/// Frontend flag: where clients outside have no backend, some exist on other nodes (`externalTrafficPolicy: Local`): dropped, not refused.
pub const FRONTEND_DROP_OUTSIDE: u8 = 8;

/// Frontend flag: requests of its connections are measured.
pub const FRONTEND_MEASURED: u8 = 16;

/// Frontend flag: who finds no backend wakes the service, and asks again: dropped, not refused.
pub const FRONTEND_WAKES: u8 = 32;

/// Frontend flag: packets of clients outside reach backends of other nodes encapsulated ([`crate::dsr`]), not by full NAT.
pub const FRONTEND_FORWARDS: u8 = 64;

/// Where a selection table is in the `slots` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Selection {
    /// Its first slot.
    pub offset: u32,
    /// Its length: slots, or pairs of an alias table. 0: no backend.
    pub len: u32,
}

/// What the packet path needs to know of a frontend. Value of the `frontends` hash map, keyed by [`SocketKey`]:
/// one update of that map swaps the whole record, so no packet sees half of a new selection table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Frontend {
    /// Index into `vips`; part of every flow's key.
    pub id: u32,
    /// The service port's index: its round-robin cursor, its affinity entries, its name.
    pub service: u32,
    /// The selection table for clients inside: processes and pods of this node.
    pub inside: Selection,
    /// The selection table for clients outside; the same one unless a traffic policy is `Local`.
    pub outside: Selection,
    /// Seconds a client stays with its backend, if [`FRONTEND_AFFINITY`] is set.
    pub affinity_seconds: u32,
    /// An [`Algorithm`].
    pub algorithm: u8,
    /// `FRONTEND_*`.
    pub flags: u8,
    /// Always 0.
    pub zero: u16,
    /// The most connections that one backend may have, here and as last reported of other nodes; 0: any number.
    pub max_connections: u32,
    /// New connections a second of one client (IPv6: of one network of 64 bits) to the service port; 0: any number.
    pub client_rate: u32,
    /// New connections a second to the frontend; 0: any number.
    pub rate: u32,
}

/// `Vip::live`: this frontend exists.
pub const VIP_LIVE: u16 = 1;
/// `Vip::live`: removed; the sweep forgets its flows, after a whole pass the id may be used again.
pub const VIP_REMOVED: u16 = 2;

/// Vip flag: requests of its connections are measured; the same as [`FRONTEND_MEASURED`], for replies.
pub const VIP_MEASURED: u16 = 1;
/// Vip flag: the same as [`FRONTEND_FORWARDS`]: segments have to leave room for the encapsulation, which is in the way of the client's.
pub const VIP_FORWARDS: u16 = 2;

/// The address that replies are given back. Element of the `vips` array, indexed by [`Frontend::id`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Vip {
    /// The frontend's address, port and protocol.
    pub key: SocketKey,
    /// 0 (never used), [`VIP_LIVE`] or [`VIP_REMOVED`].
    pub live: u16,
    /// `VIP_*`.
    pub flags: u16,
}

/// A client of a service port: who keeps its backend under session affinity, or begins so many connections.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityKey {
    /// The client's address.
    pub client: Addr,
    /// [`Frontend::service`].
    pub service: u32,
}

/// The backend a client keeps.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityValue {
    /// The backend's index.
    pub backend: u32,
    /// Its [`crate::Backend::incarnation`]: an index may be used again.
    pub incarnation: u32,
    /// When it was last chosen, in seconds of the monotonic clock.
    pub last: u32,
}

/// Key of the `ranges` trie, behind its prefix length: who may use a frontend. The length counts the 32 bits of the frontend and those
/// of the network; an IPv4 network has 96 more than it says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Range {
    /// [`Frontend::id`].
    pub frontend: u32,
    /// The network.
    pub network: Addr,
}

/// Who answers for an address on the local network. Value of the `announced` hash map, keyed by [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Announced {
    /// The interface by which questions come in.
    pub interface: u32,
    /// Its link layer address.
    pub mac: [u8; 6],
    /// Always 0.
    pub zero: u16,
}

plain_data!(Frontend, Vip, AffinityKey, AffinityValue, Selection, Range, Announced);
assert_size!(Selection = 8, Range = 20, Announced = 12);
assert_size!(Frontend = 44, Vip = 24, AffinityKey = 20, AffinityValue = 12);
