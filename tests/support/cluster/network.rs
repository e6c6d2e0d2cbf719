//! The cluster's network: a bridge in the fabric's namespace, and on it the nodes and a client that belongs to no cluster.
//!
//! ```text
//!   client eth0 ---+
//!   node 1 eth0 ---+--- br0 [fabric: etcd, kube-apiserver, ...]
//!   node 2 eth0 ---+
//! ```
//! Nodes and fabric know the way to all pods. The client knows its own subnet only: it reaches nodes and what they announce.

use std::fmt::Write as _;

use anyhow::Result;

use super::layout::{CLIENT4, CLIENT6, FABRIC4, FABRIC6, Name, NodePlan};
use crate::namespace::{self, Namespace};

/// A node's and the client's interface.
pub const UPLINK: &str = "eth0";
const BRIDGE: &str = "br0";
const CLIENT_PORT: &str = "client";

/// Makes all namespaces and connects them.
pub(super) fn build(cluster: &Name, nodes: &[NodePlan]) -> Result<()> {
    let fabric = Namespace::lasting(&cluster.fabric())?;
    let mut lines = format!(
        "link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0\nlink set {BRIDGE} up\n\
         addr add {FABRIC4}/24 dev {BRIDGE}\naddr add {FABRIC6}/64 dev {BRIDGE} nodad\n"
    );
    let client = Namespace::lasting(&cluster.client())?;
    _ = write!(lines, "{}", port(CLIENT_PORT, client.name()));
    for node in nodes {
        let namespace = Namespace::lasting(&node.name())?;
        namespace.forward()?;
        _ = write!(lines, "{}", port(&node.port(), namespace.name()));
    }
    fabric.ip(&lines)?;
    client.ip(&uplink(CLIENT4, CLIENT6))?;
    for node in nodes {
        let [v4, v6] = node.addresses();
        let ways = format!("route add default via {FABRIC4}\nroute add ::/0 via {FABRIC6}\n");
        let lines = uplink(&v4.to_string(), &v6.to_string()) + &ways + &routes_to_pods(nodes, Some(node));
        Namespace::existing(&node.name()).ip(&lines)?;
    }
    fabric.ip(&routes_to_pods(nodes, None))
}

/// Pulls a node's plug, or puts it back.
pub(super) fn set_link(cluster: &Name, node: &NodePlan, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    Namespace::existing(&cluster.fabric()).ip(&format!("link set {} {state}", node.port()))
}

/// Deletes the namespaces whose processes have been killed before.
pub(super) fn remove(names: impl IntoIterator<Item = String>) -> Result<()> {
    names
        .into_iter()
        .filter(|name| Namespace::existing(name).path().exists())
        .try_for_each(|name| namespace::delete(&name))
}

fn port(interface: &str, namespace: &str) -> String {
    format!(
        "link add {interface} type veth peer name {UPLINK} netns {namespace}\n\
         link set {interface} master {BRIDGE} up\n"
    )
}

fn uplink(v4: &str, v6: &str) -> String {
    format!("link set {UPLINK} up\naddr add {v4}/24 dev {UPLINK}\naddr add {v6}/64 dev {UPLINK} nodad\n")
}

fn routes_to_pods(nodes: &[NodePlan], own: Option<&NodePlan>) -> String {
    let others = nodes.iter().filter(|node| Some(*node) != own);
    let mut lines = String::new();
    for node in others {
        for (subnet, gateway) in node.pods().iter().zip(node.addresses()) {
            _ = writeln!(lines, "route add {subnet} via {gateway}");
        }
    }
    lines
}
