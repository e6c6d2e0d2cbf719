//! The flow table's memory: buckets of eight ways with a lock word of their own.
//!
//! A flow has two entries: a *forward* entry found by (client, frontend), which carries the state, and a *reply* entry found by
//! (peer, endpoint), which names the forward entry. The peer is the client, or our own address and port under full NAT: that no
//! two reply entries are equal is what keeps source ports unique. Both kinds live in tables of the same shape.

use crate::{Addr, Port, assert_size, plain_data};

/// Ways of a bucket.
pub const WAYS: usize = 8;

/// What a table slot holds. Discriminants are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum FlowState {
    /// Nothing.
    #[default]
    Free = 0,
    /// TCP: the client's SYN was sent on. Pending.
    SynSent = 1,
    /// TCP: the backend's SYN-ACK was seen, the client's ACK not yet. Active.
    SynReceived = 2,
    /// TCP: both sides have spoken. Active.
    Established = 3,
    /// TCP: the client has sent its FIN. Active.
    FinClient = 4,
    /// TCP: the backend has sent its FIN. Active.
    FinBackend = 5,
    /// TCP: both FINs or a reset were seen. Not active, waits out its time.
    Closing = 6,
    /// UDP: no answer yet. Active.
    UdpOneWay = 7,
    /// UDP: answered. Active.
    UdpAnswered = 8,
    /// A reply entry.
    Reply = 9,
    /// Forwarded to the backend's node, TCP: the client's SYN. That node counts the flow and sees its answers; this one sees neither,
    /// nor whether the client's address is its own.
    ForwardedSyn = 10,
    /// Forwarded, TCP: the client has sent more.
    Forwarded = 11,
    /// Forwarded, TCP: the client has sent its FIN.
    ForwardedFin = 12,
    /// Forwarded, UDP.
    ForwardedUdp = 13,
}

impl FlowState {
    /// The state of this discriminant.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::FinClient,
            5 => Self::FinBackend,
            6 => Self::Closing,
            7 => Self::UdpOneWay,
            8 => Self::UdpAnswered,
            9 => Self::Reply,
            10 => Self::ForwardedSyn,
            11 => Self::Forwarded,
            12 => Self::ForwardedFin,
            13 => Self::ForwardedUdp,
            _ => Self::Free,
        }
    }

    /// Whether the flow counts as active.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::SynReceived
                | Self::Established
                | Self::FinClient
                | Self::FinBackend
                | Self::UdpOneWay
                | Self::UdpAnswered
        )
    }

    /// Whether the flow counts as pending.
    #[inline(always)]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::SynSent)
    }

    /// Whether the flow is forwarded to its backend's node, which counts it.
    #[inline(always)]
    pub const fn is_forwarded(self) -> bool {
        matches!(self, Self::ForwardedSyn | Self::Forwarded | Self::ForwardedFin | Self::ForwardedUdp)
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinClient => "fin-client",
            Self::FinBackend => "fin-backend",
            Self::Closing => "closing",
            Self::UdpOneWay => "udp-one-way",
            Self::UdpAnswered => "udp-answered",
            Self::Reply => "reply",
            Self::ForwardedSyn => "forwarded-syn",
            Self::Forwarded => "forwarded",
            Self::ForwardedFin => "forwarded-fin",
            Self::ForwardedUdp => "forwarded-udp",
        }
    }
}

/// One way of a bucket: the key, and what is known of the flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flow {
    /// The client (forward entry) or the peer the backend sees (reply entry).
    pub addr: Addr,
    /// The frontend's id (forward) or the endpoint's (reply).
    pub id: u32,
    /// The client's or the peer's port.
    pub port: Port,
    /// The source port a remote backend sees; 0 under destination NAT.
    pub snat_port: Port,
    /// The slot of the other entry.
    pub link: u32,
    /// The backend's index.
    pub backend: u32,
    /// When it was last seen, in seconds of the monotonic clock.
    pub last: u32,
    /// Reply entry: the frontend's id. Forward entry: always 0.
    pub frontend: u32,
}

/// A bucket: what a lookup must read of all eight ways in one cache line, then the ways.
///
/// `meta` of a way is tag (16 bits of the key's hash) << 16 | generation << 8 | [`FlowState`]. Readers take no lock: they read
/// `meta`, the way, and `meta` again. Every writer holds `lock`.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// 0, or 1 while a program changes this bucket.
    pub lock: u32,
    /// Always 0.
    pub zero: u32,
    /// Tag, generation and state of each way.
    pub meta: [u32; WAYS],
    /// Always 0.
    pub zero2: [u32; 6],
    /// The ways.
    pub ways: [Flow; WAYS],
}

/// Packs a way's `meta`.
#[inline(always)]
pub const fn meta(tag: u16, generation: u8, state: FlowState) -> u32 {
    (tag as u32) << 16 | (generation as u32) << 8 | state as u32
}

/// The state in a way's `meta`.
#[inline(always)]
pub const fn meta_state(meta: u32) -> FlowState {
    FlowState::from_number(meta as u8)
}

/// The generation in a way's `meta`: it changes whenever another flow takes the way.
#[inline(always)]
pub const fn meta_generation(meta: u32) -> u8 {
    (meta >> 8) as u8
}

plain_data!(Flow, Bucket);
assert_size!(Flow = 40, Bucket = 384);
