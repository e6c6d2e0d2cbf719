//! One element of each map in words: what its numbers mean, and nothing more than is in it.

use lb_common::{
    Addr, AffinityKey, AffinityValue, Algorithm, Announced, Backend, BackendLoad, BackendState, Bucket, DropReason,
    Frontend, Range, Settings, SocketKey, Traffic, Vip,
    abi::SweepResult,
    counters::Recount,
    dsr::Target,
    flow::{WAYS, meta_generation, meta_state},
    fragment::{FRAGMENT_FORWARDED, FRAGMENT_OUT, Fragment, FragmentKey},
    names::{INTERFACE_INSIDE, INTERFACE_PEER, INTERFACE_XDP, NAME_BACKEND, NAME_SERVICE, NameKey},
    request::{Measure, Request, bucket_start, flow_of_key},
    service::{FRONTEND_AFFINITY, FRONTEND_FORWARDS, VIP_FORWARDS, VIP_LIVE, VIP_MEASURED, VIP_REMOVED},
    socket::{POD_CGROUP, POD_EXCLUDED, POD_NAMESPACE, Pod, PodKey},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::dataplane::range_network;

/// An element: named fields in a fixed order, and what each CPU has where the map is per CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// The fields; of a per-CPU map the sums.
    pub fields: Vec<(&'static str, Value)>,
    /// The values of each CPU.
    pub per_cpu: Option<Vec<Value>>,
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        if let Some(values) = &self.per_cpu {
            map.serialize_entry("perCpu", values)?;
        }
        map.end()
    }
}

macro_rules! element {
    ($($name:literal: $value:expr),* $(,)?) => {
        Element { fields: vec![$(($name, json!($value))),*], per_cpu: None }
    };
}

/// Element of `frontends`.
pub fn frontend(key: &SocketKey, frontend: &Frontend) -> Element {
    element! {
        "frontend": key.to_string(), "id": frontend.id, "service": frontend.service,
        "algorithm": Algorithm::from_number(frontend.algorithm).map_or("?", Algorithm::name),
        "tableOffset": frontend.inside.offset, "tableLength": frontend.inside.len,
        "outsideTableOffset": frontend.outside.offset, "outsideTableLength": frontend.outside.len,
        "affinity": frontend.flags & FRONTEND_AFFINITY != 0, "affinitySeconds": frontend.affinity_seconds,
        "forwards": frontend.flags & FRONTEND_FORWARDS != 0,
        "maxConnections": frontend.max_connections, "clientRate": frontend.client_rate, "rate": frontend.rate,
    }
}

/// Element of `vips`.
pub fn vip(id: u32, vip: &Vip) -> Element {
    let live = match vip.live {
        VIP_LIVE => "live",
        VIP_REMOVED => "removed",
        _ => "free",
    };
    element! {
        "id": id, "frontend": vip.key.to_string(), "state": live, "measured": vip.flags & VIP_MEASURED != 0,
        "forwards": vip.flags & VIP_FORWARDS != 0,
    }
}

/// Element of `backends`.
pub fn backend(index: u32, backend: &Backend) -> Element {
    element! {
        "index": index, "backend": backend.key().to_string(),
        "state": BackendState::from_number(backend.state).map_or("?", BackendState::name),
        "weight": backend.weight, "effectiveWeight": backend.effective_weight, "local": backend.is_local(),
        "source": backend.source.ip().to_string(), "endpoint": backend.endpoint, "service": backend.service,
        "incarnation": backend.incarnation, "responseIdle": backend.response_idle,
    }
}

/// Element of `endpoints`.
pub fn endpoint(key: &SocketKey, id: u32) -> Element {
    element! { "endpoint": key.to_string(), "id": id }
}

/// Element of `slots`.
pub fn slot(index: u32, value: u64) -> Element {
    element! { "slot": index, "backend": value as u32, "threshold": value >> 32 }
}

/// Element of `cursors`.
pub fn cursor(service: u32, cursor: u64) -> Element {
    element! { "service": service, "cursor": cursor }
}

