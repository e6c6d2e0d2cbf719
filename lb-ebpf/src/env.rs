//! Everything the pipeline needs of its surroundings: maps, clock, chance and the routing table.

use lb_common::{
    Addr, AffinityKey, AffinityValue, Backend, BackendLoad, Bucket, DropReason, Flow, Frontend, Port, Selection,
    SocketKey, Traffic, Vip,
    abi::Settings,
    counters::Recount,
    dsr::Target,
    fragment::{Fragment, FragmentKey},
    request::{Measure, Request},
};

use crate::{
    limits::Seat,
    parse::Parsed,
    requests::Begun,
    table::{Hit, Inserted},
};

/// A place in a map: valid as long as the program runs, and changed by others meanwhile.
#[repr(transparent)]
#[derive(Debug)]
pub struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    /// Vouches for a place.
    ///
    /// # Safety
    /// `place` is valid and aligned for as long as this value and its copies are used, and whoever else uses it meanwhile does so
    /// in the way that its map documents: atomically, volatile, or under a lock.
    #[inline(always)]
    pub const unsafe fn new(place: *mut T) -> Self {
        Self(place)
    }

    /// The place.
    #[inline(always)]
    pub const fn ptr(self) -> *mut T {
        self.0
    }
}

/// Which of the two flow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// Keyed by client and frontend.
    Forward,
    /// Keyed by peer and endpoint.
    Reply,
}

/// A packet's tuple after the rewrite.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
}

/// Working memory of one packet, outside of the 512 bytes of a BPF stack. What is written here and read back is also any number to
/// the verifier, which so follows one path where it would follow one for every way of a bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    /// What the packet is.
    pub packet: Parsed,
    /// What an ICMP error quotes.
    pub quoted: Parsed,
    /// What the packet becomes.
    pub to: Tuple,
    /// What the packet becomes that an ICMP error quotes.
    pub quoted_to: Tuple,
    /// When it came.
    pub now: u32,
    /// Not 0 if the requests of its flow are measured.
    pub measured: u32,
    /// A map key.
    pub key: SocketKey,
    /// A map key.
    pub affinity: AffinityKey,
    /// Not 0 if its segments have to leave room for encapsulation.
    pub clamped: u32,
    /// One more than the index of the backend for which another node has forwarded the packet; 0: none has. Set by the hook before the
    /// pipeline runs.
    pub target: u32,
    /// Where a new flow's backend is selected from.
    pub table: Selection,
    /// Not 0 if a new flow's client is inside: a process or pod of this node.
    pub inside: u32,
    /// Where a new flow goes.
    pub seat: Seat,
    /// The packet's flow: its forward entry.
    pub hit: Hit,
    /// Another entry.
    pub other: Hit,
    /// What an insertion tells.
    pub inserted: Inserted,
    /// The forward entry of a new flow.
    pub entry: Flow,
    /// Its reply entry.
    pub reply: Flow,
    /// How far the search for that is.
    pub search: Search,
    /// Who would make way for it.
    pub victim: Victim,
    /// Which packet a fragment is of.
    pub fragment_key: FragmentKey,
    /// What becomes of it.
    pub fragment: Fragment,
    /// Question and answer of a route lookup.
    pub fib: Fib,
    /// Between whom a socket is looked for.
    pub socket: SocketTuple,
    /// The next hop of a redirect.
    pub next_hop: NextHop,
    /// Not 0 if `fib` has its link layer address.
    pub resolved: u32,
    /// The VLAN tag that an answer gets back: its type as the packet has it, and what it says, a half of the word each; 0: none.
    pub tag: u32,
}

/// The state of the search for a reply entry, between two steps of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    /// Not 0 if the client's own address and port are tried next.
    pub as_client: u32,
    /// The source port that is tried next, counted from the first one.
    pub offset: u32,
    /// Why there is none; `None` once there is one.
    pub failure: Option<DropReason>,
}

