//! A table of questions and what is decided.

use lb_common::{Flow, Port};

use super::*;
use crate::cli::{parse, view::sample};

fn question(frontend: &str, client: &str) -> Question {
    let (frontend, client) = (sample::key(frontend), parse::client(client).unwrap());
    Question { frontend, client, via: Via::Packet, inside: false }
}

fn answer(question: &Question, view: &View, known: &Knowledge) -> Decision {
    decide(question, view, &frontend(question, view).unwrap(), known)
}

fn with_algorithm(frontend: &str, algorithm: Algorithm) -> View {
    let mut view = sample::view();
    view.tables.frontends.get_mut(&sample::key(frontend)).unwrap().algorithm = algorithm as u8;
    view
}

fn flow(client: &str, state: FlowState, backend: u32) -> FlowEntry {
    let key = sample::key(client);
    let flow = Flow {
        addr: key.addr,
        port: key.port,
        id: 0,
        backend,
        snat_port: Port::new(61000),
        last: 90,
        ..Default::default()
    };
    FlowEntry { flow, state }
}

#[test]
fn maglev_needs_the_port_and_then_uses_the_packet_paths_hash() {
    let view = sample::view();
    let asked = question("10.0.0.1:80", "192.0.2.7:4000");
    let slot = hash::by_tuple(&asked.client.addr, Port::new(4000), &asked.frontend.addr, Port::new(80), 6, 5);
    let expected = [0, 1, 0, 0, 1][slot as usize];
    let decision = answer(&asked, &view, &Knowledge::default());
    assert_eq!((decision.rule, decision.backend), (Rule::Algorithm, Some(expected)));
    assert!(decision.reason.contains(&format!("slot {slot} of 5")), "{}", decision.reason);

    let without = answer(&question("10.0.0.1:80", "192.0.2.7"), &view, &Knowledge::default());
    assert_eq!(without.backend, None);
    assert!(without.reason.contains("--from ADDR:PORT"));
}

#[test]
fn ip_hash_needs_the_address_only() {
    let view = with_algorithm("10.0.0.1:80", Algorithm::IpHash);
    let asked = question("10.0.0.1:80", "192.0.2.7");
    let slot = hash::by_client(&asked.client.addr, 5);
    let decision = answer(&asked, &view, &Knowledge::default());
    assert_eq!(decision.backend, Some([0, 1, 0, 0, 1][slot as usize]));
}

#[test]
fn the_turn_follows_the_cursor() {
    let view = with_algorithm("10.0.0.1:80", Algorithm::WeightedRoundRobin);
    let asked = question("10.0.0.1:80", "192.0.2.7");
    for (cursor, backend) in [(0, 0), (1, 1), (5, 0), (9, 1)] {
        let known = Knowledge { cursor: Some(cursor), ..Default::default() };
        assert_eq!(answer(&asked, &view, &known).backend, Some(backend), "cursor {cursor}");
    }
    assert_eq!(answer(&asked, &view, &Knowledge::default()).backend, None);
}

#[test]
fn chance_names_no_backend() {
    for algorithm in [Algorithm::Random, Algorithm::LeastConnections] {
        let view = with_algorithm("10.0.0.1:80", algorithm);
        let decision = answer(&question("10.0.0.1:80", "192.0.2.7:1"), &view, &Knowledge::default());
        assert_eq!((decision.rule, decision.backend), (Rule::Algorithm, None), "{algorithm:?}");
    }
}

#[test]
fn chance_cannot_miss_the_only_backend() {
    for algorithm in [Algorithm::Random, Algorithm::LeastConnections] {
        let mut view = with_algorithm("10.0.0.1:80", algorithm);
        view.tables.slots.insert(0, vec![u64::from(u32::MAX) << 32 | 1, 1]);
        let decision = answer(&question("10.0.0.1:80", "192.0.2.7:1"), &view, &Knowledge::default());
        assert_eq!(decision.backend, Some(1), "{algorithm:?}");
    }
}

#[test]
fn a_flow_comes_first_even_to_a_backend_that_is_gone() {
    let view = sample::view();
    let known =
        Knowledge { flows: vec![flow("192.0.2.7:4000", FlowState::Established, 2)], now: 100, ..Default::default() };
    let decision = answer(&question("10.0.0.1:80", "192.0.2.7:4000"), &view, &known);
    assert_eq!((decision.rule, decision.backend, decision.source_port), (Rule::Flow, Some(2), Some(61000)));
    assert!(decision.reason.contains("established, idle 10s"), "{}", decision.reason);
    for other in ["192.0.2.7:4001", "192.0.2.8:4000"] {
        assert_eq!(answer(&question("10.0.0.1:80", other), &view, &known).rule, Rule::Algorithm, "{other}");
    }
}

