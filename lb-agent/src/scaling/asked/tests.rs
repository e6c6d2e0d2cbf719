use std::{
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Router, extract::Query, http::StatusCode, routing::get};
use rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};

use super::{http::Http, *};
use crate::scaling::testing;

async fn serve(host: Ipv4Addr, port: u16, router: Router) -> SocketAddr {
    let listener = TcpListener::bind((host, port)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Asks until everything was answered, as of this second.
async fn asked(asker: &mut Asker, policies: &[&Policy], ready: &BTreeSet<IpAddr>, second: u64) {
    let mut all = Questions::new();
    policies.iter().for_each(|policy| questions(policy, ready, &mut all));
    let now = Duration::from_secs(second);
    asker.tick(all, now);
    while !asker.is_idle(now) {
        sleep(Duration::from_millis(2)).await;
    }
}

fn policy(targets: Value) -> Policy {
    testing::policy(json!({"replicas": {"max": 9}}), &json!({ "targets": targets }))
}

fn query(server: &str, query: &str) -> Policy {
    policy(json!([{"prometheus": {"server": server, "query": query}, "perReplica": 1}]))
}

fn loopback(hosts: &[u8]) -> BTreeSet<IpAddr> {
    hosts.iter().map(|host| Ipv4Addr::new(127, 77, 0, *host).into()).collect()
}

/// What a policy of one signal is told, as of a whole second.
fn told(asker: &Asker, policy: &Policy, ready: &BTreeSet<IpAddr>, second: u64) -> (Option<Reading>, Option<String>) {
    let answers = asker.answers(policy, ready, Duration::from_secs(second));
    let failure = answers.failures.into_values().next();
    let rounded = |reading: &Reading| Reading { at: Duration::from_secs(reading.at.as_secs()), ..*reading };
    (answers.readings.first().map(|(_, reading)| rounded(reading)), failure.map(|failure| failure.text.to_string()))
}

fn reading(value: f64, second: u64, missing: u32) -> Option<Reading> {
    Some(Reading { value, at: Duration::from_secs(second), missing })
}

/// A server that repeats the query as its value.
fn prometheus() -> Router {
    let answer = |Query(asked): Query<BTreeMap<String, String>>| async move {
        let body = json!({"status": "success", "data": {"resultType": "scalar", "result": [1.5, asked["query"]]}});
        body.to_string()
    };
    Router::new().route("/base/api/v1/query", get(answer))
}

#[tokio::test]
async fn a_server_is_asked_and_its_answer_has_an_age() {
    let server = format!("http://{}/base", serve(Ipv4Addr::LOCALHOST, 0, prometheus()).await);
    let (good, other, bad) = (query(&server, "4.5"), query(&format!("{server}/"), "7"), query(&server, "NaN"));
    let mut asker = Asker::default();
    let nobody = BTreeSet::new();
    assert_eq!(told(&asker, &good, &nobody, 10), (None, None), "nothing is known yet");
    asked(&mut asker, &[&good, &other, &bad], &nobody, 10).await;
    assert_eq!(told(&asker, &good, &nobody, 11), (reading(4.5, 10, 0), None));
    assert_eq!(told(&asker, &other, &nobody, 11).0.map(|reading| reading.value), Some(7.0));
    let (value, problem) = told(&asker, &bad, &nobody, 11);
    assert_eq!(value, None);
    let problem = problem.unwrap();
    assert!(problem.starts_with("spec.targets[0].prometheus.query: \"NaN\" gives NaN"), "{problem}");
    asked(&mut asker, &[&good], &nobody, 11).await;
    assert_eq!(told(&asker, &good, &nobody, 12), (reading(4.5, 11, 0), None));
    assert_eq!(told(&asker, &bad, &nobody, 12), (None, None), "what is not asked any more is forgotten");
}

#[tokio::test]
async fn who_does_not_answer_is_asked_more_seldom_and_what_was_said_stays() {
    let failing = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&failing);
    let answer = move || async move {
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => (StatusCode::OK, json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.5, "3"]}]}}).to_string()),
            _ => (StatusCode::BAD_GATEWAY, "no".to_owned()),
        }
    };
    let server =
        format!("http://{}", serve(Ipv4Addr::LOCALHOST, 0, Router::new().route("/api/v1/query", get(answer))).await);
    let policy = query(&server, "queue");
    let (mut asker, nobody) = (Asker::default(), BTreeSet::new());
    let mut attempts = Vec::new();
    for second in 0..=24 {
        let before = failing.load(Ordering::Relaxed);
        asked(&mut asker, &[&policy], &nobody, second).await;
        attempts.extend((failing.load(Ordering::Relaxed) > before).then_some(second));
    }
    assert_eq!(attempts, [0, 1, 2, 3, 5, 9, 17]);
    let (value, problem) = told(&asker, &policy, &nobody, 24);
    assert_eq!(value, reading(3.0, 0, 0), "as old as it is");
    let problem = problem.unwrap();
    assert!(
        problem.starts_with(&format!("spec.targets[0].prometheus.server: {server} answers 502 Bad Gateway")),
        "{problem}"
    );
}

