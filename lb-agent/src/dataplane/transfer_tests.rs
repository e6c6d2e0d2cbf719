use lb_common::{Addr, Port};

use super::*;

const SEED: u64 = 0x5eed;
const NOW: u32 = 1000;

fn limits(buckets: usize) -> Limits {
    Limits { flow_seed: SEED, bucket_mask: buckets as u32 - 1, snat_first: 1, snat_last: 2, tcp_idle: 8000 }
}

/// Memory in the place of array maps.
fn mapped(buckets: usize) -> Mapped<Bucket> {
    let memory = rustix::fs::memfd_create("buckets", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, (buckets * size_of::<Bucket>()) as u64).unwrap();
    Mapped::new(memory, buckets).unwrap()
}

pub(crate) fn tables(buckets: usize) -> FlowTables {
    FlowTables { forward: mapped(buckets), replies: mapped(buckets) }
}

/// Puts an entry where it belongs, and says where that is; none if its bucket is full.
fn put(table: &Mapped<Bucket>, flow: Flow, state: FlowState) -> Option<u32> {
    let place = Place::of(&limits(table.len()), key_of(&flow));
    let mut bucket = table.get(place.bucket() as usize).unwrap();
    let way = bucket.meta.iter().position(|meta| meta_state(*meta) == FlowState::Free)?;
    (bucket.meta[way], bucket.ways[way]) = (meta(place.tag(), way as u8, state), flow);
    table.set(place.bucket() as usize, bucket);
    Some(place.bucket() * WAYS as u32 + way as u32)
}

/// Makes a flow of client `n`; `false` if a bucket is full.
fn open(tables: &FlowTables, n: u32, state: FlowState) -> bool {
    let client = Addr([0, 0, 0xffff, n]);
    let flow =
        Flow { addr: client, id: 7, port: Port(n as u16), backend: n % 5, last: NOW - n % 40, ..Flow::default() };
    let Some(forward) = put(&tables.forward, Flow { link: NO_LINK, ..flow }, state) else { return false };
    let reply = Flow { id: 100 + n % 5, link: forward, frontend: 7, ..flow };
    let Some(reply) = put(&tables.replies, reply, FlowState::Reply) else {
        free(&tables.forward, forward);
        return false;
    };
    change(&tables.forward, forward, |way| way.link = reply);
    true
}

fn change(table: &Mapped<Bucket>, slot: u32, change: impl FnOnce(&mut Flow)) {
    let (index, way) = (slot as usize / WAYS, slot as usize % WAYS);
    let mut bucket = table.get(index).unwrap();
    change(&mut bucket.ways[way]);
    table.set(index, bucket);
}

fn all(table: &Mapped<Bucket>) -> Vec<Entry> {
    let mut found = Vec::new();
    each(table, |entry| found.push(entry));
    found
}

/// What is known of each flow but for where it stands.
fn known(tables: &FlowTables) -> BTreeMap<u32, (u32, u32, u32, FlowState)> {
    all(&tables.forward)
        .into_iter()
        .map(|e| (e.flow.addr.0[3], (e.meta, e.flow.backend, e.flow.last, e.state())))
        .collect()
}

/// Every entry stands where its key belongs, and every flow's two name each other.
fn assert_whole(tables: &FlowTables) {
    for table in [&tables.forward, &tables.replies] {
        for entry in all(table) {
            let place = Place::of(&limits(table.len()), key_of(&entry.flow));
            assert_eq!((place.bucket(), place.tag()), (entry.slot / WAYS as u32, (entry.meta >> 16) as u16));
        }
        assert!((0..table.len()).all(|index| table.get(index).unwrap().lock == FROZEN));
    }
    for flow in all(&tables.forward) {
        let reply = entry_at(&tables.replies, flow.flow.link).unwrap();
        assert_eq!((reply.flow.link, reply.flow.addr), (flow.slot, flow.flow.addr));
    }
    let replies = all(&tables.replies).len();
    assert_eq!(replies, all(&tables.forward).len(), "no reply entry is left over");
}

#[test]
fn a_larger_table_has_room_for_all() {
    for buckets in [128, 1024, 8192] {
        let (old, new) = (tables(64), tables(buckets));
        let opened = (0..450).filter(|n| open(&old, *n, FlowState::Established)).count();
        assert!(opened > 380, "{opened}");
        let moved = transfer(&old, &new, &limits(buckets), NOW);
        assert_eq!((moved.flows, moved.lost, moved.counted.len()), (opened as u64, 0, 0));
        assert_whole(&new);
        assert_eq!(known(&new), known(&old));
        for flow in all(&old.forward) {
            let there = entry_at(&new.forward, moved.slots[flow.slot as usize]).unwrap();
            assert_eq!((there.flow.addr, there.meta), (flow.flow.addr, flow.meta));
        }
    }
}

#[test]
fn a_smaller_table_loses_those_that_make_way_first_and_says_whose_they_were() {
    let (old, new) = (tables(1024), tables(64));
    let state = |n: u32| match n % 4 {
        0 => FlowState::SynSent,
        1 => FlowState::Closing,
        _ => FlowState::Established,
    };
    let opened = (0..800).filter(|n| open(&old, *n, state(*n))).count() as u64;
    let moved = transfer(&old, &new, &limits(64), NOW);
    assert_whole(&new);
    let (before, after) = (known(&old), known(&new));
    assert_eq!((moved.flows, moved.flows + moved.lost), (after.len() as u64, opened));
    assert!(moved.lost >= opened - 64 * WAYS as u64);
    let lost = |state: FlowState| before.iter().filter(|(n, flow)| flow.3 == state && !after.contains_key(n)).count();
    let had = |state: FlowState| before.values().filter(|flow| flow.3 == state).count();
    assert!(lost(FlowState::Closing) > had(FlowState::Closing) * 3 / 4, "{} closing ones", lost(FlowState::Closing));
    assert!(lost(FlowState::Established) < had(FlowState::Established) / 2, "{}", lost(FlowState::Established));
    let sums = moved.counted.values().fold((0, 0), |(a, p), (active, pending)| (a + active, p + pending));
    assert_eq!(sums, (lost(FlowState::Established) as u64, lost(FlowState::SynSent) as u64));
}

#[test]
fn what_is_not_whole_stays_behind_and_what_is_forwarded_has_one_entry() {
    let (old, new) = (tables(64), tables(128));
    assert!(open(&old, 1, FlowState::Established));
    let half = Flow { addr: Addr([0, 0, 0xffff, 2]), link: NO_LINK, backend: 3, ..Flow::default() };
    put(&old.forward, half, FlowState::SynSent).unwrap();
    put(&old.replies, Flow { link: 17, ..half }, FlowState::Reply).unwrap();
    let forwarded = Flow { addr: Addr([0, 0, 0xffff, 3]), link: FORWARDED, ..half };
    put(&old.forward, forwarded, FlowState::Forwarded).unwrap();
    let torn = put(&old.forward, Flow { addr: Addr([0, 0, 0xffff, 4]), link: 5, ..half }, FlowState::UdpOneWay);
    let moved = transfer(&old, &new, &limits(128), NOW);
    assert_eq!((moved.flows, moved.lost, &moved.counted), (2, 2, &[(3, (1, 1))].into()));
    let clients: BTreeSet<u32> = known(&new).into_keys().collect();
    assert_eq!(clients, [1, 3].into());
    assert_eq!(all(&new.replies).len(), 1);
    assert_eq!(entry_at(&new.forward, moved.slots[torn.unwrap() as usize]).map(|entry| entry.slot), None);
}
