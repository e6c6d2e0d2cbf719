//! The metrics as Prometheus' own programs see them: `promtool check metrics` on the classic form, and a real Prometheus that
//! scrapes the other. Needs the package prometheus, so it is built only with the feature `tools`.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lb_agent::{
    dataplane::Counters,
    model::ServiceId,
    scaling::{PolicyStatus, ScalePolicy, Signal, status::SignalStatus, validate},
    telemetry::{BackendSnapshot, ServiceSnapshot, Snapshot, channel, http},
};
use lb_common::{BackendLoad, BackendState, DropReason, Protocol, Traffic};
use serde_json::{Value, json};

/// A node with services of both protocols and families, a policy and a sync.
fn snapshot() -> Result<Snapshot> {
    let mut snapshot = Snapshot {
        taken: Some(Instant::now()),
        synced: true,
        services: vec![
            service(Protocol::Tcp, &["10.0.0.1:8080", "[fd00::1]:8080"])?,
            service(Protocol::Udp, &["10.0.0.1:8080"])?,
        ],
        drops: [(DropReason::NoFlow, 9)].into(),
        flow_entries: 12,
        flow_capacity: 4096,
        policies: vec![policy()?],
        ..Snapshot::default()
    };
    snapshot.syncs.observe(Duration::from_millis(3));
    Ok(snapshot)
}

fn service(protocol: Protocol, backends: &[&str]) -> Result<ServiceSnapshot> {
    let backend = |text: &&str| -> Result<BackendSnapshot> {
        Ok(BackendSnapshot {
            address: text.parse()?,
            state: BackendState::Ready,
            effective_weight: 100,
            counters: Counters {
                load: BackendLoad { active: 3, connections: 1000, ..BackendLoad::default() },
                traffic: Traffic { packets_in: 5, packets_out: 6, bytes_in: 700, bytes_out: 8000 },
            },
        })
    };
    let id = ServiceId { namespace: "shop".to_owned(), name: "dns".to_owned(), port: 53, protocol };
    Ok(ServiceSnapshot { id, backends: backends.iter().map(backend).collect::<Result<_>>()? })
}

fn policy() -> Result<PolicyStatus> {
    let resource: ScalePolicy = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "ScalePolicy",
        "metadata": {"name": "dns", "namespace": "shop"},
        "spec": {
            "serviceRef": {"name": "dns"},
            "replicas": {"max": 4},
            "targets": [{"signal": "bytesPerSecond", "perReplica": 1000}],
        },
    }))?;
    let mut status = PolicyStatus::new(&validate(&resource)?);
    status.current_replicas = Some(2);
    status.desired_replicas = Some(3);
    status.signals = vec![SignalStatus { signal: Signal::BytesPerSecond, value: Some(1500.5), age_seconds: Some(0.5) }];
    Ok(status)
}

/// Serves the snapshot on a port of loopback while the runtime lives.
fn serve(runtime: &tokio::runtime::Runtime) -> Result<SocketAddr> {
    let listener = runtime.block_on(http::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let address = listener.local_addr()?;
    let (publisher, subscriber) = channel();
    publisher.send_replace(Arc::new(snapshot()?));
    runtime.spawn(http::serve(listener, subscriber));
    Ok(address)
}

/// The body of an answer; HTTP/1.0, so that it comes in one piece.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.contains(" 200 "), "{path}: {head}");
    Ok(body.to_owned())
}

#[test]
fn promtool_has_nothing_to_say_about_the_classic_form() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let text = get(serve(&runtime)?, "/metrics")?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool; install the package prometheus")?;
    promtool.stdin.take().context("promtool has no input")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    Ok(())
}

/// A Prometheus that ends with the test.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(folder: &Path, target: SocketAddr) -> Result<Self> {
        let config = folder.join("prometheus.yml");
        let job = json!({"job_name": "weir", "static_configs": [{"targets": [target.to_string()]}]});
        let global = json!({"scrape_interval": "1s", "scrape_timeout": "1s"});
        std::fs::write(&config, json!({"global": global, "scrape_configs": [job]}).to_string())?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting prometheus; install the package prometheus")?;
        Ok(Self { process, address })
    }

    fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&get(self.address, &format!("/api/v1/{path}"))?)?)
    }

    /// The health and last error of its only target, once it was scraped.
    fn target(&self) -> Result<(String, String)> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if let Ok(targets) = self.api("targets") {
                let target = &targets["data"]["activeTargets"][0];
                let text = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
                if ["up", "down"].contains(&text("health").as_str()) {
                    return Ok((text("health"), text("lastError")));
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("Prometheus did not scrape within 60 s")
    }
}

#[test]
fn a_real_prometheus_scrapes_the_open_metrics_form() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let prometheus = Prometheus::start(folder.path(), serve(&runtime)?)?;
    assert_eq!(prometheus.target()?, ("up".to_owned(), String::new()));
    for (query, expected) in [
        ("weir_build_info", "1"),
        ("sum(weir_backend_active_connections)", "9"),
        ("sum(weir_backend_bytes_total)", "26100"),
        ("count(weir_backend_packets_total)", "6"),
        ("sum(weir_dropped_packets_total)", "9"),
        ("weir_flow_table_capacity", "4096"),
        ("weir_counter_repairs_total", "0"),
        ("weir_sync_duration_seconds_count", "1"),
        ("weir_policy_desired_replicas", "3"),
        ("weir_signal", "1500.5"),
    ] {
        let answer = prometheus.api(&format!("query?query={query}"))?;
        assert_eq!(answer["data"]["result"][0]["value"][1], expected, "{query}: {answer}");
    }
    let metadata = prometheus.api("metadata?metric=weir_sync_duration_seconds")?;
    let unit = &metadata["data"]["weir_sync_duration_seconds"][0]["unit"];
    assert_eq!(unit, "seconds", "only the OpenMetrics form tells units: {metadata}");
    Ok(())
}
