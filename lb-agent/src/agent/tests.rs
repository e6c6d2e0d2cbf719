//! The agent over maps in memory, second by second.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use lb_common::{
    Algorithm, BackendLoad, BackendState, Protocol, SocketKey,
    counters::Recount,
    request::{Measure, Request},
    service::{FRONTEND_MEASURED, FRONTEND_WAKES, VIP_MEASURED},
};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    agent::{core::SyncError, marks::Mark},
    config::SourceConfig,
    dataplane::{Capacity, Counters, Inspect, SweepReport, Write, fake::Fake},
    model::{BackendSpec, Feedback, HealthCheck, Model, Probe, ServiceId, ServicePort},
    signals::{requests::Noted, servers::Used},
};

pub(super) const CAPACITY: Capacity = Capacity { frontends: 16, backends: 16, slots: 20_000, services: 16, flows: 64 };

fn id() -> ServiceId {
    ServiceId { namespace: "default".into(), name: "web".into(), port: 80, protocol: Protocol::Tcp }
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8080))
}

fn port(backends: u8) -> ServicePort {
    let spec = BackendSpec { weight: 100, local: true, ..BackendSpec::default() };
    ServicePort {
        frontends: [(SocketKey::new(SocketAddr::from(([10, 96, 0, 1], 80)), Protocol::Tcp), Default::default())].into(),
        algorithm: Algorithm::Random,
        backends: (1..=backends).map(|n| (at(n), spec.clone())).collect(),
        ..ServicePort::default()
    }
}

fn model(port: ServicePort) -> Model {
    Model { services: [(id(), port)].into() }
}

fn second(n: u64) -> Duration {
    Duration::from_secs(1000 + n)
}

fn core(fake: &Fake, model: Model) -> Core<Fake> {
    let mut core = Core::new(fake.clone()).unwrap();
    core.set_model(model, true, second(0));
    core.sync(second(0)).unwrap();
    core
}

/// State and effective weight of every backend, by address.
fn backends(fake: &Fake) -> Vec<(u8, BackendState, u16)> {
    let tables = fake.tables().unwrap();
    let mut all: Vec<_> = tables.backends.values().copied().collect();
    all.sort_by_key(|b| b.addr.v4_word().to_be());
    let last = |ip| if let std::net::IpAddr::V4(ip) = ip { ip.octets()[3] } else { 0 };
    all.iter().map(|b| (last(b.addr.ip()), BackendState::from_number(b.state).unwrap(), b.effective_weight)).collect()
}

fn carry(fake: &Fake, index: u32, active: u64, connections: u64) {
    let load = BackendLoad { active, connections, closed: connections - active, ..BackendLoad::default() };
    let mut state = fake.state();
    state.counters.insert(index, Counters { load, ..Counters::default() });
    state.sweep.recounts.insert(index, Recount { active, ..Recount::default() });
}

#[test]
fn a_new_agent_takes_over_and_writes_nothing() {
    let fake = Fake::new(CAPACITY);
    drop(core(&fake, model(port(2))));
    let written = fake.state().writes.len();
    let mut second_agent = core(&fake, model(port(2)));
    second_agent.tick(second(1)).unwrap();
    assert_eq!(fake.state().writes.len(), written);
    assert!(second_agent.is_synced());
}

#[test]
fn what_is_not_known_yet_is_not_removed() {
    let fake = Fake::new(CAPACITY);
    drop(core(&fake, model(port(2))));
    let before = fake.tables().unwrap();
    let mut agent = Core::new(fake.clone()).unwrap();
    agent.set_model(Model::default(), false, second(0));
    agent.tick(second(1)).unwrap();
    assert_eq!(fake.tables().unwrap(), before);
    agent.set_model(Model::default(), true, second(2));
    agent.tick(second(2)).unwrap();
    assert!(fake.tables().unwrap().frontends.is_empty());
}