/// The flow that makes way if no free source port is found, or no room; its forward entry is in [`Scratch::other`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Victim {
    /// Reply entries that were found in the way.
    pub tries: u32,
    /// How willingly it makes way: 0 not at all.
    pub readiness: u32,
    /// Not 0 if it is in the way of the client's own address and port.
    pub as_client: u32,
    /// Its source port.
    pub port: Port,
}

/// The kernel's `struct bpf_fib_lookup`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Fib {
    /// `AF_INET` or `AF_INET6`; the next hop's afterwards.
    pub family: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// IP bytes; the way's limit afterwards if they are too many.
    pub bytes: u16,
    /// The interface the packet came by; the one it leaves by afterwards.
    pub interface: u32,
    /// Traffic class or flow information.
    pub class: u32,
    /// Source address; IPv4 in the first word.
    pub src: [u32; 4],
    /// Destination; the next hop afterwards. IPv4 in the first word.
    pub dst: [u32; 4],
    /// VLAN protocol and tag.
    pub vlan: u32,
    /// The egress interface's link layer address, then the next hop's.
    pub macs: [u8; 12],
}

/// The kernel's `struct bpf_sock_tuple`: source and destination address, and a word of both ports; all of one family, without gaps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketTuple(pub [u32; 9]);

/// The kernel's `struct bpf_redir_neigh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NextHop {
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Its address; IPv4 in the first word.
    pub addr: [u32; 4],
}

/// Where a rewritten packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Out of this interface.
    Interface(u32),
    /// Up into this node's own stack.
    Stack,
    /// This hook cannot finish the packet: the next one does, on the packet as it came.
    Defer,
    /// The way takes packets of so many IP bytes only.
    TooBig(u32),
    /// Nowhere.
    Drop(DropReason),
}

/// Where a packet's decision is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// XDP: cannot deliver to this node's stack or pods, nor wait for a neighbour; what it cannot finish it leaves to tc.
    Xdp,
    /// tc ingress: finishes everything.
    Ingress,
    /// tc egress: only replies that come through this node's own stack; they leave as they were going to.
    Egress,
}

/// Size and seed of the flow tables, and what is configured once for all packets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seed of the flow hash.
    pub flow_seed: u64,
    /// Buckets of a flow table less one.
    pub bucket_mask: u32,
    /// First source port of full NAT.
    pub snat_first: u16,
    /// Last source port of full NAT.
    pub snat_last: u16,
    /// Idle time of an open TCP connection in seconds.
    pub tcp_idle: u32,
}

/// What programs are loaded with that use maps of these settings.
impl From<Settings> for Limits {
    fn from(settings: Settings) -> Self {
        let Settings { flow_seed, bucket_mask, snat_first, snat_last, tcp_idle, .. } = settings;
        Self { flow_seed, bucket_mask, snat_first, snat_last, tcp_idle }
    }
}

