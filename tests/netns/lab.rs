//! What most tests begin with: the network, its servers, a folder of manifests, and `weir` on the node.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::{Agent, Options},
    manifests::{Manifests, Service},
    requirements,
    server::Server,
    topology::{Host, Layout, NODE4, NODE6, Topology, VIP4, VIP6, socket},
};

/// The datapaths that a veth can have.
pub(crate) const DATAPATHS: [&str; 3] = ["tc", "xdp-generic", "xdp"];

/// Does the same on each of them, side by side: most of the time it waits.
pub(crate) fn on_each_datapath(test: impl Fn(&'static str) -> Result<()> + Sync) -> Result<()> {
    let test = &test;
    thread::scope(|scope| {
        let runs = DATAPATHS.map(|datapath| (datapath, scope.spawn(move || test(datapath))));
        runs.into_iter().try_for_each(|(datapath, run)| {
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).with_context(|| datapath.to_owned())
        })
    })
}

/// A network with servers.
pub(crate) struct Lab {
    pub servers: Vec<Server>,
    pub topology: Topology,
    pub manifests: Manifests,
}

impl Lab {
    /// Builds the network and starts the servers.
    pub(crate) fn new(layout: Layout) -> Result<Self> {
        requirements::check(requirements::TOOLS)?;
        let topology = Topology::new(layout)?;
        // A veth without it swallows what XDP on the node sends to it.
        topology.accept_redirected_frames()?;
        Ok(Self { servers: topology.start_servers()?, topology, manifests: Manifests::new()? })
    }

    /// So many local servers.
    pub(crate) fn local(count: usize) -> Result<Self> {
        Self::new(Layout { local: count, ..Layout::default() })
    }

    /// Local and remote servers.
    pub(crate) fn mixed(local: usize, remote: usize) -> Result<Self> {
        Self::new(Layout { local, remote, ..Layout::default() })
    }

    /// The Service `web` on the virtual addresses, served by all hosts.
    pub(crate) fn web(&self) -> Service {
        Service::web(&vips(), &self.topology.hosts)
    }

    /// The same, served by the hosts on the node or by the others.
    pub(crate) fn web_of(&self, local: bool) -> Service {
        Service::web(&vips(), self.topology.hosts.iter().filter(|host| host.local == local))
    }

    /// Writes a Service's file.
    pub(crate) fn write(&self, service: &Service) -> Result<()> {
        self.manifests.write(&format!("{}.yaml", service.name), &service.yaml())
    }

    /// Starts `weir` with a Service.
    pub(crate) fn start(&self, service: &Service, options: Options) -> Result<Agent<'_>> {
        self.write(service)?;
        let agent = Agent::start(&self.topology, &self.manifests, options)?;
        // One backend for each endpoint and protocol.
        agent.wait_for("the Service is served", |backends| backends.len() == 2 * service.endpoints.len())?;
        Ok(agent)
    }

    /// Runs a closure in the client's namespace.
    pub(crate) fn client<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.topology.client.enter(work)?
    }

    /// The host of this name.
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.topology.hosts.iter().find(|host| host.name == name).expect("a server's name")
    }
}

/// Both virtual addresses.
pub(crate) fn vips() -> [IpAddr; 2] {
    [vip4(80).ip(), vip6(80).ip()]
}

/// Both addresses of the node.
pub(crate) fn node_addresses() -> [IpAddr; 2] {
    [socket(NODE4, 80).ip(), socket(NODE6, 80).ip()]
}

/// The IPv4 virtual address.
pub(crate) fn vip4(port: u16) -> SocketAddr {
    socket(VIP4, port)
}

/// The IPv6 virtual address.
pub(crate) fn vip6(port: u16) -> SocketAddr {
    socket(VIP6, port)
}
