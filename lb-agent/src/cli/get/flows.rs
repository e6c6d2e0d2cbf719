//! `weir get flows`: the tracked connections, in the order of their clients.

use std::net::SocketAddr;

use lb_common::Protocol;
use serde::Serialize;

use crate::{
    cli::{
        labels,
        output::{Cell, Table},
    },
    dataplane::{FlowEntry, Tables},
};

/// A flow as `-o json` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowItem {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The client's address and port.
    pub client: String,
    /// The frontend it uses.
    pub frontend: String,
    /// The backend that serves it.
    pub backend: String,
    /// The node's address and port that the backend sees; null where it sees the client's.
    pub source: Option<String>,
    /// Such as `established`.
    pub state: &'static str,
    /// Whether it counts among `activeConnections`.
    pub active: bool,
    /// Seconds since its last packet.
    pub idle_seconds: u32,
}

/// The items of these flows at this second of the monotonic clock, of one namespace or of all.
pub fn items(tables: &Tables, flows: &[FlowEntry], now: u32, namespace: Option<&str>) -> Vec<FlowItem> {
    let mut flows: Vec<&FlowEntry> = flows.iter().collect();
    flows.sort_by_cached_key(|entry| (client(entry), entry.flow.id));
    let mut items: Vec<FlowItem> = flows.into_iter().map(|entry| item(tables, entry, now)).collect();
    items.retain(|item| namespace.is_none_or(|wanted| item.namespace == wanted));
    items
}

fn client(entry: &FlowEntry) -> SocketAddr {
    SocketAddr::new(entry.flow.addr.ip(), entry.flow.port.number())
}

fn item(tables: &Tables, entry: &FlowEntry, now: u32) -> FlowItem {
    let backend = tables.backends.get(&entry.flow.backend);
    let vip = tables.vips.get(&entry.flow.id);
    let label = backend.map(|backend| labels::service(tables, backend.service)).unwrap_or_default();
    let source = backend
        .filter(|_| entry.flow.snat_port.number() != 0)
        .map(|backend| SocketAddr::new(backend.source.ip(), entry.flow.snat_port.number()).to_string());
    FlowItem {
        namespace: label.namespace,
        service: label.name,
        protocol: vip.and_then(|vip| Protocol::from_number(vip.key.protocol)).map_or("?", Protocol::name),
        client: client(entry).to_string(),
        frontend: vip.map(|vip| vip.key.to_string()).unwrap_or_default(),
        backend: backend.map(|backend| backend.key().to_string()).unwrap_or_default(),
        source,
        state: entry.state.name(),
        active: entry.state.is_active(),
        idle_seconds: now.saturating_sub(entry.flow.last),
    }
}

/// The table of these items.
pub fn table(items: &[FlowItem], wide: bool) -> Table {
    let mut header = vec!["NAMESPACE", "SERVICE", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE"];
    if wide {
        header.extend(["SOURCE", "ACTIVE"]);
    }
    let mut table = Table::new(&header);
    table.rows = items.iter().map(|item| row(item, wide)).collect();
    table
}

fn row(item: &FlowItem, wide: bool) -> Vec<Cell> {
    let mut row = vec![
        Cell::or_dash(&item.namespace),
        Cell::or_dash(&item.service),
        item.client.as_str().into(),
        Cell::or_dash(&item.frontend),
        Cell::or_dash(&item.backend),
        item.state.into(),
        format!("{}s", item.idle_seconds).into(),
    ];
    if wide {
        row.push(Cell::or_dash(item.source.as_deref().unwrap_or_default()));
        row.push(item.active.to_string().into());
    }
    row
}

#[cfg(test)]
mod tests {
    use lb_common::{Flow, FlowState, Port};

    use super::*;
    use crate::cli::view::sample;

    fn flow(client: &str, id: u32, backend: u32, snat: u16, state: FlowState) -> FlowEntry {
        let key = sample::key(client);
        let flow = Flow {
            addr: key.addr,
            port: key.port,
            id,
            backend,
            snat_port: Port::new(snat),
            last: 95,
            ..Default::default()
        };
        FlowEntry { flow, state }
    }

    #[test]
    fn flows_name_their_ends() {
        let flows = [
            flow("192.0.2.7:4001", 0, 1, 61000, FlowState::Established),
            flow("192.0.2.7:4000", 0, 0, 0, FlowState::Closing),
            flow("192.0.2.3:5353", 2, 3, 61001, FlowState::UdpAnswered),
            flow("192.0.2.9:1", 9, 9, 61001, FlowState::SynSent),
        ];
        let items = items(&sample::view().tables, &flows, 100, None);
        let expected = "\
NAMESPACE   SERVICE   CLIENT           FRONTEND          BACKEND             STATE          IDLE   SOURCE           ACTIVE
kube        dns       192.0.2.3:5353   10.0.0.2:53/UDP   10.1.0.9:53/UDP     udp-answered   5s     10.9.0.1:61001   true
default     web       192.0.2.7:4000   10.0.0.1:80/TCP   10.1.0.1:8080/TCP   closing        5s     -                false
default     web       192.0.2.7:4001   10.0.0.1:80/TCP   10.1.0.2:8080/TCP   established    5s     10.9.0.1:61000   true
-           -         192.0.2.9:1      -                 -                   syn-sent       5s     -                false
";
        assert_eq!(table(&items, true).render(false), expected);
    }

    #[test]
    fn a_namespace_selects_and_a_clock_behind_is_no_idle_time() {
        let flows =
            [flow("192.0.2.3:5353", 2, 3, 0, FlowState::UdpOneWay), flow("192.0.2.7:1", 0, 0, 0, FlowState::SynSent)];
        let items = items(&sample::view().tables, &flows, 90, Some("kube"));
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].idle_seconds, items[0].source.clone()), (0, None));
    }
}
