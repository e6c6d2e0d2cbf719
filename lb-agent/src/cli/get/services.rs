//! `weir get services`: one item per service port that has a frontend, its counters summed over its present backends.

use std::collections::BTreeMap;

use lb_common::{Algorithm, BackendState, Protocol, SocketKey, Traffic, service::FRONTEND_AFFINITY};
use serde::Serialize;

use crate::{
    cli::{
        labels,
        output::{Cell, Table, Tone},
        view::View,
    },
    dataplane::Counters,
};

/// How many backends there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackendCount {
    /// Those that take new connections.
    pub ready: usize,
    /// Those in the manifests.
    pub total: usize,
}

/// A service port as `-o json` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceItem {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The port clients use.
    pub port: u16,
    /// Its name, may be empty.
    pub port_name: String,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The first frontend.
    pub frontend: Option<String>,
    /// All frontends.
    pub frontends: Vec<String>,
    /// How backends are selected.
    pub algorithm: &'static str,
    /// Session affinity's timeout; null without affinity.
    pub affinity_seconds: Option<u32>,
    /// How many backends there are.
    pub backends: BackendCount,
    /// Open connections.
    pub active_connections: u64,
    /// Connections not yet answered.
    pub pending_connections: u64,
    /// Connections ever opened to the present backends.
    pub connections_total: u64,
    /// Of these, ever reset.
    pub resets_total: u64,
    /// Packets towards the present backends; null where those of one of them were not all counted.
    pub packets_in: Option<u64>,
    /// Packets from them; null likewise.
    pub packets_out: Option<u64>,
    /// IP bytes towards them; null likewise.
    pub bytes_in: Option<u64>,
    /// IP bytes from them; null likewise.
    pub bytes_out: Option<u64>,
}

/// The items of a view, of one namespace or of all.
pub fn items(view: &View, namespace: Option<&str>) -> Vec<ServiceItem> {
    let frontends = view.frontends().into_iter();
    let mut items: BTreeMap<u32, ServiceItem> =
        frontends.filter_map(|(service, keys)| Some((service, empty(view, service, &keys)?))).collect();
    for (index, backend) in view.backends() {
        let Some(item) = items.get_mut(&backend.service) else { continue };
        item.backends.ready += usize::from(backend.state == BackendState::Ready as u8);
        item.backends.total += usize::from(backend.state != BackendState::Removed as u8);
        add(item, &view.counters(index), backend.protocol);
    }
    let mut items: Vec<ServiceItem> = items.into_values().collect();
    items.retain(|item| namespace.is_none_or(|wanted| item.namespace == wanted));
    items.sort_by(|a, b| {
        (&a.namespace, &a.service, a.port, a.protocol).cmp(&(&b.namespace, &b.service, b.port, b.protocol))
    });
    items
}

/// The item of a service without backends; all its frontends have the same algorithm and affinity.
fn empty(view: &View, service: u32, keys: &[SocketKey]) -> Option<ServiceItem> {
    let key = keys.first()?;
    let frontend = view.tables.frontends.get(key)?;
    let label = labels::service(&view.tables, service);
    let frontends: Vec<String> = keys.iter().map(ToString::to_string).collect();
    Some(ServiceItem {
        namespace: label.namespace,
        service: label.name,
        port: label.port,
        port_name: label.port_name,
        protocol: Protocol::from_number(key.protocol).map_or("?", Protocol::name),
        frontend: frontends.first().cloned(),
        frontends,
        algorithm: Algorithm::from_number(frontend.algorithm).map_or("?", Algorithm::name),
        affinity_seconds: (frontend.flags & FRONTEND_AFFINITY != 0).then_some(frontend.affinity_seconds),
        backends: BackendCount::default(),
        active_connections: 0,
        pending_connections: 0,
        connections_total: 0,
        resets_total: 0,
        packets_in: Some(0),
        packets_out: Some(0),
        bytes_in: Some(0),
        bytes_out: Some(0),
    })
}

