//! The flow table: buckets of eight ways, read without a lock, changed under the bucket's own lock.
//!
//! A writer takes the lock by compare-and-swap, looks again, and changes `meta` last; a reader that sees `meta` change under it
//! looks at nothing it has read. Counters are changed after unlocking, by exactly the transition one has made oneself: that is
//! what keeps them exact on several CPUs.

use core::{
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
    sync::atomic::{Ordering, compiler_fence},
};

use lb_common::{
    Addr, Bucket, Flow, FlowState, Port,
    flow::{WAYS, meta, meta_generation, meta_state},
    hash,
};

use crate::{
    atomic,
    env::{Env, Limits, Shared, Table},
    flow::{Step, idle_limit},
};

/// A flow's `link` before its other entry exists.
pub const NO_LINK: u32 = u32::MAX;
/// The `link` of a flow that is forwarded to its backend's node: it has no other entry here.
pub const FORWARDED: u32 = NO_LINK - 1;

/// Attempts at a bucket's lock. It is held for some tens of nanoseconds.
const LOCK_TRIES: u32 = 16;

/// The key of an entry in one of the tables: how a [`Flow`] begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Key {
    /// Client or peer.
    pub addr: Addr,
    /// Frontend or endpoint.
    pub id: u32,
    /// The client's or peer's port.
    pub port: Port,
}

const _: () = assert!(
    core::mem::offset_of!(Key, addr) == core::mem::offset_of!(Flow, addr)
        && core::mem::offset_of!(Key, id) == core::mem::offset_of!(Flow, id)
        && core::mem::offset_of!(Key, port) == core::mem::offset_of!(Flow, port)
        && size_of::<Key>() <= size_of::<Flow>()
        && align_of::<Key>() <= align_of::<Flow>()
);

/// The key of an entry, where it stands: stack is scarce.
#[inline(always)]
pub fn key_of(flow: &Flow) -> &Key {
    // SAFETY: `Flow` begins like `Key`, as asserted above, and is at least as large and as aligned.
    unsafe { &*core::ptr::from_ref(flow).cast() }
}

/// Where a key belongs: the bucket's index, and above it the tag that distinguishes most keys of one bucket. One word, because a
/// BPF function takes five.
#[derive(Clone, Copy)]
pub struct Place(u64);

impl Place {
    /// Where `key` belongs.
    #[inline(always)]
    pub fn of(limits: &Limits, key: &Key) -> Self {
        let hash = hash::flow(limits.flow_seed, &key.addr, key.port, key.id);
        Self(hash >> 48 << 32 | hash & limits.bucket_mask as u64)
    }

    /// The bucket's index.
    #[inline(always)]
    pub fn bucket(self) -> u32 {
        self.0 as u32
    }

    /// The key's tag.
    #[inline(always)]
    pub fn tag(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// An entry that was found: where it is, and what it said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Hit {
    /// bucket * 8 + way.
    pub slot: u32,
    /// Tag, generation, state.
    pub meta: u32,
    /// The slot of the other entry.
    pub link: u32,
    /// The backend.
    pub backend: u32,
    /// When it was last seen.
    pub last: u32,
    /// Source port of full NAT, or 0.
    pub snat_port: Port,
}

impl Hit {
    /// The state it was in.
    #[inline(always)]
    pub fn state(&self) -> FlowState {
        meta_state(self.meta)
    }
}

#[inline(always)]
fn way_of(slot: u32) -> usize {
    slot as usize & (WAYS - 1)
}

/// The bucket of a slot.
#[inline(always)]
pub fn bucket_of<E: Env>(env: &E, table: Table, slot: u32) -> Option<Shared<Bucket>> {
    env.bucket(table, slot / WAYS as u32)
}

#[inline(always)]
fn load_meta(bucket: Shared<Bucket>, way: usize) -> u32 {
    // SAFETY: `bucket` points to a bucket in a map and `way` is masked; others may write, hence volatile.
    unsafe { read_volatile(addr_of!((*bucket.ptr()).meta[way & (WAYS - 1)])) }
}

#[inline(always)]
fn store_meta(bucket: Shared<Bucket>, way: usize, value: u32) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: as `load_meta`; the caller holds the lock.
    unsafe { write_volatile(addr_of_mut!((*bucket.ptr()).meta[way & (WAYS - 1)]), value) }
    compiler_fence(Ordering::SeqCst);
}

