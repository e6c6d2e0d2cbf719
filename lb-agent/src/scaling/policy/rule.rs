//! Rules and targets, and the numbers they read.
//!
//! The API server compares a whole number with the whole part of a `minimum`, so those with a fraction are said by a rule too.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{self, DURATION, METRIC, PATH, SERVER, WORD};

/// A threshold that, once crossed for a while, adds or removes replicas, or makes them larger or smaller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("[has(self.signal), has(self.prometheus), has(self.podMetric)].exists_one(given, given)")
        .message("a rule reads exactly one number; give one of signal, prometheus and podMetric"),
    validation = Rule::new("(has(self.signal) && self.signal == 'ttfb') == has(self.quantile)")
        .message("quantile goes with signal ttfb; give both or neither"),
    validation = Rule::new("has(self.above) != has(self.below)")
        .message("exactly one of above and below has to be given; use above with add, or below with remove"),
    validation = Rule::new("[has(self.add), has(self.remove), has(self.addCpu), has(self.removeCpu), has(self.addMemory), has(self.removeMemory)].exists_one(given, given)")
        .message("a rule does exactly one thing; give one of add, remove, addCpu, removeCpu, addMemory and removeMemory"),
    validation = Rule::new("has(self.above) ? has(self.add) || has(self.addCpu) || has(self.addMemory) : has(self.remove) || has(self.removeCpu) || has(self.removeMemory)")
        .message("what adds goes with above, what removes goes with below; use above with add, or below with remove"),
    validation = Rule::new("[has(self.addCpu) ? string(self.addCpu) : '1', has(self.removeCpu) ? string(self.removeCpu) : '1', has(self.addMemory) ? string(self.addMemory) : '1', has(self.removeMemory) ? string(self.removeMemory) : '1'].all(q, quantity(q).isGreaterThan(quantity('0')))")
        .message("0 changes nothing; use more than 0"),
)]
pub struct RuleSpec {
    /// Its name, unique in the policy.
    #[schemars(regex(pattern = WORD), length(max = 63))]
    pub name: String,
    /// The number it reads, a mean over the ready replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// Which part of the responses begins within the time: `0.95`. Goes with `signal: ttfb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.999))]
    #[x_kube(validation = Rule::new("self >= 0.01").message("out of range; use 0.01 to 0.999"))]
    pub quantile: Option<f64>,
    /// The number it reads, asked of a Prometheus server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// The number it reads, a mean over the ready replicas, scraped from each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metric: Option<PodMetricSpec>,
    /// It holds while the number is greater; goes with `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub above: Option<f64>,
    /// It holds while the number is less; goes with `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub below: Option<f64>,
    /// How long it must hold without a break before it acts: `30s`, `5m`. Without it, it acts at once.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("more than a day; use a day or less"))]
    pub hold: Option<String>,
    /// How long it does not act again after it has acted: `2m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("more than a day; use a day or less"))]
    pub cooldown: Option<String>,
    /// Replicas to add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::step")]
    pub add: Option<IntOrString>,
    /// Replicas to remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::step")]
    pub remove: Option<IntOrString>,
    /// CPU that each replica gets more of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::cpu")]
    pub add_cpu: Option<IntOrString>,
    /// CPU that each replica gets less of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::cpu")]
    pub remove_cpu: Option<IntOrString>,
    /// Memory that each replica gets more of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::memory")]
    pub add_memory: Option<IntOrString>,
    /// Memory that each replica gets less of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::memory")]
    pub remove_memory: Option<IntOrString>,
}

/// The load one replica should carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("[has(self.signal), has(self.prometheus), has(self.podMetric)].exists_one(given, given)")
        .message("a target reads exactly one number; give one of signal, prometheus and podMetric"),
    validation = Rule::new("(has(self.signal) && self.signal == 'ttfb') == has(self.quantile)")
        .message("quantile goes with signal ttfb; give both or neither"),
    validation = Rule::new("!has(self.signal) || self.signal != 'skew'")
        .message("more replicas do not lessen skew; use it in a rule"),
    validation = Rule::new("self.perReplica > 0.0").message("not a load; use a number greater than 0"),
)]
pub struct TargetSpec {
    /// The number it reads, a mean over the ready replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// Which part of the responses begins within the time: `0.95`. Goes with `signal: ttfb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.999))]
    #[x_kube(validation = Rule::new("self >= 0.01").message("out of range; use 0.01 to 0.999"))]
    pub quantile: Option<f64>,
    /// The number it reads, asked of a Prometheus server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// The number it reads, a mean over the ready replicas, scraped from each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metric: Option<PodMetricSpec>,
    /// The wanted mean, greater than 0.
    pub per_replica: f64,
}

/// A number that Weir measures itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SignalName {
    /// CPU time in percent of what the containers request.
    Cpu,
    /// Memory in percent of what the containers request.
    Memory,
    /// CPU time, in CPUs.
    CpuCores,
    /// Memory, in bytes.
    MemoryBytes,
    /// Connections open now.
    ActiveConnections,
    /// New connections in a second.
    ConnectionsPerSecond,
    /// Requests sent and not yet fully answered.
    InFlight,
    /// Requests in a second.
    RequestsPerSecond,
    /// IP bytes in a second, both directions.
    BytesPerSecond,
    /// Seconds until a response begins, at `quantile`.
    Ttfb,
    /// The busiest replica's active connections, as a multiple of the mean.
    Skew,
}

/// Any query of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrometheusSpec {
    /// The server: `http://prometheus.monitoring:9090`.
    #[schemars(regex(pattern = SERVER), length(max = 1024))]
    pub server: String,
    /// The query, in PromQL; it has to give one value.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// What the value is of; a target divides that of a whole Service by its `perReplica` as it is.
    #[serde(default)]
    pub per: Per,
}

/// What a number is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Per {
    /// A mean over the replicas.
    #[default]
    Replica,
    /// The sum over the replicas, or a queue before them.
    Service,
}

/// A metric that every replica shows by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMetricSpec {
    /// The port that shows it.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The path that shows it.
    #[serde(default = "metrics")]
    #[schemars(regex(pattern = PATH), length(max = 1024))]
    pub path: String,
    /// Its name; where it has several series, their sum is read.
    #[schemars(regex(pattern = METRIC), length(max = 256))]
    pub name: String,
}

fn metrics() -> String {
    "/metrics".to_owned()
}
