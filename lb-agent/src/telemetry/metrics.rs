//! Writes a snapshot as metrics. The names and labels are part of Weir's contract, and this is the only place they are written.
//!
//! There is no sum per service: it would fall when a backend is forgotten, which a counter must not. `sum by (service)` has it.

use std::{fmt, sync::Arc};

use lb_common::{ABI_VERSION, BackendState, DropReason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

use crate::{dataplane::Counters, signals::requests::RequestLoad};

use super::{
    classic,
    snapshot::{BackendSnapshot, ServiceSnapshot, Snapshot, SyncDurations},
};

type Written = Result<(), fmt::Error>;
type Label = (&'static str, String);

/// A snapshot in OpenMetrics' text format.
pub fn open_metrics(snapshot: &Arc<Snapshot>) -> Result<String, fmt::Error> {
    write(Metrics { snapshot: Arc::clone(snapshot), with_repairs: true })
}

/// A snapshot in Prometheus' older text format. `promtool check metrics` reads it and rejects `counter` within a name, so there
/// `weir_counter_repairs_total` is left out while it is 0, which it always should be.
pub fn classic(snapshot: &Arc<Snapshot>) -> Result<String, fmt::Error> {
    let with_repairs = snapshot.repairs > 0;
    let text = write(Metrics { snapshot: Arc::clone(snapshot), with_repairs })?;
    Ok(classic::from_open_metrics(&text))
}

fn write(metrics: Metrics) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Metrics {
    snapshot: Arc<Snapshot>,
    with_repairs: bool,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Written {
        let snapshot = &*self.snapshot;
        build_info(&mut encoder)?;
        backends(snapshot, &mut encoder)?;
        requests(snapshot, &mut encoder)?;
        backends_by_state(snapshot, &mut encoder)?;
        node(snapshot, &mut encoder)?;
        if self.with_repairs {
            repairs(snapshot, &mut encoder)?;
        }
        policies(snapshot, &mut encoder)
    }
}

fn build_info(encoder: &mut DescriptorEncoder<'_>) -> Written {
    let help = "The agent's version and the layout of its kernel maps, always 1.";
    let mut info = encoder.encode_descriptor("weir_build", help, None, MetricType::Info)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    info.encode_info(&vec![("version", version), ("abi", ABI_VERSION.to_string())])
}

/// With more backends than this, those that have carried nothing have no series of their own: a scrape of a hundred thousand backends
/// would be a hundred megabytes of zeroes.
const MANY: usize = 10_000;

fn backends(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let few = snapshot.services.iter().map(|service| service.backends.len()).sum::<usize>() <= MANY;
    let shown = |backend: &BackendSnapshot| few || backend.counters != Counters::default();
    let pairs = || {
        let services = snapshot.services.iter();
        let all = services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
        all.filter(|(_, backend)| shown(backend))
    };
    let all: Vec<_> = pairs().map(|(service, backend)| (of_backend(service, backend), backend)).collect();
    let measured = || {
        let traffic = pairs().map(|(service, backend)| backend.counters.measured(service.id.protocol as u8));
        all.iter().zip(traffic).filter_map(|((labels, _), traffic)| Some((labels, traffic?)))
    };
    let both = |labels: &[Label], way: &str| [labels, &[("direction", way.to_owned())]].concat();

    let help = "Connections open now.";
    let mut active = gauge(encoder, "weir_backend_active_connections", help)?;
    for (labels, backend) in &all {
        put_gauge(&mut active, labels, backend.counters.load.open())?;
    }
    let help = "TCP connections whose SYN was sent on and is not answered yet.";
    let mut pending = gauge(encoder, "weir_backend_pending_connections", help)?;
    for (labels, backend) in &all {
        put_gauge(&mut pending, labels, backend.counters.load.pending)?;
    }
    let help = "The weight that selection uses now.";
    let mut weight = gauge(encoder, "weir_backend_weight", help)?;
    for (labels, backend) in &all {
        put_gauge(&mut weight, labels, u64::from(backend.effective_weight))?;
    }
    let mut connections = counter(encoder, "weir_backend_connections", "Connections that became active.", None)?;
    for (labels, backend) in &all {
        put_counter(&mut connections, labels, backend.counters.load.connections)?;
    }
    let mut resets = counter(encoder, "weir_backend_resets", "Connections that a reset ended.", None)?;
    for (labels, backend) in &all {
        put_counter(&mut resets, labels, backend.counters.load.resets)?;
    }
    let help = "IP bytes, in towards the backend and out from it.";
    let mut bytes = counter(encoder, "weir_backend", help, Some(&Unit::Bytes))?;
    for (labels, traffic) in measured() {
        put_counter(&mut bytes, &both(labels, "in"), traffic.bytes_in)?;
        put_counter(&mut bytes, &both(labels, "out"), traffic.bytes_out)?;
    }
    let help = "IP packets, in towards the backend and out from it.";
    let mut packets = counter(encoder, "weir_backend_packets", help, None)?;
    for (labels, traffic) in measured() {
        put_counter(&mut packets, &both(labels, "in"), traffic.packets_in)?;
        put_counter(&mut packets, &both(labels, "out"), traffic.packets_out)?;
    }
    Ok(())
}

/// Of backends whose requests are measured.
fn requests(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let services = snapshot.services.iter();
    let pairs = services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
    let measured = pairs.filter_map(|(service, b)| Some((of_backend(service, b), b.requests.as_ref()?)));
    let measured: Vec<(Vec<Label>, &RequestLoad)> = measured.collect();
    let help = "Requests begun and not fully answered.";
    let mut in_flight = gauge(encoder, "weir_backend_in_flight", help)?;
    for (labels, load) in &measured {
        put_gauge(&mut in_flight, labels, load.in_flight)?;
    }
    let mut begun = counter(encoder, "weir_backend_requests", "Requests that began.", None)?;
    for (labels, load) in &measured {
        put_counter(&mut begun, labels, load.begun)?;
    }
    let help = "From a request's first payload to the response's first payload.";
    let kind = MetricType::Histogram;
    let mut ttfb = encoder.encode_descriptor("weir_backend_ttfb", help, Some(&Unit::Seconds), kind)?;
    for (labels, RequestLoad { answers, .. }) in &measured {
        let (sum, bounds) = (answers.nanoseconds() as f64 / 1e9, answers.doublings());
        ttfb.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, answers.total(), &bounds, None)?;
    }
    Ok(())
}

fn backends_by_state(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    const STATES: [BackendState; 4] =
        [BackendState::Ready, BackendState::Draining, BackendState::Terminating, BackendState::Unhealthy];
    let mut backends = gauge(encoder, "weir_service_backends", "Backends by state.")?;
    for service in &snapshot.services {
        for state in STATES {
            let count = service.backends.iter().filter(|backend| backend.state == state).count();
            let mut labels = of_service(service);
            labels.push(("state", state.name().to_owned()));
            put_gauge(&mut backends, &labels, count as u64)?;
        }
    }
    Ok(())
}

fn node(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let help = "Packets for a frontend that were dropped.";
    let mut drops = counter(encoder, "weir_dropped_packets", help, None)?;
    for reason in DropReason::ALL {
        let count = snapshot.drops.get(reason).copied().unwrap_or(0);
        put_counter(&mut drops, &[("reason", reason.name().to_owned())], count)?;
    }
    let help = "Flows in the flow table, as the last sweep counted them.";
    gauge(encoder, "weir_flow_table_entries", help)?.encode_gauge(&snapshot.flow_entries)?;
    let help = "Flows that the flow table has room for.";
    gauge(encoder, "weir_flow_table_capacity", help)?.encode_gauge(&snapshot.flow_capacity)?;
    maps(snapshot, encoder)?;
    let help = "What is wrong on this node; `weir status` says what.";
    gauge(encoder, "weir_problems", help)?.encode_gauge(&snapshot.node.problems.len())?;
    life(snapshot, encoder)?;
    let help = "From a change being read to its last write into the kernel.";
    histogram(encoder, "weir_sync_duration", help, &snapshot.syncs)?;
    let help = "From the time that an EndpointSlice names as its last change's to its last write into the kernel.";
    histogram(encoder, "weir_endpoint_programming", help, &snapshot.programming)
}

fn maps(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let labels = |map: &str| [("map", map.to_owned())];
    let mut entries = gauge(encoder, "weir_map_entries", "Entries of a map of services.")?;
    for (map, count, _) in &snapshot.maps {
        put_gauge(&mut entries, &labels(map), *count)?;
    }
    let mut capacity = gauge(encoder, "weir_map_capacity", "Entries that a map of services has room for.")?;
    for (map, _, room) in &snapshot.maps {
        put_gauge(&mut capacity, &labels(map), *room)?;
    }
    Ok(())
}

/// Whether the agent is at work, and hears of changes.
fn life(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    if let Some(taken) = snapshot.taken {
        let help = "Age of these numbers; an agent at work renews them every second.";
        let kind = MetricType::Gauge;
        let mut age = encoder.encode_descriptor("weir_snapshot_age", help, Some(&Unit::Seconds), kind)?;
        age.encode_gauge(&taken.elapsed().as_secs_f64())?;
    }
    if let Some(source) = snapshot.node.sources.iter().find(|source| source.kind == "kubernetes") {
        let help = "1 while the agent hears of changes from the API server.";
        gauge(encoder, "weir_kube_connected", help)?.encode_gauge(&i64::from(source.healthy))?;
    }
    Ok(())
}

fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, durations: &SyncDurations) -> Written {
    let mut histogram = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    histogram.encode_histogram::<NoLabelSet>(durations.sum(), durations.count(), &durations.buckets(), None)
}

