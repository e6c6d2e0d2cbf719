use proptest::prelude::*;

use super::*;
use crate::cluster::pool::AddressPoolSpec;

fn pool(name: &str, addresses: &[&str]) -> Pool {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    Pool::new(name, &AddressPoolSpec { addresses, service_selector: None, auto_assign: true }).unwrap()
}

fn request(name: &str, created: i128) -> Request {
    Request {
        service: ("default".into(), name.into()),
        created,
        v4: true,
        ports: [(80, Protocol::Tcp)].into(),
        ..Request::default()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn of(allocation: &Allocation, name: &str) -> Vec<String> {
    let key = ("default".to_owned(), name.to_owned());
    allocation.addresses.get(&key).into_iter().flatten().map(ToString::to_string).collect()
}

fn refusals(allocation: &Allocation, name: &str) -> Vec<String> {
    let key = ("default".to_owned(), name.to_owned());
    allocation.refused.get(&key).into_iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn the_older_one_is_served_first_and_the_rest_is_told() {
    let done = allocate(&[pool("p", &["192.0.2.1-192.0.2.2"])], &[request("c", 3), request("b", 2), request("a", 1)]);
    assert_eq!((of(&done, "a"), of(&done, "b")), (vec!["192.0.2.1".into()], vec!["192.0.2.2".into()]));
    assert_eq!(of(&done, "c"), Vec::<String>::new());
    assert_eq!(refusals(&done, "c").len(), 1);
    assert!(refusals(&done, "c")[0].contains("free IPv4 address"));
}

#[test]
fn what_a_service_has_stays_also_against_an_older_one() {
    let newer = Request { current: vec![ip("192.0.2.1")], ..request("new", 9) };
    let done = allocate(&[pool("p", &["192.0.2.1"])], &[request("old", 1), newer]);
    assert_eq!(of(&done, "new"), ["192.0.2.1"]);
    assert_eq!(refusals(&done, "old").len(), 1);
}

#[test]
fn an_address_that_left_the_pools_is_replaced() {
    let request = Request { current: vec![ip("198.51.100.1")], ..request("web", 1) };
    assert_eq!(of(&allocate(&[pool("p", &["192.0.2.1"])], &[request]), "web"), ["192.0.2.1"]);
}

#[test]
fn dual_stack_gets_one_of_each_and_a_named_one_is_honoured() {
    let pools = [pool("p", &["192.0.2.0/28", "fd00::/120"])];
    let both = Request { v6: true, ..request("both", 1) };
    assert_eq!(of(&allocate(&pools, &[both]), "both"), ["192.0.2.0", "fd00::"]);
    let named = Request { named: vec![ip("192.0.2.9")], current: vec![ip("192.0.2.3")], ..request("named", 1) };
    assert_eq!(of(&allocate(&pools, &[named]), "named"), ["192.0.2.9"]);
    let foreign = Request { named: vec![ip("203.0.113.9")], ..request("foreign", 1) };
    let done = allocate(&pools, &[foreign]);
    assert!(refusals(&done, "foreign")[0].contains("203.0.113.9 is in no AddressPool"));
}

#[test]
fn pools_without_automatic_assignment_serve_who_names_them() {
    let manual = Pool { auto_assign: false, ..pool("p", &["192.0.2.1"]) };
    let pools = [manual];
    assert_eq!(refusals(&allocate(&pools, &[request("a", 1)]), "a").len(), 1);
    let named = Request { named: vec![ip("192.0.2.1")], ..request("a", 1) };
    assert_eq!(of(&allocate(&pools, &[named]), "a"), ["192.0.2.1"]);
}

#[test]
fn sharing_is_on_request_and_with_other_ports_only() {
    let pools = [pool("p", &["192.0.2.1"])];
    let shared = |name: &str, created, port| Request {
        sharing: Some("k".into()),
        ports: [(port, Protocol::Tcp)].into(),
        ..request(name, created)
    };
    let done = allocate(&pools, &[shared("a", 1, 80), shared("b", 2, 443), shared("c", 3, 80)]);
    assert_eq!((of(&done, "a"), of(&done, "b")), (vec!["192.0.2.1".into()], vec!["192.0.2.1".into()]));
    assert_eq!(refusals(&done, "c").len(), 1, "the same port");
    let selector = |app: &str| Some(BTreeMap::from([("app".to_owned(), app.to_owned())]));
    let local = |name: &str, created, port, app| Request { local: selector(app), ..shared(name, created, port) };
    let done = allocate(&pools, &[local("a", 1, 80, "x"), local("b", 2, 443, "x"), local("c", 3, 8443, "y")]);
    assert_eq!(of(&done, "b"), ["192.0.2.1"]);
    assert_eq!(refusals(&done, "c").len(), 1, "another selector under Local");
    let named = Request { named: vec![ip("192.0.2.1")], ..request("d", 4) };
    let done = allocate(&pools, &[shared("a", 1, 80), named]);
    assert!(refusals(&done, "d")[0].contains("held by Service default/a"));
}

proptest! {
    #[test]
    fn nobody_shares_unasked_and_a_second_run_changes_nothing(
        wants in prop::collection::vec((any::<bool>(), any::<bool>(), 0u8..3, 0u16..3), 0..20),
        size in 1u8..12,
    ) {
        let pools = [pool("p", &[&format!("192.0.2.0-192.0.2.{size}"), "fd00::/125"])];
        let requests: Vec<Request> = wants.iter().enumerate().map(|(n, (v4, v6, key, port))| Request {
            v4: *v4,
            v6: *v6,
            sharing: (*key > 0).then(|| key.to_string()),
            ports: [(*port, Protocol::Tcp)].into(),
            ..request(&format!("s{n}"), n as i128)
        }).collect();
        let first = allocate(&pools, &requests);
        for a in &requests {
            for b in requests.iter().filter(|b| b.service < a.service) {
                let of = |r: &Request| first.addresses.get(&r.service).cloned().unwrap_or_default();
                prop_assert!(share(a, b) || of(a).is_disjoint(&of(b)));
            }
        }
        let again: Vec<Request> = requests.iter().map(|r| Request {
            current: first.addresses.get(&r.service).into_iter().flatten().copied().collect(),
            ..r.clone()
        }).collect();
        prop_assert_eq!(&allocate(&pools, &again).addresses, &first.addresses);
    }
}