/// The way itself, to read or (under the lock, or the `last` word alone) to write.
#[inline(always)]
fn way_ptr(bucket: Shared<Bucket>, slot: u32) -> *mut Flow {
    // SAFETY: in bounds of the bucket: the way is masked.
    unsafe { addr_of_mut!((*bucket.ptr()).ways[way_of(slot)]) }
}

#[inline(always)]
fn matches(flow: *const Flow, key: &Key) -> bool {
    // SAFETY: `flow` points into a bucket; a torn read is found out by `meta`.
    unsafe {
        read_volatile(addr_of!((*flow).addr.0[3])) == key.addr.0[3]
            && read_volatile(addr_of!((*flow).id)) == key.id
            && read_volatile(addr_of!((*flow).port)).0 == key.port.0
            && read_volatile(addr_of!((*flow).addr.0[2])) == key.addr.0[2]
            && read_volatile(addr_of!((*flow).addr.0[1])) == key.addr.0[1]
            && read_volatile(addr_of!((*flow).addr.0[0])) == key.addr.0[0]
    }
}

/// Reads an entry, if it is still the one that `meta` was read of.
#[inline(always)]
fn read(bucket: Shared<Bucket>, slot: u32, meta: u32, out: &mut Hit) -> bool {
    let flow = way_ptr(bucket, slot);
    // SAFETY: `flow` points into a bucket; a torn read is found out below.
    unsafe {
        out.slot = slot;
        out.link = read_volatile(addr_of!((*flow).link));
        out.backend = read_volatile(addr_of!((*flow).backend));
        out.last = read_volatile(addr_of!((*flow).last));
        out.snat_port = read_volatile(addr_of!((*flow).snat_port));
    }
    compiler_fence(Ordering::SeqCst);
    let now = load_meta(bucket, way_of(slot));
    out.meta = now;
    now as u8 != FlowState::Free as u8 && meta_generation(now) == meta_generation(meta)
}

/// Looks a key up without a lock; whether it is there.
#[inline(never)]
pub fn find(bucket: Shared<Bucket>, place: Place, key: &Key, out: &mut Hit) -> bool {
    for way in 0..WAYS {
        let meta = load_meta(bucket, way);
        if (meta >> 16) as u16 != place.tag() || meta as u8 == FlowState::Free as u8 {
            continue;
        }
        let slot = place.bucket() * WAYS as u32 + way as u32;
        if matches(way_ptr(bucket, slot), key) {
            return read(bucket, slot, meta, out);
        }
    }
    false
}

/// Reads what stands in a slot now; whether there is anything.
#[inline(always)]
pub fn at(bucket: Shared<Bucket>, slot: u32, out: &mut Hit) -> bool {
    let meta = load_meta(bucket, way_of(slot));
    meta as u8 != FlowState::Free as u8 && read(bucket, slot, meta, out)
}

/// The slot that the entry in `slot` names as its other one, if there is an entry.
#[inline(always)]
pub fn link_at(bucket: Shared<Bucket>, slot: u32) -> Option<u32> {
    let meta = load_meta(bucket, way_of(slot));
    // SAFETY: in bounds of the bucket; one word.
    let link = unsafe { read_volatile(addr_of!((*way_ptr(bucket, slot)).link)) };
    compiler_fence(Ordering::SeqCst);
    let now = load_meta(bucket, way_of(slot));
    (now as u8 != FlowState::Free as u8 && meta_generation(now) == meta_generation(meta)).then_some(link)
}

/// The client and frontend (or peer and endpoint) of the entry in `slot`; the caller looks at the entry afterwards to see that it is
/// still the one.
#[inline(always)]
pub fn key_at(bucket: Shared<Bucket>, slot: u32) -> Key {
    let flow = way_ptr(bucket, slot);
    // SAFETY: in bounds of the bucket; a torn read is the caller's to find out.
    unsafe {
        Key {
            addr: read_volatile(addr_of!((*flow).addr)),
            id: read_volatile(addr_of!((*flow).id)),
            port: read_volatile(addr_of!((*flow).port)),
        }
    }
}

