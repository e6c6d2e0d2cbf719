//! What is known of this node besides its interfaces, and on which of its addresses node ports are served.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

use crate::node::NodeView;

/// What this node's Node object says. Without a cluster only its name is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its addresses of type InternalIP, else ExternalIP: the first of each family.
    pub addresses: BTreeSet<IpAddr>,
    /// It is about to go (it is being deleted, or has the taint `ToBeDeletedByClusterAutoscaler`).
    pub leaving: bool,
}

impl NodeInfo {
    /// A node without a cluster: its addresses are those by which it speaks to the outside.
    pub fn without_cluster(name: &str, node: &NodeView) -> Self {
        // Addresses of documentation (RFC 5737, RFC 3849): nobody has a route to them but the default one.
        let outside = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
        let addresses = outside.into_iter().filter_map(|to| node.source_for(to)).collect();
        Self { name: name.to_owned(), addresses, ..Self::default() }
    }
}

/// `--nodeport-addresses`: where node ports are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On every address.
    #[default]
    All,
    /// On the addresses of the Node object; without a cluster on those of the default routes.
    Primary,
    /// On those in these networks; where they are all of one family, on every address of the other, as kube-proxy does.
    Networks(Vec<IpNet>),
}

impl NodePortAddresses {
    /// Whether node ports are served at an address of the node.
    pub fn contain(&self, ip: IpAddr, info: &NodeInfo) -> bool {
        match self {
            Self::All => true,
            Self::Primary => info.addresses.contains(&ip),
            Self::Networks(networks) => {
                let mut family = networks.iter().filter(|network| network.addr().is_ipv4() == ip.is_ipv4()).peekable();
                family.peek().is_none() || family.any(|network| network.contains(&ip))
            }
        }
    }

    /// Where a server of the node's own on such a port listens: at the unspecified addresses if it can.
    pub fn listen(&self, own: impl Iterator<Item = IpAddr>, info: &NodeInfo) -> BTreeSet<IpAddr> {
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        match self {
            Self::All => all.into(),
            _ => own.filter(|ip| self.contain(*ip, info)).collect(),
        }
    }
}

/// `primary`, or networks separated by commas.
impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        match words[..] {
            ["primary"] => return Ok(Self::Primary),
            [""] => return Ok(Self::All),
            _ => {}
        }
        let network = |word: &&str| {
            let network = word.parse::<IpNet>().map(|network| network.trunc());
            network.map_err(|_| {
                format!("{word:?} is not a network: use primary, or networks such as 192.0.2.0/24,2001:db8::/64")
            })
        };
        words.iter().map(network).collect::<Result<_, _>>().map(Self::Networks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cluster_the_default_route_says_which_is_the_first() {
        use crate::node::{
            state::Event,
            testing::{address, link, route, view},
        };
        let links = [link(2, "eth0"), link(3, "br0")].map(Event::Link);
        let others =
            [address(3, "10.22.0.1/24"), address(2, "198.51.100.1/24"), route("0.0.0.0/0", 2, Some("198.51.100.254"))];
        let info = NodeInfo::without_cluster("here", &view("here", "eth0", [links.to_vec(), others.to_vec()].concat()));
        assert_eq!((info.name.as_str(), info.addresses), ("here", ["198.51.100.1".parse().unwrap()].into()));
    }

    #[test]
    fn where_node_ports_are_served() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let info = NodeInfo { addresses: [ip("192.0.2.1"), ip("2001:db8::1")].into(), ..NodeInfo::default() };
        let own = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "fd00::1"];
        let cases: [(&str, &[&str]); 7] = [
            ("", &["192.0.2.1", "198.51.100.1", "2001:db8::1", "fd00::1"]),
            ("primary", &["192.0.2.1", "2001:db8::1"]),
            ("192.0.2.0/24", &["192.0.2.1", "2001:db8::1", "fd00::1"]),
            ("192.0.2.0/24, fd00::/8", &["192.0.2.1", "fd00::1"]),
            ("192.0.2.77/24", &["192.0.2.1", "2001:db8::1", "fd00::1"]),
            ("0.0.0.0/0,::/0", &["192.0.2.1", "198.51.100.1", "2001:db8::1", "fd00::1"]),
            ("203.0.113.0/24,2001:db8:ffff::/48", &[]),
        ];
        for (text, wanted) in cases {
            let addresses: NodePortAddresses = text.parse().unwrap();
            let found: Vec<&str> = own.into_iter().filter(|text| addresses.contain(ip(text), &info)).collect();
            assert_eq!(found, wanted, "{text:?}");
        }
        let everywhere = NodePortAddresses::All.listen(own.into_iter().map(ip), &info);
        assert_eq!(everywhere, [ip("0.0.0.0"), ip("::")].into());
        let primary = NodePortAddresses::Primary.listen(own.into_iter().map(ip), &info);
        assert_eq!(primary, [ip("192.0.2.1"), ip("2001:db8::1")].into());
        for bad in ["eth0", "192.0.2.1", "primary,10.0.0.0/8", "10.0.0.0/8,,"] {
            assert!(bad.parse::<NodePortAddresses>().unwrap_err().contains("use primary, or networks"), "{bad}");
        }
    }
}
