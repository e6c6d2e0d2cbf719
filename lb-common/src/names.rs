//! The one place where names of maps, programs and pins are written.

/// Maps, pinned as `<pin path>/<abi>/<name>`.
pub mod map {
    /// Hash: [`crate::SocketKey`] of a frontend to [`crate::Frontend`].
    pub const FRONTENDS: &str = "frontends";
    /// Array: frontend id to [`crate::Vip`].
    pub const VIPS: &str = "vips";
    /// Array: backend index to [`crate::Backend`].
    pub const BACKENDS: &str = "backends";
    /// Hash: [`crate::SocketKey`] of an endpoint to its `u32` id.
    pub const ENDPOINTS: &str = "endpoints";
    /// Array of `u64`: which keys the two maps of [`crate::SocketKey`]s may have, see [`crate::known`].
    pub const KNOWN: &str = "known";
    /// Array of `u64`: all selection tables, see [`crate::service::TableKind`].
    pub const SLOTS: &str = "slots";
    /// Array of `u64`: round-robin cursor of each service.
    pub const CURSORS: &str = "cursors";
    /// LRU hash: [`crate::AffinityKey`] to [`crate::AffinityValue`].
    pub const AFFINITY: &str = "affinity";
    /// Array of [`crate::Bucket`]: forward entries.
    pub const FLOWS: &str = "flows";
    /// Array of [`crate::Bucket`]: reply entries.
    pub const REPLIES: &str = "replies";
    /// Array: backend index to [`crate::BackendLoad`].
    pub const LOADS: &str = "loads";
    /// Per-CPU array: backend index to [`crate::Traffic`].
    pub const TRAFFIC: &str = "traffic";
    /// Per-CPU array of `u64`: dropped packets by [`crate::DropReason`].
    pub const DROPS: &str = "drops";
    /// Array of one [`crate::Settings`].
    pub const SETTINGS: &str = "settings";
    /// Hash: [`super::NameKey`] to [`super::Name`], for who reads the maps without an agent.
    pub const NAMES: &str = "names";
    /// Hash: [`crate::SocketKey`] of a backend drained by hand to `u32` 1.
    pub const DRAINS: &str = "drains";
    /// Array: backend index to [`crate::counters::Recount`].
    pub const RECOUNTS: &str = "recounts";
    /// Array of one [`crate::abi::SweepResult`].
    pub const SWEEP: &str = "sweep";
    /// Hash: interface index to `u32` `INTERFACE_*` flags.
    pub const INTERFACES: &str = "interfaces";
    /// LPM trie: [`crate::service::Range`] to `u32` 1.
    pub const RANGES: &str = "ranges";
    /// Hash: [`crate::Addr`] to [`crate::service::Announced`].
    pub const ANNOUNCED: &str = "announced";
    /// Socket storage: [`crate::socket::Connection`].
    pub const SOCKETS: &str = "sockets";
    /// Socket storage: [`crate::socket::Peers`].
    pub const PEERS: &str = "peers";
    /// Hash: [`crate::socket::PodKey`] to [`crate::socket::Pod`].
    pub const PODS: &str = "pods";
    /// Hash: [`crate::request::flow_key`] of a flow, or a socket's cookie, to the connection's last [`crate::request::Request`].
    pub const REQUESTS: &str = "requests";
    /// Hash: index of a backend that is measured to [`crate::request::Measure`].
    pub const MEASURES: &str = "measures";
    /// Array of `u64`: when who asks for each service in vain was last told of, in nanoseconds of the monotonic clock; 0: never.
    pub const KNOCKS: &str = "knocks";
    /// Ring buffer of `u32`: services that somebody has asked for in vain and that this wakes; what does not fit is lost.
    pub const WAKES: &str = "wakes";
    /// Array: frontend id to `u64`, see [`crate::Frontend::rate`]: when the next connection is due if they come evenly, in nanoseconds of
    /// the monotonic clock.
    pub const RATES: &str = "rates";
    /// LRU hash: [`crate::AffinityKey`] to the same, see [`crate::Frontend::client_rate`].
    pub const CLIENT_RATES: &str = "client_rates";
    /// Array of one `u64`: when the next ICMP error of our own is due if they come evenly, in nanoseconds of the monotonic clock.
    pub const ERROR_RATE: &str = "error_rate";
    /// LRU hash: [`crate::fragment::FragmentKey`] to [`crate::fragment::Fragment`].
    pub const FRAGMENTS: &str = "fragments";
    /// Array of `u64`: how many identifications of fragments each of [`crate::fragment::FRAGMENT_COUNTERS`] has given away.
    pub const FRAGMENT_IDS: &str = "fragment_ids";
    /// Hash: [`crate::dsr::Target`] to the index of that backend.
    pub const TARGETS: &str = "targets";
    /// Array of one `u32`: the clock of tests, read only by programs loaded with `TEST_CLOCK`.
    pub const CLOCK: &str = "clock";

