//! Policies read what a real Prometheus answers, and read a page of metrics as it does.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb_agent::scaling::{
    Policy, ScalePolicy,
    asked::{Answers, Asker, Questions, questions},
    validate,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weir_tests::{
    process::wait_until,
    prometheus::{Job, Prometheus},
};

use crate::stage;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy(target: Value) -> Result<Policy> {
    let resource: ScalePolicy = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "ScalePolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"serviceRef": {"name": "web"}, "replicas": {"max": 4}, "targets": [target]},
    }))?;
    Ok(validate(&resource)?)
}

/// What a policy is answered, as soon as there is an answer.
fn answers(target: Value) -> Result<Answers> {
    let runtime = Runtime::new()?;
    let _entered = runtime.enter();
    let (policy, ready) = (policy(target)?, BTreeSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST)]));
    let mut all = Questions::new();
    questions(&policy, &ready, &mut all);
    let (mut asker, begun) = (Asker::default(), Instant::now());
    while begun.elapsed() < PATIENCE {
        asker.tick(all.clone(), begun.elapsed());
        let answers = asker.answers(&policy, &ready, begun.elapsed());
        if answers != Answers::default() {
            return Ok(answers);
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("no answer within {} s", PATIENCE.as_secs())
}

#[test]
fn a_query_of_one_value_is_read_and_any_other_is_named() -> Result<()> {
    let server = stage::shared()?.prometheus.url();
    let ask = |query: &str| answers(json!({"prometheus": {"server": server, "query": query}, "perReplica": 1}));
    for (query, expected) in [
        ("weir_policy_desired_replicas", 3.0),
        ("sum(weir_backend_active_connections{service=\"dns\"})", 9.0),
        ("scalar(sum(weir_backend_active_connections)) / 2", 4.5),
        ("avg_over_time(weir_policy_desired_replicas[1m])", 3.0),
        ("sum(nothing_of_this_name) or vector(0)", 0.0),
    ] {
        let answers = ask(query)?;
        let values: Vec<f64> = answers.readings.iter().map(|(_, reading)| reading.value).collect();
        assert_eq!((values, answers.failures.len()), (vec![expected], 0), "{query}");
    }
    for (query, reason, text) in [
        ("weir_backend_active_connections", "NotOneValue", "gives 3 series; aggregate them"),
        ("nothing_of_this_name", "NotOneValue", "gives no series; look whether"),
        ("vector(0) / 0", "NotOneValue", "gives NaN, which is no load"),
        ("1 / 0", "NotOneValue", "gives +Inf"),
        ("up[5m]", "NotOneValue", "gives a range"),
        ("\"words\"", "NotOneValue", "gives a string"),
        ("sum(up", "QueryRefused", "parse error"),
    ] {
        let answers = ask(query)?;
        let failure = answers.failures.values().next().map(|failure| (failure.reason, failure.text.to_string()));
        let (found, message) = failure.unwrap_or_default();
        let field = format!("spec.targets[0].prometheus.query: {query:?} ");
        assert!(found == reason && message.starts_with(&field) && message.contains(text), "{query}: {found} {message}");
        assert_eq!(answers.readings, [], "{query}");
    }
    Ok(())
}

/// As vLLM shows itself, and what the format allows besides.
const PAGE: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 7.0
vllm:num_requests_running{engine="1",model_name="a \"strange\" } name\\"} 2
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.5"} 12
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 20
vllm:time_to_first_token_seconds_sum 1.25e+01
vllm:time_to_first_token_seconds_count 20
plain   3.5e-1
spaced {a = "b" , } 4
"#;

/// Answers everything with [`PAGE`] until the program ends.
fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who goes away early is asked about by nobody.
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("{head}{PAGE}").as_bytes());
        }
    });
    Ok(address)
}

#[test]
fn a_page_of_metrics_is_read_as_prometheus_reads_it() -> Result<()> {
    let (address, folder) = (serve()?, tempfile::tempdir()?);
    let jobs = [Job { name: "vllm", targets: vec![(address.to_string(), "vllm-1".to_owned())] }];
    let prometheus = Prometheus::start(folder.path(), &jobs, &[], None)?;
    prometheus.wait_for_targets()?;
    for name in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:gpu_cache_usage_perc",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:time_to_first_token_seconds_sum",
        "plain",
        "spaced",
    ] {
        let mut theirs = Vec::new();
        wait_until(PATIENCE, || {
            theirs = prometheus.query(&format!("sum({name})"))?;
            Ok(!theirs.is_empty())
        })?;
        let ours = answers(json!({"podMetric": {"port": address.port(), "name": name}, "perReplica": 1}))?;
        let ours = ours.readings.first().map(|(_, reading)| reading.value);
        assert_eq!(ours, theirs.first().map(|series| series.value), "{name}");
    }
    Ok(())
}
