use std::net::SocketAddr;

use lb_common::Protocol;

use super::*;
use crate::{
    cluster::counts::{Carried, News, Told},
    signals::requests::Answers,
};

fn socket(host: u8) -> SocketKey {
    SocketKey::new(SocketAddr::from(([10, 0, 0, host], 80)), Protocol::Tcp)
}

fn shop() -> ServiceKey {
    ("shop".into(), "web".into())
}

/// A node's agent: it reports what it is said to carry.
#[derive(Default)]
struct Agent {
    name: &'static str,
    told: Told,
}

impl Agent {
    fn join(fleet: &mut Fleet, name: &'static str) -> Self {
        fleet.join(name);
        Self { name, told: Told::default() }
    }

    /// Carries (number, host, active, connections).
    fn report(&mut self, fleet: &mut Fleet, second: u64, carried: &[(u32, u8, u64, u64)]) {
        let named = |host| Arc::new(BackendName { service: shop(), socket: socket(host) });
        let counts = |active, connections| Counts { active, connections, ..Counts::default() };
        let now: Carried =
            carried.iter().map(|(id, host, active, n)| (*id, (named(*host), counts(*active, *n)))).collect();
        let News { backends, forgotten, counts } = self.told.tell(&now);
        let report = Report { counts_age: Some(0), backends, forgotten, counts, ..Report::default() };
        fleet.take(self.name, &report, Duration::from_secs(second));
    }

    /// Carries one connection of the first host, with these requests.
    fn measures(&mut self, fleet: &mut Fleet, second: u64, requests: Option<RequestLoad>) {
        let name = Arc::new(BackendName { service: shop(), socket: socket(1) });
        let counts = Counts { active: 1, requests: requests.map(Box::new), ..Counts::default() };
        let News { backends, forgotten, counts } = self.told.tell(&[(1, (name, counts))].into());
        let report = Report { counts_age: Some(0), backends, forgotten, counts, ..Report::default() };
        fleet.take(self.name, &report, Duration::from_secs(second));
    }
}