/// Takes a bucket's lock; `false` after a bounded number of attempts.
#[inline(never)]
pub fn lock(bucket: Shared<Bucket>) -> bool {
    for _ in 0..LOCK_TRIES {
        // SAFETY: the lock word is in the map and touched only atomically.
        if unsafe { atomic::compare_exchange(addr_of_mut!((*bucket.ptr()).lock), 0, 1) } {
            return true;
        }
    }
    false
}

/// Gives a bucket's lock back.
#[inline(always)]
pub fn unlock(bucket: Shared<Bucket>) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: as in `lock`; an exchange is a full barrier on every architecture.
    unsafe { atomic::exchange(addr_of_mut!((*bucket.ptr()).lock), 0) };
}

/// How an insertion ended.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The entry is in the table.
    Done,
    /// The entry is in the table; another had to go.
    Evicted,
    /// Somebody else has inserted the same key.
    Exists,
    /// No way could be freed.
    Full,
    /// The lock was not to be had.
    Busy,
}

/// What an insertion tells. All of it is always written: see [`crate::pipeline::Verdict`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Inserted {
    /// The new entry, or the one that exists.
    pub hit: Hit,
    /// Who had to go.
    pub evicted: Hit,
}

/// How willingly an entry gives up its way: 0 never, more is sooner. Replies never do: the flow they belong to decides.
///
/// Written without branches, as it runs for eight ways and the verifier follows every path.
#[inline(always)]
pub fn readiness(limits: &Limits, state: u32, age: u64) -> u64 {
    /// By state, four bits each: free, SYN sent, SYN received, established, FIN of the client, FIN of the backend, closing, UDP
    /// one way, UDP answered, reply, forwarded SYN, forwarded TCP, the same after a FIN, forwarded UDP.
    const CLASS: u64 = 0x3_3_3_4_0_1_3_2_1_1_1_3_4_6;
    const EXPIRED: u64 = 5;
    let class = CLASS >> (state * 4) & 0xf;
    let open = less(0, class & 1) & less(class, 2);
    let expired = less(idle_limit(limits, state) as u64, age) & less(0, class) & less(class, EXPIRED);
    let idle = less(IDLE_ENOUGH as u64 - 1, age);
    let unexpired = class & (open & (idle ^ 1)).wrapping_sub(1);
    unexpired + expired * (EXPIRED.wrapping_sub(unexpired))
}

/// 1 if `a < b`, else 0, without a branch. Both are below 2^63.
#[inline(always)]
fn less(a: u64, b: u64) -> u64 {
    core::hint::black_box(a.wrapping_sub(b)) >> 63
}

/// An established flow that was silent for so many seconds may be evicted by a new one.
pub const IDLE_ENOUGH: u32 = 30;

/// Inserts an entry, which was last seen now; a reply entry goes into that table, every other state into the forward table.
#[inline(never)]
pub fn insert<E: Env>(env: &E, place: Place, flow: &Flow, state: FlowState, out: &mut Inserted) -> Outcome {
    let table = if state as u8 == FlowState::Reply as u8 { Table::Reply } else { Table::Forward };
    let Some(bucket) = env.bucket(table, place.bucket()) else { return Outcome::Full };
    if !lock(bucket) {
        return Outcome::Busy;
    }
    let outcome = insert_locked(env, bucket, place, flow, state, out);
    unlock(bucket);
    outcome
}

#[inline(always)]
fn insert_locked<E: Env>(
    env: &E,
    bucket: Shared<Bucket>,
    place: Place,
    flow: &Flow,
    state: FlowState,
    out: &mut Inserted,
) -> Outcome {
    if find(bucket, place, key_of(flow), &mut out.hit) {
        return Outcome::Exists;
    }
    let Some(way) = free_way(bucket).or_else(|| roomiest(bucket, &env.limits(), flow.last)) else {
        return Outcome::Full;
    };
    let slot = place.bucket() * WAYS as u32 + way as u32;
    let outcome = if at(bucket, slot, &mut out.evicted) { Outcome::Evicted } else { Outcome::Done };
    let generation = meta_generation(load_meta(bucket, way)).wrapping_add(1);
    let new = meta(place.tag(), generation, state);
    store_meta(bucket, way, meta(0, generation, FlowState::Free));
    // SAFETY: the lock is held, and readers are kept out by the state.
    unsafe { core::ptr::write(way_ptr(bucket, slot), *flow) };
    store_meta(bucket, way, new);
    out.hit =
        Hit { slot, meta: new, link: flow.link, backend: flow.backend, last: flow.last, snat_port: flow.snat_port };
    outcome
}

