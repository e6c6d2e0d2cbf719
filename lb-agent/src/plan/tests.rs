//! Properties of plans over random services, and the cases that random ones seldom meet.

use lb_common::Protocol;
use proptest::prelude::*;

use super::*;

const CAPACITY: Capacity = Capacity { frontends: 64, backends: 128, slots: 20_000, services: 32, flows: 1024 };

fn run(tables: &Tables, desired: &Desired, applied: Option<&Desired>, stamp: u32) -> Vec<Write> {
    plan(Input { tables, desired, applied, capacity: &CAPACITY, stamp }).unwrap()
}

fn apply(tables: &Tables, writes: &[Write]) -> Tables {
    let mut after = tables.clone();
    writes.iter().for_each(|write| write.apply(&mut after));
    after
}

/// What the tables mean, free of indexes: this is what a model is compared with.
fn meaning(tables: &Tables) -> Desired {
    let mut services: BTreeMap<ServiceId, DesiredService> = BTreeMap::new();
    let id = |index: u32, protocol: u8| {
        let name = &tables.names[&NameKey { kind: NAME_SERVICE, index }];
        service_id(name, Protocol::from_number(protocol).unwrap()).unwrap()
    };
    for (key, frontend) in &tables.frontends {
        let (id, port_name) = id(frontend.service, key.protocol);
        let service = services.entry(id).or_default();
        service.port_name = port_name;
        service.frontends.insert(*key);
        service.algorithm = Algorithm::from_number(frontend.algorithm).unwrap();
        let affinity = frontend.flags & FRONTEND_AFFINITY != 0;
        service.affinity = affinity.then(|| Duration::from_secs(frontend.affinity_seconds.into()));
    }
    for (index, backend) in tables.backends.iter().filter(|(_, b)| b.state != BackendState::Removed as u8) {
        let spec = DesiredBackend {
            node: tables.names[&NameKey { kind: NAME_BACKEND, index: *index }].clone(),
            local: backend.is_local(),
            source: backend.source,
            weight: backend.weight,
            effective_weight: backend.effective_weight,
            state: BackendState::from_number(backend.state).unwrap(),
        };
        let service = services.entry(id(backend.service, backend.protocol).0).or_default();
        service.backends.insert(backend.key().socket(), spec);
    }
    Desired { services, keep_others: false }
}

/// What must be true after every single write.
fn check(tables: &Tables) -> Result<(), TestCaseError> {
    for (key, frontend) in &tables.frontends {
        prop_assert_eq!(tables.vips.get(&frontend.id), Some(&Vip { key: *key, live: VIP_LIVE }), "its id is live");
        let named = tables.names.contains_key(&NameKey { kind: NAME_SERVICE, index: frontend.service });
        prop_assert!(named, "{} has its service's name", key);
        if frontend.table_len == 0 {
            continue;
        }
        let slots = tables.slots.get(&frontend.table_offset);
        prop_assert!(slots.is_some(), "{} has its table", key);
        for slot in slots.unwrap() {
            let backend = tables.backends.get(&(*slot as u32));
            prop_assert!(
                backend.is_some_and(|b| b.state != BackendState::Removed as u8),
                "{} names backend {}",
                key,
                slot
            );
            let backend = backend.unwrap();
            prop_assert_eq!(backend.addr.is_v4(), key.addr.is_v4());
            prop_assert_eq!(tables.endpoints.get(&backend.key()), Some(&backend.endpoint));
        }
    }
    let mut end = 0;
    for (offset, slots) in &tables.slots {
        prop_assert!(*offset >= end, "runs do not overlap");
        end = offset + slots.len() as u32;
    }
    prop_assert!(end <= CAPACITY.slots);
    let ids: BTreeSet<u32> = tables.endpoints.values().copied().collect();
    prop_assert_eq!(ids.len(), tables.endpoints.len(), "endpoint ids are unique");
    Ok(())
}

fn check_prefixes(before: &Tables, writes: &[Write]) -> Result<(), TestCaseError> {
    let mut tables = before.clone();
    for write in writes {
        write.apply(&mut tables);
        check(&tables)?;
    }
    Ok(())
}

/// The entries of each frontend's table, as addresses.
fn tables_agree(tables: &Tables, desired: &Desired) -> Result<(), TestCaseError> {
    for (id, service) in &desired.services {
        for key in &service.frontends {
            let frontend = &tables.frontends[key];
            let slots = tables.slots.get(&frontend.table_offset).cloned().unwrap_or_default();
            let slots = if frontend.table_len == 0 { Vec::new() } else { slots };
            let named: BTreeSet<SocketAddr> =
                slots.iter().map(|s| tables.backends[&(*s as u32)].key().socket()).collect();
            let taking =
                |(at, b): &(&SocketAddr, &DesiredBackend)| at.is_ipv4() == key.addr.is_v4() && b.effective_weight > 0;
            let wanted: BTreeSet<SocketAddr> = service.backends.iter().filter(taking).map(|(at, _)| *at).collect();
            prop_assert_eq!(&named, &wanted, "{}", id);
        }
    }
    Ok(())
}

