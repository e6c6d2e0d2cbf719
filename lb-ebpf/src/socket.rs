//! Connections of the node's own sockets: which backend a socket is given when it connects, and who counts it until its end.
//!
//! Whoever changes [`Connection::owner`], and nobody else, changes the counts of the owners before and after: so the sum is right,
//! whatever runs at the same time.

use core::ptr::{addr_of, addr_of_mut, read_volatile};

use lb_common::{
    Addr, AffinityKey, Algorithm, BackendLoad, DropReason, Frontend, SocketKey, Traffic,
    service::{FRONTEND_AFFINITY, FRONTEND_DROP_INSIDE, FRONTEND_RANGES, FRONTEND_WAKES},
    socket::{
        Connection, NOBODY, OWNER_ESTABLISHED, POD_ASK_CGROUPS, POD_CGROUP, POD_DEFAULT, POD_EXCLUDED, POD_NAMESPACE,
        POD_NODE, Pod, PodKey, owner_backend,
    },
};

use crate::{
    atomic,
    env::{Env, Shared},
    limits::{self, Seat},
    parse::{Parsed, protocol},
    requests, select, wake,
};

/// Cgroups of a process that are asked for, from below the root: a container's is at level 4 of a node run by systemd.
const CGROUP_LEVELS: u32 = 6;
/// IP and TCP header with time stamps, which nearly every segment has: IPv4.
const HEADERS_V4: u64 = 20 + 32;
/// The same for IPv6.
const HEADERS_V6: u64 = 40 + 32;
/// Two may count the bytes of a connection at once; so often one of them tries.
const COUNT_TRIES: u32 = 3;

/// The surroundings of a process that calls the kernel.
pub trait Process: Env {
    /// The number that tells its socket from all others since the node was started.
    fn cookie(&self) -> u64;
    /// The number that tells its socket's network namespace from all others.
    fn namespace(&self) -> u64;
    /// The id of the cgroup that it is below, so many levels below the root; 0 if there is none.
    fn cgroup(&self, level: u32) -> u64;
    /// What is known of where it is.
    fn pod(&self, key: &PodKey) -> Option<Pod>;
    /// Whether a client's address is in a frontend's source ranges.
    fn in_ranges(&self, frontend: u32, client: &Addr) -> bool;
}

/// What becomes of a call that names a frontend: a backend's index, or another answer. One word, because BPF functions return one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice(u32);

impl Choice {
    /// The address is left as it is; the packet path will see the packets.
    pub const LEAVE: Self = Self(u32::MAX);
    /// There is no backend.
    pub const REFUSE: Self = Self(u32::MAX - 1);
    /// There are backends, but on other nodes, and the traffic policy is `Local`.
    pub const UNREACHABLE: Self = Self(u32::MAX - 2);

    /// Every backend has as many connections as it may have.
    pub const FULL: Self = Self(u32::MAX - 3);
    /// The client has begun as many as it may in this time.
    pub const CLIENT_RATE: Self = Self(u32::MAX - 4);
    /// The frontend's clients have, all together.
    pub const FRONTEND_RATE: Self = Self(u32::MAX - 5);
    /// With a backend: it is counted on until [`limits::leave`].
    const RESERVED: u32 = 1 << 31;

    /// The backend, and whether it is counted on.
    #[inline(always)]
    pub const fn seat(self) -> Option<Seat> {
        if self.0 >= Self::FRONTEND_RATE.0 {
            return None;
        }
        Some(Seat { backend: self.0 & !Self::RESERVED, reserved: self.0 & Self::RESERVED })
    }
}

/// The backend for a process that names a frontend.
///
/// Source address and port are not known yet: `maglev` hashes the socket's cookie, `ip-hash` and session affinity take the pod's address.
#[inline(never)]
pub fn choose<P: Process>(process: &P, frontend: &Frontend, key: &SocketKey) -> Choice {
    let pod = place(process);
    if pod.flags & POD_EXCLUDED != 0 {
        return Choice::LEAVE;
    }
    let client = if key.addr.is_v4() { pod.v4 } else { pod.v6 };
    if frontend.flags & FRONTEND_RANGES != 0 && (client == Addr::NONE || !process.in_ranges(frontend.id, &client)) {
        return Choice::LEAVE;
    }
    let mut packet = Parsed { dst: key.addr, dst_port: key.port, protocol: key.protocol, ..Parsed::default() };
    packet.src = client;
    if frontend.algorithm == Algorithm::Maglev as u8 {
        let cookie = process.cookie();
        packet.src = Addr([0, 0, (cookie >> 32) as u32, cookie as u32]);
    }
    let affinity = AffinityKey { client, service: frontend.service };
    match select::choose(process, &packet, &affinity, frontend, frontend.inside) {
        Some(index) => within_limits(process, frontend, &affinity, index),
        None if frontend.flags & FRONTEND_DROP_INSIDE != 0 => Choice::UNREACHABLE,
        None if frontend.flags & FRONTEND_WAKES != 0 => {
            wake::knock(process, frontend.service);
            if is_on_the_node(process) { Choice::REFUSE } else { Choice::LEAVE }
        }
        None => Choice::REFUSE,
    }
}

