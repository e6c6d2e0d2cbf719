//! What is measured of requests by real traffic: in flight as long as an answer goes on, whatever way the connection goes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{Inspect as _, pins::Pinned};
use serde_json::Value;
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client,
    manifests::Service,
    process::wait_until,
};

use crate::{
    lab::{Lab, on_each_datapath, vip4, vip6},
    scaling::policy,
    sockets_lab::SocketLab,
};

const MEASURE: (&str, &str) = ("weir.dev/measure", "requests");

/// A busy machine may keep a token back for a while.
const IDLE: Duration = Duration::from_secs(3);

fn measured(lab: &Lab) -> Service {
    lab.web().algorithm("round-robin").annotate(MEASURE.0, MEASURE.1).annotate("weir.dev/response-idle", "3s")
}

/// Requests in flight of all backends; none if one of TCP is not measured.
fn in_flight(agent: &Agent<'_>) -> Result<Option<u64>> {
    Ok(agent.backends_of("TCP")?.iter().map(|backend| backend.in_flight).sum())
}

/// Sums over all backends: requests begun, answers begun, and nanoseconds until they did.
fn totals(agent: &Agent<'_>) -> Result<[u64; 3]> {
    let list = agent.json(&["map", "dump", "measures"])?;
    let items = list["items"].as_array().context("a list")?;
    let answers = |item: &Value| -> u64 {
        item["answers"].as_array().into_iter().flatten().filter_map(|answer| answer["count"].as_u64()).sum()
    };
    let sum = |name: &str| items.iter().filter_map(|item| item[name].as_u64()).sum();
    Ok([sum("requests"), items.iter().map(answers).sum(), sum("nanoseconds")])
}

/// A client that asks for tokens, and reads them in a thread of its own until they end or it is dropped.
struct Streaming {
    stream: TcpStream,
    reader: thread::JoinHandle<Result<()>>,
}

impl Streaming {
    /// Asks for so many tokens, one every 50 ms.
    fn begin(frontend: SocketAddr, tokens: usize) -> Result<Self> {
        let mut stream = client::connect(frontend)?;
        let mut answer = BufReader::new(stream.try_clone()?);
        let reader = thread::spawn(move || {
            let mut line = String::new();
            for _ in 0..tokens {
                ensure!(answer.read_line(&mut line)? > 0, "the answer is cut short");
            }
            Ok(())
        });
        writeln!(stream, "tokens {tokens} 50")?;
        Ok(Self { stream, reader })
    }
}

/// Connections with a request in flight, from the map itself: a command takes a large part of a second.
fn noted(agent: &Agent<'_>) -> Result<usize> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let now = u64::try_from(Duration::from(now).as_nanos())?;
    let idle = u64::try_from(IDLE.as_nanos())?;
    let noted = Pinned::open(agent.pins().path())?.noted()?;
    Ok(noted.requests.values().filter(|request| request.is_in_flight(now, idle)).count())
}

/// A token every 50 ms is one request in flight, from the first to the last.
fn tokens_are_one_in_flight(agent: &Agent<'_>, streaming: Streaming) -> Result<()> {
    wait_until(PATIENCE, || Ok(noted(agent)? == 1)).context("the request")?;
    ensure!(in_flight(agent)? == Some(1), "{:?}", in_flight(agent)?);
    let mut looks = 0;
    while !streaming.reader.is_finished() {
        let now = noted(agent)?;
        ensure!(now == 1, "look {looks}: {now}");
        looks += 1;
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(looks >= 20, "{looks} looks");
    streaming.reader.join().expect("a reader")?;
    wait_until(PATIENCE, || Ok(in_flight(agent)? == Some(0))).context("the end of the answer")?;
    ensure!(streaming.stream.peer_addr().is_ok(), "the connection is still open");
    Ok(())
}

#[test]
fn a_streaming_answer_is_in_flight_until_it_ends() -> Result<()> {
    on_each_datapath(|datapath| {
        let lab = Lab::mixed(1, 1)?;
        let agent = lab.start(&measured(&lab), Options::datapath(datapath))?;
        assert_eq!(in_flight(&agent)?, Some(0));
        for frontend in [vip4(80), vip6(80)] {
            let streaming = lab.client(|| Streaming::begin(frontend, 120))?;
            tokens_are_one_in_flight(&agent, streaming).with_context(|| format!("{datapath} {frontend}"))?;
        }
        let [begun, answered, nanoseconds] = totals(&agent)?;
        assert_eq!((begun, answered), (2, 2), "{datapath}");
        assert!(nanoseconds < 1_000_000_000, "{datapath}: the first token comes at once, {nanoseconds} ns");
        Ok(())
    })
}

#[test]
fn a_streaming_answer_to_a_socket_of_the_node_is_in_flight_too() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let agent = lab.start(&measured(&lab.lab))?;
    wait_until(PATIENCE, || hooks(&agent)).context("the hooks that see packets")?;
    for frontend in [vip4(80), vip6(80)] {
        let streaming = lab.on_node(|| Streaming::begin(frontend, 120))?;
        tokens_are_one_in_flight(&agent, streaming).with_context(|| format!("{frontend}"))?;
    }
    assert_eq!(totals(&agent)?[..2], [2, 2]);
    Ok(())
}