#[test]
fn a_write_that_fails_is_made_good() {
    let wanted = {
        let fake = Fake::new(CAPACITY);
        core(&fake, model(port(3)));
        fake.tables().unwrap()
    };
    for succeeding in 0..8 {
        let fake = Fake::new(CAPACITY);
        fake.state().writes_left = Some(succeeding);
        let mut agent = Core::new(fake.clone()).unwrap();
        agent.set_model(model(port(3)), true, second(0));
        assert!(matches!(agent.sync(second(0)), Err(SyncError::Dataplane(_))));
        assert!(!agent.is_synced() && fake.tables().unwrap().frontends.is_empty());
        fake.state().writes_left = None;
        agent.tick(second(0)).unwrap();
        assert_eq!(fake.tables().unwrap(), wanted);
    }
}

#[test]
fn a_full_map_changes_nothing() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(2)));
    let before = fake.tables().unwrap();
    agent.set_model(model(port(200)), true, second(1));
    let error = agent.sync(second(1)).unwrap_err().to_string();
    assert!(error.contains("--max-backends"), "{error}");
    assert_eq!(fake.tables().unwrap(), before);
}

#[test]
fn drains_are_followed_within_a_tick() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(2)));
    agent.dataplane.set_drain(SocketKey::new(at(1), Protocol::Tcp), true).unwrap();
    agent.tick(second(1)).unwrap();
    assert_eq!(backends(&fake), [(1, BackendState::Draining, 0), (2, BackendState::Ready, 100)]);
    agent.dataplane.set_drain(SocketKey::new(at(1), Protocol::Tcp), false).unwrap();
    agent.tick(second(2)).unwrap();
    assert_eq!(backends(&fake)[0], (1, BackendState::Ready, 100));
}

#[test]
fn health_counts_while_it_is_checked_and_recovery_starts_slowly() {
    let fake = Fake::new(CAPACITY);
    let check = HealthCheck { probe: Probe::Tcp, interval: Duration::from_secs(1), threshold: 1 };
    let checked = ServicePort { health_check: Some(check), slow_start: Some(Duration::from_secs(10)), ..port(2) };
    let mut agent = core(&fake, model(checked.clone()));
    assert_eq!(backends(&fake)[0].2, 100, "who was there before anybody looked does not start");
    agent.set_health((id(), at(1)), false, second(1));
    agent.sync(second(1)).unwrap();
    assert_eq!(backends(&fake), [(1, BackendState::Unhealthy, 0), (2, BackendState::Ready, 100)]);
    agent.set_health((id(), at(1)), true, second(2));
    for (at, weight) in [(2, 10), (7, 50), (12, 100)] {
        agent.tick(second(at)).unwrap();
        assert_eq!(backends(&fake)[0], (1, BackendState::Ready, weight), "second {at}");
    }
    agent.set_health((id(), at(1)), false, second(13));
    agent.set_model(model(ServicePort { health_check: None, ..checked }), true, second(13));
    agent.tick(second(13)).unwrap();
    assert_eq!(
        backends(&fake)[0].1,
        BackendState::Ready,
        "without a check nobody would find out that it is well again"
    );
}

#[test]
fn who_was_ill_stays_so_under_a_new_agent_until_it_answers() {
    let fake = Fake::new(CAPACITY);
    let check = HealthCheck { probe: Probe::Tcp, interval: Duration::from_secs(1), threshold: 1 };
    let checked = ServicePort { health_check: Some(check), ..port(2) };
    let mut agent = core(&fake, model(checked.clone()));
    agent.set_health((id(), at(1)), false, second(1));
    agent.sync(second(1)).unwrap();
    let mut next = core(&fake, model(checked));
    assert_eq!(backends(&fake)[0], (1, BackendState::Unhealthy, 0));
    assert!(!next.set_health((id(), at(2)), true, second(2)), "it was well all the time");
    assert!(next.set_health((id(), at(1)), true, second(2)));
    next.sync(second(2)).unwrap();
    assert_eq!(backends(&fake)[0], (1, BackendState::Ready, 100));
}

