//! Who balances, and what it says of itself.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{Inspect as _, pins::Pinned};
use lb_common::{FlowState, Port};
use weir_tests::{
    agent::{Agent, Options},
    manifests::{Manifests, Service},
    namespace::Namespace,
    process::wait_until,
    topology::UPLINK,
};

use crate::{
    network::{ATTACKED, FRONTEND, Network},
    report::Room,
    variant::{Balancer, Place, Variant},
};

const KUBE_PROXY: &str = include_str!("../kube-proxy.nft");
/// The endpoint of [`KUBE_PROXY`].
const ENDPOINT: &str = "10.20.0.2";
/// Its line on who is masqueraded.
const MASQUERADE: &str = "ip daddr 10.99.0.1 tcp dport 80 ip saddr != 10.10.0.0/16 jump mark-for-masquerade";
/// The same for everybody.
const MASQUERADE_ALL: &str = "ip daddr 10.99.0.1 tcp dport 80 jump mark-for-masquerade";
/// How long counts may take to agree, as the agent goes on sweeping.
const PATIENCE: Duration = Duration::from_secs(10);

/// A balancer that runs.
pub(crate) enum Running<'a> {
    Weir(Box<Agent<'a>>),
    Nftables(&'a Namespace),
}

/// What Weir has counted.
pub(crate) struct Counted {
    /// Packets towards backends.
    pub(crate) packets_in: u64,
    /// Connections that were ever open.
    pub(crate) connections: u64,
    /// Dropped packets by reason, those of 0 left out.
    pub(crate) drops: BTreeMap<&'static str, u64>,
    /// Whether the counts of pending and active connections are those of the table's entries.
    pub(crate) agree: bool,
    /// `weir_counter_repairs_total`.
    pub(crate) repairs: u64,
}

impl<'a> Running<'a> {
    pub(crate) fn start(variant: Variant, network: &'a Network, manifests: &'a Manifests) -> Result<Self> {
        let topology = &network.topology;
        match variant.balancer {
            Balancer::Weir => {
                let service = Service::web(&[IpAddr::V4(*FRONTEND.ip())], &topology.hosts);
                manifests.write("web.yaml", &service.yaml())?;
                let interfaces = vec![UPLINK.to_owned(), ATTACKED.to_owned()];
                let options = Options { interfaces, show_log: false, ..Options::datapath("tc") };
                let agent = Agent::start(topology, manifests, options)?;
                agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
                Ok(Self::Weir(Box::new(agent)))
            }
            Balancer::Nftables => {
                let endpoint = topology.hosts.first().context("no host")?.v4;
                topology.node.run("nft", &[&ruleset(variant.place, endpoint)?])?;
                Ok(Self::Nftables(&topology.node))
            }
        }
    }

    /// How much room is taken.
    pub(crate) fn room(&self) -> Result<Room> {
        match self {
            Self::Weir(agent) => {
                let pinned = Pinned::open(agent.pins().path())?;
                let flows = pinned.flows()?;
                let count = |state: FlowState| flows.iter().filter(|flow| flow.state == state).count() as u64;
                let ports = flows.iter().filter(|flow| flow.flow.snat_port != Port(0)).count() as u64;
                Ok(Room {
                    used: flows.len() as u64,
                    unproven: Some(count(FlowState::SynSent) + count(FlowState::SynReceived)),
                    capacity: pinned.capacity().flows.into(),
                    source_ports: Some(ports),
                })
            }
            Self::Nftables(node) => {
                let read = |name: &str| -> Result<u64> {
                    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
                    let text = node.enter(|| std::fs::read_to_string(&path))?.with_context(|| path.clone())?;
                    text.trim().parse().with_context(|| format!("{path}: {text}"))
                };
                Ok(Room { used: read("count")?, unproven: None, capacity: read("max")?, source_ports: None })
            }
        }
    }

    /// What Weir has counted so far; nothing may be on its way.
    pub(crate) fn counted(&self) -> Result<Option<Counted>> {
        let Self::Weir(agent) = self else { return Ok(None) };
        let pinned = Pinned::open(agent.pins().path())?;
        let backends: Vec<u32> = pinned.frame()?.backends.into_keys().collect();
        ensure!(!backends.is_empty(), "the maps have no backend");
        let agree = wait_until(PATIENCE, || agree(&pinned, &backends)).is_ok();
        let counters = pinned.counters(&backends)?;
        let drops = pinned.drops()?.into_iter().filter(|(_, count)| *count > 0);
        Ok(Some(Counted {
            packets_in: counters.iter().map(|counters| counters.traffic.packets_in).sum(),
            connections: counters.iter().map(|counters| counters.load.connections).sum(),
            drops: drops.map(|(reason, count)| (reason.name(), count)).collect(),
            agree,
            repairs: repairs(&agent.metrics()?),
        }))
    }
}

/// Whether the counts of backends are those of the table's entries, read twice so that no sweep comes between.
fn agree(pinned: &Pinned, backends: &[u32]) -> Result<bool> {
    let counts = || -> Result<(u64, u64)> {
        let counters = pinned.counters(backends)?;
        let sum = |of: fn(&lb_common::BackendLoad) -> u64| counters.iter().map(|counters| of(&counters.load)).sum();
        Ok((sum(|load| load.pending), sum(|load| load.active)))
    };
    let (before, flows, after) = (counts()?, pinned.flows()?, counts()?);
    let found = |which: fn(FlowState) -> bool| flows.iter().filter(|flow| which(flow.state)).count() as u64;
    Ok(before == after && before == (found(FlowState::is_pending), found(FlowState::is_active)))
}

/// `weir_counter_repairs_total` of a page of metrics; it is left out while it is 0.
fn repairs(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("weir_counter_repairs_total "));
    line.and_then(|count| count.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64
}

/// The rules of kube-proxy for an endpoint. On the node it is reached with the client's address, as with the traffic policy `Local`;
/// elsewhere with the node's, as nobody there knows a way to the client.
fn ruleset(place: Place, endpoint: IpAddr) -> Result<String> {
    ensure!(KUBE_PROXY.contains(ENDPOINT) && KUBE_PROXY.contains(MASQUERADE), "the ruleset has changed");
    let masquerade = if place == Place::Local { "" } else { MASQUERADE_ALL };
    Ok(KUBE_PROXY.replace(MASQUERADE, masquerade).replace(ENDPOINT, &endpoint.to_string()))
}
