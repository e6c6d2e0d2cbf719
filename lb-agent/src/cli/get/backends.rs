//! `weir get backends`: one item per service port and backend, counters summed over the service port's frontends.

use lb_common::{Backend, BackendState, Protocol, SocketKey};
use serde::Serialize;

use crate::cli::{
    labels::{self, ServiceLabel},
    output::{Cell, Table, Tone},
    view::{self, View},
};

/// A backend as `-o json` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendItem {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service's port, as clients see it.
    pub service_port: u16,
    /// That port's name, may be empty.
    pub port_name: String,
    /// The first frontend; null when the Service has none left.
    pub frontend: Option<String>,
    /// All frontends.
    pub frontends: Vec<String>,
    /// The backend's address.
    pub address: String,
    /// The backend's port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The node it runs on, if its endpoint says so.
    pub node: Option<String>,
    /// Whether that is this node.
    pub local: bool,
    /// `ready`, `draining`, `terminating` or `unhealthy`.
    pub state: &'static str,
    /// The weight its owner gave it.
    pub weight: u16,
    /// The weight selection uses now.
    pub effective_weight: u16,
    /// Open connections.
    pub active_connections: u64,
    /// Connections not yet answered.
    pub pending_connections: u64,
    /// Open connections through the other nodes.
    pub remote_connections: u64,
    /// Requests in flight; null where they are not measured.
    pub in_flight: Option<u64>,
    /// Connections ever opened.
    pub connections_total: u64,
    /// Connections ever reset.
    pub resets_total: u64,
    /// Packets towards the backend; null where datagrams of sockets were not counted.
    pub packets_in: Option<u64>,
    /// Packets from the backend; null likewise.
    pub packets_out: Option<u64>,
    /// IP bytes towards the backend; null likewise.
    pub bytes_in: Option<u64>,
    /// IP bytes from the backend; null likewise.
    pub bytes_out: Option<u64>,
}

