//! What `weir run` is told on its command line, checked against the node before anything is touched.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::Algorithm;

use crate::{
    agent::{
        delivery::Delivery,
        sockets::{CgroupError, SocketConfig},
    },
    cluster,
    dataplane::attach::Datapath,
    discovery::{Objects, kube, node_ports::NodePortAddresses},
    node,
};

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where maps and links are pinned.
    pub pin_path: PathBuf,
    /// Where the model comes from.
    pub source: SourceConfig,
    /// The interfaces clients come in by; empty: they are found.
    pub interfaces: BTreeSet<String>,
    /// Where packets are met on them.
    pub datapath: Datapath,
    /// How packets reach local backends.
    pub delivery: Delivery,
    /// This node's name.
    pub node_name: String,
    /// The algorithm of Services that name none.
    pub default_algorithm: Algorithm,
    /// On which of the node's addresses node ports are served.
    pub nodeport_addresses: NodePortAddresses,
    /// Where the coordinator is found; none: there is none.
    pub coordinator: Option<cluster::agent::Config>,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Where `/healthz` is served as kube-proxy does.
    pub healthz_listen: Option<SocketAddr>,
    /// What scales policies that name no command.
    pub scale_command: Option<Vec<String>>,
    /// How long a scale command may take.
    pub scale_timeout: Duration,
    /// First and last source port of full NAT.
    pub snat_ports: (u16, u16),
    /// Whose sockets are balanced.
    pub sockets: SocketConfig,
    /// Where procfs is mounted.
    pub proc: PathBuf,
}

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A folder of manifests: `--manifests`.
    Files(PathBuf),
    /// A cluster: `--kube`.
    Kube(kube::Options),
}

/// Why this configuration cannot work here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The source ports of full NAT are the kernel's too.
    #[error(
        "--snat-ports {first}-{last}: overlaps the kernel's own source ports {low}-{high}; choose a range outside, or move \
         them: sysctl -w net.ipv4.ip_local_port_range=\"LOW HIGH\""
    )]
    LocalPorts {
        /// First of `--snat-ports`.
        first: u16,
        /// Last of `--snat-ports`.
        last: u16,
        /// The kernel's first.
        low: u16,
        /// The kernel's last.
        high: u16,
    },
    /// The source ports of full NAT hold a node port.
    #[error("--snat-ports {first}-{last}: {service} has nodePort {port} in it; choose a range without node ports")]
    NodePort {
        /// First of `--snat-ports`.
        first: u16,
        /// Last of `--snat-ports`.
        last: u16,
        /// The Service.
        service: String,
        /// Its node port.
        port: u16,
    },
    /// The folder of manifests cannot be read.
    #[error("--manifests {path}: {cause}; name a folder that exists and can be read")]
    Manifests {
        /// The folder.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// There is no cgroup for the socket hooks.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The node does not say.
    #[error(transparent)]
    Node(#[from] node::Error),
}

/// Whether full NAT has its source ports for itself.
pub fn check_snat_ports(ports: (u16, u16), objects: &Objects, proc: &Path) -> Result<(), ConfigError> {
    let (first, last) = ports;
    let (low, high) = node::local_port_range(proc)?;
    if first <= high && low <= last {
        return Err(ConfigError::LocalPorts { first, last, low, high });
    }
    for service in &objects.services {
        let mut node_ports = service.ports.iter().filter_map(|port| port.node_port);
        if let Some(port) = node_ports.find(|port| (first..=last).contains(port)) {
            let service = format!("Service {}/{}", service.namespace, service.name);
            return Err(ConfigError::NodePort { first, last, service, port });
        }
    }
    Ok(())
}

/// A range of ports, `FIRST-LAST`.
pub fn port_range(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parsed {
        Some((first, last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err("not a range of ports: use FIRST-LAST, such as 61000-65535".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::read;

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("61000-65535"), Ok((61000, 65535)));
        assert_eq!(port_range("7-7"), Ok((7, 7)));
        for bad in ["", "61000", "65535-61000", "0-10", "a-b", "1-70000", "-1-5"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn source_ports_are_refused_where_others_use_them() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("sys/net/ipv4")).unwrap();
        std::fs::write(proc.path().join("sys/net/ipv4/ip_local_port_range"), "32768 60999\n").unwrap();
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 31000}]}\n";
        let objects = read::read(Path::new("a.yaml"), text).unwrap();
        let check = |ports| check_snat_ports(ports, &objects, proc.path()).map_err(|error| error.to_string());
        assert_eq!(check((61000, 65535)), Ok(()));
        assert!(check((60999, 65535)).unwrap_err().contains("32768-60999"));
        assert!(check((20000, 40000)).unwrap_err().contains("ip_local_port_range"));
        assert!(check((30000, 32000)).unwrap_err().contains("Service default/web has nodePort 31000"));
    }
}
