//! Packets of clients and backends, and what was chosen for the flows of clients.

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::{Bucket, Port, flow::meta_state};
use lb_ebpf::{
    env::Limits,
    table::{Key as TableKey, Place},
};

use crate::{
    frames::{Datagram, Shape},
    life::{Choice, Key},
    world,
};

/// A client's packet to a frontend.
pub(crate) fn of_client(key: Key, flags: u8, payload: u8, shape: Shape) -> Datagram {
    let vip = world::vip(key.2);
    let flags = (vip.protocol == 6).then_some(flags);
    Datagram { src: world::client(key.0, key.1, key.2), dst: vip.socket(), flags, payload, ttl: 64, shape }
}

/// The packet of the backend of this index to whom it takes for its client.
pub(crate) fn of_backend(index: u32, to: SocketAddr, flags: u8, payload: u8, shape: Shape) -> Datagram {
    let endpoint = world::endpoint(index);
    let flags = (endpoint.protocol == 6).then_some(flags);
    Datagram { src: endpoint.socket(), dst: to, flags, payload, ttl: 63, shape }
}

/// What the programs chose for a flow; `bucket` reads the forward table.
pub(crate) fn choice(limits: &Limits, key: Key, bucket: impl Fn(u32) -> Result<Bucket>) -> Option<Choice> {
    let socket = world::client(key.0, key.1, key.2);
    let wanted = TableKey { addr: socket.ip().into(), id: key.2 as u32, port: Port::new(socket.port()) };
    let bucket = bucket(Place::of(limits, &wanted).bucket()).ok()?;
    let mut ways = bucket.meta.iter().zip(&bucket.ways).filter(|(meta, _)| meta_state(**meta) as u8 != 0);
    let (_, flow) = ways.find(|(_, flow)| (flow.addr, flow.id, flow.port) == (wanted.addr, wanted.id, wanted.port))?;
    Some(Choice { backend: flow.backend, port: Some(flow.snat_port.number()).filter(|port| *port != 0) })
}
