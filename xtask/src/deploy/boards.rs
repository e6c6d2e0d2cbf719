//! The dashboards: the cluster, one Service, nodes and datapath.
//!
//! Every agent knows every backend, and counts what its own node sent there: loads are summed over agents, weights and numbers of backends
//! are the same everywhere up to the moment of a change.

use super::dashboard::{
    Dashboard, Panel,
    Unit::{Bytes, Number, Packets, PerSecond, Seconds, Share},
};

/// All of them, by file name.
pub(super) fn all() -> [(&'static str, Dashboard); 3] {
    [("cluster.json", cluster()), ("service.json", service()), ("nodes.json", nodes())]
}

fn cluster() -> Dashboard {
    let description = "What Weir carries in the whole cluster, by Service and by node.";
    Dashboard::new("weir-cluster", "Weir / Cluster", description)
        .row(
            4,
            [
                Panel::stat("Agents", Number, "Nodes whose agent is scraped.").query("count(weir_flow_table_capacity)", ""),
                Panel::stat("Problems", Number, "What `weir status` would say on the nodes; should be 0.")
                    .query("sum(weir_problems)", ""),
                Panel::stat("Leader", Number, "Coordinators that lead; should be 1.").query("sum(weir_leader)", ""),
                Panel::stat("Open connections", Number, "Connections open now.")
                    .query("sum(weir_backend_active_connections)", ""),
                Panel::stat("New connections", PerSecond, "Connections that became active.")
                    .query("sum(rate(weir_backend_connections_total[$__rate_interval]))", ""),
                Panel::stat("Traffic", Bytes, "IP bytes towards backends and from them.")
                    .query("sum(rate(weir_backend_bytes_total[$__rate_interval]))", ""),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Open connections by Service", Number, "The ten busiest.")
                    .query("topk(10, sum by (namespace, service) (weir_backend_active_connections))", "{{namespace}}/{{service}}"),
                Panel::lines("New connections by Service", PerSecond, "The ten busiest.").query(
                    "topk(10, sum by (namespace, service) (rate(weir_backend_connections_total[$__rate_interval])))",
                    "{{namespace}}/{{service}}",
                ),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Traffic by Service", Bytes, "The ten busiest, both directions.").query(
                    "topk(10, sum by (namespace, service) (rate(weir_backend_bytes_total[$__rate_interval])))",
                    "{{namespace}}/{{service}}",
                ),
                Panel::lines("Skew by Service", Number, "The busiest backend's open connections over the mean; 1 is even. The ten most uneven.")
                    .query(
                        "topk(10, max by (namespace, service) (sum by (namespace, service, backend) (weir_backend_active_connections)) \
                         / avg by (namespace, service) (sum by (namespace, service, backend) (weir_backend_active_connections)))",
                        "{{namespace}}/{{service}}",
                    ),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Open connections by node", Number, "By the node that balanced them.")
                    .stacked()
                    .query("sum by (instance) (weir_backend_active_connections)", "{{instance}}"),
                Panel::lines("Backends by state", Number, "Of all Services, counted once per service port.").stacked().query(
                    "sum by (state) (max by (namespace, service, port, protocol, state) (weir_service_backends))",
                    "{{state}}",
                ),
                Panel::lines("Dropped packets", Packets, "Packets for a frontend that were dropped.")
                    .stacked()
                    .query("sum by (reason) (rate(weir_dropped_packets_total[$__rate_interval])) > 0", "{{reason}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Addresses of pools", Number, "What Services of type LoadBalancer have and may have.")
                    .query("max by (pool, state) (weir_address_pool_addresses)", "{{pool}} {{state}}"),
                Panel::lines("Announced addresses", Number, "By the node that answers for them.")
                    .stacked()
                    .query("max by (node) (weir_announced_addresses)", "{{node}}"),
                Panel::lines("Versions", Number, "Agents by version and layout of their maps.")
                    .stacked()
                    .query("count by (version, abi) (weir_build_info)", "{{version}}, layout {{abi}}"),
            ],
        )
}

