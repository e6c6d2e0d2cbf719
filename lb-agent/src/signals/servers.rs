//! What the servers behind this node's backends use where no cluster says which processes they are: the socket at which a server waits tells
//! its cgroup.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::Protocol;

use super::usage::{Limits, Place, Usage};
use crate::{
    dataplane::{cgroup, sizes},
    node::{
        diag::{self, Listener},
        namespaces,
    },
};

/// So often servers that were not found are looked for again: that goes through all network namespaces.
const AGAIN: Duration = Duration::from_secs(5);

/// A server, by where it waits.
pub type Server = (Protocol, SocketAddr);

/// What a server uses, and what it may: of its cgroup's limits or, where there are none, of the machine.
pub type Used = BTreeMap<Server, (Usage, Limits)>;

/// The servers that were found.
#[derive(Debug)]
pub struct LocalServers {
    place: Place,
    machine: Limits,
    folders: BTreeMap<Server, PathBuf>,
    /// When it is looked again for those that are missing.
    next: Duration,
}

/// None yet.
impl Default for LocalServers {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let machine = Limits { cpu: Some(cpus * 1000), memory: Some(sizes::memory()) };
        Self { place: Place::new(None), machine, folders: BTreeMap::new(), next: Duration::ZERO }
    }
}

impl LocalServers {
    /// What the wanted servers use; those that cannot be found are left out. `own` are the addresses of this network namespace.
    pub fn look(&mut self, wanted: &BTreeSet<Server>, own: &BTreeSet<IpAddr>, now: Duration) -> Used {
        self.folders.retain(|server, folder| wanted.contains(server) && folder.is_dir());
        if now >= self.next && wanted.iter().any(|server| !self.folders.contains_key(server)) {
            self.next = now + AGAIN;
            self.folders = find(wanted, own);
        }
        let used = |(server, folder): (&Server, &PathBuf)| {
            let (usage, limits) = self.place.group(folder)?;
            let Limits { cpu, memory } = self.machine;
            Some((*server, (usage, Limits { cpu: limits.cpu.or(cpu), memory: limits.memory.or(memory) })))
        };
        self.folders.iter().filter_map(used).collect()
    }
}

/// The folders of the wanted servers' cgroups.
fn find(wanted: &BTreeSet<Server>, own: &BTreeSet<IpAddr>) -> BTreeMap<Server, PathBuf> {
    let here = namespaces::cookie().ok();
    let mut looked: Vec<_> =
        namespaces::all_with(listeners).into_iter().map(|(namespace, who)| (Some(namespace), who)).collect();
    // Who may enter none looks at its own.
    if looked.is_empty() {
        looked.push((None, listeners()));
    }
    let mut found = BTreeMap::new();
    for (namespace, listeners) in looked {
        let Ok(listeners) = listeners else { continue };
        let is_own = namespace.as_ref().is_none_or(|namespace| Some(namespace.cookie) == here);
        let has = |ip: IpAddr| {
            let speaks = namespace.as_ref().is_some_and(|of| of.v4 == Some(ip) || of.v6 == Some(ip));
            is_own && own.contains(&ip) || speaks
        };
        for server in wanted.iter().filter(|(_, at)| has(at.ip())) {
            let folder = waiting(&listeners, server).and_then(cgroup::folder);
            found.extend(folder.map(|folder| (*server, folder)));
        }
    }
    found
}

type Listeners = Vec<(Protocol, Listener)>;

/// Who waits in this thread's network namespace.
fn listeners() -> io::Result<Listeners> {
    let mut all = Listeners::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        all.extend(diag::listeners(protocol as u8)?.into_iter().map(|listener| (protocol, listener)));
    }
    Ok(all)
}

/// The cgroup of who waits at just this address, or else at any.
fn waiting(listeners: &Listeners, (protocol, at): &Server) -> Option<u64> {
    let mut all = listeners.iter().filter(|(of, listener)| of == protocol && listener.port == at.port());
    let exact = all.clone().find(|(_, listener)| listener.ip == at.ip());
    // One at any IPv6 address takes IPv4 too.
    let any = || all.find(|(_, listener)| listener.ip.is_unspecified() && (listener.ip.is_ipv6() || at.is_ipv4()));
    exact.or_else(any).map(|(_, listener)| listener.cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(ip: &str, port: u16, cgroup: u64) -> (Protocol, Listener) {
        (Protocol::Tcp, Listener { ip: ip.parse().unwrap(), port, cgroup })
    }

    #[test]
    fn who_waits_at_the_address_itself_comes_before_who_waits_at_any() {
        let all = vec![
            listener("0.0.0.0", 80, 1),
            listener("10.0.0.1", 80, 2),
            listener("::", 81, 3),
            listener("0.0.0.0", 82, 4),
            (Protocol::Udp, Listener { ip: "::".parse().unwrap(), port: 83, cgroup: 5 }),
        ];
        for (at, expected) in [
            ("10.0.0.1:80", Some(2)),
            ("10.0.0.2:80", Some(1)),
            ("10.0.0.2:81", Some(3)),
            ("[fd00::1]:81", Some(3)),
            ("[fd00::1]:82", None),
            ("10.0.0.1:83", None),
            ("10.0.0.1:84", None),
        ] {
            assert_eq!(waiting(&all, &(Protocol::Tcp, at.parse().unwrap())), expected, "{at}");
        }
    }

    #[test]
    fn who_is_not_found_is_not_looked_for_all_the_time() {
        let mut servers = LocalServers::default();
        let wanted = [(Protocol::Tcp, "192.0.2.1:80".parse().unwrap())].into();
        assert_eq!(servers.look(&wanted, &BTreeSet::new(), Duration::from_secs(7)), Used::new());
        assert_eq!(servers.next, Duration::from_secs(12));
        servers.look(&wanted, &BTreeSet::new(), Duration::from_secs(11));
        assert_eq!(servers.next, Duration::from_secs(12));
        servers.look(&BTreeSet::new(), &BTreeSet::new(), Duration::from_secs(20));
        assert_eq!(servers.next, Duration::from_secs(12), "nobody is missing");
    }
}
