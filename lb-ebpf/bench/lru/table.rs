//! The flow table's interface over two kernel LRU hashes, one of clients and one of answers, as other load balancers keep their
//! connections. Made as cheap as that allows: a known flow is one look-up, a new one two insertions, and nothing is locked.
//!
//! What it cannot do: the kernel evicts whom it likes and tells nobody, so the counts of backends drift, and who has to go may be an open
//! connection. It is here to be compared with, not to be used.
//!
//! There are no slots to name an entry by, and no buckets. A slot says instead where an entry's key stands, and the one element that is
//! left of either array of buckets says which of the hashes is meant.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use lb_common::{Bucket, Flow, FlowState, Port};
pub use original::table::{Busy, FORWARDED, Hit, Inserted, Key, NO_LINK, Outcome, key_of};

use crate::{
    bpf::maps::SCRATCH,
    env::{Env, Limits, Shared, Table},
    flow::Step,
};

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    /// A [`FlowState`].
    state: u32,
    backend: u32,
    /// When it was last seen.
    last: u32,
    /// Source port of full NAT, or 0.
    snat_port: Port,
    zero: u16,
}

/// By client and frontend. The two bytes of a key behind its port are those of [`Flow::snat_port`], which is 0 in what is looked for.
#[map(name = "lru_clients")]
static CLIENTS: LruHashMap<Key, Entry> = LruHashMap::with_max_entries(1 << 20, 0);

/// By peer and endpoint: the key of the client's entry.
#[map(name = "lru_answers")]
static ANSWERS: LruHashMap<Key, Key> = LruHashMap::with_max_entries(1 << 20, 0);

/// The client whose answer was looked up last on this CPU.
#[map(name = "lru_asked")]
static ASKED: PerCpuArray<Key> = PerCpuArray::with_max_entries(1, 0);

/// Slot of an entry whose key is that of [`crate::env::Scratch::entry`].
const OWN: u32 = 0;
/// Slot of an entry whose key is in [`ASKED`].
const OF_ANSWER: u32 = 1;
/// The error of an insertion that finds its key.
const EEXIST: i32 = -17;

/// Where a key belongs: the kernel knows.
#[derive(Clone, Copy)]
pub struct Place;

impl Place {
    /// Nowhere in particular.
    #[inline(always)]
    pub fn of(_limits: &Limits, _key: &Key) -> Self {
        Self
    }

    /// The only one.
    #[inline(always)]
    pub fn bucket(self) -> u32 {
        0
    }
}

/// The element that stands for a hash.
#[inline(always)]
pub fn bucket_of<E: Env>(env: &E, table: Table, _slot: u32) -> Option<Shared<Bucket>> {
    env.bucket(table, 0)
}

#[inline(always)]
fn is_of_answers(bucket: Shared<Bucket>) -> bool {
    // SAFETY: an element of a map; written before the programs run.
    unsafe { read_volatile(addr_of!((*bucket.ptr()).zero)) != 0 }
}

#[inline(always)]
fn key_in(slot: u32) -> Option<&'static Key> {
    if slot == OWN {
        // SAFETY: this CPU's own element.
        SCRATCH.get_ptr(0).map(|scratch| unsafe { key_of(&(*scratch).entry) })
    } else {
        // SAFETY: this CPU's own element.
        ASKED.get_ptr(0).map(|key| unsafe { &*key })
    }
}

/// Looks a client's entry up, which is at hand then, so that the flow is said to be seen at once.
#[inline(always)]
fn find_client(slot: u32, key: &Key, out: &mut Hit) -> bool {
    let (Some(entry), Some(scratch)) = (CLIENTS.get_ptr_mut(key), SCRATCH.get_ptr(0)) else { return false };
    // SAFETY: an element of each map; what others change meanwhile is single words.
    unsafe {
        let now = read_volatile(addr_of!((*scratch).now));
        if (*entry).last != now {
            (*entry).last = now;
        }
        *out = Hit {
            slot,
            meta: (*entry).state,
            link: OWN,
            backend: (*entry).backend,
            last: now,
            snat_port: (*entry).snat_port,
        };
    }
    true
}

#[inline(always)]
fn find_answer(key: &Key, out: &mut Hit) -> bool {
    let (Some(client), Some(asked)) = (ANSWERS.get_ptr(key), ASKED.get_ptr_mut(0)) else { return false };
    // SAFETY: an element of each map, the second this CPU's own.
    unsafe { *asked = *client };
    (out.slot, out.link) = (OWN, OF_ANSWER);
    true
}

