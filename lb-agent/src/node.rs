//! The node: its addresses, its interfaces, and how its kernel would reach a backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

/// Interfaces by index.
pub type Interfaces = BTreeMap<u32, String>;

/// How packets to an address leave the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Through this interface.
    pub interface: String,
    /// From this address of the node.
    pub source: Option<IpAddr>,
    /// Without a gateway.
    pub on_link: bool,
    /// To the node itself: all of 127.0.0.0/8, and what a local route names, need not be an interface's address.
    pub own: bool,
}

/// What decisions need to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// `--node-name`.
    pub name: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The interfaces of `--interface`.
    pub uplinks: BTreeSet<String>,
    /// Its interfaces.
    pub interfaces: Interfaces,
    /// Its routes to backends that are not its own addresses.
    pub routes: BTreeMap<IpAddr, Route>,
}

impl NodeView {
    /// Whether a backend is on this node: its endpoint says so, or, where it names no node, the address is the node's own or
    /// behind an interface that is no uplink.
    pub fn is_local(&self, node: Option<&str>, address: IpAddr) -> bool {
        let behind = |route: &Route| route.own || (route.on_link && !self.uplinks.contains(&route.interface));
        match node.filter(|name| !name.is_empty()) {
            Some(name) => name == self.name,
            None => self.addresses.contains(&address) || self.routes.get(&address).is_some_and(behind),
        }
    }

    /// The node's address that a remote backend sees.
    pub fn source_for(&self, backend: IpAddr) -> Option<IpAddr> {
        if self.addresses.contains(&backend) {
            return Some(backend);
        }
        self.routes.get(&backend).and_then(|route| route.source)
    }

    /// The addresses on which node ports are served.
    pub fn frontend_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(|ip| !ip.is_loopback() && !is_link_local(*ip))
    }

    /// The interface behind which a backend is; none for the node's own addresses.
    pub fn interface_of(&self, backend: IpAddr) -> Option<&str> {
        self.routes.get(&backend).filter(|route| !route.own).map(|route| route.interface.as_str())
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Why the node cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Netlink failed.
    #[error("netlink: {what}: {source}")]
    Netlink {
        /// What was asked.
        what: &'static str,
        /// Why it failed.
        source: rtnetlink::Error,
    },
    /// The netlink socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] std::io::Error),
    /// `--interface` names none of the node's.
    #[error("--interface {name}: there is no such interface in this network namespace; use one of: {known}")]
    NoInterface {
        /// What was named.
        name: String,
        /// What there is.
        known: String,
    },
    /// There is no `--interface`, and nothing to guess it from.
    #[error("no --interface is given and there is no default route to take it from; name one of: {known}")]
    NoDefaultRoute {
        /// What there is.
        known: String,
    },
    /// The kernel does not forward packets.
    #[error("{path} is {value:?}: the kernel forwards no packets of this family; run: sysctl -w {sysctl}=1")]
    NotForwarding {
        /// The sysctl's file.
        path: String,
        /// Its value.
        value: String,
        /// Its name.
        sysctl: &'static str,
    },
    /// A sysctl could not be read.
    #[error("{path}: {source}; mount /proc, or run weir where it is mounted")]
    Sysctl {
        /// The sysctl's file.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// A netlink connection.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens one in the thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interfaces.
    pub async fn interfaces(&self) -> Result<Interfaces, Error> {
        let failed = |source| Error::Netlink { what: "list interfaces", source };
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(failed)?;
        let name = |attributes: Vec<LinkAttribute>| {
            attributes.into_iter().find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name) } else { None })
        };
        Ok(links.into_iter().filter_map(|link| Some((link.header.index, name(link.attributes)?))).collect())
    }

    /// The node's addresses.
    pub async fn addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let failed = |source| Error::Netlink { what: "list addresses", source };
        let found: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(failed)?;
        Ok(found.into_iter().filter_map(|message| own_address(&message.attributes)).collect())
    }

    /// The route to an address; none if there is none.
    pub async fn route(&self, to: IpAddr, interfaces: &Interfaces) -> Option<Route> {
        let message = match to {
            IpAddr::V4(ip) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        let answer = self.handle.route().get(message).execute().try_next().await;
        answer.ok().flatten().and_then(|message| route(&message, interfaces))
    }

    /// The interfaces of the default routes.
    pub async fn default_interfaces(&self) -> Result<BTreeSet<String>, Error> {
        // Addresses of documentation (RFC 5737, RFC 3849): nobody has a route to them but the default one.
        let outside = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
        let interfaces = self.interfaces().await?;
        let mut found = BTreeSet::new();
        for address in outside {
            found.extend(self.route(address, &interfaces).await.map(|route| route.interface));
        }
        if found.is_empty() { Err(Error::NoDefaultRoute { known: names(&interfaces) }) } else { Ok(found) }
    }

    /// The view of the node that the model is built with.
    pub async fn view(
        &self,
        name: &str,
        uplinks: &BTreeSet<String>,
        backends: &BTreeSet<IpAddr>,
    ) -> Result<NodeView, Error> {
        let interfaces = self.interfaces().await?;
        let addresses = self.addresses().await?;
        let mut routes = BTreeMap::new();
        for backend in backends.difference(&addresses) {
            routes.extend(self.route(*backend, &interfaces).await.map(|route| (*backend, route)));
        }
        Ok(NodeView { name: name.to_owned(), addresses, uplinks: uplinks.clone(), interfaces, routes })
    }
}

fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    local.or(address)
}