#[test]
fn a_new_backend_starts_slowly() {
    let fake = Fake::new(CAPACITY);
    let slow = |n| ServicePort { slow_start: Some(Duration::from_secs(10)), ..port(n) };
    let mut agent = core(&fake, model(slow(1)));
    agent.set_model(model(slow(2)), true, second(5));
    agent.sync(second(5)).unwrap();
    assert_eq!(backends(&fake), [(1, BackendState::Ready, 100), (2, BackendState::Ready, 10)]);
    agent.tick(second(10)).unwrap();
    assert_eq!(backends(&fake)[1].2, 50);
}

#[test]
fn a_removed_backend_is_freed_when_its_flows_have_ended() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(2)));
    carry(&fake, 1, 3, 5);
    agent.set_model(model(port(1)), true, second(1));
    agent.sync(second(1)).unwrap();
    assert_eq!(backends(&fake)[1].1, BackendState::Ready, "a packet may have chosen it");
    agent.settle().unwrap();
    for n in 1..30 {
        agent.tick(second(n)).unwrap();
    }
    assert_eq!(backends(&fake)[1], (2, BackendState::Removed, 0), "its flows go on");
    carry(&fake, 1, 0, 5);
    for n in 30..42 {
        agent.tick(second(n)).unwrap();
    }
    assert_eq!(backends(&fake).len(), 2, "closing flows are not counted, and get their time");
    agent.tick(second(42)).unwrap();
    assert_eq!(backends(&fake).len(), 1);
    let tables = fake.tables().unwrap();
    assert_eq!((tables.endpoints.len(), tables.names.len()), (1, 2));
}

#[test]
fn a_removed_backend_is_gone_when_nothing_lists_it_for_a_while() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(2)));
    let is_gone = || fake.tables().unwrap().backends[&1].is_gone();
    let until = |agent: &mut Core<Fake>, from, to| (from..to).for_each(|n| agent.tick(second(n)).unwrap());
    carry(&fake, 1, 3, 5);
    let resting = ServicePort { resting: [at(2)].into(), ..port(1) };
    agent.set_model(model(resting.clone()), true, second(1));
    agent.sync(second(1)).unwrap();
    agent.settle().unwrap();
    until(&mut agent, 2, 20);
    assert!(!is_gone(), "it is not ready, and still there");
    agent.set_model(model(port(1)), true, second(20));
    until(&mut agent, 20, 23);
    assert!(!is_gone(), "it may be on its way to another slice");
    until(&mut agent, 23, 24);
    assert!(is_gone());
    let mut agent = core(&fake, model(port(1)));
    until(&mut agent, 24, 25);
    assert!(is_gone(), "under a new agent too");
    agent.set_model(model(resting), true, second(26));
    until(&mut agent, 26, 27);
    assert!(!is_gone(), "it is there again");
    agent.set_model(model(port(1)), true, second(27));
    until(&mut agent, 27, 31);
    assert!(is_gone());
    agent.set_model(model(port(2)), true, second(31));
    until(&mut agent, 31, 32);
    assert_eq!(backends(&fake)[1], (2, BackendState::Ready, 100));
    assert!(!is_gone());
}

#[test]
fn a_removed_backend_that_another_service_has_is_not_gone() {
    let fake = Fake::new(CAPACITY);
    let other = ServiceId { name: "other".into(), ..id() };
    let key = SocketKey::new(SocketAddr::from(([10, 96, 0, 2], 80)), Protocol::Tcp);
    let shared = ServicePort { frontends: [(key, Default::default())].into(), ..port(2) };
    let both = |n, shared| Model { services: [(id(), port(n)), (other.clone(), shared)].into() };
    let mut agent = core(&fake, both(2, shared.clone()));
    let gone = || fake.tables().unwrap().backends.values().filter(|backend| backend.is_gone()).count();
    (0..4).for_each(|index| carry(&fake, index, 1, 1));
    agent.set_model(both(1, shared.clone()), true, second(1));
    agent.sync(second(1)).unwrap();
    agent.settle().unwrap();
    (2..10).for_each(|n| agent.tick(second(n)).unwrap());
    assert_eq!(gone(), 0);
    let without = ServicePort { backends: port(1).backends, ..shared };
    agent.set_model(both(1, without), true, second(10));
    agent.sync(second(10)).unwrap();
    agent.settle().unwrap();
    (11..16).for_each(|n| agent.tick(second(n)).unwrap());
    assert_eq!(gone(), 2);
}

