//! The socket hooks of a cgroup: a process that names a frontend is given a backend, once per connection, and sees the frontend's
//! name wherever it asks.
//!
//! The kernel holds the socket's lock in all of these but the last close, so a socket's storage is working memory that nobody else
//! uses meanwhile. This CPU's scratch is not: such a program may be interrupted by packets, or by another process.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
        bpf_sk_storage_get,
    },
    macros::{cgroup_sock, cgroup_sock_addr},
    maps::lpm_trie,
    programs::{SockAddrContext, SockContext},
};
use lb_common::{
    Addr, DropReason, Frontend, Port, Range, SocketKey,
    socket::{Connection, NOBODY, OWNER_ESTABLISHED, Peers, Pod, PodKey, owner},
};
use lb_ebpf::{
    atomic,
    env::{Env, Hook, Shared},
    limits,
    parse::protocol,
    socket::{self, Choice, Process},
    socket_peers::{self, Found},
};

use super::{
    env::Kernel,
    maps::{DROPS, PEERS, PODS, RANGES, SOCKETS},
};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails with the error that was set.
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;
/// Bits of a [`Range`] that are its frontend, and those of a whole address.
const RANGE_BITS: u32 = 32 + 128;

impl Process for Kernel<'_, SockAddrContext> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper on the program's own context.
        unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    #[inline(always)]
    fn cgroup(&self, level: u32) -> u64 {
        // SAFETY: a helper that checks its argument.
        unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
    }

    #[inline(always)]
    fn pod(&self, key: &PodKey) -> Option<Pod> {
        // SAFETY: an updated value is a new one; the old stays until no program uses it (RCU).
        unsafe { PODS.get(key) }.copied()
    }

    #[inline(always)]
    fn in_ranges(&self, frontend: u32, client: &Addr) -> bool {
        RANGES.get(lpm_trie::Key::new(RANGE_BITS, Range { frontend, network: *client })).is_some()
    }
}

/// A socket's storage in a map; made, all zero, if `create` says so.
#[inline(always)]
pub(super) fn storage<T>(map: &SkStorage<T>, socket: *mut core::ffi::c_void, create: bool) -> Option<Shared<T>> {
    let flags = if create { BPF_SK_STORAGE_GET_F_CREATE as u64 } else { 0 };
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map's own address, a socket of the program's context, and no initial value.
    let place = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), flags) }.cast::<T>();
    // SAFETY: storage stays while the program runs; its users keep to what its type documents.
    (!place.is_null()).then(|| unsafe { Shared::new(place) })
}

/// The call that a program of this file is run for.
struct Call<'a> {
    ctx: &'a SockAddrContext,
    v6: bool,
}

impl<'a> Call<'a> {
    #[inline(always)]
    fn new(ctx: &'a SockAddrContext, v6: bool) -> Self {
        Self { ctx, v6 }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The address that the call names, or is about to give back.
    #[inline(always)]
    fn key(&self) -> Option<SocketKey> {
        let raw = self.raw();
        // SAFETY: the program's context. Volatile: each field in an access of its own, as the verifier wants it.
        unsafe {
            let protocol = read_volatile(&raw const (*raw).protocol);
            if !socket::is_balanced(protocol) {
                return None;
            }
            let addr = if self.v6 {
                Addr([
                    read_volatile(&raw const (*raw).user_ip6[0]),
                    read_volatile(&raw const (*raw).user_ip6[1]),
                    read_volatile(&raw const (*raw).user_ip6[2]),
                    read_volatile(&raw const (*raw).user_ip6[3]),
                ])
            } else {
                Addr::from_v4_word(read_volatile(&raw const (*raw).user_ip4))
            };
            let port = Port(read_volatile(&raw const (*raw).user_port) as u16);
            Some(SocketKey { addr, port, protocol: protocol as u8, zero: 0 })
        }
    }

    /// Puts another address there.
    #[inline(always)]
    fn set(&self, to: &SocketKey) {
        let raw = self.raw();
        // SAFETY: as above.
        unsafe {
            if self.v6 {
                write_volatile(&raw mut (*raw).user_ip6[0], to.addr.0[0]);
                write_volatile(&raw mut (*raw).user_ip6[1], to.addr.0[1]);
                write_volatile(&raw mut (*raw).user_ip6[2], to.addr.0[2]);
                write_volatile(&raw mut (*raw).user_ip6[3], to.addr.0[3]);
            } else {
                write_volatile(&raw mut (*raw).user_ip4, to.addr.v4_word());
            }
            write_volatile(&raw mut (*raw).user_port, to.port.0 as u32);
        }
    }

    #[inline(always)]
    fn env(&self) -> Kernel<'_, SockAddrContext> {
        Kernel { ctx: self.ctx, interface: 0, hook: Hook::Egress }
    }

