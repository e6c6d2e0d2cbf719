//! Backends: what serves a frontend.

use crate::{Addr, Port, SocketKey, assert_size, plain_data};

/// Why a backend gets, or does not get, new connections. Discriminants are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum BackendState {
    /// Takes no connections any more: its TCP flows go on until it is [`BACKEND_GONE`], its UDP flows are forgotten, its slot is kept
    /// until both counts are 0.
    #[default]
    Removed = 0,
    /// Takes new connections according to its weight.
    Ready = 1,
    /// Weight 0 or `weir drain`: keeps its flows, gets no new ones.
    Draining = 2,
    /// The endpoint is terminating: like draining.
    Terminating = 3,
    /// Its health check fails: like draining while another backend is healthy.
    Unhealthy = 4,
}

impl BackendState {
    /// The state of this discriminant.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Removed),
            1 => Some(Self::Ready),
            2 => Some(Self::Draining),
            3 => Some(Self::Terminating),
            4 => Some(Self::Unhealthy),
            _ => None,
        }
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Backend flag: on this node, so destination NAT is enough: its replies pass us anyway.
pub const BACKEND_LOCAL: u8 = 1;
/// Backend flag, of removed ones only: nothing lists it any more, and nothing else is served at its address. Who still sends to it over
/// TCP is told so by a reset.
pub const BACKEND_GONE: u8 = 2;
/// Backend flag, of local ones only: other nodes may forward to it ([`crate::dsr`]); it has an element in `targets`.
pub const BACKEND_TARGET: u8 = 4;

/// One backend of one service port. Element of the `backends` array; its index is its identity in flows, tables and counters.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Backend {
    /// Its address.
    pub addr: Addr,
    /// The node's own address, which the backend sees as its client under full NAT.
    pub source: Addr,
    /// Its port.
    pub port: Port,
    /// The protocol's IANA number.
    pub protocol: u8,
    /// `BACKEND_*`.
    pub flags: u8,
    /// The weight selection uses now: static x slow start x health x feedback.
    pub effective_weight: u16,
    /// The weight its owner gave it.
    pub weight: u16,
    /// What replies are matched by: backends of several services may be one endpoint.
    pub endpoint: u32,
    /// The service port it serves.
    pub service: u32,
    /// Counts the users of this index, so that what outlives one is not taken for the next. Never 0 in use.
    pub incarnation: u32,
    /// A [`BackendState`].
    pub state: u8,
    /// Always 0.
    pub zero: [u8; 3],
    /// Milliseconds without payload after which an answer is over; 0: requests are not measured.
    pub response_idle: u32,
    /// Always 0.
    pub zero2: u32,
}

impl Backend {
    /// The key replies come from.
    #[inline(always)]
    pub const fn key(&self) -> SocketKey {
        SocketKey { addr: self.addr, port: self.port, protocol: self.protocol, zero: 0 }
    }

    /// Whether it is on this node.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & BACKEND_LOCAL != 0
    }

    /// Whether its TCP flows are to end.
    #[inline(always)]
    pub const fn is_gone(&self) -> bool {
        self.flags & BACKEND_GONE != 0
    }
}

plain_data!(Backend);
assert_size!(Backend = 64);