fn repairs(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let help = "Counts that the sweep has repaired; not 0 is a bug.";
    let mut repairs = counter(encoder, "weir_counter_repairs", help, None)?;
    repairs.encode_counter::<NoLabelSet, _, f64>(&snapshot.repairs, None)
}

fn policies(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Written {
    let all = || snapshot.policies.iter();
    let labels = |namespace: &str, name: &str| vec![("namespace", namespace.to_owned()), ("policy", name.to_owned())];
    let help = "Replicas as last set.";
    let mut current = gauge(encoder, "weir_policy_replicas", help)?;
    for policy in all() {
        if let Some(replicas) = policy.current_replicas {
            put_gauge(&mut current, &labels(&policy.namespace, &policy.name), replicas)?;
        }
    }
    let help = "Replicas as last decided.";
    let mut desired = gauge(encoder, "weir_policy_desired_replicas", help)?;
    for policy in all() {
        if let Some(replicas) = policy.desired_replicas {
            put_gauge(&mut desired, &labels(&policy.namespace, &policy.name), replicas)?;
        }
    }
    let help = "The load at the forecast's horizon that is not exceeded with the probability of the label, in the load's unit.";
    // promtool grants the label `quantile` to summaries alone, and to what has no type.
    let mut foreseen = encoder.encode_descriptor("weir_policy_forecast", help, None, MetricType::Unknown)?;
    for policy in all() {
        let Some(forecast) = &policy.forecast else { continue };
        let Some(upper) = forecast.upper else { continue };
        let mut labels = labels(&policy.namespace, &policy.name);
        labels.push(("quantile", forecast.quantile.to_string()));
        put_gauge(&mut foreseen, &labels, upper)?;
    }
    let help = "A number that the policy's rules can read, a mean over the ready replicas.";
    let mut signals = gauge(encoder, "weir_signal", help)?;
    for policy in all() {
        for signal in &policy.signals {
            let Some(value) = signal.value else { continue };
            let mut labels = labels(&policy.namespace, &policy.name);
            labels.push(("signal", signal.signal.clone()));
            put_gauge(&mut signals, &labels, value)?;
        }
    }
    Ok(())
}

/// A port number may be used by TCP and by UDP, so the protocol is a label too.
fn of_service(service: &ServiceSnapshot) -> Vec<Label> {
    vec![
        ("namespace", service.id.namespace.clone()),
        ("service", service.id.name.clone()),
        ("port", service.id.port.to_string()),
        ("protocol", service.id.protocol.name().to_owned()),
    ]
}

fn of_backend(service: &ServiceSnapshot, backend: &BackendSnapshot) -> Vec<Label> {
    let mut labels = of_service(service);
    labels.push(("backend", backend.address.to_string()));
    labels
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// The name goes without `_total`, which the format adds.
fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    unit: Option<&'a Unit>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn put_gauge(family: &mut MetricEncoder<'_>, labels: &[Label], value: impl EncodeGaugeValue) -> Written {
    family.encode_family(&labels)?.encode_gauge(&value)
}

fn put_counter(family: &mut MetricEncoder<'_>, labels: &[Label], value: impl EncodeCounterValue) -> Written {
    let none: Option<&Exemplar<NoLabelSet, f64>> = None;
    family.encode_family(&labels)?.encode_counter(&value, none)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use lb_common::{BackendLoad, Protocol, Traffic};

    use super::*;
    use crate::{
        dataplane::Counters,
        model::ServiceId,
        scaling::status::SignalStatus,
        signals::requests::Answers,
        telemetry::{NodeStatus, SourceStatus, SyncDurations},
    };

    /// A snapshot with something in every family.
    pub(in crate::telemetry) fn full() -> Snapshot {
        let id = |port, protocol| ServiceId { namespace: "shop".to_owned(), name: "we\"b".to_owned(), port, protocol };
        let backend = |text: &str, active| BackendSnapshot {
            address: text.parse().unwrap(),
            state: BackendState::Ready,
            effective_weight: 75,
            counters: Counters {
                load: BackendLoad { active, connections: 1000, resets: 2, ..BackendLoad::default() },
                traffic: Traffic { packets_in: 5000, packets_out: 6, bytes_in: 700, bytes_out: u64::MAX },
            },
            requests: None,
        };
        let measured = BackendSnapshot {
            requests: Some(RequestLoad {
                in_flight: 2,
                begun: 9,
                unseen: 0,
                answers: Answers::new(vec![0, 3, 0, 0, 1], 100_000),
            }),
            ..backend("10.0.0.1:8080", 3)
        };
        let mut syncs = SyncDurations::default();
        for milliseconds in [1, 2, 7000] {
            syncs.observe(Duration::from_millis(milliseconds));
        }
        let mut programming = SyncDurations::default();
        programming.observe(Duration::from_secs(12));
        Snapshot {
            programming,
            services: vec![
                ServiceSnapshot { id: id(53, Protocol::Tcp), backends: vec![measured, backend("[fd00::1]:8080", 4)] },
                ServiceSnapshot { id: id(53, Protocol::Udp), backends: vec![backend("10.0.0.1:8080", 5)] },
            ],
            drops: [(DropReason::NoFlow, 9)].into(),
            flow_entries: 12,
            flow_capacity: 4096,
            maps: vec![("frontends", 7, 100)],
            repairs: 1,
            taken: Some(std::time::Instant::now()),
            node: NodeStatus {
                sources: vec![
                    SourceStatus { kind: "files".to_owned(), ..SourceStatus::default() },
                    SourceStatus { kind: "kubernetes".to_owned(), healthy: true, ..SourceStatus::default() },
                ],
                ..NodeStatus::default()
            },
            syncs,
            policies: vec![policy()],
            ..Snapshot::default()
        }
    }

    pub(in crate::telemetry) fn policy() -> crate::scaling::PolicyStatus {
        let resource = serde_json::from_value(serde_json::json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ScalePolicy",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "serviceRef": {"name": "web"},
                "replicas": {"max": 9},
                "targets": [{"signal": "bytesPerSecond", "perReplica": 1}],
            },
        }));
        let checked = crate::scaling::validate(&resource.unwrap()).unwrap();
        let mut status = crate::scaling::PolicyStatus::new(&checked);
        status.current_replicas = Some(2);
        status.desired_replicas = Some(4);
        let (quantile, upper) = (0.9, Some(12.5));
        status.forecast = Some(crate::scaling::forecast::ForecastReport { quantile, upper, ..Default::default() });
        let age_seconds = Some(0.5);
        status.signals = vec![SignalStatus { signal: "bytesPerSecond".to_owned(), value: Some(1.5), age_seconds }];
        status
    }

    #[test]
    fn names_and_labels_are_the_documented_ones() {
        let text = open_metrics(&Arc::new(full())).unwrap();
        let tcp = r#"namespace="shop",service="we\"b",port="53",protocol="TCP""#;
        let udp = tcp.replace("TCP", "UDP");
        for line in [
            &format!("weir_build_info{{version=\"{}\",abi=\"{ABI_VERSION}\"}} 1", env!("CARGO_PKG_VERSION")),
            &format!("weir_backend_active_connections{{{tcp},backend=\"10.0.0.1:8080\"}} 3"),
            &format!("weir_backend_active_connections{{{tcp},backend=\"[fd00::1]:8080\"}} 4"),
            &format!("weir_backend_active_connections{{{udp},backend=\"10.0.0.1:8080\"}} 5"),
            &format!("weir_backend_connections_total{{{udp},backend=\"10.0.0.1:8080\"}} 1000"),
            &format!("weir_backend_resets_total{{{udp},backend=\"10.0.0.1:8080\"}} 2"),
            &format!("weir_backend_weight{{{udp},backend=\"10.0.0.1:8080\"}} 75"),
            &format!("weir_backend_bytes_total{{{udp},backend=\"10.0.0.1:8080\",direction=\"in\"}} 700"),
            &format!("weir_backend_bytes_total{{{udp},backend=\"10.0.0.1:8080\",direction=\"out\"}} {}", u64::MAX),
            &format!("weir_backend_packets_total{{{udp},backend=\"10.0.0.1:8080\",direction=\"in\"}} 5000"),
            &format!("weir_backend_packets_total{{{udp},backend=\"10.0.0.1:8080\",direction=\"out\"}} 6"),
            &format!("weir_backend_in_flight{{{tcp},backend=\"10.0.0.1:8080\"}} 2"),
            &format!("weir_backend_requests_total{{{tcp},backend=\"10.0.0.1:8080\"}} 9"),
            &format!("weir_backend_ttfb_seconds_count{{{tcp},backend=\"10.0.0.1:8080\"}} 4"),
            &format!("weir_backend_ttfb_seconds_sum{{{tcp},backend=\"10.0.0.1:8080\"}} 0.0001"),
            &format!("weir_service_backends{{{tcp},state=\"ready\"}} 2"),
            &format!("weir_service_backends{{{tcp},state=\"draining\"}} 0"),
            "weir_dropped_packets_total{reason=\"no-flow\"} 9",
            "weir_dropped_packets_total{reason=\"malformed\"} 0",
            "weir_flow_table_entries 12",
            "weir_flow_table_capacity 4096",
            "weir_map_entries{map=\"frontends\"} 7",
            "weir_map_capacity{map=\"frontends\"} 100",
            "weir_counter_repairs_total 1",
            "weir_sync_duration_seconds_bucket{le=\"0.001\"} 1",
            "weir_sync_duration_seconds_bucket{le=\"0.0025\"} 2",
            "weir_sync_duration_seconds_bucket{le=\"5.0\"} 2",
            "weir_sync_duration_seconds_bucket{le=\"+Inf\"} 3",
            "weir_sync_duration_seconds_count 3",
            "weir_endpoint_programming_seconds_bucket{le=\"20.0\"} 1",
            "weir_endpoint_programming_seconds_count 1",
            "weir_kube_connected 1",
            "weir_policy_forecast{namespace=\"shop\",policy=\"web\",quantile=\"0.9\"} 12.5",
            "weir_policy_replicas{namespace=\"shop\",policy=\"web\"} 2",
            "weir_policy_desired_replicas{namespace=\"shop\",policy=\"web\"} 4",
            "weir_signal{namespace=\"shop\",policy=\"web\",signal=\"bytesPerSecond\"} 1.5",
            "# TYPE weir_backend_bytes counter",
            "# UNIT weir_backend_bytes bytes",
            "# TYPE weir_build info",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_was_not_counted_has_no_series() {
        let mut snapshot = full();
        snapshot.services.iter_mut().flat_map(|service| &mut service.backends).for_each(|backend| {
            backend.counters.load.established = 1;
        });
        let text = open_metrics(&Arc::new(snapshot)).unwrap();
        let series = |name: &str, protocol: &str| {
            let protocol = format!("protocol=\"{protocol}\"");
            text.lines().filter(|line| line.starts_with(name) && line.contains(&protocol)).count()
        };
        assert_eq!((series("weir_backend_bytes_total{", "TCP"), series("weir_backend_packets_total{", "TCP")), (4, 4));
        assert_eq!((series("weir_backend_bytes_total{", "UDP"), series("weir_backend_packets_total{", "UDP")), (0, 0));
        assert_eq!(series("weir_backend_connections_total{", "UDP"), 1);
    }

    #[test]
    fn only_who_is_measured_has_requests() {
        let text = open_metrics(&Arc::new(full())).unwrap();
        for name in ["weir_backend_in_flight{", "weir_backend_requests_total{", "weir_backend_ttfb_seconds_count{"] {
            assert_eq!(text.lines().filter(|line| line.starts_with(name)).count(), 1, "{name}");
        }
    }

    #[test]
    fn of_very_many_backends_only_those_that_carried_something_are_shown() {
        let mut snapshot = full();
        let silent = BackendSnapshot { counters: Counters::default(), ..snapshot.services[0].backends[1].clone() };
        let shown = |snapshot: &Snapshot| {
            let text = open_metrics(&Arc::new(snapshot.clone())).unwrap();
            text.lines().filter(|line| line.starts_with("weir_backend_weight{")).count()
        };
        snapshot.services[0].backends.push(silent.clone());
        assert_eq!(shown(&snapshot), 4);
        snapshot.services[0].backends.resize(MANY, silent);
        assert_eq!(shown(&snapshot), 3);
        let text = open_metrics(&Arc::new(snapshot)).unwrap();
        assert!(text.contains(&format!("state=\"ready\"}} {MANY}\n")), "they are counted");
    }

    #[test]
    fn no_series_is_there_twice() {
        let text = classic(&Arc::new(full())).unwrap();
        let mut seen = std::collections::HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "{series} is there twice");
        }
    }

    #[test]
    fn an_empty_snapshot_is_written_too() {
        let text = open_metrics(&Arc::new(Snapshot::default())).unwrap();
        assert!(text.contains("weir_flow_table_entries 0\n"), "{text}");
    }

    #[test]
    fn repairs_are_always_told_once_there_are_any() {
        let told = |repairs| {
            let snapshot = Arc::new(Snapshot { repairs, ..Snapshot::default() });
            let has = |text: String| text.contains(&format!("weir_counter_repairs_total {repairs}\n"));
            (has(open_metrics(&snapshot).unwrap()), has(classic(&snapshot).unwrap()))
        };
        assert_eq!(told(0), (true, false));
        assert_eq!(told(3), (true, true));
    }
}