    #[inline(always)]
    fn storage<T>(&self, map: &SkStorage<T>, create: bool) -> Option<Shared<T>> {
        // SAFETY: the program's context.
        let socket = unsafe { (*self.raw()).__bindgen_anon_1.sk };
        storage(map, socket.cast(), create)
    }
}

/// The frontend of an address and port, or what refuses in its place.
#[inline(always)]
fn frontend<'a>(env: &'a Kernel<'_, SockAddrContext>, key: &SocketKey) -> Option<&'a Frontend> {
    env.frontend(key).or_else(|| env.frontend(&SocketKey::other_ports(key.addr)))
}

/// Ends a call for want of a backend.
#[inline(always)]
fn deny(choice: Choice) -> i32 {
    let (error, reason) = match choice {
        Choice::UNREACHABLE => (EHOSTUNREACH, DropReason::NoLocalBackend),
        Choice::FULL => (ECONNREFUSED, DropReason::BackendsFull),
        Choice::CLIENT_RATE => (ECONNREFUSED, DropReason::ClientRate),
        Choice::FRONTEND_RATE => (ECONNREFUSED, DropReason::FrontendRate),
        _ => (ECONNREFUSED, DropReason::NoBackend),
    };
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's element; atomic, because a packet may come between.
        unsafe { atomic::fetch_add(count, 1) };
    }
    // SAFETY: a helper that checks its argument.
    unsafe { bpf_set_retval(-error) };
    DENY
}

#[inline(always)]
fn connect(call: &Call<'_>) -> i32 {
    let Some(key) = call.key() else { return ALLOW };
    let env = call.env();
    let Some(frontend) = frontend(&env, &key) else {
        forget(call);
        return ALLOW;
    };
    let choice = socket::choose(&env, frontend, &key);
    let Some(seat) = choice.seat() else {
        forget(call);
        return if choice == Choice::LEAVE { ALLOW } else { deny(choice) };
    };
    let connected = to_backend(call, &env, key, seat.backend);
    limits::leave(&env, &seat);
    if connected { ALLOW } else { deny(Choice::REFUSE) }
}

/// Connects a socket that names a frontend to a backend. `false`: there is none of this index.
#[inline(always)]
fn to_backend(call: &Call<'_>, env: &Kernel<'_, SockAddrContext>, key: SocketKey, index: u32) -> bool {
    let Some(backend) = env.backend(index) else { return false };
    let endpoint = backend.key();
    // Without memory for it the socket works, and is not counted.
    if let Some(connection) = call.storage(&SOCKETS, true) {
        // SAFETY: under the socket's lock; the owner is changed by `hand_over`.
        unsafe {
            let connection = connection.ptr();
            (*connection).frontend = key;
            (*connection).endpoint = endpoint;
            (*connection).backend = index;
            (*connection).incarnation = backend.incarnation;
            (*connection).counted = Default::default();
            (*connection).cookie = env.cookie();
            (*connection).namespace = env.namespace();
            // A datagram socket is connected when the call returns.
            let established = if key.protocol == protocol::UDP { OWNER_ESTABLISHED } else { 0 };
            socket::hand_over(env, addr_of_mut!((*connection).owner), owner(index) | established);
        }
    }
    call.set(&endpoint);
    true
}

/// The socket goes elsewhere.
#[inline(always)]
fn forget(call: &Call<'_>) {
    if let Some(connection) = call.storage(&SOCKETS, false) {
        // SAFETY: under the socket's lock; the owner is changed by `hand_over`.
        unsafe {
            let connection = connection.ptr();
            socket::hand_over(&call.env(), addr_of_mut!((*connection).owner), NOBODY);
            (*connection).endpoint = SocketKey::default();
        }
    }
}

