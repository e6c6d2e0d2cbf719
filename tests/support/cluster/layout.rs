//! Where everything of a cluster is, from its name alone: namespaces, folders, control groups and addresses.
//!
//! A node's name is the name of its network namespace, of its control group and of its folder of pins as well. Clusters share no network,
//! so their addresses are the same.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, ensure};

/// Where clusters keep their files.
pub(super) const STATE: &str = "/var/lib/weir-clusters";
/// More nodes would meet the client's address.
pub const MAX_NODES: usize = 64;

/// The bridge's IPv4 address, on which the control plane listens.
pub const FABRIC4: &str = "172.30.0.1";
/// The same for IPv6.
pub const FABRIC6: &str = "fd30::1";
/// The client's address outside of the cluster.
pub const CLIENT4: &str = "172.30.0.200";
/// The same for IPv6.
pub const CLIENT6: &str = "fd30::c8";
/// Addresses on the nodes' subnet that nobody has: for Services of type LoadBalancer.
pub const POOL4: &str = "172.30.0.224/28";
/// The same for IPv6.
pub const POOL6: &str = "fd30::e0/124";
/// Cluster addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16,fd96::/112";
/// The first address of each of [`SERVICES`]: the API server's Service.
pub const API_SERVICE: [&str; 2] = ["10.96.0.1", "fd96::1"];
/// The Service of CoreDNS.
pub const DNS_SERVICE: &str = "10.96.0.10";
/// Addresses of all pods.
pub const PODS: &str = "10.244.0.0/16,fd44::/48";
/// Where the API server listens.
pub const API_PORT: u16 = 6443;

/// A cluster's name: up to 9 lower-case letters and digits, a letter first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let fits = name.len() <= 9
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ensure!(
            fits,
            "a cluster's name has up to 9 lower-case letters and digits, a letter first; `{name}` does not fit"
        );
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// The cluster's files.
    pub fn folder(&self) -> PathBuf {
        Path::new(STATE).join(&self.0)
    }

    /// What kubectl and other clients of the cluster's administrator read.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    /// The namespace of the bridge and of the control plane, and the control group of the latter.
    pub fn fabric(&self) -> String {
        format!("{self}-fabric")
    }

    /// The namespace of the client outside of the cluster.
    pub fn client(&self) -> String {
        format!("{self}-client")
    }

    /// The nodes, of which the first has number 1.
    pub fn nodes(&self, count: usize) -> Vec<NodePlan> {
        (1..=count).map(|number| NodePlan { cluster: self.clone(), number: number as u8 }).collect()
    }
}

/// A node by its place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    cluster: Name,
    number: u8,
}

impl NodePlan {
    /// Its name, in Kubernetes and everywhere else.
    pub fn name(&self) -> String {
        format!("{}-{}", self.cluster, self.number)
    }

    /// Its files.
    pub fn folder(&self) -> PathBuf {
        self.cluster.folder().join(self.name())
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("containerd.sock")
    }

    /// Its addresses on the bridge.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let last = 10 + u16::from(self.number);
        [Ipv4Addr::new(172, 30, 0, last as u8).into(), Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, last).into()]
    }

    /// Its pods' subnets.
    pub fn pods(&self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.number), format!("fd44:0:0:{:x}::/64", self.number)]
    }

    /// Its addresses towards its pods: the first of [`Self::pods`].
    pub fn gateways(&self) -> [IpAddr; 2] {
        let number = self.number;
        [Ipv4Addr::new(10, 244, number, 1).into(), Ipv6Addr::new(0xfd44, 0, 0, number.into(), 0, 0, 0, 1).into()]
    }

    /// Its zone: two zones, so that three nodes are two against one.
    pub fn zone(&self) -> &'static str {
        if self.number % 2 == 1 { "zone-a" } else { "zone-b" }
    }

    /// The fabric's end of its link.
    pub fn port(&self) -> String {
        format!("node{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for name in ["weir", "w", "test2", "ninechars"] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        for name in ["", "2nd", "Weir", "we-ir", "a/b", "tencharact"] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }

    #[test]
    fn nodes_differ_in_everything() {
        let name: Name = "weir".parse().expect("a name");
        let nodes = name.nodes(MAX_NODES);
        assert_eq!(nodes[2].name(), "weir-3");
        assert_eq!(nodes[2].addresses().map(|address| address.to_string()), ["172.30.0.13", "fd30::d"]);
        assert_eq!(nodes[16].pods(), ["10.244.17.0/24", "fd44:0:0:11::/64"]);
        let client: IpAddr = CLIENT4.parse().expect("an address");
        assert!(nodes.iter().all(|node| node.addresses()[0] < client));
    }
}