/// The items of a view, of one namespace or of all.
pub fn items(view: &View, namespace: Option<&str>) -> Vec<BackendItem> {
    let labelled =
        |(index, backend): (u32, &'_ Backend)| (index, *backend, labels::service(&view.tables, backend.service));
    let mut backends: Vec<(u32, Backend, ServiceLabel)> = view.backends().map(labelled).collect();
    backends.retain(|(_, _, label)| namespace.is_none_or(|wanted| label.namespace == wanted));
    backends.sort_by_cached_key(|(index, backend, label)| {
        (label.clone(), backend.protocol, backend.key().socket(), *index)
    });
    let frontends = view.frontends();
    let of = |service| frontends.get(&service).map_or(&[][..], Vec::as_slice);
    backends.into_iter().map(|(index, b, label)| item(view, index, &b, label, of(b.service))).collect()
}

fn item(view: &View, index: u32, backend: &Backend, label: ServiceLabel, frontends: &[SocketKey]) -> BackendItem {
    let counters = view.counters(index);
    let traffic = counters.measured(backend.protocol);
    let frontends: Vec<String> = frontends.iter().map(ToString::to_string).collect();
    BackendItem {
        namespace: label.namespace,
        service: label.name,
        service_port: label.port,
        port_name: label.port_name,
        frontend: frontends.first().cloned(),
        frontends,
        address: backend.addr.ip().to_string(),
        port: backend.port.number(),
        protocol: Protocol::from_number(backend.protocol).map_or("?", Protocol::name),
        node: labels::node(&view.tables, index),
        local: backend.is_local(),
        state: view::state(backend).name(),
        weight: backend.weight,
        effective_weight: backend.effective_weight,
        active_connections: counters.load.open(),
        pending_connections: counters.load.pending,
        remote_connections: counters.load.remote,
        in_flight: view.requests.get(&index).map(|requests| requests.in_flight),
        connections_total: counters.load.connections,
        resets_total: counters.load.resets,
        packets_in: traffic.map(|traffic| traffic.packets_in),
        packets_out: traffic.map(|traffic| traffic.packets_out),
        bytes_in: traffic.map(|traffic| traffic.bytes_in),
        bytes_out: traffic.map(|traffic| traffic.bytes_out),
    }
}

/// The table of these items.
pub fn table(items: &[BackendItem], wide: bool) -> Table {
    let mut header = vec![
        "NAMESPACE",
        "SERVICE",
        "FRONTEND",
        "BACKEND",
        "STATE",
        "WEIGHT",
        "EFFECTIVE",
        "ACTIVE",
        "PENDING",
        "TOTAL",
    ];
    if wide {
        header.extend([
            "RESETS",
            "REMOTE",
            "IN-FLIGHT",
            "PACKETS-IN",
            "PACKETS-OUT",
            "BYTES-IN",
            "BYTES-OUT",
            "LOCAL",
            "NODE",
        ]);
    }
    let mut table = Table::new(&header);
    table.rows = items.iter().map(|item| row(item, wide)).collect();
    table
}

fn row(item: &BackendItem, wide: bool) -> Vec<Cell> {
    let mut row = vec![
        Cell::or_dash(&item.namespace),
        item.service.as_str().into(),
        super::first_of(&item.frontends),
        super::socket_text(&item.address, item.port, item.protocol).into(),
        Cell::toned(item.state, state_tone(item.state)),
        u64::from(item.weight).into(),
        u64::from(item.effective_weight).into(),
        item.active_connections.into(),
        item.pending_connections.into(),
        item.connections_total.into(),
    ];
    if wide {
        row.extend([item.resets_total, item.remote_connections].map(Cell::from));
        row.extend([item.in_flight, item.packets_in, item.packets_out, item.bytes_in, item.bytes_out].map(Cell::from));
        row.push(item.local.to_string().into());
        row.push(Cell::or_dash(item.node.as_deref().unwrap_or_default()));
    }
    row
}

fn state_tone(state: &str) -> Tone {
    if state == BackendState::Ready.name() {
        Tone::Good
    } else if state == BackendState::Unhealthy.name() {
        Tone::Bad
    } else {
        Tone::Warn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{output, view::sample},
        signals::requests::RequestLoad,
    };

    #[test]
    fn removed_backends_show_while_they_have_flows() {
        let items = items(&sample::view(), None);
        let shown: Vec<_> = items.iter().map(|i| (i.service.as_str(), i.address.as_str(), i.state)).collect();
        let expected = [
            ("web", "10.1.0.1", "ready"),
            ("web", "10.1.0.2", "ready"),
            ("web", "10.1.0.3", "terminating"),
            ("dns", "10.1.0.9", "unhealthy"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_namespace_selects() {
        let names: Vec<_> = items(&sample::view(), Some("kube")).into_iter().map(|i| i.service).collect();
        assert_eq!(names, ["dns"]);
        assert!(items(&sample::view(), Some("none")).is_empty());
    }

    #[test]
    fn json_has_the_documented_fields() {
        let items = items(&sample::view(), Some("default"));
        let value = serde_json::to_value(&items[0]).unwrap();
        let expected = serde_json::json!({
            "namespace": "default", "service": "web", "servicePort": 80, "portName": "http",
            "frontend": "10.0.0.1:80/TCP", "frontends": ["10.0.0.1:80/TCP", "[fd00::1]:80/TCP"],
            "address": "10.1.0.1", "port": 8080, "protocol": "TCP", "node": "node-a", "local": true,
            "state": "ready", "weight": 100, "effectiveWeight": 100,
            "activeConnections": 3, "pendingConnections": 1, "remoteConnections": 2, "inFlight": null,
            "connectionsTotal": 40, "resetsTotal": 1,
            "packetsIn": 10, "packetsOut": 20, "bytesIn": 1000, "bytesOut": 2000,
        });
        assert_eq!(value, expected);
        assert_eq!(items[1].node, None);
    }

    #[test]
    fn requests_show_where_they_are_measured() {
        let mut view = sample::view();
        view.requests.insert(0, RequestLoad { in_flight: 7, ..RequestLoad::default() });
        let items = items(&view, None);
        assert_eq!((items[0].in_flight, items[1].in_flight), (Some(7), None));
    }

    #[test]
    fn what_was_not_counted_is_null() {
        let mut view = sample::view();
        let dns = view.tables.backends.iter().find(|(_, backend)| backend.protocol == Protocol::Udp as u8);
        let (index, _) = dns.unwrap();
        view.counters.get_mut(index).unwrap().load.sockets = 1;
        let items = items(&view, None);
        let value = serde_json::to_value(&items[3]).unwrap();
        let uncounted = ["packetsIn", "packetsOut", "bytesIn", "bytesOut"];
        assert!(uncounted.iter().all(|field| value[field].is_null()) && value["connectionsTotal"] == 7, "{value}");
        assert_eq!(items[0].bytes_in, Some(1000), "TCP is counted at sockets too");
        let wide = table(&items, true).render(false);
        assert!(
            wide.lines().nth(4).is_some_and(|line| line.contains("-            -             -          -")),
            "{wide}"
        );
    }

    #[test]
    fn the_table_is_narrow_or_wide() {
        let items = items(&sample::view(), None);
        let expected = "\
NAMESPACE   SERVICE   FRONTEND                 BACKEND             STATE         WEIGHT   EFFECTIVE   ACTIVE   PENDING   TOTAL
default     web       10.0.0.1:80/TCP + 1...   10.1.0.1:8080/TCP   ready         100      100         3        1         40
default     web       10.0.0.1:80/TCP + 1...   10.1.0.2:8080/TCP   ready         50       50          2        0         20
default     web       10.0.0.1:80/TCP + 1...   10.1.0.3:8080/TCP   terminating   100      0           1        0         9
kube        dns       10.0.0.2:53/UDP          10.1.0.9:53/UDP     unhealthy     100      0           4        0         7
";
        assert_eq!(table(&items, false).render(false), expected);
        let wide = table(&items, true).render(false);
        assert!(
            wide.lines().nth(1).is_some_and(|line| line.ends_with("1000       2000        true    node-a")),
            "{wide}"
        );
        assert!(output::yaml(&items).unwrap().contains("effectiveWeight: 50"));
    }
}