/// Looks a key up; whether it is there.
#[inline(never)]
pub fn find(bucket: Shared<Bucket>, _place: Place, key: &Key, out: &mut Hit) -> bool {
    if is_of_answers(bucket) { find_answer(key, out) } else { find_client(OWN, key, out) }
}

/// Reads the client's entry whose key a slot says; whether there is one.
#[inline(never)]
pub fn at(bucket: Shared<Bucket>, slot: u32, out: &mut Hit) -> bool {
    !is_of_answers(bucket) && key_in(slot).is_some_and(|key| find_client(slot, key, out))
}

/// What every entry of an answer is named by.
#[inline(always)]
pub fn link_at(_bucket: Shared<Bucket>, _slot: u32) -> Option<u32> {
    Some(OWN)
}

/// The key that a slot says.
#[inline(always)]
pub fn key_at(_bucket: Shared<Bucket>, slot: u32) -> Key {
    key_in(slot).copied().unwrap_or_default()
}

/// Inserts an entry, which was last seen now.
#[inline(always)]
pub fn insert<E: Env>(_env: &E, _place: Place, flow: &Flow, state: FlowState, out: &mut Inserted) -> Outcome {
    let Flow { link, backend, last, snat_port, .. } = *flow;
    out.hit = Hit { slot: OWN, meta: state as u32, link, backend, last, snat_port };
    if state as u8 == FlowState::Reply as u8 { insert_answer(key_of(flow)) } else { insert_client(flow, &mut out.hit) }
}

#[inline(never)]
fn insert_client(flow: &Flow, hit: &mut Hit) -> Outcome {
    let entry = Entry { state: hit.meta, backend: hit.backend, last: hit.last, snat_port: Port(0), zero: 0 };
    match CLIENTS.insert(key_of(flow), entry, BPF_NOEXIST as u64) {
        Ok(()) => Outcome::Done,
        Err(EEXIST) => {
            find_client(OWN, key_of(flow), hit);
            Outcome::Exists
        }
        Err(_) => Outcome::Full,
    }
}

/// Inserts what leads from an answer to the client of [`crate::env::Scratch::entry`]. An entry that an earlier flow of this client has left
/// is as good.
#[inline(never)]
fn insert_answer(key: &Key) -> Outcome {
    let Some(client) = key_in(OWN) else { return Outcome::Full };
    match ANSWERS.insert(key, client, BPF_NOEXIST as u64) {
        Ok(()) => Outcome::Done,
        Err(EEXIST) if leads_to(key, client) => Outcome::Done,
        Err(EEXIST) => Outcome::Exists,
        Err(_) => Outcome::Full,
    }
}

#[inline(always)]
fn leads_to(key: &Key, client: &Key) -> bool {
    // SAFETY: an element of the map.
    ANSWERS
        .get_ptr(key)
        .map(|known| unsafe { &*known })
        .is_some_and(|known| known.addr == client.addr && known.id == client.id && known.port == client.port)
}

/// Deletes a client's entry. What leads to it from its answers is left to the kernel.
#[inline(never)]
pub fn remove(bucket: Shared<Bucket>, hit: &mut Hit) -> Result<bool, Busy> {
    hit.link = NO_LINK;
    Ok(!is_of_answers(bucket) && key_in(hit.slot).is_some_and(|key| CLIENTS.remove(key).is_ok()))
}

/// Moves an entry's state on; its states before and after as two bytes (both 0: it is gone).
#[inline(never)]
pub fn change(_bucket: Shared<Bucket>, seen: &Hit, step: Step) -> Result<u32, Busy> {
    let Some(entry) = key_in(seen.slot).and_then(|key| CLIENTS.get_ptr_mut(key)) else { return Ok(0) };
    // SAFETY: an element of the map; one word.
    unsafe {
        let before = FlowState::from_number((*entry).state as u8);
        let after = step.next(before);
        (*entry).state = after as u32;
        Ok((before as u32) << 8 | after as u32)
    }
}

/// Notes the source port of full NAT, if there is one.
#[inline(never)]
pub fn set_link(_bucket: Shared<Bucket>, new: &Hit) -> bool {
    if new.snat_port.0 == 0 {
        return true;
    }
    let Some(entry) = key_in(new.slot).and_then(|key| CLIENTS.get_ptr_mut(key)) else { return false };
    // SAFETY: an element of the map; one word.
    unsafe { (*entry).snat_port = new.snat_port };
    true
}

/// The look-up has done it.
#[inline(always)]
pub fn touch(_bucket: Shared<Bucket>, _hit: &Hit, _now: u32) {}