/// Element of `knocks`.
pub fn knock(service: u32, nanoseconds: u64) -> Element {
    element! { "service": service, "at": nanoseconds }
}

/// Element of `affinity`.
pub fn affinity(key: &AffinityKey, value: &AffinityValue) -> Element {
    element! {
        "client": key.client.ip().to_string(), "service": key.service, "backend": value.backend,
        "incarnation": value.incarnation, "last": value.last,
    }
}

/// Element of `rates`.
pub fn rate(frontend: u32, due: u64) -> Element {
    element! { "id": frontend, "due": due }
}

/// Element of `client_rates`.
pub fn client_rate(key: &AffinityKey, due: &u64) -> Element {
    element! { "client": key.client.ip().to_string(), "service": key.service, "due": due }
}

/// The element of `error_rate`.
pub fn error_rate(due: u64) -> Element {
    element! { "due": due }
}

/// Element of `fragments`.
pub fn fragment(key: &FragmentKey, fragment: &Fragment) -> Element {
    let way = match fragment.way {
        FRAGMENT_OUT => "out",
        FRAGMENT_FORWARDED => "forwarded",
        _ => "in",
    };
    element! {
        "from": key.src.ip().to_string(), "to": key.dst.ip().to_string(), "number": key.id,
        "newFrom": fragment.src.ip().to_string(), "newTo": fragment.dst.ip().to_string(), "newNumber": fragment.id,
        "backend": fragment.backend, "direction": way, "seen": fragment.seen,
    }
}

/// Element of `targets`.
pub fn target(target: &Target, index: u32) -> Element {
    element! { "endpoint": target.endpoint, "service": target.service, "backend": index }
}

/// Element of `fragment_ids`.
pub fn fragment_ids(counter: u32, given: u64) -> Element {
    element! { "counter": counter, "given": given }
}

/// The used ways of an element of `flows` or `replies`.
pub fn ways(bucket_index: u32, bucket: &Bucket) -> Vec<Element> {
    let used = bucket.meta.iter().zip(&bucket.ways).enumerate().filter(|(_, (meta, _))| **meta as u8 != 0);
    used.map(|(way, (meta, flow))| {
        element! {
            "slot": bucket_index * WAYS as u32 + way as u32, "state": meta_state(*meta).name(),
            "generation": meta_generation(*meta),
            "peer": std::net::SocketAddr::new(flow.addr.ip(), flow.port.number()).to_string(), "id": flow.id,
            "backend": flow.backend, "sourcePort": flow.snat_port.number(), "link": flow.link, "last": flow.last,
            "frontend": flow.frontend,
        }
    })
    .collect()
}

/// Element of `loads`.
pub fn load(index: u32, load: &BackendLoad) -> Element {
    element! {
        "index": index, "active": load.active, "pending": load.pending, "connections": load.connections,
        "resets": load.resets, "remote": load.remote, "closed": load.closed, "established": load.established, "sockets": load.sockets,
    }
}

/// Element of `traffic`.
pub fn traffic(index: u32, cpus: &[Traffic]) -> Element {
    let sum = |field: fn(&Traffic) -> u64| cpus.iter().map(field).sum::<u64>();
    let mut element = element! {
        "index": index, "packetsIn": sum(|t| t.packets_in), "packetsOut": sum(|t| t.packets_out),
        "bytesIn": sum(|t| t.bytes_in), "bytesOut": sum(|t| t.bytes_out),
    };
    let each = cpus.iter().map(|t| {
        json!({"packetsIn": t.packets_in, "packetsOut": t.packets_out, "bytesIn": t.bytes_in, "bytesOut": t.bytes_out})
    });
    element.per_cpu = Some(each.collect());
    element
}

/// Element of `drops`.
pub fn drops(index: u32, cpus: &[u64]) -> Element {
    let reason = DropReason::ALL.iter().find(|reason| **reason as u32 == index).map_or("?", |reason| reason.name());
    let mut element = element! { "reason": reason, "packets": cpus.iter().sum::<u64>() };
    element.per_cpu = Some(cpus.iter().map(|count| json!(count)).collect());
    element
}