#[tokio::test]
async fn replicas_are_asked_once_for_all_their_metrics() {
    let page = |text: &'static str, count: Arc<Mutex<Vec<&'static str>>>| {
        let answer = move || async move {
            count.lock().unwrap().push(text);
            text
        };
        Router::new().route("/stats", get(answer))
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let first = serve(
        Ipv4Addr::new(127, 77, 0, 1),
        0,
        page("running{m=\"a\"} 4\nrunning{m=\"b\"} 2\nwaiting 1\n", seen.clone()),
    )
    .await;
    serve(Ipv4Addr::new(127, 77, 0, 2), first.port(), page("running 2\n", seen.clone())).await;
    let metric =
        |name: &str| json!({"podMetric": {"port": first.port(), "path": "/stats", "name": name}, "perReplica": 1});
    let (running, waiting, nothing) =
        (policy(json!([metric("running")])), policy(json!([metric("waiting")])), policy(json!([metric("cache")])));
    let mut asker = Asker::default();
    let ready = loopback(&[1, 2, 3]);
    let all = [&running, &waiting, &nothing];
    asked(&mut asker, &all, &ready, 20).await;
    assert_eq!(seen.lock().unwrap().len(), 2, "each once");
    let (value, problem) = told(&asker, &running, &ready, 21);
    assert_eq!(value, reading(4.0, 20, 1), "(6 + 2) / 2, and one does not say");
    let problem = problem.unwrap();
    let silent = format!("spec.targets[0].podMetric.port: http://127.77.0.3:{}/stats does not answer", first.port());
    assert!(problem.starts_with(&silent) && problem.contains("refused"), "{problem}");
    assert_eq!(told(&asker, &waiting, &loopback(&[1]), 21), (reading(1.0, 20, 0), None));
    let (value, problem) = told(&asker, &waiting, &ready, 21);
    assert_eq!(value, reading(1.0, 20, 2));
    let missing =
        format!("spec.targets[0].podMetric.name: waiting is not shown by http://127.77.0.2:{}/stats; ", first.port());
    assert!(problem.unwrap().starts_with(&missing));
    assert_eq!(told(&asker, &nothing, &ready, 21).0, None);
    assert_eq!(
        told(&asker, &running, &ready, 26).0.map(|reading| reading.missing),
        None,
        "what was said 6 s ago does not count"
    );
}

#[tokio::test]
async fn what_is_no_page_is_named_with_its_field() {
    let big = || async { "x".repeat(http::LIMIT + 1) };
    let router = Router::new().route("/big", get(big)).route("/nan", get(|| async { "load NaN\n" }));
    let address = serve(Ipv4Addr::new(127, 77, 0, 9), 0, router).await;
    let ready = loopback(&[9]);
    for (path, expected) in [
        (
            "/big",
            "podMetric.path: http://127.77.0.9:PORT/big answers with more than 4 MiB; let the pods show fewer series there",
        ),
        ("/nan", "podMetric.name: load is NaN, which is no load, by http://127.77.0.9:PORT/nan; "),
        ("/gone", "podMetric.path: http://127.77.0.9:PORT/gone answers 404 Not Found; write the path"),
        ("/<", "podMetric.path: http://127.77.0.9:PORT/< is not an address that can be asked"),
    ] {
        let policy =
            policy(json!([{"podMetric": {"port": address.port(), "path": path, "name": "load"}, "perReplica": 1}]));
        let mut asker = Asker::default();
        asked(&mut asker, &[&policy], &ready, 1).await;
        let (value, problem) = told(&asker, &policy, &ready, 1);
        let problem = problem.unwrap_or_default();
        let expected = format!("spec.targets[0].{}", expected.replace("PORT", &address.port().to_string()));
        assert!(value.is_none() && problem.starts_with(&expected), "{path}: {problem}");
    }
}

/// Virtual time: nobody waits for five seconds.
#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let policy = query(&server, "1");
    let (mut asker, nobody) = (Asker::default(), BTreeSet::new());
    asked(&mut asker, &[&policy], &nobody, 1).await;
    let problem = told(&asker, &policy, &nobody, 1).1.unwrap();
    assert!(problem.contains(&format!("{server} does not answer within 5 s")), "{problem}");
    drop(listener);
}

#[tokio::test]
async fn https_takes_an_authority_that_is_known() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://localhost:{}/base", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not trust the certificate does not stay.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper_util::service::TowerToHyperService::new(prometheus());
            let served = hyper::server::conn::http1::Builder::new();
            tokio::spawn(served.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
    let (policy, nobody) = (query(&server, "2.5"), BTreeSet::new());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut asker = Asker::with(Http::new(roots));
    asked(&mut asker, &[&policy], &nobody, 1).await;
    assert_eq!(told(&asker, &policy, &nobody, 1), (reading(2.5, 1, 0), None));
    let mut stranger = Asker::with(Http::new(RootCertStore::empty()));
    asked(&mut stranger, &[&policy], &nobody, 1).await;
    let problem = told(&stranger, &policy, &nobody, 1).1.unwrap();
    assert!(problem.contains("prometheus.server: https://localhost") && problem.contains("certificate"), "{problem}");
}
