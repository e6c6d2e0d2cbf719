//! The kernel's side of the pipeline's surroundings: maps, coarse clock, random numbers, routing table.

use core::ptr::read_volatile;

use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, BPF_NOEXIST, bpf_sock_tuple,
    },
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_loop,
        bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use aya_log_ebpf::info;
use lb_common::{
    Addr, AffinityKey, AffinityValue, Backend, BackendLoad, Bucket, DropReason, Frontend, Port, Range, SocketKey,
    Traffic, Vip,
    counters::Recount,
    dsr::Target,
    fragment::{Fragment, FragmentKey},
    known,
    names::{INTERFACE_INSIDE, INTERFACE_XDP},
    request::{Measure, Request},
};
use lb_ebpf::{
    env::{Env, Event, Fib, Hook, Limits, NextHop, Route, Scratch, Shared, SocketTuple, Table},
    parse::{Parsed, protocol},
    requests::Begun,
};

use super::maps::{self, *};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_F_CURRENT_NETNS`: the network namespace of the packet's interface.
const CURRENT_NAMESPACE: u64 = u64::MAX;
/// The error of an insertion that finds its key.
const EEXIST: i32 = -17;
/// Of so many rare events one is logged.
const LOG_SAMPLE: u32 = 8;

/// The pipeline's surroundings in the kernel.
pub(crate) struct Kernel<'a, C> {
    pub(crate) ctx: &'a C,
    /// The interface the packet came by.
    pub(crate) interface: u32,
    /// Where the program is attached.
    pub(crate) hook: Hook,
}

impl<C: EbpfContext> Env for Kernel<'_, C> {
    #[inline(always)]
    fn hook(&self) -> Hook {
        self.hook
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.interface
    }

    #[inline(always)]
    fn is_inside(&self) -> bool {
        interface_flags(self.interface) & INTERFACE_INSIDE != 0
    }

    #[inline(always)]
    fn delivers_by_stack(&self) -> bool {
        maps::delivery_stack() != 0
    }

    #[inline(always)]
    fn resets_orphans(&self) -> bool {
        maps::reset_orphaned() != 0
    }

    #[inline(always)]
    fn dsr_port(&self) -> Port {
        Port(maps::dsr_port())
    }

    #[inline(always)]
    fn target(&self, target: &Target) -> Option<u32> {
        // SAFETY: one word.
        unsafe { TARGETS.get(target) }.copied()
    }

    #[inline(always)]
    fn mtu(&self, scratch: &Scratch) -> u32 {
        let interface = match self.hook {
            // That by which it leaves.
            Hook::Egress => 0,
            Hook::Xdp => return scratch.fib.bytes as u32,
            Hook::Ingress if scratch.resolved != 0 => return scratch.fib.bytes as u32,
            // A lookup that finds no link layer address does not say.
            Hook::Ingress => scratch.fib.interface,
        };
        let mut mtu = 0;
        // SAFETY: `mtu` is a word, and `ctx` is this program's; what it answers says only whether this packet fits.
        let _ = unsafe { bpf_check_mtu(self.ctx.as_ptr(), interface, &raw mut mtu, 0, 0) };
        mtu
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        if maps::test_clock() != 0 {
            return CLOCK.get(0).copied().unwrap_or(0);
        }
        // SAFETY: a helper without arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn limits(&self) -> Limits {
        Limits {
            flow_seed: maps::flow_seed(),
            bucket_mask: maps::bucket_mask(),
            snat_first: maps::snat_first(),
            snat_last: maps::snat_last(),
            tcp_idle: maps::tcp_idle(),
        }
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&'static mut Scratch> {
        // SAFETY: this CPU's own element; programs here neither nest nor migrate.
        SCRATCH.get_ptr_mut(0).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn frontend(&self, key: &SocketKey) -> Option<&Frontend> {
        if !is_known(key) {
            return None;
        }
        // SAFETY: an updated record is a new one; the old stays until no program uses it (RCU).
        unsafe { FRONTENDS.get(key) }
    }

    #[inline(always)]
    fn is_admitted(&self, frontend: u32, client: &Addr) -> bool {
        let range = Key::new(u8::BITS * size_of::<Range>() as u32, Range { frontend, network: *client });
        RANGES.get(&range).is_some()
    }

    #[inline(always)]
    fn announced(&self, address: &Addr) -> Option<[u8; 6]> {
        // SAFETY: as in `frontend`.
        let announced = unsafe { ANNOUNCED.get(address) }?;
        (announced.interface == self.interface).then_some(announced.mac)
    }

    #[inline(always)]
    fn vip(&self, id: u32) -> Option<&Vip> {
        VIPS.get(id)
    }

    #[inline(always)]
    fn endpoint(&self, key: &SocketKey) -> Option<u32> {
        if !is_known(key) {
            return None;
        }
        // SAFETY: as in `frontend`.
        unsafe { ENDPOINTS.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&Backend> {
        BACKENDS.get(index)
    }

    #[inline(always)]
    fn load(&self, index: u32) -> Option<Shared<BackendLoad>> {
        LOADS.get_ptr_mut(index).map(shared)
    }

    #[inline(always)]
    fn traffic(&self, index: u32) -> Option<Shared<Traffic>> {
        TRAFFIC.get_ptr_mut(index).map(shared)
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        if maps::test_clock() != 0 {
            return CLOCK.get(0).copied().unwrap_or(0) as u64 * 1_000_000_000;
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn request(&self, key: u64) -> Option<Shared<Request>> {
        REQUESTS.get_ptr_mut(key).map(shared)
    }

    #[inline(always)]
    fn begin_request(&self, key: u64, request: &Request) -> Begun {
        match REQUESTS.insert(key, request, BPF_NOEXIST as u64) {
            Ok(()) => Begun::Noted,
            Err(EEXIST) => Begun::Known,
            Err(_) => Begun::Full,
        }
    }

    #[inline(always)]
    fn end_request(&self, key: u64) {
        // Most connections that end have none.
        let _ = REQUESTS.remove(key);
    }

    #[inline(always)]
    fn measure(&self, backend: u32) -> Option<Shared<Measure>> {
        MEASURES.get_ptr_mut(backend).map(shared)
    }

    #[inline(always)]
    fn recount(&self, index: u32) -> Option<Shared<Recount>> {
        RECOUNTS.get_ptr_mut(index).map(shared)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u64> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn cursor(&self, service: u32) -> Option<Shared<u64>> {
        CURSORS.get_ptr_mut(service).map(shared)
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: a torn value is checked against the backend it names.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        // An LRU map makes room by itself; where it cannot, the client merely does not stay.
        let _ = AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn rate(&self, frontend: u32) -> Option<Shared<u64>> {
        RATES.get_ptr_mut(frontend).map(shared)
    }

    #[inline(always)]
    fn client_rate(&self, client: &AffinityKey) -> Option<Shared<u64>> {
        if let Some(due) = CLIENT_RATES.get_ptr_mut(client) {
            return Some(shared(due));
        }
        // Another CPU may have noted it meanwhile, which is as good.
        let _ = CLIENT_RATES.insert(client, 0, BPF_NOEXIST as u64);
        CLIENT_RATES.get_ptr_mut(client).map(shared)
    }

    #[inline(always)]
    fn error_rate(&self) -> Option<Shared<u64>> {
        ERROR_RATE.get_ptr_mut(0).map(shared)
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey, out: &mut Fragment) -> bool {
        // SAFETY: fragments of one packet that come at once may find a value that is being written: they are lost then.
        let found = unsafe { FRAGMENTS.get(key) };
        if let Some(fragment) = found {
            *out = *fragment;
        }
        found.is_some()
    }

    #[inline(always)]
    fn note_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        // An LRU map makes room by itself; where it cannot, the others are dropped.
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn fragment_ids(&self, counter: u32) -> Option<Shared<u64>> {
        FRAGMENT_IDS.get_ptr_mut(counter).map(shared)
    }

    #[inline(always)]
    fn bucket(&self, table: Table, index: u32) -> Option<Shared<Bucket>> {
        match table {
            Table::Forward => FLOWS.get_ptr_mut(index).map(shared),
            Table::Reply => REPLIES.get_ptr_mut(index).map(shared),
        }
    }

    #[inline(always)]
    fn is_for_socket(&self, scratch: &mut Scratch) -> bool {
        let length = look_between(scratch);
        let tuple = (&raw mut scratch.socket).cast::<bpf_sock_tuple>();
        let ctx = self.ctx.as_ptr();
        // SAFETY: `tuple` has the layout of the helpers' for this length, `ctx` is this program's; what is found is given back.
        unsafe {
            // Also one that only waits for the last packets of its connection.
            let socket = if scratch.packet.protocol == protocol::TCP {
                bpf_skc_lookup_tcp(ctx, tuple, length, CURRENT_NAMESPACE, 0)
            } else {
                bpf_sk_lookup_udp(ctx, tuple, length, CURRENT_NAMESPACE, 0)
            };
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
        }
        true
    }

    #[inline(always)]
    fn route(&self, scratch: &mut Scratch, bytes: u32) -> Route {
        let xdp = self.hook == Hook::Xdp;
        // A tag that is still in the packet would travel on with it; tc takes out one beside that which the kernel has taken out.
        if scratch.packet.l3 > if xdp { 14 } else { 18 } {
            return Route::Defer;
        }
        ask(scratch, self.interface, bytes);
        let fib = &mut scratch.fib;
        // SAFETY: `fib` has the layout and the size the helper expects, `ctx` is this program's.
        let answer =
            unsafe { bpf_fib_lookup(self.ctx.as_ptr(), core::ptr::from_mut(fib).cast(), size_of::<Fib>() as i32, 0) }
                as u32;
        match answer {
            BPF_FIB_LKUP_RET_SUCCESS if xdp => self.xdp_way(fib.interface),
            _ if xdp => Route::Defer,
            // The redirect asks for a link layer address that is not known.
            BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
                scratch.next_hop = NextHop { family: fib.family as u32, addr: fib.dst };
                scratch.resolved = (answer == BPF_FIB_LKUP_RET_SUCCESS) as u32;
                Route::Interface(fib.interface)
            }
            BPF_FIB_LKUP_RET_NOT_FWDED => Route::Stack,
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig(fib.bytes as u32),
            BPF_FIB_LKUP_RET_FWD_DISABLED => Route::Drop(DropReason::ForwardingDisabled),
            BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
                Route::Drop(DropReason::NoRoute)
            }
            _ => Route::Drop(DropReason::NoRoute),
        }
    }

    #[inline(always)]
    fn repeat<F: FnMut() -> bool>(&self, times: u32, mut attempt: F) {
        // SAFETY: the callback has the signature the helper calls, and `attempt` outlives the loop.
        unsafe { bpf_loop(times, once::<F> as *mut _, (&raw mut attempt).cast(), 0) };
    }

    #[inline(always)]
    fn knocked(&self, service: u32) -> Option<Shared<u64>> {
        KNOCKS.get_ptr_mut(service).map(shared)
    }

    #[inline(always)]
    fn wake(&self, service: u32) {
        // Where there is no room the agent has enough to hear of; who asks asks again.
        let _ = WAKES.output::<u32>(&service, 0);
    }

    #[inline(always)]
    fn trace(&self, event: Event, scratch: &Scratch) {
        if maps::log() != 0 && self.random().is_multiple_of(LOG_SAMPLE) {
            log(self.ctx, event, &scratch.packet);
        }
    }
}

extern "C" fn once<F: FnMut() -> bool>(_index: u32, attempt: *mut core::ffi::c_void) -> i64 {
    // SAFETY: the helper passes on the pointer that `repeat` gave it.
    let attempt = unsafe { &mut *attempt.cast::<F>() };
    attempt() as i64
}

impl<C> Kernel<'_, C> {
    /// XDP sends back where the packet came from, or to an interface that has a program of ours: only those surely can take it.
    #[inline(always)]
    fn xdp_way(&self, interface: u32) -> Route {
        let known = || interface_flags(interface) & INTERFACE_XDP != 0;
        if interface == self.interface || known() { Route::Interface(interface) } else { Route::Defer }
    }
}

/// How a frame to the next hop of a route begins: destination, then source. The answer has them the other way round.
#[inline(always)]
pub(super) fn macs(fib: &Fib) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = fib.macs;
    [g, h, i, j, k, l, a, b, c, d, e, f]
}

/// Whether the maps of frontends and endpoints may have this key.
#[inline(always)]
fn is_known(key: &SocketKey) -> bool {
    let (word, bit) = known::place(known::bit(key));
    // SAFETY: an element of the map; one word, which the agent may change.
    KNOWN.get_ptr(word).is_some_and(|word| unsafe { read_volatile(word) } & bit != 0)
}

/// `INTERFACE_*` flags; none of an interface that is not known.
#[inline(always)]
pub(super) fn interface_flags(interface: u32) -> u32 {
    // SAFETY: one word.
    unsafe { INTERFACES.get(interface) }.copied().unwrap_or(0)
}

#[inline(always)]
fn shared<T>(place: *mut T) -> Shared<T> {
    // SAFETY: an element of a map that lives as long as the program; each map's users keep to what it documents.
    unsafe { Shared::new(place) }
}

#[inline(always)]
fn ask(scratch: &mut Scratch, interface: u32, bytes: u32) {
    let (packet, to, fib) = (&scratch.packet, &scratch.to, &mut scratch.fib);
    fib.protocol = packet.protocol;
    fib.src_port = to.src_port;
    fib.dst_port = to.dst_port;
    fib.bytes = bytes.min(u16::MAX as u32) as u16;
    fib.interface = interface;
    fib.class = 0;
    fib.vlan = 0;
    if packet.is_v4() {
        fib.family = AF_INET;
        fib.src = [to.src.v4_word(), 0, 0, 0];
        fib.dst = [to.dst.v4_word(), 0, 0, 0];
    } else {
        fib.family = AF_INET6;
        fib.src = to.src.0;
        fib.dst = to.dst.0;
    }
}

/// Puts the ends of `scratch.to` where a socket is looked for, and returns the bytes of that.
#[inline(always)]
fn look_between(scratch: &mut Scratch) -> u32 {
    let to = &scratch.to;
    let ([a, b], [c, d]) = (to.src_port.0.to_ne_bytes(), to.dst_port.0.to_ne_bytes());
    let ports = u32::from_ne_bytes([a, b, c, d]);
    if scratch.packet.is_v4() {
        scratch.socket.0 = [to.src.v4_word(), to.dst.v4_word(), ports, 0, 0, 0, 0, 0, 0];
        return 3 * size_of::<u32>() as u32;
    }
    let (src, dst) = (to.src.0, to.dst.0);
    scratch.socket.0 = [src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], ports];
    size_of::<SocketTuple>() as u32
}

#[inline(never)]
fn log<C: EbpfContext>(ctx: &C, event: Event, packet: &Parsed) {
    let (port, to) = (packet.src_port.number(), packet.dst_port.number());
    // The last word of each address: all of an IPv4 address, the end of an IPv6 address.
    let (src, dst) = (u32::from_be(packet.src.0[3]), u32::from_be(packet.dst.0[3]));
    match event {
        Event::NewFlow(backend) => {
            info!(ctx, "new flow {:i}:{} -> {:i}:{} to backend {}", src, port, dst, to, backend);
        }
        Event::Drop(reason) => {
            info!(ctx, "drop {:i}:{} -> {:i}:{} reason {}", src, port, dst, to, reason);
        }
        Event::Evicted(backend) => {
            info!(ctx, "evicted a flow of backend {} for {:i}:{} -> {:i}:{}", backend, src, port, dst, to);
        }
    }
}