/// Element of `settings`.
pub fn settings(settings: &Settings) -> Element {
    element! {
        "abi": settings.abi, "buckets": u64::from(settings.bucket_mask) + 1, "snatFirst": settings.snat_first,
        "snatLast": settings.snat_last, "tcpIdle": settings.tcp_idle,
    }
}

/// Element of `names`.
pub fn name(key: &NameKey, name: &str) -> Element {
    let kind = match key.kind {
        NAME_SERVICE => "service",
        NAME_BACKEND => "backend",
        _ => "?",
    };
    element! { "kind": kind, "index": key.index, "name": name }
}

/// Element of `drains`.
pub fn drain(key: &SocketKey) -> Element {
    element! { "backend": key.to_string() }
}

/// Element of `recounts`.
pub fn recount(index: u32, recount: &Recount) -> Element {
    element! { "index": index, "active": recount.active, "pending": recount.pending, "closing": recount.closing }
}

/// Element of `sweep`.
pub fn sweep(result: &SweepResult) -> Element {
    element! {
        "entries": result.entries, "expired": result.expired, "forgotten": result.forgotten,
        "orphans": result.orphans, "busy": result.busy,
    }
}

/// Element of `interfaces`; the name is known where the interface is in this network namespace.
pub fn interface(index: u32, name: Option<&str>, flags: u32) -> Element {
    element! {
        "index": index, "interface": name, "xdp": flags & INTERFACE_XDP != 0, "inside": flags & INTERFACE_INSIDE != 0,
        "peer": flags & INTERFACE_PEER != 0,
    }
}

/// Element of `ranges`.
pub fn range(bits: u32, range: &Range) -> Element {
    let network = range_network(bits, range).map_or_else(|| "?".to_owned(), |network| network.to_string());
    element! { "id": range.frontend, "network": network }
}

/// Element of `announced`.
pub fn announced(address: &Addr, announced: &Announced) -> Element {
    let mac = announced.mac.map(|byte| format!("{byte:02x}")).join(":");
    element! { "address": address.ip().to_string(), "interface": announced.interface, "mac": mac }
}

/// Element of `pods`.
pub fn pod(key: &PodKey, pod: &Pod) -> Element {
    let kind = match key.kind {
        POD_NAMESPACE => "network namespace",
        POD_CGROUP => "cgroup",
        _ => "any other",
    };
    let address = |addr: Addr| (addr != Addr::NONE).then(|| addr.ip().to_string());
    element! {
        "kind": kind, "id": key.id, "ipv4": address(pod.v4), "ipv6": address(pod.v6),
        "excluded": pod.flags & POD_EXCLUDED != 0,
    }
}

/// Element of `requests`. Times are in nanoseconds since the node was started.
pub fn request(key: u64, request: &Request) -> Element {
    let flow = flow_of_key(key);
    element! {
        "flow": flow.map(|(slot, _)| slot), "generation": flow.map(|(_, generation)| generation),
        "socket": flow.is_none().then_some(key), "backend": request.backend, "incarnation": request.incarnation,
        "begun": request.begun, "answered": request.answered,
    }
}

/// Element of `measures`: answers by the end of the bucket that their time is in, in nanoseconds.
pub fn measure(index: u32, measure: &Measure) -> Element {
    let counted = measure.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    let answers = counted.map(|(bucket, count)| json!({"below": bucket_start(bucket + 1), "count": count}));
    element! {
        "index": index, "requests": measure.requests, "unseen": measure.unseen,
        "nanoseconds": measure.nanoseconds, "answers": answers.collect::<Vec<_>>(),
    }
}

/// Element of `known`.
pub fn known(index: u32, bits: u64) -> Element {
    element! { "index": index, "bits": format!("{bits:016x}") }
}

/// Element of `clock`.
pub fn clock(seconds: u32) -> Element {
    element! { "seconds": seconds }
}

