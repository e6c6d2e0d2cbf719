//! Whatever has come in whatever order, the model is the one that a fresh list would give.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    discovery::object::{AddressKind, EndpointObject, PortObject},
    model::{Model, ServicePort},
};

/// What the API server has.
#[derive(Clone, Debug, Default)]
struct World {
    services: BTreeMap<Name, ServiceEntry>,
    slices: BTreeMap<Name, SliceEntry>,
    pods: BTreeMap<Name, PodMarks>,
    weights: BTreeMap<Name, u16>,
    nodes: BTreeMap<Name, NodeInfo>,
}

/// The agent's side: a store, and the model that its changes have made.
#[derive(Default)]
struct Follower {
    store: Store,
    model: Model,
    view: NodeView,
    node_ports: NodePortAddresses,
    changes: usize,
}

impl Follower {
    fn apply(&mut self) -> Vec<Change> {
        let (view, node_ports) = (&self.view, &self.node_ports);
        let local =
            Local { name: "here", view, node_ports, default_algorithm: Algorithm::Maglev, snat_ports: (61000, 65535) };
        let changes = self.store.changes(&local);
        for Change { id, port, .. } in changes.clone() {
            match port {
                Some(port) => drop(self.model.services.insert(id, port)),
                None => assert!(self.model.services.remove(&id).is_some(), "{id} is gone twice"),
            }
        }
        self.changes += changes.len();
        changes
    }

    fn list(&mut self, world: &World) {
        list(&mut self.store, &world.services, News::Service);
        list(&mut self.store, &world.slices, News::Slice);
        list(&mut self.store, &world.pods, News::Pod);
        list(&mut self.store, &world.weights, News::Weight);
        list(&mut self.store, &world.nodes, News::Node);
    }
}

fn list<T: Clone>(store: &mut Store, objects: &BTreeMap<Name, T>, wrap: impl Fn(Event<T>) -> News) {
    store.take(wrap(Event::Listing));
    for (name, object) in objects {
        store.take(wrap(Event::Set(name.clone(), Some(Box::new(object.clone())))));
    }
    store.take(wrap(Event::Listed));
}

fn name(text: &str) -> Name {
    ("n".into(), text.into())
}

fn ip(last: u8) -> IpAddr {
    [10, 96, 0, last].into()
}

fn service(text: &str, created: i128, address: u8, ports: &[u16]) -> ServiceEntry {
    let port =
        |port: &u16| PortObject { name: format!("p{port}"), port: *port, protocol: Protocol::Tcp, node_port: None };
    let object = ServiceObject {
        namespace: "n".into(),
        name: text.into(),
        created: Some(created),
        ports: ports.iter().map(port).collect(),
        addresses: [(ip(address), AddressKind::Cluster)].into(),
        ..ServiceObject::default()
    };
    ServiceEntry { object, uid: format!("uid-{text}"), ..ServiceEntry::default() }
}

fn slice(text: &str, service: &str, endpoints: &[u8]) -> SliceEntry {
    let endpoint = |last: &u8| EndpointObject {
        address: [10, 244, 0, *last].into(),
        node: Some("here".into()),
        pod: Some(format!("pod-{last}").into()),
        terminating: false,
        serving: true,
        hints: None,
    };
    let object = SliceObject {
        namespace: "n".into(),
        name: text.into(),
        service: service.into(),
        ports: vec![("p80".into(), 8080, Protocol::Tcp), ("p81".into(), 8081, Protocol::Tcp)],
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..SliceObject::default()
    };
    SliceEntry { object, ..SliceEntry::default() }
}

fn marks(weight: u16) -> PodMarks {
    PodMarks { uid: "u".into(), weight: Some(weight), ..PodMarks::default() }
}

#[derive(Clone, Debug)]
enum Op {
    Service(usize, Option<(i128, u8, Vec<u16>)>),
    Slice(usize, Option<(usize, Vec<u8>)>),
    Pod(u8, Option<u16>),
    Weight(u8, Option<u16>),
    Zone(Option<u8>),
    /// The API server changes behind our back, and one kind is listed anew, perhaps only after a list that broke off.
    Relist {
        kind: usize,
        missed: Vec<Op>,
        broken: Option<usize>,
    },
    Apply,
}