#[test]
fn a_removed_frontend_is_freed_after_a_whole_sweep() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(1)));
    agent.set_model(Model::default(), true, second(1));
    agent.sync(second(1)).unwrap();
    fake.state().sweep = SweepReport { busy: 1, ..SweepReport::default() };
    agent.tick(second(2)).unwrap();
    assert_eq!(fake.tables().unwrap().vips.len(), 1, "a bucket was not looked at");
    fake.state().sweep = SweepReport::default();
    agent.tick(second(3)).unwrap();
    assert!(fake.tables().unwrap().vips.is_empty());
}

#[test]
fn drift_is_repaired_and_counted() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(1)));
    carry(&fake, 0, 4, 9);
    agent.tick(second(1)).unwrap();
    assert_eq!(agent.repairs, 0);
    fake.state().sweep.recounts.insert(0, Recount { active: 3, pending: 1, closing: 0 });
    agent.tick(second(2)).unwrap();
    assert_eq!(agent.repairs, 0, "one pass proves nothing");
    agent.tick(second(3)).unwrap();
    assert_eq!((agent.repairs, fake.state().repairs.clone()), (1, vec![(0, -1, 1)]));
}

#[test]
fn feedback_moves_weights_in_the_maps() {
    let fake = Fake::new(CAPACITY);
    let moved = ServicePort { feedback: Feedback::Connections, ..port(2) };
    let mut agent = core(&fake, model(moved.clone()));
    for n in 1..40 {
        carry(&fake, 0, 90, 90 + n);
        carry(&fake, 1, 10, 10 + n);
        agent.tick(second(n)).unwrap();
    }
    let weights: Vec<u16> = backends(&fake).iter().map(|b| b.2).collect();
    assert!(weights[0] < 50 && weights[1] > 150, "{weights:?}");
    agent.set_model(model(ServicePort { feedback: Feedback::None, ..moved }), true, second(41));
    agent.tick(second(41)).unwrap();
    assert_eq!(backends(&fake), [(1, BackendState::Ready, 100), (2, BackendState::Ready, 100)]);
}

#[test]
fn feedback_reads_requests_where_it_is_told_by_them() {
    for (feedback, slow) in [
        (Feedback::InFlight, Measure::default()),
        (Feedback::Latency, Measure { nanoseconds: 400_000_000, ..Measure::default() }),
    ] {
        let fake = Fake::new(CAPACITY);
        let mut agent = core(&fake, model(ServicePort { feedback, measure: true, ..port(2) }));
        let incarnations: Vec<_> =
            fake.tables().unwrap().backends.values().map(|backend| backend.incarnation).collect();
        for n in 1..60 {
            let measure = |nanoseconds: u64| {
                let mut measure = Measure { requests: 20 * n, nanoseconds: n * nanoseconds, ..Measure::default() };
                measure.buckets[20] = 20 * n;
                measure
            };
            // Forty in flight at the first one, ten at the second.
            let requests = (0..50).map(|key| {
                let backend = u32::from(key >= 40);
                let incarnation = incarnations[backend as usize];
                (key, Request { backend, incarnation, begun: 1, ..Request::default() })
            });
            let measures = [(0, measure(slow.nanoseconds + 10_000_000)), (1, measure(10_000_000))].into();
            fake.state().noted = Noted { measures, requests: requests.collect(), ended: Vec::new() };
            agent.tick(second(n)).unwrap();
        }
        let weights: Vec<u16> = backends(&fake).iter().map(|b| b.2).collect();
        assert!(weights[0] < 60 && weights[1] > 140, "{feedback:?}: {weights:?}");
    }
}