    /// Every map that is pinned.
    pub const PINNED: &[&str] = &[
        FRONTENDS,
        VIPS,
        BACKENDS,
        ENDPOINTS,
        KNOWN,
        SLOTS,
        CURSORS,
        AFFINITY,
        FLOWS,
        REPLIES,
        LOADS,
        TRAFFIC,
        DROPS,
        SETTINGS,
        NAMES,
        DRAINS,
        RECOUNTS,
        SWEEP,
        INTERFACES,
        RANGES,
        ANNOUNCED,
        SOCKETS,
        PEERS,
        PODS,
        REQUESTS,
        MEASURES,
        RATES,
        CLIENT_RATES,
        ERROR_RATE,
        FRAGMENTS,
        FRAGMENT_IDS,
        KNOCKS,
        WAKES,
        TARGETS,
        CLOCK,
    ];
}

/// Programs.
pub mod program {
    /// XDP at an uplink.
    pub const XDP: &str = "weir_xdp";
    /// tc ingress of every interface.
    pub const INGRESS: &str = "weir_ingress";
    /// tc egress of an uplink.
    pub const EGRESS: &str = "weir_egress";
    /// The sweep, run by the agent through BPF_PROG_TEST_RUN.
    pub const SWEEP: &str = "weir_sweep";
    /// Adds to a backend's counts, run by the agent through BPF_PROG_TEST_RUN when a sweep has found drift.
    pub const REPAIR: &str = "weir_repair";
    /// cgroup: a process connects an IPv4 socket.
    pub const CONNECT4: &str = "weir_connect4";
    /// cgroup: a process connects an IPv6 socket, perhaps to a mapped IPv4 address.
    pub const CONNECT6: &str = "weir_connect6";
    /// cgroup: a process sends an IPv4 datagram to an address.
    pub const SENDMSG4: &str = "weir_sendmsg4";
    /// cgroup: the same for IPv6.
    pub const SENDMSG6: &str = "weir_sendmsg6";
    /// cgroup: a process asks whom an IPv4 datagram came from.
    pub const RECVMSG4: &str = "weir_recvmsg4";
    /// cgroup: the same for IPv6.
    pub const RECVMSG6: &str = "weir_recvmsg6";
    /// cgroup: a process asks whom an IPv4 socket is connected to.
    pub const PEERNAME4: &str = "weir_peername4";
    /// cgroup: the same for IPv6.
    pub const PEERNAME6: &str = "weir_peername6";
    /// cgroup: a socket's last descriptor is closed.
    pub const RELEASE: &str = "weir_release";
    /// cgroup: a TCP connection changes its state.
    pub const SOCK_OPS: &str = "weir_sock_ops";
    /// cgroup: a socket sends a packet. Attached while a Service is measured.
    pub const SENT: &str = "weir_sent";
    /// cgroup: a socket receives a packet. Attached while a Service is measured.
    pub const RECEIVED: &str = "weir_received";
    /// Iterator over the storage `sockets`: brings the traffic of open connections up to date, and writes each [`crate::socket::Connection`].
    pub const LIST_SOCKETS: &str = "weir_list_sockets";
    /// The TCP sockets of a network namespace.
    pub const LIST_TCP: &str = "weir_list_tcp";
    /// The UDP sockets of a network namespace.
    pub const LIST_UDP: &str = "weir_list_udp";
}

/// The pinned iterator over the node's connected sockets, `<pin path>/<this>`: reading it is running it.
pub const SOCKET_LIST: &str = "iter_sockets";
/// Where the kernel refuses that one: the iterators of the sockets of the reader's network namespace.
pub const NAMESPACE_SOCKET_LISTS: [&str; 2] = ["iter_tcp", "iter_udp"];

/// `interfaces` flag: native or generic XDP of ours is attached, so XDP may redirect to it.
pub const INTERFACE_XDP: u32 = 1;
/// `interfaces` flag: the host side of pods: who comes in by it is inside, and keeps its address towards every backend.
pub const INTERFACE_INSIDE: u32 = 2;
/// `interfaces` flag: its other end is in a pod's network namespace, so tc may hand packets straight to that.
pub const INTERFACE_PEER: u32 = 4;

/// Who a [`Name`] belongs to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NameKey {
    /// [`NAME_SERVICE`] or [`NAME_BACKEND`].
    pub kind: u32,
    /// The service's or backend's index.
    pub index: u32,
}

/// `NAMESPACE/SERVICE/PORT NUMBER/PORT NAME` of a service port; the port name may be empty.
pub const NAME_SERVICE: u32 = 1;
/// The node name of a backend; may be empty.
pub const NAME_BACKEND: u32 = 2;

/// A name in UTF-8, padded with 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name(pub [u8; 256]);

impl Name {
    /// A name from a text; what does not fit is cut at a character.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(256);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; 256];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self(bytes)
    }

    /// The text; empty if it is not UTF-8.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        core::str::from_utf8(&self.0[..end]).unwrap_or("")
    }
}

crate::plain_data!(NameKey, Name);
crate::assert_size!(NameKey = 8, Name = 256);