/// The chosen Service's series.
const CHOSEN: &str = r#"{namespace="$namespace",service="$service"}"#;

fn by_backend(metric: &str) -> String {
    format!("sum by (backend) ({metric}{CHOSEN})")
}

fn rate_by_backend(metric: &str) -> String {
    format!("sum by (backend) (rate({metric}{CHOSEN}[$__rate_interval]))")
}

fn service() -> Dashboard {
    let open = by_backend("weir_backend_active_connections");
    let new = rate_by_backend("weir_backend_connections_total");
    let ready = r#"{namespace="$namespace",service="$service",state="ready"}"#;
    let bytes = |way: &str| {
        let chosen = format!(r#"{{namespace="$namespace",service="$service",direction="{way}"}}"#);
        format!("sum by (backend) (rate(weir_backend_bytes_total{chosen}[$__rate_interval]))")
    };
    let first_byte = |quantile: &str| {
        let rate = format!("rate(weir_backend_ttfb_seconds_bucket{CHOSEN}[$__rate_interval])");
        format!("histogram_quantile({quantile}, sum by (le) ({rate}))")
    };
    let description = "What each backend of one Service carries, and how evenly.";
    Dashboard::new("weir-service", "Weir / Service", description)
        .variable("namespace", "Namespace", "weir_service_backends")
        .variable("service", "Service", r#"weir_service_backends{namespace="$namespace"}"#)
        .row(
            4,
            [
                Panel::stat("Ready backends", Number, "Of the service port that has the most.")
                    .query(format!("max(weir_service_backends{ready})"), ""),
                Panel::stat("Open connections", Number, "Connections open now.").query(format!("sum({open})"), ""),
                Panel::stat("New connections", PerSecond, "Connections that became active.").query(format!("sum({new})"), ""),
                Panel::stat("Skew", Number, "The busiest backend's open connections over the mean; 1 is even.")
                    .query(format!("max({open}) / avg({open})"), ""),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Open connections by backend", Number, "Connections open now.").query(open.as_str(), "{{backend}}"),
                Panel::lines("New connections by backend", PerSecond, "Connections that became active.")
                    .query(new.as_str(), "{{backend}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Share of new connections", Share, "Of each backend; with equal weights all are equal.")
                    .stacked()
                    .query(format!("{new} / on () group_left sum({new})"), "{{backend}}"),
                Panel::lines("Skew", Number, "The busiest backend over the mean; 1 is even.")
                    .query(format!("max({open}) / avg({open})"), "open connections")
                    .query(format!("max({new}) / avg({new})"), "new connections"),
                Panel::lines("Weight", Number, "The weight that selection uses now.")
                    .query(format!("avg by (backend) (weir_backend_weight{CHOSEN})"), "{{backend}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines(
                    "Mean time of a connection",
                    Seconds,
                    "Open connections over new ones a second (Little's law): how long a client stays with a backend. With one request a \
                     connection it is the latency of a request.",
                )
                .query(
                    format!(
                        "sum by (backend) (avg_over_time(weir_backend_active_connections{CHOSEN}[$__rate_interval])) / ({new} > 0)"
                    ),
                    "{{backend}}",
                ),
                Panel::lines("Connections being opened", Number, "TCP connections whose SYN is not answered yet: a backend that is slow to accept.")
                    .query(by_backend("weir_backend_pending_connections"), "{{backend}}"),
                Panel::lines("Resets", PerSecond, "Connections that a reset ended.")
                    .query(rate_by_backend("weir_backend_resets_total"), "{{backend}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Requests in flight", Number, "Begun and not fully answered; of Services that are measured (weir.dev/measure).")
                    .query(by_backend("weir_backend_in_flight"), "{{backend}}"),
                Panel::lines("Requests", PerSecond, "Begun; of Services that are measured.")
                    .query(rate_by_backend("weir_backend_requests_total"), "{{backend}}"),
                Panel::lines(
                    "Time to the first byte",
                    Seconds,
                    "From a request's first payload to the response's, over all backends; of Services that are measured.",
                )
                .query(first_byte("0.5"), "median")
                .query(first_byte("0.99"), "99 of 100"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Bytes towards backends", Bytes, "IP bytes.").query(bytes("in"), "{{backend}}"),
                Panel::lines("Bytes from backends", Bytes, "IP bytes.").query(bytes("out"), "{{backend}}"),
                Panel::lines("Backends by state", Number, "Of all ports.").stacked().query(
                    format!("sum by (state) (max by (port, protocol, state) (weir_service_backends{CHOSEN}))"),
                    "{{state}}",
                ),
            ],
        )
}

fn nodes() -> Dashboard {
    let on = r#"{instance=~"$instance"}"#;
    let quantile = |quantile: &str, metric: &str| {
        format!("histogram_quantile({quantile}, sum by (instance, le) (rate({metric}_bucket{on}[$__rate_interval])))")
    };
    let description = "Whether each node's agent and its tables in the kernel are well.";
    Dashboard::new("weir-nodes", "Weir / Nodes and datapath", description)
        .variable_of_many("instance", "Node", "weir_flow_table_capacity")
        .row(
            8,
            [
                Panel::lines("Dropped packets by reason", Packets, "Packets for a frontend that were dropped; `weir status` explains the reasons.")
                    .stacked()
                    .query(
                        format!("sum by (reason) (rate(weir_dropped_packets_total{on}[$__rate_interval])) > 0"),
                        "{{reason}}",
                    ),
                Panel::lines("Dropped packets by node", Packets, "Of all reasons.")
                    .query(format!("sum by (instance) (rate(weir_dropped_packets_total{on}[$__rate_interval]))"), "{{instance}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Flow table fill", Share, "Flows over the room for them; above a half, new flows begin to be dropped now and then.")
                    .query(
                        format!("max by (instance) (weir_flow_table_entries{on} / weir_flow_table_capacity{on})"),
                        "{{instance}}",
                    ),
                Panel::lines("Fill of other maps", Share, "The fullest node's; a Service that finds no room is not served.")
                    .query(format!("max by (map) (weir_map_entries{on} / weir_map_capacity{on})"), "{{map}}"),
                Panel::lines("Open connections", Number, "By the node that balanced them.")
                    .query(format!("sum by (instance) (weir_backend_active_connections{on})"), "{{instance}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Time of a sync, 99th percentile", Seconds, "From a change being read to its last write into the kernel.")
                    .query(quantile("0.99", "weir_sync_duration_seconds"), "{{instance}}"),
                Panel::lines(
                    "Endpoint programming, 99th percentile",
                    Seconds,
                    "From an EndpointSlice's own time stamp, which counts whole seconds, to its last write into the kernel.",
                )
                .query(quantile("0.99", "weir_endpoint_programming_seconds"), "{{instance}}"),
                Panel::lines("Syncs", PerSecond, "Changes written into the kernel.")
                    .query(format!("sum by (instance) (rate(weir_sync_duration_seconds_count{on}[$__rate_interval]))"), "{{instance}}"),
            ],
        )
        .row(
            8,
            [
                Panel::lines("Problems", Number, "What `weir status` says on the node; should be 0.")
                    .query(format!("max by (instance) (weir_problems{on})"), "{{instance}}"),
                Panel::lines("Connected to the API server", Number, "1 while the agent hears of changes; without it, the last known state serves.")
                    .query(format!("min by (instance) (weir_kube_connected{on})"), "{{instance}}"),
                Panel::lines("Age of the numbers", Seconds, "An agent at work renews them every second.")
                    .query(format!("max by (instance) (weir_snapshot_age_seconds{on})"), "{{instance}}"),
                Panel::lines("Repaired counts", Number, "Since the agent started; not 0 is a bug.")
                    .query(format!("max by (instance) (weir_counter_repairs_total{on})"), "{{instance}}"),
            ],
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_files_are_current() {
        for (name, board) in all() {
            let path = workspace::root().join(crate::deploy::DASHBOARDS).join(name);
            let file = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(file == board.to_json().expect("JSON"), "{name} is stale: `cargo xtask deploy render` writes it");
        }
    }
}