/// Response idle times of the backends, and whether the frontends are marked, for both directions.
fn measuring(fake: &Fake) -> (Vec<u32>, bool, bool) {
    let tables = fake.tables().unwrap();
    let frontends = tables.frontends.values().all(|frontend| frontend.flags & FRONTEND_MEASURED != 0);
    let idle = tables.backends.values().map(|backend| backend.response_idle).collect();
    (idle, frontends, tables.vips.values().all(|vip| vip.flags == VIP_MEASURED))
}

#[test]
fn requests_are_measured_while_somebody_reads_them() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(ServicePort { response_idle: Some(Duration::from_millis(300)), ..port(2) }));
    let ours: BTreeSet<_> = [("default".to_owned(), "web".to_owned())].into();
    assert_eq!(measuring(&fake), (vec![0, 0], false, false));
    agent.mark(Mark::Measured, BTreeSet::from([("default".to_owned(), "other".to_owned())]));
    assert!(!agent.sync(second(1)).unwrap(), "that is no Service of ours");
    agent.mark(Mark::Measured, ours);
    agent.tick(second(2)).unwrap();
    assert_eq!(measuring(&fake), (vec![300, 300], true, true));
    let next = ServicePort { response_idle: Some(Duration::from_millis(300)), ..port(3) };
    let mut agent = core(&fake, model(next));
    agent.tick(second(3)).unwrap();
    assert_eq!(measuring(&fake), (vec![300; 3], true, true), "the next agent goes on until it is told");
    agent.mark(Mark::Measured, BTreeSet::new());
    agent.tick(second(4)).unwrap();
    assert_eq!(measuring(&fake), (vec![0; 3], false, false));
    let asks = ServicePort { measure: true, ..port(3) };
    agent.set_model(model(asks), true, second(5));
    agent.tick(second(5)).unwrap();
    assert_eq!(measuring(&fake), (vec![1000; 3], true, true));
}

#[test]
fn who_asks_in_vain_wakes_the_services_that_policies_say() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(0)));
    let flags = || fake.tables().unwrap().frontends.values().map(|frontend| frontend.flags).collect::<Vec<_>>();
    let web = BTreeSet::from([("default".to_owned(), "web".to_owned())]);
    let index = fake.tables().unwrap().frontends.values().next().unwrap().service;
    assert_eq!((flags(), agent.woken(&[index].into())), (vec![0], [].into()), "everybody else is refused");
    agent.mark(Mark::Waking, web.clone());
    agent.tick(second(1)).unwrap();
    assert_eq!((flags(), agent.woken(&[index, index + 1].into())), (vec![FRONTEND_WAKES], web.clone()));
    let mut agent = core(&fake, model(port(0)));
    agent.tick(second(2)).unwrap();
    assert_eq!(flags(), [FRONTEND_WAKES], "the next agent goes on until it is told");
    assert_eq!(agent.woken(&[index].into()), web);
    agent.mark(Mark::Waking, BTreeSet::new());
    agent.tick(second(3)).unwrap();
    assert_eq!((flags(), agent.woken(&[index].into())), (vec![0], [].into()));
}

#[test]
fn udp_is_not_measured() {
    let fake = Fake::new(CAPACITY);
    let id = ServiceId { protocol: Protocol::Udp, ..id() };
    let key = SocketKey::new(SocketAddr::from(([10, 96, 0, 1], 80)), Protocol::Udp);
    let udp = ServicePort { frontends: [(key, Default::default())].into(), measure: true, ..port(1) };
    drop(core(&fake, Model { services: [(id, udp)].into() }));
    assert_eq!(measuring(&fake), (vec![0], false, false));
}