#[test]
fn some_flows_make_way_for_a_new_connection() {
    let view = sample::view();
    for (state, backend, rule) in [
        (FlowState::Closing, 0, Rule::Algorithm),
        (FlowState::SynSent, 0, Rule::Flow),
        (FlowState::SynSent, 2, Rule::Algorithm),
        (FlowState::SynSent, 3, Rule::Algorithm),
        (FlowState::UdpAnswered, 2, Rule::Algorithm),
        (FlowState::UdpAnswered, 3, Rule::Flow),
        (FlowState::FinClient, 2, Rule::Flow),
    ] {
        let known = Knowledge { flows: vec![flow("192.0.2.7:4000", state, backend)], now: 100, ..Default::default() };
        let decision = answer(&question("10.0.0.1:80", "192.0.2.7:4000"), &view, &known);
        assert_eq!(decision.rule, rule, "{state:?} to backend {backend}");
    }
}

#[test]
fn affinity_holds_while_it_is_young_and_its_backend_ready() {
    let asked = question("10.0.0.2:53/UDP", "192.0.2.7");
    let kept = AffinityValue { backend: 3, incarnation: 1, last: 100 };
    let mut view = sample::view();
    let rule = |view: &View, kept, now| {
        answer(&asked, view, &Knowledge { affinity: Some(kept), now, ..Default::default() }).rule
    };
    assert_eq!(rule(&view, kept, 110), Rule::Algorithm, "unhealthy");
    view.tables.backends.get_mut(&3).unwrap().state = BackendState::Ready as u8;
    assert_eq!(rule(&view, kept, 110), Rule::Affinity);
    assert_eq!(rule(&view, kept, 699), Rule::Affinity);
    assert_eq!(rule(&view, kept, 700), Rule::Algorithm, "over");
    assert_eq!(rule(&view, AffinityValue { incarnation: 2, ..kept }, 110), Rule::Algorithm, "another backend's");
    assert_eq!(rule(&view, AffinityValue { backend: 0, ..kept }, 110), Rule::Algorithm, "another service's");
}

#[test]
fn an_empty_frontend_refuses_or_drops_by_where_the_client_is() {
    let mut view = sample::view();
    let key = sample::key("10.0.0.1:80");
    let frontend = |view: &mut View, flags| {
        let frontend = view.tables.frontends.get_mut(&key).unwrap();
        (frontend.outside.len, frontend.flags) = (0, flags);
    };
    let outside = question("10.0.0.1:80", "192.0.2.7:1");
    let inside = Question { inside: true, ..outside };
    for (flags, rule) in [(0, Rule::NoBackend), (FRONTEND_DROP_OUTSIDE, Rule::NoLocalBackend)] {
        frontend(&mut view, flags);
        let decision = answer(&outside, &view, &Knowledge::default());
        assert_eq!((decision.rule, decision.backend), (rule, None));
        assert_eq!(answer(&inside, &view, &Knowledge::default()).rule, Rule::Algorithm);
    }
    frontend(&mut view, FRONTEND_WAKES);
    let decision = answer(&outside, &view, &Knowledge::default());
    assert_eq!(decision.rule, Rule::NoBackend);
    assert!(decision.reason.contains("woken"), "{}", decision.reason);
}

#[test]
fn source_ranges_come_after_flows_and_before_all_else() {
    let mut view = sample::view();
    view.tables.frontends.get_mut(&sample::key("10.0.0.1:80")).unwrap().flags = FRONTEND_RANGES;
    let asked = question("10.0.0.1:80", "192.0.2.7:4000");
    assert_eq!(answer(&asked, &view, &Knowledge::default()).rule, Rule::SourceRange);
    let flows = vec![flow("192.0.2.7:4000", FlowState::Established, 0)];
    assert_eq!(answer(&asked, &view, &Knowledge { flows, ..Knowledge::default() }).rule, Rule::Flow);
    view.tables.ranges.insert(0, ["192.0.2.0/29".parse().unwrap()].into());
    assert_eq!(answer(&asked, &view, &Knowledge::default()).rule, Rule::Algorithm);
    assert_eq!(
        answer(&question("10.0.0.1:80", "192.0.2.8:4000"), &view, &Knowledge::default()).rule,
        Rule::SourceRange
    );
}

#[test]
fn at_a_socket_there_is_no_flow_and_maglev_names_nobody() {
    let view = sample::view();
    let asked = Question { via: Via::Socket, inside: true, ..question("10.0.0.1:80", "192.0.2.7:4000") };
    let flows = vec![flow("192.0.2.7:4000", FlowState::Established, 0)];
    let decision = answer(&asked, &view, &Knowledge { flows, ..Knowledge::default() });
    assert_eq!((decision.rule, decision.backend), (Rule::Algorithm, None));
    assert!(decision.reason.contains("cookie"), "{}", decision.reason);
}

#[test]
fn bad_questions_are_refused() {
    let view = sample::view();
    let unknown = frontend(&question("10.0.0.1:81", "192.0.2.7"), &view).unwrap_err();
    assert_eq!(unknown.to_string(), "10.0.0.1:81/TCP is no frontend of this node");
    assert!(unknown.remedy().contains("10.0.0.1:80/TCP"));
    let family = frontend(&question("[fd00::1]:80", "192.0.2.7"), &view).unwrap_err();
    assert!(matches!(family, Error::Family { .. }));
}