const SERVICES: [&str; 3] = ["a", "b", "c"];
const SLICES: [&str; 4] = ["s0", "s1", "s2", "s3"];

fn change() -> impl Strategy<Value = Op> {
    let ports = prop::sample::subsequence(vec![80, 81], 0..=2);
    let endpoints = prop::collection::vec(1..6u8, 0..4);
    prop_oneof![
        (0..3usize, prop::option::of((1..4i128, 1..3u8, ports))).prop_map(|(i, to)| Op::Service(i, to)),
        (0..4usize, prop::option::of((0..3usize, endpoints))).prop_map(|(i, to)| Op::Slice(i, to)),
        (1..6u8, prop::option::of(0..3u16)).prop_map(|(i, to)| Op::Pod(i, to)),
        (1..6u8, prop::option::of(0..3u16)).prop_map(|(i, to)| Op::Weight(i, to)),
        prop::option::of(0..2u8).prop_map(Op::Zone),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let missed = prop::collection::vec(change(), 0..5);
    let relist = (0..5usize, missed, prop::option::of(0..3usize)).prop_map(|(kind, missed, broken)| Op::Relist {
        kind,
        missed,
        broken,
    });
    prop_oneof![6 => change(), 1 => relist, 2 => Just(Op::Apply)]
}

/// Does a change to the world, and returns what a watch says of it.
fn happen(world: &mut World, op: &Op) -> Option<News> {
    fn set<T: Clone>(
        objects: &mut BTreeMap<Name, T>,
        name: Name,
        to: Option<T>,
        wrap: impl Fn(Event<T>) -> News,
    ) -> News {
        wrap(match to {
            Some(object) => {
                objects.insert(name.clone(), object.clone());
                Event::Set(name, Some(Box::new(object)))
            }
            None => {
                objects.remove(&name);
                Event::Gone(name)
            }
        })
    }
    Some(match op.clone() {
        Op::Service(index, to) => {
            let text = SERVICES[index];
            let to = to.map(|(created, address, ports)| service(text, created, address, &ports));
            set(&mut world.services, name(text), to, News::Service)
        }
        Op::Slice(index, to) => {
            let to = to.map(|(of, endpoints)| slice(SLICES[index], SERVICES[of], &endpoints));
            set(&mut world.slices, name(SLICES[index]), to, News::Slice)
        }
        Op::Pod(index, to) => set(&mut world.pods, name(&format!("pod-{index}")), to.map(marks), News::Pod),
        Op::Weight(index, to) => set(&mut world.weights, name(&format!("pod-{index}")), to, News::Weight),
        Op::Zone(zone) => {
            let info = NodeInfo { name: "here".into(), zone: zone.map(|z| z.to_string()), ..NodeInfo::default() };
            set(&mut world.nodes, (String::new(), "here".into()), Some(info), News::Node)
        }
        Op::Relist { .. } | Op::Apply => return None,
    })
}

fn relist(follower: &mut Follower, world: &World, kind: usize, broken: Option<usize>) {
    fn one<T: Clone>(
        store: &mut Store,
        objects: &BTreeMap<Name, T>,
        broken: Option<usize>,
        wrap: impl Fn(Event<T>) -> News,
    ) {
        if let Some(after) = broken {
            store.take(wrap(Event::Listing));
            for (name, object) in objects.iter().take(after) {
                store.take(wrap(Event::Set(name.clone(), Some(Box::new(object.clone())))));
            }
        }
        list(store, objects, wrap);
    }
    let store = &mut follower.store;
    match kind {
        0 => one(store, &world.services, broken, News::Service),
        1 => one(store, &world.slices, broken, News::Slice),
        2 => one(store, &world.pods, broken, News::Pod),
        3 => one(store, &world.weights, broken, News::Weight),
        _ => one(store, &world.nodes, broken, News::Node),
    }
}

proptest! {
    #[test]
    fn any_interleaving_ends_with_the_model_of_a_fresh_list(ops in prop::collection::vec(op(), 0..60)) {
        let (mut world, mut follower) = (World::default(), Follower::default());
        follower.list(&world);
        for op in &ops {
            match op {
                Op::Apply => drop(follower.apply()),
                Op::Relist { kind, missed, broken } => {
                    let mut kinds = std::collections::BTreeSet::from([*kind]);
                    for missed in missed {
                        happen(&mut world, missed);
                        kinds.insert(match missed {
                            Op::Service(..) => 0,
                            Op::Slice(..) => 1,
                            Op::Pod(..) => 2,
                            Op::Weight(..) => 3,
                            _ => 4,
                        });
                    }
                    for kind in kinds {
                        relist(&mut follower, &world, kind, *broken);
                    }
                }
                change => follower.store.take(happen(&mut world, change).expect("a change")),
            }
        }
        follower.apply();
        let mut fresh = Follower::default();
        fresh.list(&world);
        fresh.apply();
        prop_assert_eq!(&follower.model, &fresh.model);
        let problems = |store: &Store| store.problems().map(ToString::to_string).collect::<Vec<_>>();
        prop_assert_eq!(problems(&follower.store), problems(&fresh.store));
    }
}

fn started(world: &World) -> Follower {
    let mut follower = Follower::default();
    follower.list(world);
    follower.apply();
    follower.changes = 0;
    follower
}

fn shop() -> World {
    let mut world = World::default();
    for (index, text) in SERVICES.iter().enumerate() {
        happen(&mut world, &Op::Service(index, Some((1, 10 + index as u8, vec![80]))));
        happen(&mut world, &Op::Slice(index, Some((index, vec![index as u8 + 1]))));
        assert!(world.services.contains_key(&name(text)));
    }
    happen(&mut world, &Op::Zone(None));
    world
}

fn backends(port: &ServicePort) -> Vec<String> {
    port.backends.iter().map(|(at, spec)| format!("{at}={}", spec.weight)).collect()
}

#[test]
fn nothing_is_said_before_everything_was_heard() {
    let world = shop();
    let mut follower = Follower::default();
    list(&mut follower.store, &world.services, News::Service);
    assert!(follower.apply().is_empty() && !follower.store.is_complete(), "Services without their endpoints");
    list(&mut follower.store, &world.slices, News::Slice);
    list(&mut follower.store, &world.nodes, News::Node);
    follower.store.take(News::Pod(Event::Listing));
    follower.store.take(News::Weight(Event::Denied));
    assert!(follower.apply().is_empty());
    follower.store.take(News::Pod(Event::Denied));
    assert_eq!(follower.apply().len(), 3, "weights of Pods that may not be seen are not waited for");
    assert!(follower.store.is_complete());
}

#[test]
fn what_begins_early_says_what_it_knows_and_ends_with_the_same_model() {
    let mut world = World::default();
    for index in 0..2 * EARLY {
        let text = format!("many-{index:03}");
        let port = service(&text, 1, 0, &[80]).object.ports;
        let addresses = [(IpAddr::from([10, 97, (index >> 8) as u8, index as u8]), AddressKind::Cluster)].into();
        let object = ServiceObject { ports: port, addresses, ..service(&text, 1, 0, &[]).object };
        world.services.insert(name(&text), ServiceEntry { object, ..ServiceEntry::default() });
        world.slices.insert(name(&text), slice(&text, &text, &[1, 2]));
    }
    let (without, later) = (name("many-000"), name("many-001"));
    world.slices.remove(&without);
    let mut follower = Follower::default();
    follower.store.begin_early();
    list(&mut follower.store, &world.services, News::Service);
    assert!(follower.apply().is_empty(), "no endpoints, and nothing of the node");
    list(&mut follower.store, &world.pods, News::Pod);
    list(&mut follower.store, &world.weights, News::Weight);
    list(&mut follower.store, &world.nodes, News::Node);
    follower.store.take(News::Slice(Event::Listing));
    for (name, entry) in world.slices.iter().filter(|(name, _)| **name != later) {
        follower.store.take(News::Slice(Event::Set(name.clone(), Some(Box::new(entry.clone())))));
    }
    let (known, complete) = (follower.apply().len(), follower.store.is_complete());
    assert_eq!((known, complete), (2 * EARLY - 2, false), "all that have endpoints");
    list(&mut follower.store, &world.slices, News::Slice);
    assert_eq!(follower.apply().len(), 2, "one whose endpoints came late, and one that has none");
    assert_eq!(follower.model, started(&world).model);
}

#[test]
fn a_change_concerns_its_service_alone() {
    let mut world = shop();
    let mut follower = started(&world);
    for (op, wanted) in [
        (Op::Slice(0, Some((0, vec![1, 2]))), &["10.244.0.1:8080=100", "10.244.0.2:8080=100"][..]),
        (Op::Pod(2, Some(7)), &["10.244.0.1:8080=100", "10.244.0.2:8080=7"]),
        (Op::Weight(2, Some(3)), &["10.244.0.1:8080=100", "10.244.0.2:8080=3"]),
        (Op::Weight(2, None), &["10.244.0.1:8080=100", "10.244.0.2:8080=7"]),
        (Op::Pod(2, None), &["10.244.0.1:8080=100", "10.244.0.2:8080=100"]),
        (Op::Slice(0, None), &[]),
    ] {
        follower.store.take(happen(&mut world, &op).unwrap());
        let changes = follower.apply();
        assert_eq!(changes.len(), 1 + usize::from(matches!(op, Op::Pod(..) | Op::Weight(..))), "{op:?}: {changes:?}");
        let port = changes.iter().find(|change| change.id.name == "a").and_then(|change| change.port.as_ref()).unwrap();
        assert_eq!(backends(port), wanted, "{op:?}");
    }
    follower.changes = 0;
    follower.list(&world);
    follower.apply();
    assert_eq!(follower.changes, 0, "a list that says nothing new");
}

#[test]
fn a_frontend_goes_to_the_next_service_when_its_owner_goes() {
    let mut world = World::default();
    for (index, created) in [(0, 1), (1, 2)] {
        happen(&mut world, &Op::Service(index, Some((created, 9, vec![80]))));
    }
    let mut follower = started(&world);
    let has = |follower: &Follower| follower.model.services.keys().map(|id| id.name.clone()).collect::<Vec<_>>();
    assert_eq!(has(&follower), ["a"]);
    let complaints = follower.store.complaints();
    assert_eq!((complaints.len(), complaints[0].name.as_str(), complaints[0].uid.as_str()), (1, "b", "uid-b"));
    assert!(follower.store.complaints().is_empty(), "told once");
    follower.store.take(happen(&mut world, &Op::Service(0, None)).unwrap());
    follower.apply();
    assert_eq!(has(&follower), ["b"]);
    assert!(follower.store.complaints().is_empty() && follower.store.problems().next().is_none());
}

#[test]
fn the_time_of_a_change_is_told_once_and_not_of_lists() {
    let mut world = shop();
    let at = |second| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let mut timed = slice("s0", "a", &[1, 2]);
    timed.trigger = at(5);
    world.slices.insert(name("s0"), timed.clone());
    let mut follower = started(&world);
    let mut set = |object: &SliceEntry| {
        follower.store.take(News::Slice(Event::Set(name("s0"), Some(Box::new(object.clone())))));
        follower.apply().first().and_then(|change| change.trigger)
    };
    timed.object.endpoints.pop();
    assert_eq!(set(&timed), None, "the time is that of an older change");
    timed.trigger = at(9);
    timed.object.endpoints.clear();
    assert_eq!(set(&timed), at(9));
}

#[test]
fn a_node_port_among_the_source_ports_of_full_nat_is_told() {
    let mut world = shop();
    world.services.get_mut(&name("a")).unwrap().object.ports[0].node_port = Some(61000);
    let follower = started(&world);
    let told: Vec<String> = follower.store.problems().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("--snat-ports 61000-65535"), "{told:?}");
}