#[test]
fn requests_are_read_each_second_and_what_is_left_over_is_forgotten() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(ServicePort { measure: true, ..port(2) }));
    let incarnation = fake.tables().unwrap().backends[&0].incarnation;
    let noted = |unseen| Noted {
        measures: [(0, Measure { requests: 5, unseen, ..Measure::default() }), (1, Measure::default())].into(),
        requests: [
            (7, Request { backend: 0, incarnation, begun: 1, ..Request::default() }),
            (8, Request { backend: 0, incarnation: incarnation + 1, begun: 1, ..Request::default() }),
        ]
        .into(),
        ended: vec![9],
    };
    fake.state().noted = noted(0);
    agent.tick(second(1)).unwrap();
    let seen: Vec<_> = agent.carried().requests.values().map(|load| (load.in_flight, load.begun)).collect();
    assert_eq!((seen, fake.state().forgotten.clone()), (vec![(1, 5), (0, 0)], vec![8, 9]));
    assert_eq!(agent.unseen_requests(), None);
    fake.state().noted = noted(1);
    agent.tick(second(2)).unwrap();
    assert!(agent.unseen_requests().unwrap().contains("measure fewer Services"));
    agent.tick(second(61)).unwrap();
    assert!(agent.unseen_requests().is_some(), "it is told for a minute");
    agent.tick(second(63)).unwrap();
    assert_eq!(agent.unseen_requests(), None);
}

#[test]
fn reports_name_what_the_maps_hold() {
    let fake = Fake::new(CAPACITY);
    let mut agent = core(&fake, model(port(2)));
    carry(&fake, 1, 3, 5);
    agent.tick(second(1)).unwrap();
    let services = report::services(&agent.tables, &agent.carried());
    assert_eq!(services.len(), 1);
    assert_eq!((&services[0].id, services[0].backends.len()), (&id(), 2));
    let wanted = [("default".into(), "web".into())].into();
    let samples = report::samples(&agent.tables, &agent.carried(), &wanted, &Used::new(), second(1));
    assert_eq!(
        (samples[0].name.as_str(), samples[0].backends[1].active, samples[0].backends[1].ready),
        ("web", 3, true)
    );
    assert!(!fake.state().writes.contains(&Write::FreeBackend(0)));
}

pub(super) fn config(folder: PathBuf, proc: PathBuf) -> RunConfig {
    RunConfig {
        sockets: super::sockets::SocketConfig::off("a test"),
        pin_path: folder.join("pins"),
        source: SourceConfig::Files(folder),
        interfaces: ["lo".to_owned()].into(),
        delivery: Default::default(),
        datapath: crate::dataplane::attach::Datapath::Auto,
        node_name: "node".into(),
        default_algorithm: Algorithm::Maglev,
        nodeport_addresses: Default::default(),
        coordinator: None,
        metrics_listen: None,
        healthz_listen: None,
        scale_command: None,
        scale_timeout: Duration::from_secs(1),
        snat_ports: (61000, 65535),
        proc,
    }
}

/// A /proc of a node that forwards.
pub(super) fn proc() -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    let files = [
        ("sys/net/ipv4/ip_forward", "1"),
        ("sys/net/ipv6/conf/all/forwarding", "0"),
        ("sys/net/ipv4/ip_local_port_range", "32768 60999"),
    ];
    for (file, text) in files {
        let path = proc.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    proc
}

#[tokio::test]
async fn a_start_that_cannot_succeed_says_why() {
    let (folder, proc) = (tempfile::tempdir().unwrap(), proc());
    let v6 =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 'fd00::1', ports: [{port: 80}]}\n";
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let good = || config(folder.path().into(), proc.path().into());
    let cases: [(RunConfig, &str, &[&str]); 4] = [
        (
            RunConfig { source: SourceConfig::Files(folder.path().join("gone")), ..good() },
            "",
            &["--manifests", "gone", "name a folder"],
        ),
        (RunConfig { interfaces: ["eth77".to_owned()].into(), ..good() }, "", &["--interface eth77", "use one of: lo"]),
        (RunConfig { snat_ports: (60000, 61000), ..good() }, "", &["--snat-ports 60000-61000", "ip_local_port_range"]),
        (good(), v6, &["net.ipv6.conf.all.forwarding=1"]),
    ];
    for (config, manifest, words) in cases {
        std::fs::write(folder.path().join("a.yaml"), manifest).unwrap();
        let error = Prepared::new(config).await.err().expect("it cannot start").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    std::fs::write(folder.path().join("a.yaml"), "").unwrap();
    let taken = RunConfig { metrics_listen: Some(holder.local_addr().unwrap()), ..good() };
    let error = Prepared::new(taken).await.err().expect("the port is in use").to_string();
    assert!(error.contains("--metrics-listen") && error.contains("another port"), "{error}");
}

