//! The pods of all cases, the Services, and the way from a check to a request.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use weir_tests::cluster::{
    Cluster,
    layout::{CLIENT4, CLIENT6},
};

use super::{
    check::{Check, Family, From, Proxy, To},
    table,
};
use crate::{
    clients::Client,
    manifests::{self, target},
    space::{Pod, Space},
};

/// For how long a check may give another result: what was applied is not in force at once.
const SETTLING: Duration = Duration::from_secs(15);
const SPACE: &str = "cases";

/// Everything that checks need.
pub(super) struct Stage<'a> {
    space: Space<'a>,
    pods: BTreeMap<String, Pod>,
    services: BTreeMap<String, Value>,
}

impl<'a> Stage<'a> {
    /// Makes the pods and the Services of all cases.
    pub(super) fn new(cluster: &'a Cluster) -> Result<Self> {
        let space = Space::new(cluster, SPACE)?;
        let past_sockets = manifests::clients_past_sockets(cluster.nodes());
        space.apply(&(manifests::backends(cluster.nodes()) + &past_sockets + &table::services()))?;
        table::set_addresses(&space)?;
        table::add_routes(cluster)?;
        for set in ["daemonset/app", "daemonset/host", "deployment/one", "deployment/web-1", "deployment/web-2"] {
            space.wait_for_rollout(set)?;
        }
        space.wait_for_clients()?;
        space.wait_for("the unready pod's address", || {
            Ok(space.pods("app=unready")?.iter().all(|pod| pod.addresses.len() == 2))
        })?;
        let pods = space.pods("app")?.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
        let services = space.get(&["services"])?;
        let services = services["items"].as_array().into_iter().flatten();
        let services = services.map(|service| (text(&service["metadata"]["name"]), service.clone())).collect();
        Ok(Self { space, pods, services })
    }

    /// Asks until the outcome is right, or for too long.
    pub(super) fn check(&self, service: &str, check: &Check, proxy: Proxy) -> Result<()> {
        let target = self.target(service, check)?;
        let (client, own) = self.client(check.from)?;
        let protocol = if check.udp { Some("--udp") } else { None };
        let arguments: Vec<_> =
            [target.as_str()].into_iter().chain(check.outcome.arguments().iter().copied()).chain(protocol).collect();
        let end = Instant::now() + SETTLING;
        loop {
            let report = client.ask(self.space.cluster(), &arguments)?;
            let own = |source: &str| own.iter().any(|own| own == source);
            let verdict = check.outcome.judge(&report, proxy, |pod| self.node_of(pod), own);
            match verdict {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error.context(format!("at {target}"))),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Where a check asks: address and port.
    fn target(&self, service: &str, check: &Check) -> Result<String> {
        let object = self.services.get(service).with_context(|| format!("no Service {service}"))?;
        Ok(match check.to {
            To::Cluster(family) => {
                let addresses = object["spec"]["clusterIPs"].as_array().into_iter().flatten().map(text);
                target(
                    &addresses.into_iter().find(|address| is_of(address, family)).context("no cluster address")?,
                    check.port,
                )
            }
            To::Node(node, family) => {
                let address =
                    self.space.cluster().nodes()[node - 1].plan().addresses()[usize::from(family == Family::V6)];
                target(&address.to_string(), node_port(object, check)?)
            }
            To::At(address) => target(address, check.port),
            To::Name => format!("{service}.{SPACE}.svc.cluster.local:{}", check.port),
        })
    }

    /// Who asks, and its addresses.
    fn client(&self, from: From) -> Result<(Client<'_>, Vec<String>)> {
        let pod = |name: &str| {
            let found = self.pods.values().find(|pod| pod.name.starts_with(name));
            let found = found.with_context(|| format!("no pod {name}"))?;
            Ok((Client::Pod(found), found.addresses.clone()))
        };
        match from {
            From::Outside => Ok((Client::Outside, vec![CLIENT4.to_owned(), CLIENT6.to_owned()])),
            From::Host(node) => {
                let node = &self.space.cluster().nodes()[node - 1];
                let (uplink, towards_pods) = (node.plan().addresses(), node.plan().gateways());
                let own = uplink.into_iter().chain(towards_pods).map(|address| address.to_string());
                Ok((Client::Host(node), own.collect()))
            }
            From::Pod(node) => pod(&format!("client-{node}")),
            From::PastSockets(node) => pod(&format!("plain-{node}")),
            From::Itself => pod("one-"),
        }
    }

    fn node_of(&self, pod: &str) -> Option<usize> {
        let node = &self.pods.get(pod)?.node;
        self.space.cluster().nodes().iter().position(|found| found.name() == *node).map(|index| index + 1)
    }
}

fn node_port(service: &Value, check: &Check) -> Result<u16> {
    let protocol = if check.udp { "UDP" } else { "TCP" };
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| port["port"] == check.port && port["protocol"] == protocol);
    let number = port.and_then(|port| port["nodePort"].as_u64());
    number.and_then(|number| u16::try_from(number).ok()).context("no node port")
}

fn is_of(address: &str, family: Family) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() == (family == Family::V6))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