/// Whether a process is in the node's own network. The packets of all others come by the host side of a pod, where those that are sent
/// again are given a backend.
#[inline(always)]
fn is_on_the_node<P: Process>(process: &P) -> bool {
    let known = process.pod(&PodKey { kind: POD_NAMESPACE, id: process.namespace() });
    known.is_some_and(|pod| pod.flags & POD_NODE != 0)
}

/// A place at the backend that was selected, or at another.
#[inline(always)]
fn within_limits<P: Process>(process: &P, frontend: &Frontend, client: &AffinityKey, index: u32) -> Choice {
    let mut seat = Seat { backend: index, reserved: 0 };
    match limits::enter(process, frontend, &client.client, &frontend.inside, &mut seat) {
        Ok(()) => {}
        Err(DropReason::ClientRate) => return Choice::CLIENT_RATE,
        Err(DropReason::FrontendRate) => return Choice::FRONTEND_RATE,
        Err(_) => return Choice::FULL,
    }
    if seat.backend != index && frontend.flags & FRONTEND_AFFINITY != 0 {
        select::keep(process, client, seat.backend, process.now());
    }
    Choice(seat.backend | if seat.reserved != 0 { Choice::RESERVED } else { 0 })
}

/// What is known of where a process is: of its network namespace, else of its cgroups, else of all.
#[inline(never)]
fn place<P: Process>(process: &P) -> Pod {
    let default = process.pod(&PodKey { kind: POD_DEFAULT, id: 0 }).unwrap_or_default();
    let known = process.pod(&PodKey { kind: POD_NAMESPACE, id: process.namespace() });
    if default.flags & POD_ASK_CGROUPS != 0 {
        for level in 1..=CGROUP_LEVELS {
            let id = process.cgroup(level);
            if id == 0 {
                break;
            }
            if let Some(pod) = process.pod(&PodKey { kind: POD_CGROUP, id }) {
                return pod;
            }
        }
    }
    known.unwrap_or(default)
}

/// Which of a backend's counts.
#[derive(Clone, Copy)]
enum Count {
    Sockets,
    Established,
    Connections,
    Closed,
    Resets,
}

#[inline(always)]
fn add(load: Shared<BackendLoad>, count: Count, value: u64) {
    // SAFETY: `load` points into a map that is changed by atomic additions only.
    unsafe {
        let cell = match count {
            Count::Sockets => addr_of_mut!((*load.ptr()).sockets),
            Count::Established => addr_of_mut!((*load.ptr()).established),
            Count::Connections => addr_of_mut!((*load.ptr()).connections),
            Count::Closed => addr_of_mut!((*load.ptr()).closed),
            Count::Resets => addr_of_mut!((*load.ptr()).resets),
        };
        atomic::fetch_add(cell, value);
    }
}

const MINUS_ONE: u64 = u64::MAX;

/// Makes another, or nobody, count a socket, and returns who did before.
///
/// # Safety
/// `owner` is a [`Connection::owner`] or the like, changed only by the functions here.
#[inline(always)]
pub unsafe fn hand_over<E: Env>(env: &E, owner: *mut u32, to: u32) -> u32 {
    // SAFETY: the caller's promise.
    let from = unsafe { atomic::exchange(owner, to) };
    if let Some(load) = owner_backend(from).and_then(|backend| env.load(backend)) {
        add(load, Count::Sockets, MINUS_ONE);
        if from & OWNER_ESTABLISHED != 0 {
            add(load, Count::Established, MINUS_ONE);
            add(load, Count::Closed, 1);
        }
    }
    if let Some(load) = owner_backend(to).and_then(|backend| env.load(backend)) {
        add(load, Count::Sockets, 1);
        if to & OWNER_ESTABLISHED != 0 {
            add(load, Count::Established, 1);
            add(load, Count::Connections, 1);
        }
    }
    from
}

/// The backend has accepted: the socket's connection is established from now on.
///
/// # Safety
/// As of [`hand_over`].
#[inline(always)]
pub unsafe fn establish<E: Env>(env: &E, owner: *mut u32) {
    // SAFETY: the caller's promise; the word is read once. Somebody else can only have closed the socket meanwhile.
    unsafe {
        let before = read_volatile(owner);
        let open = before != NOBODY && before & OWNER_ESTABLISHED == 0;
        if open && atomic::compare_exchange(owner, before, before | OWNER_ESTABLISHED) {
            let Some(load) = owner_backend(before).and_then(|backend| env.load(backend)) else { return };
            add(load, Count::Established, 1);
            add(load, Count::Connections, 1);
        }
    }
}