fn add(item: &mut ServiceItem, counters: &Counters, protocol: u8) {
    item.active_connections += counters.load.open();
    item.pending_connections += counters.load.pending;
    item.connections_total += counters.load.connections;
    item.resets_total += counters.load.resets;
    let traffic = counters.measured(protocol);
    let more = |sum: &mut Option<u64>, part: fn(&Traffic) -> u64| {
        *sum = sum.zip(traffic.as_ref().map(part)).map(|(sum, more)| sum + more);
    };
    more(&mut item.packets_in, |traffic| traffic.packets_in);
    more(&mut item.packets_out, |traffic| traffic.packets_out);
    more(&mut item.bytes_in, |traffic| traffic.bytes_in);
    more(&mut item.bytes_out, |traffic| traffic.bytes_out);
}

/// The table of these items.
pub fn table(items: &[ServiceItem], wide: bool) -> Table {
    let mut header = vec!["NAMESPACE", "NAME", "PORT", "FRONTEND", "ALGORITHM", "BACKENDS", "ACTIVE", "TOTAL"];
    if wide {
        header.extend([
            "PENDING",
            "RESETS",
            "PACKETS-IN",
            "PACKETS-OUT",
            "BYTES-IN",
            "BYTES-OUT",
            "AFFINITY",
            "PORT-NAME",
        ]);
    }
    let mut table = Table::new(&header);
    table.rows = items.iter().map(|item| row(item, wide)).collect();
    table
}

fn row(item: &ServiceItem, wide: bool) -> Vec<Cell> {
    let tone = match item.backends {
        BackendCount { ready: 0, .. } => Tone::Bad,
        BackendCount { ready, total } if ready < total => Tone::Warn,
        BackendCount { .. } => Tone::Good,
    };
    let frontends = if wide { item.frontends.join(",").into() } else { super::first_of(&item.frontends) };
    let mut row = vec![
        Cell::or_dash(&item.namespace),
        item.service.as_str().into(),
        format!("{}/{}", item.port, item.protocol).into(),
        frontends,
        item.algorithm.into(),
        Cell::toned(format!("{}/{}", item.backends.ready, item.backends.total), tone),
        item.active_connections.into(),
        item.connections_total.into(),
    ];
    if wide {
        row.extend([item.pending_connections, item.resets_total].map(Cell::from));
        row.extend([item.packets_in, item.packets_out, item.bytes_in, item.bytes_out].map(Cell::from));
        row.push(item.affinity_seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds}s").into()));
        row.push(Cell::or_dash(&item.port_name));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::sample;

    #[test]
    fn services_sum_their_backends() {
        let items = items(&sample::view(), None);
        let expected = "\
NAMESPACE   NAME   PORT     FRONTEND                 ALGORITHM   BACKENDS   ACTIVE   TOTAL
default     web    80/TCP   10.0.0.1:80/TCP + 1...   maglev      2/2        6        69
kube        dns    53/UDP   10.0.0.2:53/UDP          maglev      0/1        4        7
";
        assert_eq!(table(&items, false).render(false), expected);
        assert_eq!(items[0].affinity_seconds, None);
        assert_eq!(items[1].affinity_seconds, Some(600));
        let wide = table(&items, true).render(false);
        assert!(wide.contains("10.0.0.1:80/TCP,[fd00::1]:80/TCP"), "{wide}");
        assert!(wide.lines().nth(2).is_some_and(|line| line.ends_with("600s       -")), "{wide}");
    }

    #[test]
    fn a_sum_lacks_what_one_of_the_backends_lacks() {
        let mut view = sample::view();
        assert_eq!(items(&view, Some("kube"))[0].bytes_in, Some(1000));
        view.counters.values_mut().for_each(|counters| counters.load.sockets = 1);
        let items = items(&view, None);
        assert_eq!((items[1].packets_out, items[1].bytes_in), (None, None));
        assert_eq!(items[0].bytes_in, Some(3000), "TCP is counted at sockets too");
    }

    #[test]
    fn json_names_are_camel_case() {
        let value = serde_json::to_value(&items(&sample::view(), Some("kube"))[0]).unwrap();
        assert_eq!(value["affinitySeconds"], 600);
        assert_eq!(value["backends"], serde_json::json!({"ready": 0, "total": 1}));
        assert_eq!(value["connectionsTotal"], 7);
    }
}