/// A free way, told from the bucket's first line alone: each way that [`roomiest`] looks at is another one, and mostly not in the cache.
#[inline(always)]
fn free_way(bucket: Shared<Bucket>) -> Option<usize> {
    let mut free = 0_u64;
    for way in 0..WAYS {
        free |= less((load_meta(bucket, way) & 0xf) as u64, FlowState::Free as u64 + 1) << way;
    }
    (free != 0).then_some(free.trailing_zeros() as usize & (WAYS - 1))
}

/// The way that gives itself up most willingly; among equals the one not seen for longest.
#[inline(always)]
fn roomiest(bucket: Shared<Bucket>, limits: &Limits, now: u32) -> Option<usize> {
    let mut best = 0_u64;
    for way in 0..WAYS {
        let state = load_meta(bucket, way) & 0xf;
        // SAFETY: in bounds; `last` is one word.
        let last = unsafe { read_volatile(addr_of!((*way_ptr(bucket, way as u32)).last)) };
        let age = (now.wrapping_sub(last) & (u32::MAX >> 1)) as u64;
        let ready = readiness(limits, state, age);
        let score = ready << 40 | age << 4 | way as u64;
        best += less(best, score) * (score.wrapping_sub(best));
    }
    (best >> 40 != 0).then_some(best as usize & (WAYS - 1))
}

/// Frees a slot if it still holds the entry that `hit` is of, which is told what the entry said last; whether it did.
#[inline(never)]
pub fn remove(bucket: Shared<Bucket>, hit: &mut Hit) -> Result<bool, Busy> {
    if !lock(bucket) {
        return Err(Busy);
    }
    let way = way_of(hit.slot);
    let (slot, meta_then) = (hit.slot, hit.meta);
    let removed = meta_generation(load_meta(bucket, way)) == meta_generation(meta_then) && at(bucket, slot, hit);
    if removed {
        store_meta(bucket, way, meta(0, meta_generation(meta_then), FlowState::Free));
    }
    unlock(bucket);
    Ok(removed)
}

/// The lock was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Moves an entry's state on, if it is still the flow that `seen` is of; its states before and after as two bytes (both 0: it
/// is gone).
#[inline(never)]
pub fn change(bucket: Shared<Bucket>, seen: &Hit, step: Step) -> Result<u32, Busy> {
    if !lock(bucket) {
        return Err(Busy);
    }
    let way = way_of(seen.slot);
    let current = load_meta(bucket, way);
    let before = meta_state(current);
    if before == FlowState::Free || meta_generation(current) != meta_generation(seen.meta) {
        unlock(bucket);
        return Ok(0);
    }
    let after = step.next(before);
    store_meta(bucket, way, current & !0xff | after as u32);
    unlock(bucket);
    Ok((before as u32) << 8 | after as u32)
}

/// Names the other entry and the source port in the entry that `new` is of; `false` if it is gone already, or locked.
#[inline(never)]
pub fn set_link(bucket: Shared<Bucket>, new: &Hit) -> bool {
    if !lock(bucket) {
        return false;
    }
    let current = load_meta(bucket, way_of(new.slot));
    let same = meta_state(current) != FlowState::Free && meta_generation(current) == meta_generation(new.meta);
    if same {
        let flow = way_ptr(bucket, new.slot);
        // SAFETY: the lock is held; the port is in place before the link says that the entry is complete.
        unsafe {
            write_volatile(addr_of_mut!((*flow).snat_port), new.snat_port);
            compiler_fence(Ordering::SeqCst);
            write_volatile(addr_of_mut!((*flow).link), new.link);
        }
    }
    unlock(bucket);
    same
}

/// Says that the flow was seen now. One word, written only when its second changes.
#[inline(always)]
pub fn touch(bucket: Shared<Bucket>, hit: &Hit, now: u32) {
    if hit.last != now {
        // SAFETY: in bounds; a lone word that needs no lock. If the way was given away meanwhile, the new flow is seen now too.
        unsafe { write_volatile(addr_of_mut!((*way_ptr(bucket, hit.slot)).last), now) };
    }
}

#[cfg(test)]
mod tests;