/// Both sides have said their last word; the socket is still there.
///
/// # Safety
/// As of [`hand_over`].
#[inline(always)]
pub unsafe fn finish<E: Env>(env: &E, owner: *mut u32) {
    // SAFETY: as in `establish`.
    unsafe {
        let before = read_volatile(owner);
        if before & OWNER_ESTABLISHED != 0 && atomic::compare_exchange(owner, before, before & !OWNER_ESTABLISHED) {
            let Some(load) = owner_backend(before).and_then(|backend| env.load(backend)) else { return };
            add(load, Count::Established, MINUS_ONE);
            add(load, Count::Closed, 1);
        }
    }
}

/// The connection is over. `cut` says that it ended before both sides had said their last word.
///
/// # Safety
/// As of [`hand_over`].
#[inline(always)]
pub unsafe fn end<E: Env>(env: &E, owner: *mut u32, cut: bool) {
    // SAFETY: the caller's promise.
    let before = unsafe { hand_over(env, owner, NOBODY) };
    if cut
        && before & OWNER_ESTABLISHED != 0
        && let Some(load) = owner_backend(before).and_then(|backend| env.load(backend))
    {
        add(load, Count::Resets, 1);
    }
}

/// A connection that nobody counts any more has no requests either. Called after that was said, see [`measured`].
#[inline(always)]
pub fn end_requests<E: Env>(env: &E, connection: Shared<Connection>) {
    // SAFETY: in map memory that is valid for the program's time.
    let (index, cookie) = unsafe { ((*connection.ptr()).backend, (*connection.ptr()).cookie) };
    if env.backend(index).is_some_and(|backend| backend.response_idle != 0) {
        env.end_request(cookie);
    }
}

/// The connection of an established socket, if its requests are measured. Who has noted something of them asks once more afterwards:
/// either this sees that the connection has ended meanwhile, or its end sees what was noted.
#[inline(always)]
pub fn measured<E: Env>(env: &E, connection: Shared<Connection>) -> Option<requests::Connection> {
    // SAFETY: as above; the owner is read once.
    let (owner, backend, key) = unsafe {
        let connection = connection.ptr();
        (read_volatile(addr_of!((*connection).owner)), (*connection).backend, (*connection).cookie)
    };
    let is_measured = owner & OWNER_ESTABLISHED != 0 && env.backend(backend)?.response_idle != 0;
    is_measured.then_some(requests::Connection { key, backend })
}

/// Adds to the backend's traffic what a connection has carried and was not counted yet. `total` is in the terms of
/// [`Connection::counted`]. What the slot's next user would be blamed for is left out.
#[inline(always)]
pub fn count_traffic<E: Env>(env: &E, connection: Shared<Connection>, total: &Traffic) {
    // SAFETY: in map memory that is valid for the program's time; fields that others change are read once.
    let (index, incarnation, v4) = unsafe {
        let connection = connection.ptr();
        ((*connection).backend, (*connection).incarnation, (*connection).endpoint.addr.is_v4())
    };
    if env.backend(index).is_none_or(|backend| backend.incarnation != incarnation) {
        return;
    }
    let Some(traffic) = env.traffic(index) else { return };
    let headers = if v4 { HEADERS_V4 } else { HEADERS_V6 };
    // SAFETY: as above; `counted` is changed by `claim` only, the traffic of this CPU by atomic additions where it can be interrupted.
    unsafe {
        let counted = addr_of_mut!((*connection.ptr()).counted);
        let packets_in = claim(addr_of_mut!((*counted).packets_in), total.packets_in);
        let packets_out = claim(addr_of_mut!((*counted).packets_out), total.packets_out);
        let bytes_in = claim(addr_of_mut!((*counted).bytes_in), total.bytes_in);
        let bytes_out = claim(addr_of_mut!((*counted).bytes_out), total.bytes_out);
        let sum = traffic.ptr();
        atomic::fetch_add(addr_of_mut!((*sum).packets_in), packets_in);
        atomic::fetch_add(addr_of_mut!((*sum).packets_out), packets_out);
        atomic::fetch_add(addr_of_mut!((*sum).bytes_in), bytes_in.wrapping_add(packets_in.wrapping_mul(headers)));
        atomic::fetch_add(addr_of_mut!((*sum).bytes_out), bytes_out.wrapping_add(packets_out.wrapping_mul(headers)));
    }
}

/// Moves a counted total up to `total`, and returns by how much; 0 if somebody else has been there.
///
/// # Safety
/// `counted` is valid, and changed by this function or while nobody else can reach it.
#[inline(always)]
unsafe fn claim(counted: *mut u64, total: u64) -> u64 {
    for _ in 0..COUNT_TRIES {
        // SAFETY: the caller's promise.
        unsafe {
            let before = read_volatile(counted);
            if total <= before {
                return 0;
            }
            if atomic::compare_exchange64(counted, before, total) {
                return total - before;
            }
        }
    }
    0
}

/// Whether a protocol is one that has frontends.
#[inline(always)]
pub const fn is_balanced(number: u32) -> bool {
    number == protocol::TCP as u32 || number == protocol::UDP as u32
}

#[cfg(test)]
mod tests;
