//! The maps and the constants of a load. Sizes given here are defaults that the agent overrides.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use lb_common::{
    Addr, AffinityKey, AffinityValue, Announced, Backend, BackendLoad, Bucket, Frontend, Range, Settings, SocketKey,
    Traffic, Vip,
    abi::SweepResult,
    counters::Recount,
    dsr::Target,
    fragment::{FRAGMENT_COUNTERS, Fragment, FragmentKey},
    known::WORDS,
    names::{Name, NameKey},
    request::{Measure, Request},
    socket::{Connection, Peers, Pod, PodKey},
};
use lb_ebpf::env::Scratch;

/// Declares maps under the names of [`lb_common::names::map`].
macro_rules! maps {
    ($($name:literal $ident:ident: $kind:ident<$($t:ty),+> = $size:expr, $flags:expr;)*) => { $(
        #[map(name = $name)]
        pub(crate) static $ident: $kind<$($t),+> = $kind::with_max_entries($size, $flags);
    )* };
}

maps! {
    "frontends" FRONTENDS: HashMap<SocketKey, Frontend> = 4096, 0;
    "vips" VIPS: Array<Vip> = 4096, 0;
    "backends" BACKENDS: Array<Backend> = 16384, 0;
    "endpoints" ENDPOINTS: HashMap<SocketKey, u32> = 16384, 0;
    "known" KNOWN: Array<u64> = WORDS, BPF_F_MMAPABLE;
    // Mappable: the agent writes whole tables without a system call per slot.
    "slots" SLOTS: Array<u64> = 1 << 20, BPF_F_MMAPABLE;
    "cursors" CURSORS: Array<u64> = 4096, 0;
    "affinity" AFFINITY: LruHashMap<AffinityKey, AffinityValue> = 65536, 0;
    // Mappable because the values of such a map start at a page: else every bucket straddles two cache lines.
    "flows" FLOWS: Array<Bucket> = 1 << 16, BPF_F_MMAPABLE;
    "replies" REPLIES: Array<Bucket> = 1 << 16, BPF_F_MMAPABLE;
    "loads" LOADS: Array<BackendLoad> = 16384, BPF_F_MMAPABLE;
    "traffic" TRAFFIC: PerCpuArray<Traffic> = 16384, 0;
    "drops" DROPS: PerCpuArray<u64> = 32, 0;
    "settings" SETTINGS: Array<Settings> = 1, 0;
    "names" NAMES: HashMap<NameKey, Name> = 32768, BPF_F_NO_PREALLOC;
    "drains" DRAINS: HashMap<SocketKey, u32> = 4096, BPF_F_NO_PREALLOC;
    "recounts" RECOUNTS: Array<Recount> = 16384, BPF_F_MMAPABLE;
    "sweep" SWEEP: Array<SweepResult> = 1, 0;
    "interfaces" INTERFACES: HashMap<u32, u32> = 1024, BPF_F_NO_PREALLOC;
    "ranges" RANGES: LpmTrie<Range, u32> = 16384, BPF_F_NO_PREALLOC;
    "announced" ANNOUNCED: HashMap<Addr, Announced> = 1024, BPF_F_NO_PREALLOC;
    "pods" PODS: HashMap<PodKey, Pod> = 4096, BPF_F_NO_PREALLOC;
    // As many connections as may be measured at a time, and as many backends.
    "requests" REQUESTS: HashMap<u64, Request> = 65536, BPF_F_NO_PREALLOC;
    "measures" MEASURES: HashMap<u32, Measure> = 16384, BPF_F_NO_PREALLOC;
    "knocks" KNOCKS: Array<u64> = 4096, 0;
    "rates" RATES: Array<u64> = 4096, 0;
    "client_rates" CLIENT_RATES: LruHashMap<AffinityKey, u64> = 65536, 0;
    "error_rate" ERROR_RATE: Array<u64> = 1, 0;
    "fragments" FRAGMENTS: LruHashMap<FragmentKey, Fragment> = 16384, 0;
    "fragment_ids" FRAGMENT_IDS: Array<u64> = FRAGMENT_COUNTERS, 0;
    "targets" TARGETS: HashMap<Target, u32> = 16384, BPF_F_NO_PREALLOC;
    "clock" CLOCK: Array<u32> = 1, 0;
    "scratch" SCRATCH: PerCpuArray<Scratch> = 1, 0;
}

// 4096 services at once.
#[map(name = "wakes")]
pub(crate) static WAKES: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

// The kernel wants to know the types of what it keeps with a socket.
#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: SkStorage<Connection> = SkStorage::new();
#[btf_map(name = "peers")]
pub(crate) static PEERS: SkStorage<Peers> = SkStorage::new();

/// Declares constants that the agent sets before it loads the programs; the verifier prunes what they rule out.
macro_rules! constants {
    ($($(#[doc = $doc:literal])* $getter:ident $ident:ident: $t:ty = $default:expr;)*) => { $(
        #[unsafe(no_mangle)]
        static $ident: $t = $default;

        $(#[doc = $doc])*
        #[inline(always)]
        pub(crate) fn $getter() -> $t {
            // SAFETY: a static; volatile because the loader changes it behind the compiler's back.
            unsafe { core::ptr::read_volatile(&raw const $ident) }
        }
    )* };
}

constants! {
    /// `Settings::flow_seed`.
    flow_seed FLOW_SEED: u64 = 0;
    /// `Settings::bucket_mask`.
    bucket_mask BUCKET_MASK: u32 = 0xffff;
    /// `Settings::snat_first`.
    snat_first SNAT_FIRST: u16 = 61000;
    /// `Settings::snat_last`.
    snat_last SNAT_LAST: u16 = 65535;
    /// `Settings::tcp_idle`.
    tcp_idle TCP_IDLE: u32 = 8000;
    /// `BPF_F_IPV6` where the kernel knows it (6.16), else 0.
    checksum_v6_flag CHECKSUM_V6_FLAG: u64 = 0;
    /// 1: packets of clients that keep their address go through the stack.
    delivery_stack DELIVERY_STACK: u32 = 0;
    /// 1: TCP packets of no flow, or to a backend that is gone, are answered with a reset.
    reset_orphaned RESET_ORPHANED: u32 = 1;
    /// The UDP port by which nodes forward to each other, in network byte order; 0: none.
    dsr_port DSR_PORT: u16 = 0;
    /// Where the kernel's `struct tcp_sock` has `bytes_acked`; 0: unknown.
    tcp_bytes_acked TCP_BYTES_ACKED: u32 = 0;
    /// The same of `bytes_received`.
    tcp_bytes_received TCP_BYTES_RECEIVED: u32 = 0;
    /// The same of `segs_out`.
    tcp_segs_out TCP_SEGS_OUT: u32 = 0;
    /// The same of `segs_in`.
    tcp_segs_in TCP_SEGS_IN: u32 = 0;
    /// 1: rare events are logged.
    log LOG: u32 = 0;
    /// 1: time is the `clock` map's (tests).
    test_clock TEST_CLOCK: u32 = 0;
}
