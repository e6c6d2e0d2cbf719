//! What the packet path counts.

use crate::{assert_size, plain_data};

/// What a backend carries. Element of the `loads` array, changed by atomic additions only.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendLoad {
    /// Connections open now: TCP from the SYN-ACK until both FINs, a reset or a timeout; UDP while the flow is remembered.
    pub active: u64,
    /// TCP connections whose SYN was sent on and is not answered.
    pub pending: u64,
    /// Connections that became active, ever.
    pub connections: u64,
    /// Connections ended by a reset, ever.
    pub resets: u64,
    /// `active` of the other nodes, as last reported.
    pub remote: u64,
    /// Connections that stopped being active or pending, ever: with `connections` it says whether anything moved during a sweep.
    pub closed: u64,
    /// Sockets of this node connected through the socket hooks that are open connections now: TCP established, UDP connected.
    pub established: u64,
    /// Client sockets of this node that are open and were connected here through the socket hooks.
    pub sockets: u64,
}

impl BackendLoad {
    /// Connections open now, by whichever way they came.
    #[inline(always)]
    pub const fn open(&self) -> u64 {
        self.active.wrapping_add(self.established)
    }
}

/// Packets and IP bytes of a backend. Element of the per-CPU array `traffic`. "in" is towards the backend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets towards the backend.
    pub packets_in: u64,
    /// Packets from the backend.
    pub packets_out: u64,
    /// IP bytes towards the backend.
    pub bytes_in: u64,
    /// IP bytes from the backend.
    pub bytes_out: u64,
}

/// What a sweep found. Element of the `recounts` array, indexed like `backends`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recount {
    /// Active flows found in the table.
    pub active: u64,
    /// Pending flows found in the table.
    pub pending: u64,
    /// Flows that count as neither, and still name their backend: over on both sides, or forwarded to its node.
    pub closing: u64,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:literal => $name:literal,)*) => {
        /// Why a packet for a frontend was dropped. Index into the per-CPU array `drops`.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum DropReason { $($(#[doc = $doc])* $variant = $number,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value of the metric label `reason`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// A frontend's packet whose transport header is cut short or contradicts itself.
    Malformed = 0 => "malformed",
    /// A fragment for one of our addresses whose first one, which has the ports, was not seen before it.
    Fragment = 1 => "fragment",
    /// The frontend has no backend that takes connections.
    NoBackend = 2 => "no-backend",
    /// A TCP packet that opens no connection and belongs to none; the sender was sent a reset unless that is switched off.
    NoFlow = 3 => "no-flow",
    /// The flow's bucket stayed locked; a SYN is sent again by its client.
    TableBusy = 4 => "table-busy",
    /// Every way of the flow's bucket holds an established flow.
    TableFull = 5 => "table-full",
    /// No source port was free towards the backend.
    SnatPortsExhausted = 6 => "snat-ports-exhausted",
    /// The time to live, or hop limit, ended here; the sender was told so where that was possible.
    TtlExceeded = 7 => "ttl-exceeded",
    /// The node has no route to the packet's new destination.
    NoRoute = 8 => "no-route",
    /// Forwarding is switched off on the interface (sysctl `forwarding`).
    ForwardingDisabled = 9 => "forwarding-disabled",
    /// The kernel refused to rewrite the packet.
    RewriteFailed = 10 => "rewrite-failed",
    /// A selection table or a flow names a backend that does not exist.
    StaleTable = 11 => "stale-table",
    /// The packet is larger than the way to its new destination allows; the sender was told so where that was possible.
    TooBig = 12 => "too-big",
    /// The traffic policy is `Local`, and the backends are on other nodes.
    NoLocalBackend = 13 => "no-local-backend",
    /// The client is in none of `loadBalancerSourceRanges`.
    SourceRange = 14 => "source-range",
    /// A TCP packet to a backend that is gone; the sender was sent a reset.
    BackendGone = 15 => "backend-gone",
    /// Every backend has as many connections as it may have; the sender was told so where that was possible.
    BackendsFull = 16 => "backends-full",
    /// The client has begun as many connections as it may in this time.
    ClientRate = 17 => "client-rate",
    /// The frontend's clients have, all together.
    FrontendRate = 18 => "frontend-rate",
}

plain_data!(BackendLoad, Traffic, Recount);
assert_size!(BackendLoad = 64, Traffic = 32, Recount = 24);