/// The pipeline's surroundings. References into maps stay valid for the packet's time; what others change meanwhile is
/// [`Shared`].
pub trait Env {
    /// Where this is.
    fn hook(&self) -> Hook;
    /// The interface the packet came by (at egress: leaves by).
    fn interface(&self) -> u32;
    /// Whether the packet came by an interface behind which are pods of this node.
    fn is_inside(&self) -> bool;
    /// Whether packets between a backend and a client whose address it sees go through this node's stack, past its packet filter.
    fn delivers_by_stack(&self) -> bool;
    /// Whether who sends to a TCP flow that is not known, or whose backend is gone, is sent a reset.
    fn resets_orphans(&self) -> bool;
    /// The UDP port by which nodes forward to each other; 0: none.
    fn dsr_port(&self) -> Port;
    /// The index of a backend of this node to which other nodes forward.
    fn target(&self, target: &Target) -> Option<u32>;
    /// The IP bytes that the way takes which was asked for last.
    fn mtu(&self, scratch: &Scratch) -> u32;
    /// Seconds of a monotonic clock.
    fn now(&self) -> u32;
    /// A uniformly random number.
    fn random(&self) -> u32;
    /// What was configured.
    fn limits(&self) -> Limits;
    /// This CPU's working memory.
    fn scratch(&self) -> Option<&'static mut Scratch>;
    /// The frontend of this key.
    fn frontend(&self, key: &SocketKey) -> Option<&Frontend>;
    /// Whether the source ranges of a frontend, by its id, have this address.
    fn is_admitted(&self, frontend: u32, client: &Addr) -> bool;
    /// The link layer address to answer with for an address that this node announces by the interface the packet came by.
    fn announced(&self, address: &Addr) -> Option<[u8; 6]>;
    /// A frontend's address.
    fn vip(&self, id: u32) -> Option<&Vip>;
    /// The id of the endpoint with this key.
    fn endpoint(&self, key: &SocketKey) -> Option<u32>;
    /// A backend.
    fn backend(&self, index: u32) -> Option<&Backend>;
    /// A backend's counts.
    fn load(&self, index: u32) -> Option<Shared<BackendLoad>>;
    /// This CPU's packets and bytes of a backend.
    fn traffic(&self, index: u32) -> Option<Shared<Traffic>>;
    /// Nanoseconds of the same clock.
    fn nanoseconds(&self) -> u64;
    /// The last request of a connection.
    fn request(&self, key: u64) -> Option<Shared<Request>>;
    /// Notes the first request of a connection.
    fn begin_request(&self, key: u64, request: &Request) -> Begun;
    /// The connection has ended, or its answers have.
    fn end_request(&self, key: u64);
    /// What the requests of a backend were like, if it is measured.
    fn measure(&self, backend: u32) -> Option<Shared<Measure>>;
    /// What a sweep has found of a backend.
    fn recount(&self, index: u32) -> Option<Shared<Recount>>;
    /// A slot of the selection tables.
    fn slot(&self, index: u32) -> Option<u64>;
    /// A service's round-robin cursor.
    fn cursor(&self, service: u32) -> Option<Shared<u64>>;
    /// Whom a client stays with.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Remembers whom a client stays with.
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue);
    /// When the next connection of a frontend, by its id, is due.
    fn rate(&self, frontend: u32) -> Option<Shared<u64>>;
    /// The same of a client, which is noted if it is new.
    fn client_rate(&self, client: &AffinityKey) -> Option<Shared<u64>>;
    /// When the next ICMP error of our own is due.
    fn error_rate(&self) -> Option<Shared<u64>>;
    /// What becomes of a packet's fragments, into `out`; whether that is known.
    fn fragment(&self, key: &FragmentKey, out: &mut Fragment) -> bool;
    /// Notes what becomes of them.
    fn note_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// How many identifications a counter has given away.
    fn fragment_ids(&self, counter: u32) -> Option<Shared<u64>>;
    /// A bucket.
    fn bucket(&self, table: Table, index: u32) -> Option<Shared<Bucket>>;
    /// Whether a socket of this node would take a packet of `scratch.packet`'s protocol with the addresses and ports of `scratch.to`.
    fn is_for_socket(&self, scratch: &mut Scratch) -> bool;
    /// The way of a rewritten packet of `bytes` IP bytes (of its largest segment).
    fn route(&self, scratch: &mut Scratch, bytes: u32) -> Route;
    /// Calls `attempt` until it returns `true`, at most `times` times. Not a loop of the language, of which the verifier would follow
    /// every turn.
    fn repeat<F: FnMut() -> bool>(&self, times: u32, attempt: F);
    /// When who asks for a service in vain was last told of, in [`Env::nanoseconds`]; see [`crate::wake`].
    fn knocked(&self, service: u32) -> Option<Shared<u64>>;
    /// Tells user space to wake a service.
    fn wake(&self, service: u32);
    /// Shows a rare event to who debugs; nothing unless asked for.
    fn trace(&self, event: Event, scratch: &Scratch);
}

/// Rare events worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A flow was made for a backend.
    NewFlow(u32),
    /// A packet was dropped for this [`DropReason`].
    Drop(u32),
    /// A flow had to leave its way for another.
    Evicted(u32),
}