fn socket(number: u8, port: u16) -> SocketAddr {
    if number < 12 {
        SocketAddr::from(([10, 0, 0, number], port))
    } else {
        SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, number.into()], port))
    }
}

fn any_backend() -> impl Strategy<Value = DesiredBackend> {
    let weight = prop_oneof![Just(0u16), Just(1), Just(50), Just(100)];
    (any::<bool>(), weight.clone(), weight, prop_oneof![Just(""), Just("node-a")], 1u8..5).prop_map(
        |(local, weight, effective_weight, node, state)| DesiredBackend {
            node: node.into(),
            local,
            source: Addr::NONE,
            weight,
            effective_weight,
            state: BackendState::from_number(state).unwrap(),
        },
    )
}

/// Services a to d; the frontends of each are its own, except that 10.0.0.1:1 may be anybody's.
fn any_desired() -> impl Strategy<Value = Desired> {
    let backends =
        prop::collection::btree_map((0u8..20, 8080u16..8082).prop_map(|(n, p)| socket(n, p)), any_backend(), 0..6);
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    let affinity = prop::option::of((1u64..100).prop_map(Duration::from_secs));
    let service = (prop::collection::btree_set(0u8..20, 1..4), algorithm, affinity, backends, any::<bool>());
    (prop::collection::btree_map(0u8..4, service, 0..4), prop::option::of(0u8..4)).prop_map(|(services, shared)| {
        let services = services.into_iter().map(|(n, (addresses, algorithm, affinity, backends, udp))| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let id = ServiceId { namespace: "default".into(), name: format!("s{n}"), port: 80, protocol };
            let mut frontends: BTreeSet<SocketKey> =
                addresses.iter().map(|a| SocketKey::new(socket(*a, 1000 + u16::from(n)), protocol)).collect();
            if shared == Some(n) {
                frontends.insert(SocketKey::new(socket(1, 1), Protocol::Tcp));
            }
            let port_name = "p".repeat(usize::from(n % 2));
            (id, DesiredService { port_name, frontends, algorithm, affinity, maglev_size: Some(31), backends })
        });
        // A frontend of another protocol than its service's cannot be: the model never makes one.
        let mut services: BTreeMap<ServiceId, DesiredService> = services.collect();
        for (id, service) in &mut services {
            service.frontends.retain(|key| key.protocol == id.protocol as u8);
        }
        Desired { services, keep_others: false }
    })
}

/// Sizes are not kept in the kernel's maps, only tables of them.
fn without_sizes(desired: &Desired) -> Desired {
    let mut plain = desired.clone();
    plain.services.values_mut().for_each(|service| service.maglev_size = None);
    plain.services.retain(|_, service| !service.frontends.is_empty() || !service.backends.is_empty());
    plain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_lead_from_any_state_to_any_other(states in prop::collection::vec(any_desired(), 1..6), free in any::<bool>()) {
        let mut tables = Tables::default();
        let mut applied: Option<Desired> = None;
        for (step, desired) in states.iter().enumerate() {
            let stamp = step as u32 + 1;
            let writes = run(&tables, desired, None, stamp);
            check_prefixes(&tables, &writes)?;
            let after = apply(&tables, &writes);
            prop_assert_eq!(meaning(&after), without_sizes(desired));
            tables_agree(&after, desired)?;
            prop_assert_eq!(run(&after, desired, None, 99), vec![], "a plan for what is there is empty");
            let with_memory = run(&tables, desired, applied.as_ref(), stamp);
            prop_assert_eq!(apply(&tables, &with_memory), after.clone(), "what is known to be unchanged is not needed");
            never_moves(&tables, &after)?;
            tables = if free { finish_all(&after)? } else { after };
            applied = Some(desired.clone());
        }
    }
}

/// A backend that stays keeps index and incarnation, and so does one that has gone.
fn never_moves(before: &Tables, after: &Tables) -> Result<(), TestCaseError> {
    for (index, backend) in &before.backends {
        let now = &after.backends[index];
        prop_assert_eq!(
            (now.key(), now.service, now.incarnation),
            (backend.key(), backend.service, backend.incarnation)
        );
    }
    Ok(())
}

/// Frees everything that can be: what is left is what a fresh start would make.
fn finish_all(tables: &Tables) -> Result<Tables, TestCaseError> {
    let swept =
        Swept { vips: tables.vips.keys().copied().collect(), backends: tables.backends.keys().copied().collect() };
    let writes = finish(tables, &swept);
    check_prefixes(tables, &writes)?;
    let after = apply(tables, &writes);
    prop_assert_eq!(meaning(&after), meaning(tables));
    prop_assert!(after.vips.values().all(|vip| vip.live == VIP_LIVE));
    prop_assert!(after.backends.values().all(|b| b.state != BackendState::Removed as u8));
    let used: BTreeSet<SocketKey> = after.backends.values().map(Backend::key).collect();
    prop_assert_eq!(after.endpoints.keys().copied().collect::<BTreeSet<_>>(), used);
    prop_assert_eq!(finish(&after, &swept), vec![]);
    Ok(after)
}