fn route(message: &RouteMessage, interfaces: &Interfaces) -> Option<Route> {
    if !matches!(message.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let own = message.header.kind == RouteType::Local;
    let mut route = Route { on_link: true, own, ..Route::default() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = interfaces.get(index)?.clone(),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.on_link = false,
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => route.source = Some((*ip).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => route.source = Some((*ip).into()),
            _ => {}
        }
    }
    (!route.interface.is_empty()).then_some(route)
}

fn names(interfaces: &Interfaces) -> String {
    interfaces.values().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether all of `--interface` exist.
pub fn check_interfaces(wanted: &BTreeSet<String>, interfaces: &Interfaces) -> Result<(), Error> {
    match wanted.iter().find(|name| !interfaces.values().any(|known| known == *name)) {
        None => Ok(()),
        Some(name) => Err(Error::NoInterface { name: name.clone(), known: names(interfaces) }),
    }
}

/// Whether the kernel forwards what Weir asks it to route: without it, its routing table is closed to programs.
pub fn check_forwarding(proc: &Path, v4: bool, v6: bool) -> Result<(), Error> {
    let all = [
        (v4, "sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (v6, "sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    for (_, file, sysctl) in all.into_iter().filter(|(needed, ..)| *needed) {
        let path = proc.join(file);
        let shown = path.display().to_string();
        let value = std::fs::read_to_string(&path).map_err(|source| Error::Sysctl { path: shown.clone(), source })?;
        if value.trim() == "0" {
            return Err(Error::NotForwarding { path: shown, value: value.trim().into(), sysctl });
        }
    }
    Ok(())
}

/// The kernel's own range of source ports.
pub fn local_port_range(proc: &Path) -> Result<(u16, u16), Error> {
    let path = proc.join("sys/net/ipv4/ip_local_port_range");
    let failed = |source| Error::Sysctl { path: path.display().to_string(), source };
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u16>().unwrap_or_default());
    Ok((numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> NodeView {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let source = Some(ip("10.0.0.1"));
        let route = |interface: &str, on_link| Route { interface: interface.into(), source, on_link, own: false };
        NodeView {
            name: "a".into(),
            addresses: [ip("10.0.0.1"), ip("127.0.0.1"), ip("fe80::1"), ip("fd00::1")].into(),
            uplinks: ["eth0".to_owned()].into(),
            interfaces: Interfaces::new(),
            routes: [
                (ip("10.1.0.2"), route("veth1", true)),
                (ip("10.0.0.9"), route("eth0", true)),
                (ip("10.2.0.9"), route("tun0", false)),
                (ip("10.3.0.1"), Route { own: true, ..route("eth0", true) }),
            ]
            .into(),
        }
    }

    #[test]
    fn who_is_local() {
        let cases = [
            (Some("a"), "10.0.0.9", true, "its node is this one"),
            (Some("b"), "10.1.0.2", false, "its node is another one"),
            (None, "10.0.0.1", true, "the node's own address"),
            (None, "10.1.0.2", true, "on-link behind an interface that is no uplink"),
            (Some(""), "10.1.0.2", true, "an empty node name is none"),
            (None, "10.0.0.9", false, "on-link at the uplink"),
            (None, "10.2.0.9", false, "behind a gateway"),
            (None, "10.3.0.1", true, "a local route names it"),
            (None, "192.0.2.1", false, "no route"),
        ];
        for (node, address, wanted, why) in cases {
            assert_eq!(view().is_local(node, address.parse().unwrap()), wanted, "{why}");
        }
    }

    #[test]
    fn node_ports_are_not_on_loopback_or_link_local() {
        let addresses: Vec<String> = view().frontend_addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn a_missing_interface_is_named_with_what_there_is() {
        let interfaces = Interfaces::from([(1, "lo".into()), (2, "eth0".into())]);
        assert!(check_interfaces(&["eth0".to_owned()].into(), &interfaces).is_ok());
        let error = check_interfaces(&["eth7".to_owned()].into(), &interfaces).unwrap_err().to_string();
        assert_eq!(
            error,
            "--interface eth7: there is no such interface in this network namespace; use one of: lo, eth0"
        );
    }

    #[test]
    fn forwarding_off_names_the_sysctl() {
        let proc = tempfile::tempdir().unwrap();
        let write = |file: &str, value: &str| {
            let path = proc.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        write("sys/net/ipv4/ip_forward", "1\n");
        write("sys/net/ipv6/conf/all/forwarding", "0\n");
        assert!(check_forwarding(proc.path(), true, false).is_ok());
        let error = check_forwarding(proc.path(), true, true).unwrap_err().to_string();
        assert!(error.ends_with("run: sysctl -w net.ipv6.conf.all.forwarding=1"), "{error}");
        assert!(local_port_range(proc.path()).unwrap_err().to_string().contains("ip_local_port_range"));
        write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        assert_eq!(local_port_range(proc.path()).unwrap(), (32768, 60999));
    }

    #[tokio::test]
    async fn netlink_finds_loopback() {
        let netlink = Netlink::open().unwrap();
        let interfaces = netlink.interfaces().await.unwrap();
        assert!(interfaces.values().any(|name| name == "lo"));
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(netlink.addresses().await.unwrap().contains(&loopback));
        let route = netlink.route("127.0.0.2".parse().unwrap(), &interfaces).await.unwrap();
        assert_eq!((route.interface.as_str(), route.source, route.own), ("lo", Some(loopback), true));
    }
}
