//! What tests of the socket hooks begin with: the usual network, and a cgroup for the clients that are on the node.

use anyhow::Result;
use weir_tests::{
    agent::{Agent, Options},
    cgroup::Cgroup,
    manifests::Service,
    namespace::Namespace,
    topology::Layout,
};

use crate::lab::Lab;

/// A network, and the cgroup of the node's processes.
pub(crate) struct SocketLab {
    pub cgroup: Cgroup,
    pub lab: Lab,
}

impl SocketLab {
    /// Local and remote servers.
    pub(crate) fn mixed(local: usize, remote: usize) -> Result<Self> {
        let lab = Lab::new(Layout { local, remote, ..Layout::default() })?;
        Ok(Self { cgroup: Cgroup::new("sockets")?, lab })
    }

    /// How `weir` is started: with its hooks at this node's cgroup.
    pub(crate) fn options(&self, mode: &str) -> Options {
        let cgroup = self.cgroup.path().to_str().expect("a path of ours");
        Options::default().with(&["--cgroup", cgroup, "--socket-lb", mode])
    }

    /// Starts `weir` with a Service.
    pub(crate) fn start(&self, service: &Service) -> Result<Agent<'_>> {
        self.lab.start(service, self.options("all"))
    }

    /// Runs a closure as a process of the node itself.
    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.within(&self.lab.topology.node, work)
    }

    /// Runs a closure as a process in another network namespace of the node.
    pub(crate) fn within<T: Send>(&self, namespace: &Namespace, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        namespace.enter(|| self.cgroup.join().and_then(|()| work()))?
    }
}

/// A backend's counts of sockets, from the map itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sockets {
    pub open: i64,
    pub established: i64,
    pub connections: i64,
    pub closed: i64,
    pub resets: i64,
}

/// The sum of all backends' counts.
pub(crate) fn counted(agent: &Agent<'_>) -> Result<Sockets> {
    let list = agent.json(&["map", "dump", "loads"])?;
    let mut sum = Sockets::default();
    for item in list["items"].as_array().into_iter().flatten() {
        // A count below 0 would show as one of 2^64.
        let number = |name: &str| item[name].as_u64().unwrap_or(0).cast_signed();
        sum.open += number("sockets");
        sum.established += number("established");
        sum.connections += number("connections");
        sum.closed += number("closed");
        sum.resets += number("resets");
    }
    Ok(sum)
}
