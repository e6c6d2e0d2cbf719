//! Properties of plans over random services, and the cases that random ones seldom meet.

use lb_common::{
    Backend, Frontend, Protocol, Selection,
    backend::{BACKEND_LOCAL, BACKEND_TARGET},
    names::{NAME_BACKEND, NAME_SERVICE, NameKey},
    service::{
        FRONTEND_AFFINITY, FRONTEND_DROP_INSIDE, FRONTEND_DROP_OUTSIDE, FRONTEND_FORWARDS, FRONTEND_MEASURED,
        FRONTEND_RANGES, FRONTEND_WAKES, VIP_FORWARDS, VIP_LIVE, VIP_MEASURED, VIP_REMOVED,
    },
};
use proptest::prelude::*;

use super::*;
use crate::{dataplane::Tables, model::Reach};

const CAPACITY: Capacity = Capacity { frontends: 64, backends: 128, slots: 20_000, services: 32, flows: 1024 };

type Services = BTreeMap<ServiceId, DesiredService>;

/// The maps as a kernel would hold them, and the image that follows; after each write they are compared.
#[derive(Clone, Debug, Default)]
struct World {
    tables: Tables,
    image: Image,
    leaving: BTreeMap<u32, BTreeSet<u32>>,
}

impl World {
    fn write(&mut self, writes: &[Write]) -> Result<(), TestCaseError> {
        for write in writes {
            write.apply(&mut self.tables);
            self.image.apply(write);
            check(&self.tables)?;
            prop_assert_eq!(&self.image, &Image::from(&self.tables), "after {:?}", write);
        }
        Ok(())
    }

    fn plan(&self, id: &ServiceId, desired: Option<&DesiredService>, stamp: u32) -> Plan {
        plan(Input { image: &self.image, capacity: &CAPACITY, stamp }, id, desired).unwrap()
    }

    /// Brings these service ports in line, and returns everything written.
    fn sync<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a ServiceId, Option<&'a DesiredService>)>,
        stamp: u32,
    ) -> Result<Vec<Write>, TestCaseError> {
        let (mut all, mut surplus) = (Vec::new(), strays(&self.image));
        for (id, desired) in changes {
            let plan = self.plan(id, desired, stamp);
            self.write(&plan.writes)?;
            all.extend(plan.writes);
            surplus.extend(plan.surplus);
        }
        let removals = remove(&self.image, &surplus);
        self.write(&removals)?;
        all.extend(removals);
        for Surplus { service, backends, .. } in surplus {
            self.leaving.insert(service, backends);
        }
        Ok(all)
    }

    /// Brings everything in line, and returns everything written.
    fn sync_all(&mut self, services: &Services, stamp: u32) -> Result<Vec<Write>, TestCaseError> {
        let known: BTreeSet<ServiceId> = self.image.services().keys().chain(services.keys()).cloned().collect();
        self.sync(known.iter().map(|id| (id, services.get(id))), stamp)
    }

    /// A grace period is over.
    fn retire(&mut self) -> Result<Vec<Write>, TestCaseError> {
        let writes = retire(&self.image, self.image.idle_runs(), &std::mem::take(&mut self.leaving));
        self.write(&writes)?;
        Ok(writes)
    }

    /// Frees everything that can be: what is left is what a fresh start would make.
    fn finish_all(&mut self) -> Result<(), TestCaseError> {
        let before = meaning(&self.tables);
        let swept = Swept { vips: self.image.removed_vips().clone(), backends: self.image.removed_backends().clone() };
        let writes = finish(&self.image, &swept);
        self.write(&writes)?;
        let after = &self.tables;
        prop_assert_eq!(meaning(after), before);
        prop_assert!(after.vips.values().all(|vip| vip.live == VIP_LIVE));
        prop_assert!(after.backends.values().all(|b| b.state != BackendState::Removed as u8));
        let used: BTreeSet<SocketKey> = after.backends.values().map(Backend::key).collect();
        prop_assert_eq!(after.endpoints.keys().copied().collect::<BTreeSet<_>>(), used);
        let runs: BTreeSet<u32> = after.frontends.values().flat_map(crate::dataplane::runs).map(|(at, _)| at).collect();
        prop_assert_eq!(after.slots.keys().copied().collect::<BTreeSet<_>>(), runs);
        let names = |kind| after.names.keys().filter(move |key| key.kind == kind).map(|key| key.index);
        let served: BTreeSet<u32> =
            after.frontends.values().map(|f| f.service).chain(after.backends.values().map(|b| b.service)).collect();
        prop_assert_eq!(names(NAME_SERVICE).collect::<BTreeSet<_>>(), served);
        prop_assert!(names(NAME_BACKEND).eq(after.backends.keys().copied()));
        prop_assert_eq!(finish(&self.image, &swept), vec![]);
        Ok(())
    }
}