/// Active and total connections by host.
fn sums(fleet: &Fleet) -> BTreeMap<u8, (u64, u64)> {
    let counts = fleet.service(&shop(), &fleet.ages(Duration::from_secs(1)));
    let host = |socket: &SocketKey| match socket.socket() {
        SocketAddr::V4(at) => at.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    counts.backends.iter().map(|(socket, c)| (host(socket), (c.active, c.connections))).collect()
}

fn told(fleet: &mut Fleet, node: &str) -> BTreeMap<u32, u64> {
    fleet.elsewhere(node).iter().map(|elsewhere| (elsewhere.id, elsewhere.active)).collect()
}

#[test]
fn counts_are_summed_and_each_node_hears_of_the_others() {
    let mut fleet = Fleet::default();
    let (mut a, mut b) = (Agent::join(&mut fleet, "a"), Agent::join(&mut fleet, "b"));
    a.report(&mut fleet, 1, &[(1, 1, 4, 100), (2, 2, 0, 0)]);
    b.report(&mut fleet, 1, &[(7, 1, 3, 900)]);
    assert_eq!(sums(&fleet), [(1, (7, 0)), (2, (0, 0))].into(), "what was counted before is not added");
    assert_eq!(told(&mut fleet, "a"), [(1, 3), (2, 0)].into());
    assert_eq!(told(&mut fleet, "b"), [(7, 4)].into());
    assert_eq!(told(&mut fleet, "a"), [].into(), "nothing new");
    a.report(&mut fleet, 2, &[(1, 1, 5, 106), (2, 2, 1, 1)]);
    b.report(&mut fleet, 2, &[(7, 1, 3, 902), (8, 2, 2, 4)]);
    assert_eq!(sums(&fleet), [(1, (8, 8)), (2, (3, 5))].into());
    assert_eq!(told(&mut fleet, "a"), [(2, 2)].into());
    assert_eq!(told(&mut fleet, "b"), [(7, 5), (8, 1)].into());
}

#[test]
fn sums_only_grow_whatever_becomes_of_agents() {
    let mut fleet = Fleet::default();
    let (mut a, mut b) = (Agent::join(&mut fleet, "a"), Agent::join(&mut fleet, "b"));
    a.report(&mut fleet, 1, &[(1, 1, 4, 100)]);
    b.report(&mut fleet, 1, &[(1, 1, 1, 10)]);
    a.report(&mut fleet, 2, &[(1, 1, 4, 110)]);
    let mut a = Agent::join(&mut fleet, "a");
    assert_eq!(sums(&fleet), [(1, (5, 10))].into(), "a stream that says nothing yet changes nothing");
    a.report(&mut fleet, 3, &[(1, 1, 2, 115)]);
    assert_eq!(sums(&fleet), [(1, (3, 15))].into(), "a known node's counters go on in its next stream");
    a.report(&mut fleet, 4, &[(1, 1, 1, 2)]);
    assert_eq!(sums(&fleet), [(1, (2, 17))].into(), "they have started again");
    fleet.forget("b");
    assert_eq!(sums(&fleet), [(1, (1, 17))].into(), "a node that is gone carries nothing");
    a.report(&mut fleet, 5, &[(1, 2, 6, 6)]);
    assert_eq!(sums(&fleet), [(2, (6, 6))].into(), "a number that means another backend");
    assert_eq!(told(&mut fleet, "a"), [(1, 0)].into());
    let mut a = Agent::join(&mut fleet, "a");
    a.report(&mut fleet, 6, &[]);
    assert_eq!((sums(&fleet), fleet.free.len(), fleet.services.len()), ([].into(), 2, 0), "nothing is left behind");
}

#[test]
fn requests_are_known_where_every_node_measures_them() {
    let mut fleet = Fleet::default();
    let (mut a, mut b) = (Agent::join(&mut fleet, "a"), Agent::join(&mut fleet, "b"));
    let seen = |fleet: &Fleet| {
        let counts = fleet.service(&shop(), &fleet.ages(Duration::from_secs(1)));
        counts.backends[&socket(1)].requests.as_ref().map(|load| (load.in_flight, load.begun, load.answers.total()))
    };
    let load = |in_flight, begun, answers| {
        let answers = Answers::new(vec![answers], 0);
        Some(RequestLoad { in_flight, begun, unseen: 0, answers })
    };
    a.measures(&mut fleet, 1, load(2, 100, 90));
    assert_eq!(seen(&fleet), Some((2, 0, 0)), "what was counted before is not added");
    b.measures(&mut fleet, 1, None);
    assert_eq!(seen(&fleet), None, "another node carries some and does not measure them");
    b.measures(&mut fleet, 2, load(1, 3, 1));
    a.measures(&mut fleet, 2, load(0, 104, 95));
    assert_eq!(seen(&fleet), Some((1, 7, 6)));
    a.measures(&mut fleet, 3, load(5, 2, 1));
    assert_eq!(seen(&fleet), Some((6, 9, 7)), "its counters have started again");
    fleet.forget("a");
    assert_eq!(seen(&fleet), Some((1, 9, 7)));
    b.measures(&mut fleet, 4, None);
    assert_eq!(seen(&fleet), None);
}

#[test]
fn who_is_late_makes_old_what_it_carries() {
    let mut fleet = Fleet::default();
    let (mut a, mut b) = (Agent::join(&mut fleet, "a"), Agent::join(&mut fleet, "b"));
    a.report(&mut fleet, 10, &[(1, 1, 4, 0)]);
    b.report(&mut fleet, 11, &[]);
    let at = |fleet: &Fleet, second| {
        let ages = fleet.ages(Duration::from_secs(second));
        let other = ("shop".to_owned(), "other".to_owned());
        (fleet.service(&shop(), &ages).at.as_secs(), fleet.service(&other, &ages).at.as_secs())
    };
    assert_eq!(at(&fleet, 12), (10, 10));
    assert_eq!(at(&fleet, 13), (10, 11), "a is late, and carries nothing of the other Service");
    b.report(&mut fleet, 14, &[]);
    assert_eq!(at(&fleet, 15), (10, 14));
    fleet.forget("a");
    assert_eq!(at(&fleet, 15), (14, 14));
}