/// Whether sockets' packets are looked at.
fn hooks(agent: &Agent<'_>) -> Result<bool> {
    let status = agent.weir(&["status", "-o", "json"])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    Ok(status.contains("skb-egress") && status.contains("skb-ingress"))
}

/// So many requests on one connection, each with a short answer.
fn keep_alive(frontend: SocketAddr, requests: usize) -> Result<TcpStream> {
    let mut stream = client::connect(frontend)?;
    let mut answer = [0; 6];
    for _ in 0..requests {
        stream.write_all(b"tokens 1 0\n")?;
        stream.read_exact(&mut answer)?;
    }
    Ok(stream)
}

#[test]
fn requests_on_one_connection_are_counted_one_by_one() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let agent = lab.start(&measured(&lab.lab))?;
    wait_until(PATIENCE, || hooks(&agent)).context("the hooks that see packets")?;
    let outside = lab.lab.client(|| keep_alive(vip4(80), 100))?;
    assert_eq!(totals(&agent)?[..2], [100, 100]);
    let inside = lab.on_node(|| keep_alive(vip6(80), 100))?;
    assert_eq!(totals(&agent)?[..2], [200, 200]);
    wait_until(PATIENCE, || Ok(in_flight(&agent)? == Some(0))).context("all are answered")?;
    let metrics = agent.metrics()?;
    let sum = |name: &str| -> f64 {
        metrics
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    assert_eq!((sum("weir_backend_requests_total{"), sum("weir_backend_ttfb_seconds_count{")), (200.0, 200.0));
    // What ends with its connection leaves nothing behind.
    drop((outside, inside));
    let left = || Ok(agent.json(&["map", "dump", "requests"])?["items"].as_array().map(Vec::len) == Some(0));
    wait_until(PATIENCE, left).context("no connection is noted")
}

#[test]
fn aborted_requests_are_not_in_flight() -> Result<()> {
    let lab = SocketLab::mixed(1, 1)?;
    let agent = lab.start(&measured(&lab.lab))?;
    wait_until(PATIENCE, || hooks(&agent)).context("the hooks that see packets")?;
    let begin = || (0..10).map(|_| Streaming::begin(vip4(80), 200)).collect::<Result<Vec<_>>>();
    let (outside, inside) = (lab.lab.client(begin)?, lab.on_node(begin)?);
    wait_until(PATIENCE, || Ok(in_flight(&agent)? == Some(20))).context("twenty in flight")?;
    for streaming in outside.into_iter().chain(inside) {
        socket2::SockRef::from(&streaming.stream).set_linger(Some(Duration::ZERO))?;
        streaming.stream.shutdown(std::net::Shutdown::Both).ok();
        drop(streaming.stream);
        drop(streaming.reader.join());
    }
    wait_until(PATIENCE, || Ok(in_flight(&agent)? == Some(0))).context("nothing in flight")
}

const SPEC: &str = "  mode: Recommend
  replicas: {min: 1, max: 9}
  rules:
  - {name: slow, signal: ttfb, quantile: 0.9, above: 30, for: 10s, add: 1}
  - {name: busy, signal: requestsPerSecond, above: 100000, for: 10s, add: 1}
  targets:
  - {signal: inFlight, perReplica: 1}
";

/// The policy's value of a signal.
fn signal(agent: &Agent<'_>, name: &str) -> Result<Option<f64>> {
    let list = agent.json(&["get", "policies"])?;
    let signals = list["items"][0]["signals"].as_array().cloned().unwrap_or_default();
    let signal = signals.iter().find(|signal| signal["signal"] == name);
    Ok(signal.and_then(|signal| signal["value"].as_f64()))
}

#[test]
fn a_policy_that_reads_requests_has_them_measured() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    // One address family: each backend is one replica.
    let web = Service::web(&[vip4(80).ip()], &lab.lab.topology.hosts);
    let agent = lab.start(&web)?;
    let before = lab.lab.client(|| Streaming::begin(vip4(80), 20))?;
    before.reader.join().expect("a reader")?;
    assert_eq!(in_flight(&agent)?, None, "nobody asked");
    assert!(!hooks(&agent)?, "and no packet of a socket is looked at");
    lab.lab.manifests.write("policy.yaml", &policy(SPEC))?;
    wait_until(PATIENCE, || Ok(in_flight(&agent)? == Some(0) && hooks(&agent)?)).context("measured now")?;
    let streams = lab.lab.client(|| (0..3).map(|_| Streaming::begin(vip4(80), 100)).collect::<Result<Vec<_>>>())?;
    wait_until(PATIENCE, || Ok(signal(&agent, "inFlight")? == Some(3.0))).context("the signal inFlight")?;
    wait_until(PATIENCE, || Ok(signal(&agent, "ttfb(0.9)")?.is_some_and(|seconds| seconds < 1.0))).context("ttfb")?;
    assert!(signal(&agent, "requestsPerSecond")?.is_some());
    for streaming in streams {
        streaming.reader.join().expect("a reader")?;
    }
    lab.lab.manifests.remove("policy.yaml")?;
    wait_until(PATIENCE, || Ok(in_flight(&agent)?.is_none() && !hooks(&agent)?)).context("measured no more")
}