#[inline(always)]
fn send(call: &Call<'_>) -> i32 {
    let Some(key) = call.key() else { return ALLOW };
    let env = call.env();
    let Some(frontend) = frontend(&env, &key) else {
        if let Some(peers) = call.storage(&PEERS, false) {
            socket_peers::sent_directly(peers, &key);
        }
        return ALLOW;
    };
    let now = env.now();
    let known = call.storage(&PEERS, false);
    let mut at = match known.map(|peers| socket_peers::find(&env, peers, &key, now)) {
        Some(Found::Known(at)) => at | KNOWN,
        Some(Found::Place(at)) => at,
        None => 0,
    };
    if at & KNOWN == 0 {
        let choice = socket::choose(&env, frontend, &key);
        let Some(seat) = choice.seat() else {
            return if choice == Choice::LEAVE { ALLOW } else { deny(choice) };
        };
        let peers = call.storage(&PEERS, true);
        let put = peers.map(|peers| socket_peers::put(&env, peers, at, &key, seat.backend).is_some());
        limits::leave(&env, &seat);
        match put {
            Some(true) => {}
            Some(false) => return deny(Choice::REFUSE),
            None => return ALLOW,
        }
    }
    at &= !KNOWN;
    let Some(peers) = call.storage(&PEERS, false) else { return ALLOW };
    call.set(&socket_peers::sent(peers, at, now));
    ALLOW
}

/// Marks the place of a peer that need not be chosen.
const KNOWN: usize = 1 << 16;

/// Gives the frontend's name back for an address that was given for it.
#[inline(always)]
fn rename(call: &Call<'_>) -> i32 {
    let Some(key) = call.key() else { return ALLOW };
    if let Some(connection) = call.storage(&SOCKETS, false) {
        // SAFETY: under the socket's lock.
        let (endpoint, frontend) = unsafe { ((*connection.ptr()).endpoint, (*connection.ptr()).frontend) };
        if endpoint == key {
            call.set(&frontend);
            return ALLOW;
        }
    }
    if key.protocol == protocol::UDP
        && let Some(frontend) = call.storage(&PEERS, false).and_then(|peers| socket_peers::answered(peers, &key))
    {
        call.set(&frontend);
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn weir_connect4(ctx: SockAddrContext) -> i32 {
    connect(&Call::new(&ctx, false))
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn weir_connect6(ctx: SockAddrContext) -> i32 {
    connect(&Call::new(&ctx, true))
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn weir_sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&Call::new(&ctx, false))
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn weir_sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&Call::new(&ctx, true))
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn weir_recvmsg4(ctx: SockAddrContext) -> i32 {
    rename(&Call::new(&ctx, false))
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn weir_recvmsg6(ctx: SockAddrContext) -> i32 {
    rename(&Call::new(&ctx, true))
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn weir_peername4(ctx: SockAddrContext) -> i32 {
    rename(&Call::new(&ctx, false))
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn weir_peername6(ctx: SockAddrContext) -> i32 {
    rename(&Call::new(&ctx, true))
}

#[cgroup_sock(sock_release)]
pub(crate) fn weir_release(ctx: SockContext) -> i32 {
    let env = Kernel { ctx: &ctx, interface: 0, hook: Hook::Egress };
    if let Some(connection) = storage(&SOCKETS, ctx.as_ptr(), false) {
        // SAFETY: the owner is changed by `hand_over` only.
        unsafe { socket::hand_over(&env, addr_of_mut!((*connection.ptr()).owner), NOBODY) };
        socket::end_requests(&env, connection);
    }
    if let Some(peers) = storage::<Peers>(&PEERS, ctx.as_ptr(), false) {
        socket_peers::release(&env, peers);
    }
    ALLOW
}

/// A connection's storage.
#[inline(always)]
pub(super) fn connection(socket: *mut core::ffi::c_void) -> Option<Shared<Connection>> {
    storage(&SOCKETS, socket, false)
}