#[cfg(test)]
mod tests {
    use lb_common::{Flow, FlowState, Port, flow::meta};

    use super::*;
    use crate::{
        cli::view::sample::{self, key},
        dataplane::range_key,
    };

    fn text(element: &Element) -> String {
        serde_json::to_string(element).unwrap()
    }

    #[test]
    fn elements_keep_their_order_and_mean_what_they_say() {
        let tables = sample::view().tables;
        let dns = key("10.0.0.2:53/UDP");
        assert_eq!(
            text(&frontend(&dns, &tables.frontends[&dns])),
            r#"{"frontend":"10.0.0.2:53/UDP","id":2,"service":2,"algorithm":"maglev","tableOffset":8,"tableLength":5,"outsideTableOffset":8,"outsideTableLength":5,"affinity":true,"affinitySeconds":600,"forwards":false,"maxConnections":0,"clientRate":0,"rate":0}"#
        );
        assert_eq!(
            text(&vip(2, &tables.vips[&2])),
            r#"{"id":2,"frontend":"10.0.0.2:53/UDP","state":"live","measured":false,"forwards":false}"#
        );
        assert_eq!(
            text(&backend(2, &tables.backends[&2])),
            r#"{"index":2,"backend":"10.1.0.3:8080/TCP","state":"removed","weight":100,"effectiveWeight":0,"local":false,"source":"10.9.0.1","endpoint":0,"service":1,"incarnation":1,"responseIdle":0}"#
        );
        assert_eq!(text(&slot(4, 7 << 32 | 3)), r#"{"slot":4,"backend":3,"threshold":7}"#);
    }

    #[test]
    fn per_cpu_values_are_summed_and_kept() {
        let cpu = |n| Traffic { packets_in: n, packets_out: 2 * n, bytes_in: 3 * n, bytes_out: 4 * n };
        let element = traffic(5, &[cpu(1), cpu(10)]);
        assert_eq!(element.fields[1], ("packetsIn", json!(11)));
        assert_eq!(element.fields[4], ("bytesOut", json!(44)));
        assert_eq!(element.per_cpu.as_ref().map(Vec::len), Some(2));
        assert_eq!(text(&drops(2, &[1, 4])), r#"{"reason":"no-backend","packets":5,"perCpu":[1,4]}"#);
    }

    #[test]
    fn ranges_and_announcements_are_written_as_people_write_them() {
        let key = |network: &str| range_key(7, &network.parse().unwrap());
        for network in ["192.0.2.0/24", "0.0.0.0/0", "fd00::/8"] {
            let (bits, element) = key(network);
            assert_eq!(text(&range(bits, &element)), format!(r#"{{"id":7,"network":"{network}"}}"#));
        }
        let address = "10.0.0.9".parse::<std::net::IpAddr>().unwrap().into();
        let value = Announced { interface: 3, mac: [2, 0, 0, 0, 0, 0xab], zero: 0 };
        assert_eq!(
            text(&announced(&address, &value)),
            r#"{"address":"10.0.0.9","interface":3,"mac":"02:00:00:00:00:ab"}"#
        );
    }

    #[test]
    fn only_used_ways_are_shown() {
        let mut bucket = Bucket { lock: 0, zero: 0, meta: [0; WAYS], zero2: [0; 6], ways: [Flow::default(); WAYS] };
        let client = key("192.0.2.7:4000");
        bucket.meta[3] = meta(0xabcd, 9, FlowState::Established);
        bucket.ways[3] = Flow {
            addr: client.addr,
            port: client.port,
            snat_port: Port::new(61000),
            backend: 4,
            ..Default::default()
        };
        let shown = ways(2, &bucket);
        assert_eq!(shown.len(), 1);
        assert_eq!(
            text(&shown[0]),
            r#"{"slot":19,"state":"established","generation":9,"peer":"192.0.2.7:4000","id":0,"backend":4,"sourcePort":61000,"link":0,"last":0,"frontend":0}"#
        );
    }
}