/// The agent as it runs, over maps in memory.
struct Running {
    folder: tempfile::TempDir,
    _proc: tempfile::TempDir,
    fake: Fake,
    metrics: SocketAddr,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    async fn start(manifests: &str) -> Self {
        let (folder, proc) = (tempfile::tempdir().unwrap(), proc());
        std::fs::write(folder.path().join("a.yaml"), manifests).unwrap();
        let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = RunConfig { metrics_listen: Some(metrics), ..config(folder.path().into(), proc.path().into()) };
        let fake = Fake::new(CAPACITY);
        let prepared = Prepared::new(config).await.unwrap();
        let control = Control::bind_at(folder.path().join("control.sock")).await.unwrap();
        let task = tokio::spawn(run(prepared, control, fake.clone()));
        Self { folder, _proc: proc, fake, metrics, task }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..200 {
            if is_so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.fake.state().tables);
    }

    async fn scrape(&self) -> String {
        let get = |address: SocketAddr| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let address = self.metrics;
        tokio::task::spawn_blocking(move || get(address)).await.unwrap()
    }
}

fn manifests(algorithm: &str, backend: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {{weir.dev/algorithm: {algorithm}, \
         weir.dev/health-check: tcp, weir.dev/health-check-interval: 100ms, weir.dev/health-check-threshold: '1'}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{port: {}}}]\nendpoints: [{{addresses: [{}]}}, {{addresses: [127.0.0.2]}}]\n",
        backend.port(),
        backend.ip()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_file_to_the_maps_and_back_into_the_metrics() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let agent = Running::start(&manifests("random", address)).await;
    let algorithm = |agent: &Running| agent.fake.state().tables.frontends.values().next().map(|f| f.algorithm);
    let states = |agent: &Running| backends(&agent.fake).into_iter().map(|b| b.1).collect::<Vec<_>>();
    agent.until("in force", |a| algorithm(a) == Some(Algorithm::Random as u8)).await;
    assert_eq!(agent.fake.state().attached.first(), Some(&("lo".to_owned(), crate::node::Role::Uplink)));
    agent.until("127.0.0.2 answers nobody", |a| states(a) == [BackendState::Ready, BackendState::Unhealthy]).await;

    let file = agent.folder.path().join("a.yaml");
    std::fs::write(&file, manifests("fastest", address)).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(algorithm(&agent), Some(Algorithm::Random as u8), "the last good content stays in force");
    std::fs::write(&file, manifests("maglev", address)).unwrap();
    agent.until("the new algorithm", |a| algorithm(a) == Some(Algorithm::Maglev as u8)).await;

    let local = |a: &Running| a.fake.state().tables.backends.values().all(lb_common::Backend::is_local);
    assert!(local(&agent), "the node's own addresses are local");
    carry(&agent.fake, 0, 3, 5);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let text = agent.scrape().await;
    let line = text.lines().find(|line| line.starts_with("weir_backend_active_connections") && line.ends_with(" 3"));
    assert!(line.is_some_and(|line| line.contains(&address.to_string())), "{text}");

    std::fs::remove_file(&file).unwrap();
    agent.until("removed", |a| a.fake.state().tables.frontends.is_empty()).await;
    assert!(!agent.task.is_finished());
}