/// What the tables mean, free of indexes: this is what should be is compared with. Weights are those that selection uses, and who is
/// in which table is told apart.
fn meaning(tables: &Tables) -> BTreeMap<ServiceId, Meaning> {
    let mut services: BTreeMap<ServiceId, Meaning> = BTreeMap::new();
    let id = |index: u32, protocol: u8| {
        let name = &tables.names[&NameKey { kind: NAME_SERVICE, index }];
        service_id(name, Protocol::from_number(protocol).unwrap()).unwrap()
    };
    for (key, frontend) in &tables.frontends {
        let (id, port_name) = id(frontend.service, key.protocol);
        let networks = tables.ranges.get(&frontend.id).cloned().unwrap_or_default();
        let service = services.entry(id).or_default();
        service.port_name = port_name;
        let vip_flags = tables.vips[&frontend.id].flags;
        let tables = [frontend.inside, frontend.outside].map(|table| taking(tables, table));
        let Frontend { algorithm, affinity_seconds, flags, max_connections, client_rate, rate, .. } = *frontend;
        let limits = [max_connections, client_rate, rate];
        service
            .frontends
            .insert(*key, FrontendMeaning { tables, algorithm, affinity_seconds, flags, limits, vip_flags, networks });
    }
    for (index, backend) in tables.backends.iter().filter(|(_, b)| b.state != BackendState::Removed as u8) {
        let meaning = BackendMeaning {
            node: tables.names[&NameKey { kind: NAME_BACKEND, index: *index }].clone(),
            flags: backend.flags,
            weights: (backend.weight, backend.effective_weight),
            state: backend.state,
            response_idle: backend.response_idle,
        };
        let service = services.entry(id(backend.service, backend.protocol).0).or_default();
        service.backends.insert(backend.key().socket(), meaning);
    }
    services
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Meaning {
    port_name: String,
    frontends: BTreeMap<SocketKey, FrontendMeaning>,
    backends: BTreeMap<SocketAddr, BackendMeaning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FrontendMeaning {
    /// Who is in the tables for clients inside and outside.
    tables: [BTreeSet<SocketAddr>; 2],
    algorithm: u8,
    affinity_seconds: u32,
    flags: u8,
    limits: [u32; 3],
    /// For replies.
    vip_flags: u16,
    networks: BTreeSet<ipnet::IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct BackendMeaning {
    node: String,
    flags: u8,
    weights: (u16, u16),
    state: u8,
    response_idle: u32,
}

fn taking(tables: &Tables, table: Selection) -> BTreeSet<SocketAddr> {
    let slots = if table.len == 0 { None } else { tables.slots.get(&table.offset) };
    slots.into_iter().flatten().map(|slot| tables.backends[&(*slot as u32)].key().socket()).collect()
}

/// The same, said directly of what should be: a slow and plain reading of the rules.
fn wanted(services: &Services) -> BTreeMap<ServiceId, Meaning> {
    let there = services.iter().filter(|(_, s)| !s.frontends.is_empty() || !s.backends.is_empty());
    there.map(|(id, service)| (id.clone(), wanted_of(id, service))).collect()
}

fn wanted_of(id: &ServiceId, service: &DesiredService) -> Meaning {
    let idle = service.response_idle.filter(|_| id.protocol == Protocol::Tcp).map_or(0, |idle| idle.as_millis() as u32);
    let dsr = service.forwarding == Forwarding::Dsr;
    let frontend = |(key, spec): (&SocketKey, &FrontendSpec)| {
        let forwards = dsr && !spec.at_node && !spec.is_nowhere();
        let family = key.addr.is_v4();
        let tables = [spec.inside, spec.outside].map(|reach| takers(service, family, reach));
        let somewhere = !takers(service, family, Reach::Cluster).is_empty();
        let dropped =
            |n: usize, reach, flag| if tables[n].is_empty() && reach == Reach::Local && somewhere { flag } else { 0 };
        let flags = if service.affinity.is_some() { FRONTEND_AFFINITY } else { 0 }
            | if spec.ranges.is_some() { FRONTEND_RANGES } else { 0 }
            | if idle != 0 { FRONTEND_MEASURED } else { 0 }
            | if service.wakes && !spec.is_nowhere() { FRONTEND_WAKES } else { 0 }
            | if forwards { FRONTEND_FORWARDS } else { 0 }
            | dropped(0, spec.inside, FRONTEND_DROP_INSIDE)
            | dropped(1, spec.outside, FRONTEND_DROP_OUTSIDE);
        let meaning = FrontendMeaning {
            algorithm: service.algorithm as u8,
            affinity_seconds: service.affinity.map_or(0, |time| time.as_secs() as u32),
            flags,
            limits: [service.limits.connections, service.limits.client_rate, service.limits.rate]
                .map(Option::unwrap_or_default),
            vip_flags: if idle != 0 { VIP_MEASURED } else { 0 } | if forwards { VIP_FORWARDS } else { 0 },
            networks: spec.ranges.clone().unwrap_or_default(),
            tables,
        };
        (*key, meaning)
    };
    let reaches = |v4: bool| {
        let family = service.frontends.iter().filter(move |(key, _)| key.addr.is_v4() == v4);
        let reaches: BTreeSet<Reach> = family.flat_map(|(_, spec)| [spec.inside, spec.outside]).collect();
        if reaches.is_empty() { [Reach::Cluster].into() } else { reaches }
    };
    let backend = |(at, backend): (&SocketAddr, &DesiredBackend)| {
        let takes = reaches(at.is_ipv4()).into_iter().any(|reach| takers(service, at.is_ipv4(), reach).contains(at));
        let meaning = BackendMeaning {
            node: backend.node.clone(),
            flags: if !backend.local {
                0
            } else if dsr {
                BACKEND_LOCAL | BACKEND_TARGET
            } else {
                BACKEND_LOCAL
            },
            weights: (backend.weight, if takes { backend.effective_weight } else { 0 }),
            state: backend.state as u8,
            response_idle: idle,
        };
        (*at, meaning)
    };
    let mut meaning = Meaning {
        port_name: service.port_name.clone(),
        frontends: service.frontends.iter().map(frontend).collect(),
        backends: service.backends.iter().map(backend).collect(),
    };
    if meaning.frontends.is_empty() {
        meaning.port_name.clear();
    }
    meaning
}

fn takers(service: &DesiredService, v4: bool, reach: Reach) -> BTreeSet<SocketAddr> {
    let within = |filter: &dyn Fn(&DesiredBackend) -> bool| -> BTreeSet<SocketAddr> {
        let family = service.backends.iter().filter(|(at, b)| at.is_ipv4() == v4 && b.effective_weight > 0);
        let reached = family.filter(|(_, b)| reach == Reach::Cluster || b.local);
        reached.filter(|(_, b)| filter(b)).map(|(at, _)| *at).collect()
    };
    let near = |b: &DesiredBackend| reach == Reach::Local || !b.far;
    let ready = |b: &DesiredBackend| b.state == BackendState::Ready;
    let ill = |b: &DesiredBackend| b.state == BackendState::Unhealthy;
    let leaving = |b: &DesiredBackend| b.state == BackendState::Terminating && b.serving;
    let kinds: [&dyn Fn(&DesiredBackend) -> bool; 5] =
        [&|b| ready(b) && near(b), &ready, &leaving, &|b| ill(b) && near(b), &ill];
    kinds.into_iter().map(within).find(|takers| !takers.is_empty()).unwrap_or_default()
}

/// What must be true after every single write.
fn check(tables: &Tables) -> Result<(), TestCaseError> {
    for (key, frontend) in &tables.frontends {
        let vip = tables.vips.get(&frontend.id).map(|vip| (vip.key, vip.live));
        prop_assert_eq!(vip, Some((*key, VIP_LIVE)), "its id is live");
        let named = tables.names.contains_key(&NameKey { kind: NAME_SERVICE, index: frontend.service });
        prop_assert!(named, "{} has its service's name", key);
        for (offset, len) in crate::dataplane::runs(frontend) {
            check_table(tables, key, offset, len)?;
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

fn check_table(tables: &Tables, key: &SocketKey, offset: u32, len: u32) -> Result<(), TestCaseError> {
    let slots = tables.slots.get(&offset);
    prop_assert!(slots.is_some_and(|slots| slots.len() == len as usize), "{} has its table", key);
    for slot in slots.into_iter().flatten() {
        let backend = tables.backends.get(&(*slot as u32));
        let is_there = backend.is_some_and(|b| b.state != BackendState::Removed as u8);
        prop_assert!(is_there, "{} names backend {}", key, slot);
        let backend = backend.unwrap();
        prop_assert_eq!(backend.addr.is_v4(), key.addr.is_v4());
        prop_assert_eq!(tables.endpoints.get(&backend.key()), Some(&backend.endpoint));
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
    let place = (any::<bool>(), any::<bool>(), any::<bool>());
    (place, weight.clone(), weight, prop_oneof![Just(""), Just("node-a")], 1u8..5).prop_map(
        |((local, far, serving), weight, effective_weight, node, state)| DesiredBackend {
            node: node.into(),
            local,
            far,
            serving,
            source: Addr::NONE,
            weight,
            effective_weight,
            state: BackendState::from_number(state).unwrap(),
        },
    )
}

fn any_spec() -> impl Strategy<Value = FrontendSpec> {
    let reach = || prop_oneof![Just(Reach::Cluster), Just(Reach::Local)];
    let network = prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]);
    let ranges = prop::option::of(prop::collection::btree_set(network.prop_map(|n| n.parse().unwrap()), 0..3));
    let spec = |(inside, outside, ranges, at_node)| FrontendSpec { inside, outside, ranges, at_node };
    (reach(), reach(), ranges, any::<bool>()).prop_map(spec)
}

/// Services a to d; the frontends of each are its own, except that 10.0.0.1:1 may be anybody's.
fn any_services() -> impl Strategy<Value = Services> {
    let backends =
        prop::collection::btree_map((0u8..20, 8080u16..8082).prop_map(|(n, p)| socket(n, p)), any_backend(), 0..6);
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    let affinity = prop::option::of((1u64..100).prop_map(Duration::from_secs));
    let frontends = prop::collection::btree_map(0u8..20, any_spec(), 0..4);
    let service = (frontends, algorithm, affinity, backends, any::<bool>());
    (prop::collection::btree_map(0u8..4, service, 0..4), prop::option::of(0u8..4)).prop_map(|(services, shared)| {
        let services = services.into_iter().map(|(n, (frontends, algorithm, affinity, backends, udp))| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let id = ServiceId { namespace: "default".into(), name: format!("s{n}"), port: 80, protocol };
            let key = |a: u8| SocketKey::new(socket(a, 1000 + u16::from(n)), protocol);
            let mut frontends: BTreeMap<_, _> = frontends.into_iter().map(|(a, spec)| (key(a), spec)).collect();
            if shared == Some(n) {
                frontends.insert(SocketKey::new(socket(1, 1), Protocol::Tcp), FrontendSpec::default());
            }
            let port_name = "p".repeat(usize::from(n % 2));
            let (maglev_size, response_idle) = (Some(31), (n >= 2).then_some(Duration::from_millis(1500)));
            let wakes = udp;
            let forwarding = if n % 2 == 0 { Forwarding::Nat } else { Forwarding::Dsr };
            let limits = Limits { connections: Some(7), client_rate: None, rate: (n >= 2).then_some(100) };
            let service = DesiredService {
                port_name,
                frontends,
                algorithm,
                affinity,
                maglev_size,
                limits,
                forwarding,
                response_idle,
                wakes,
                backends,
            };
            (id, service)
        });
        // A frontend of another protocol than its service's cannot be: the model never makes one.
        let mut services: Services = services.collect();
        for (id, service) in &mut services {
            service.frontends.retain(|key, _| key.protocol == id.protocol as u8);
        }
        services
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_lead_from_any_state_to_any_other(
        states in prop::collection::vec(any_services(), 1..6),
        (patient, free) in any::<(bool, bool)>(),
    ) {
        let mut world = World::default();
        let mut last = Services::new();
        for (step, services) in states.iter().enumerate() {
            let (before, stamp) = (world.clone(), step as u32 + 1);
            world.sync_all(services, stamp)?;
            let all = world.retire()?;
            prop_assert_eq!(meaning(&world.tables), wanted(services));
            prop_assert_eq!(world.clone().sync_all(services, 99)?, vec![], "a plan for what is there is empty");
            never_moves(&before.tables, &world.tables)?;
            // Only what has changed is looked at, in another order, and the grace period comes late: it leads to the same.
            let mut other = before;
            let changed = |id: &&ServiceId| last.get(*id) != services.get(*id);
            let ids: BTreeSet<&ServiceId> = last.keys().chain(services.keys()).filter(changed).collect();
            other.sync(ids.into_iter().rev().map(|id| (id, services.get(id))), stamp)?;
            other.retire()?;
            prop_assert_eq!(meaning(&other.tables), wanted(services), "after {:?}", all);
            world = if patient { other } else { world };
            if free {
                world.finish_all()?;
            }
            last = services.clone();
        }
    }

    #[test]
    fn a_grace_period_that_comes_late_frees_nothing_that_is_wanted_again(
        states in prop::collection::vec(any_services(), 2..5),
    ) {
        let mut world = World::default();
        for (step, services) in states.iter().enumerate() {
            world.sync_all(services, step as u32 + 1)?;
        }
        world.retire()?;
        prop_assert_eq!(meaning(&world.tables), wanted(states.last().unwrap()));
        world.finish_all()?;
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

fn id(name: &str) -> ServiceId {
    ServiceId { namespace: "default".into(), name: name.into(), port: 80, protocol: Protocol::Tcp }
}

fn backend(weight: u16) -> DesiredBackend {
    DesiredBackend { weight, effective_weight: weight, state: BackendState::Ready, ..Default::default() }
}

fn key(n: u8) -> SocketKey {
    SocketKey::new(SocketAddr::from(([10, 96, 0, n], 80)), Protocol::Tcp)
}

fn service(weights: &[u16]) -> DesiredService {
    DesiredService {
        frontends: [1u8, 2].map(|n| (key(n), FrontendSpec::default())).into(),
        algorithm: Algorithm::Random,
        backends: weights.iter().enumerate().map(|(n, weight)| (socket(n as u8, 8080), backend(*weight))).collect(),
        ..Default::default()
    }
}

fn one(weights: &[u16]) -> Services {
    [(id("web"), service(weights))].into()
}

fn started(services: &Services) -> World {
    let mut world = World::default();
    world.sync_all(services, 1).unwrap();
    world.retire().unwrap();
    world
}

#[test]
fn frontends_of_a_service_share_one_table_and_a_weight_writes_little() {
    let mut world = started(&one(&[100, 100]));
    assert_eq!(world.tables.slots.len(), 1);
    let kinds = |writes: Vec<Write>| writes.iter().map(kind).collect::<Vec<_>>();
    let writes = world.sync_all(&one(&[100, 50]), 2).unwrap();
    assert_eq!(kinds(writes), ["backend", "slots", "frontend", "frontend"]);
    assert_eq!(kinds(world.retire().unwrap()), ["free-slots"]);
}

fn kind(write: &Write) -> &'static str {
    match write {
        Write::PutBackend(..) => "backend",
        Write::PutSlots(..) => "slots",
        Write::PutFrontend(..) => "frontend",
        Write::FreeSlots(_) => "free-slots",
        Write::PutRange(..) => "range",
        Write::DeleteRange(..) => "delete-range",
        Write::PutVip(..) => "vip",
        _ => "other",
    }
}

#[test]
fn a_service_is_known_by_its_ports_and_not_by_its_addresses() {
    let mut web = service(&[]);
    let address = key(1).addr;
    web.frontends.extend([SocketKey::other_ports(address), SocketKey::echo(address)].map(|key| (key, nowhere())));
    let services: Services = [(id("web"), web)].into();
    let mut world = started(&services);
    let known = |world: &World| world.image.services().get(&id("web")).copied();
    assert_eq!(known(&world).and_then(|index| world.image.service(index)), Some(id("web")));
    assert_eq!(world.sync_all(&services, 2).unwrap(), [], "and so nothing is written again");
    world.sync_all(&Services::new(), 3).unwrap();
    assert_eq!(known(&world), None);
}

fn nowhere() -> FrontendSpec {
    FrontendSpec { inside: Reach::Nowhere, outside: Reach::Nowhere, ..FrontendSpec::default() }
}

#[test]
fn policies_share_a_table_where_it_is_the_same() {
    let local = FrontendSpec { outside: Reach::Local, ..FrontendSpec::default() };
    let mut web = service(&[100, 100, 100]);
    web.frontends = [(key(1), FrontendSpec::default()), (key(2), local.clone()), (key(3), local)].into();
    web.backends.get_mut(&socket(0, 8080)).unwrap().local = true;
    let world = started(&[(id("web"), web.clone())].into());
    let frontend = |world: &World, n| world.tables.frontends[&key(n)];
    assert_eq!(world.tables.slots.len(), 2, "everywhere, and here");
    assert_eq!(frontend(&world, 1).inside, frontend(&world, 1).outside);
    assert_eq!(frontend(&world, 2).inside, frontend(&world, 1).inside);
    assert_ne!(frontend(&world, 2).outside, frontend(&world, 1).outside);
    assert_eq!((frontend(&world, 3).outside, frontend(&world, 3).flags), (frontend(&world, 2).outside, 0));

    web.backends.values_mut().for_each(|b| b.local = true);
    assert_eq!(started(&[(id("web"), web.clone())].into()).tables.slots.len(), 1, "all are here");
    web.backends.values_mut().for_each(|b| b.local = false);
    let nowhere = started(&[(id("web"), web)].into());
    assert_eq!((frontend(&nowhere, 2).outside.len, frontend(&nowhere, 2).flags), (0, FRONTEND_DROP_OUTSIDE));
}

#[test]
fn ranges_are_there_before_their_flag_and_go_after_it() {
    let mut web = service(&[100]);
    web.frontends = [(key(1), FrontendSpec::default())].into();
    let mut world = started(&[(id("web"), web.clone())].into());
    let mut to = |networks: Option<&[&str]>| {
        let ranges = networks.map(|networks| networks.iter().map(|n| n.parse().unwrap()).collect());
        web.frontends.get_mut(&key(1)).unwrap().ranges = ranges;
        let writes = world.sync_all(&[(id("web"), web.clone())].into(), 2).unwrap();
        writes.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(to(Some(&["10.1.2.3/8", "fd00::/8"])), ["range", "range", "frontend"]);
    assert_eq!(to(Some(&["10.0.0.0/8", "11.0.0.0/8"])), ["range", "delete-range"], "host bits mean nothing");
    assert_eq!(to(Some(&[])), ["delete-range", "delete-range"], "nobody may");
    assert_eq!(to(Some(&["10.0.0.0/8"])), ["range"]);
    assert_eq!(to(None), ["frontend", "delete-range"]);
    to(Some(&["10.0.0.0/8"]));
    let gone: Vec<_> = world.sync_all(&Services::new(), 3).unwrap().iter().map(kind).collect();
    assert_eq!(gone, ["other", "delete-range", "vip"], "the frontend first");
}

#[test]
fn a_removal_waits_for_grace_period_and_sweep() {
    let mut world = started(&one(&[100, 100]));
    world.sync_all(&one(&[100]), 2).unwrap();
    let state = |world: &World| world.tables.backends[&1].state;
    assert_eq!(state(&world), BackendState::Ready as u8, "a packet may have chosen it");
    world.retire().unwrap();
    assert_eq!(state(&world), BackendState::Removed as u8);
    assert_eq!(finish(&world.image, &Swept::default()), [], "flows may still name it");
    let swept = Swept { backends: [1].into(), ..Swept::default() };
    let writes = finish(&world.image, &swept);
    assert_eq!(
        writes,
        [
            Write::DeleteEndpoint(world.tables.backends[&1].key()),
            Write::FreeBackend(1),
            Write::DeleteName(NameKey { kind: NAME_BACKEND, index: 1 })
        ]
    );
    world.write(&writes).unwrap();
    world.sync_all(&one(&[100, 100]), 7).unwrap();
    assert_eq!(world.tables.backends[&1].incarnation, 7, "the next user of the index is told apart");
}

#[test]
fn a_service_that_comes_back_finds_its_flows_again() {
    let before = started(&one(&[100, 100]));
    let mut world = before.clone();
    world.sync_all(&Services::new(), 2).unwrap();
    world.retire().unwrap();
    assert!(world.tables.frontends.is_empty() && world.tables.slots.is_empty());
    assert!(world.tables.vips.values().all(|vip| vip.live == VIP_REMOVED));
    world.sync_all(&one(&[100, 100]), 3).unwrap();
    assert_eq!((world.tables.vips, world.tables.backends), (before.tables.vips, before.tables.backends));
}

#[test]
fn a_frontend_that_changes_hands_is_never_gone() {
    let mut other = service(&[100]);
    other.frontends.clear();
    let mut world = started(&[(id("a"), service(&[100])), (id("b"), other.clone())].into());
    let vip = world.tables.frontends[&key(1)].id;
    let mut without = service(&[100]);
    other.frontends = without.frontends.remove_entry(&key(1)).into_iter().collect();
    let writes = world.sync_all(&[(id("a"), without), (id("b"), other)].into(), 2).unwrap();
    assert!(!writes.iter().any(|write| matches!(write, Write::DeleteFrontend(_) | Write::PutVip(..))), "{writes:?}");
    assert_eq!((world.tables.frontends[&key(1)].id, world.tables.frontends[&key(1)].service), (vip, 1));
}

#[test]
fn what_has_no_name_is_cleared_away() {
    let world = started(&one(&[100, 100]));
    let mut tables = world.tables;
    tables.names.clear();
    let mut world = World { image: Image::from(&tables), tables, leaving: BTreeMap::new() };
    let surplus = strays(&world.image);
    assert_eq!((surplus.len(), surplus[0].frontends.len(), surplus[0].backends.len()), (1, 2, 2));
    let writes = remove(&world.image, &surplus);
    writes.iter().for_each(|write| world.image.apply(write));
    assert!(world.image.frontends().is_empty());
}

#[test]
fn a_full_map_is_named_with_its_flag_and_its_service() {
    let cases = [
        (Capacity { frontends: 1, ..CAPACITY }, "frontends", "--max-frontends"),
        (Capacity { backends: 1, ..CAPACITY }, "endpoints", "--max-backends"),
        (Capacity { slots: 3, ..CAPACITY }, "slots", "--max-slots"),
        (Capacity { services: 0, ..CAPACITY }, "services", "--max-frontends"),
    ];
    for (capacity, what, flag) in cases {
        let input = Input { image: &Image::default(), capacity: &capacity, stamp: 1 };
        let text = plan(input, &id("web"), Some(&service(&[100, 100]))).unwrap_err().to_string();
        let words = [what, flag, "default/web:80/TCP", "nothing of it was changed"];
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}