fn one(weights: &[u16]) -> Desired {
    let backend = |(n, weight): (usize, &u16)| {
        let spec = DesiredBackend {
            weight: *weight,
            effective_weight: *weight,
            state: BackendState::Ready,
            ..Default::default()
        };
        (socket(n as u8, 8080), spec)
    };
    let id = ServiceId { namespace: "default".into(), name: "web".into(), port: 80, protocol: Protocol::Tcp };
    let keys = [1u8, 2].map(|n| SocketKey::new(SocketAddr::from(([10, 96, 0, n], 80)), Protocol::Tcp));
    let service = DesiredService {
        frontends: keys.into(),
        algorithm: Algorithm::Random,
        backends: weights.iter().enumerate().map(backend).collect(),
        ..Default::default()
    };
    Desired { services: [(id, service)].into(), keep_others: false }
}

#[test]
fn frontends_of_a_service_share_one_table_and_a_weight_writes_little() {
    let tables = apply(&Tables::default(), &run(&Tables::default(), &one(&[100, 100]), None, 1));
    assert_eq!(tables.slots.len(), 1);
    let writes = run(&tables, &one(&[100, 50]), None, 2);
    let kinds: Vec<&str> = writes.iter().map(kind).collect();
    assert_eq!(kinds, ["backend", "slots", "frontend", "frontend", "barrier", "free-slots"]);
}

fn kind(write: &Write) -> &'static str {
    match write {
        Write::PutBackend(..) => "backend",
        Write::PutSlots(..) => "slots",
        Write::PutFrontend(..) => "frontend",
        Write::Barrier => "barrier",
        Write::FreeSlots(_) => "free-slots",
        _ => "other",
    }
}

#[test]
fn a_removal_waits_for_barrier_and_sweep() {
    let tables = apply(&Tables::default(), &run(&Tables::default(), &one(&[100, 100]), None, 1));
    let writes = run(&tables, &one(&[100]), None, 2);
    let barrier = writes.iter().position(|w| *w == Write::Barrier).unwrap();
    let gone = |w: &Write| matches!(w, Write::PutBackend(1, b) if b.state == BackendState::Removed as u8);
    assert!(writes.iter().position(gone).unwrap() > barrier);
    let after = apply(&tables, &writes);
    assert_eq!(finish(&after, &Swept::default()), [], "flows may still name it");
    let swept = Swept { backends: [1].into(), ..Swept::default() };
    let kinds = finish(&after, &swept);
    assert_eq!(
        kinds,
        [
            Write::DeleteEndpoint(after.backends[&1].key()),
            Write::FreeBackend(1),
            Write::DeleteName(NameKey { kind: NAME_BACKEND, index: 1 })
        ]
    );
    let again = apply(&apply(&after, &kinds), &run(&apply(&after, &kinds), &one(&[100, 100]), None, 7));
    assert_eq!(again.backends[&1].incarnation, 7, "the next user of the index is told apart");
}

#[test]
fn a_service_that_comes_back_finds_its_flows_again() {
    let before = apply(&Tables::default(), &run(&Tables::default(), &one(&[100, 100]), None, 1));
    let gone = apply(&before, &run(&before, &Desired::default(), None, 2));
    assert!(gone.frontends.is_empty() && gone.slots.is_empty());
    assert!(gone.vips.values().all(|vip| vip.live == VIP_REMOVED));
    let back = apply(&gone, &run(&gone, &one(&[100, 100]), None, 3));
    assert_eq!((back.vips, back.backends), (before.vips, before.backends));
}

#[test]
fn what_is_not_known_stays() {
    let before = apply(&Tables::default(), &run(&Tables::default(), &one(&[100, 100]), None, 1));
    let nothing = Desired { keep_others: true, ..Desired::default() };
    assert_eq!(run(&before, &nothing, None, 2), []);
}

#[test]
fn a_full_map_is_named_with_its_flag_and_nothing_is_planned() {
    let cases = [
        (Capacity { frontends: 1, ..CAPACITY }, "frontends", "--max-frontends"),
        (Capacity { backends: 1, ..CAPACITY }, "endpoints", "--max-backends"),
        (Capacity { slots: 3, ..CAPACITY }, "slots", "--max-slots"),
        (Capacity { services: 0, ..CAPACITY }, "services", "--max-frontends"),
    ];
    for (capacity, what, flag) in cases {
        let (tables, desired) = (Tables::default(), one(&[100, 100]));
        let error = plan(Input { tables: &tables, desired: &desired, applied: None, capacity: &capacity, stamp: 1 })
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(flag) && text.contains("nothing was changed"), "{text}");
    }
}
