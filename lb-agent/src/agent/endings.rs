//! Connected sockets whose backend is gone: packets never pass us, so nobody but the agent can tell their processes.
//!
//! UDP sockets are ended at once, as the packet path forgets UDP flows at once. A TCP connection may go on with a backend that takes no new
//! ones any more; it is ended only when its peer does not answer. See docs/decisions/0005-ended-sockets.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use lb_common::{
    Backend, BackendState, SocketKey,
    socket::{Connection, owner_backend},
};

use crate::node::{
    diag,
    namespaces::{self, Namespace},
};

/// Sockets to end in a network namespace, by protocol: their cookies.
pub type Doomed = BTreeMap<u8, BTreeSet<u64>>;

/// The sockets whose backend is removed while nothing else is served where they are connected to, by the cookie of their namespace.
pub fn doomed(backends: &BTreeMap<u32, Backend>, connections: &[Connection]) -> BTreeMap<u64, Doomed> {
    let is_live = |b: &Backend| b.state != BackendState::Removed as u8;
    let is_removed = |connection: &&Connection| {
        let backend = owner_backend(connection.owner).and_then(|index| backends.get(&index));
        backend.is_some_and(|backend| !is_live(backend))
    };
    let left: Vec<&Connection> = connections.iter().filter(is_removed).collect();
    if left.is_empty() {
        return BTreeMap::new();
    }
    let endpoints: BTreeSet<SocketKey> = left.iter().map(|connection| connection.endpoint).collect();
    let served = |b: &&Backend| is_live(b) && endpoints.contains(&b.key());
    let served: BTreeSet<SocketKey> = backends.values().filter(served).map(Backend::key).collect();
    let mut doomed: BTreeMap<u64, Doomed> = BTreeMap::new();
    for connection in left.into_iter().filter(|connection| !served.contains(&connection.endpoint)) {
        let namespace = doomed.entry(connection.namespace).or_default();
        namespace.entry(connection.endpoint.protocol).or_default().insert(connection.cookie);
    }
    doomed
}

/// Ends these sockets in their namespaces. Returns how many were ended.
pub fn end(doomed: &BTreeMap<u64, Doomed>, known: &[Namespace]) -> io::Result<usize> {
    let files: BTreeMap<PathBuf, &Doomed> =
        known.iter().filter_map(|n| Some((n.path.clone(), doomed.get(&n.cookie)?))).collect();
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    let results = namespaces::within(&paths, |path| {
        let ends = files.get(path).into_iter().flat_map(|doomed| doomed.iter());
        ends.map(|(protocol, cookies)| diag::end(*protocol, cookies)).sum::<io::Result<usize>>()
    });
    results.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use lb_common::{Port, socket::owner};

    use super::*;

    fn backend(port: u16, protocol: u8, state: BackendState) -> Backend {
        Backend { port: Port::new(port), protocol, state: state as u8, incarnation: 1, ..Backend::default() }
    }

    fn connection(index: u32, backends: &BTreeMap<u32, Backend>, cookie: u64) -> Connection {
        Connection {
            owner: owner(index),
            endpoint: backends[&index].key(),
            cookie,
            namespace: 5,
            ..Connection::default()
        }
    }

    #[test]
    fn only_sockets_of_removed_backends_that_nobody_replaces_are_ended() {
        let backends: BTreeMap<u32, Backend> = [
            (0, backend(80, 6, BackendState::Ready)),
            (1, backend(81, 6, BackendState::Removed)),
            (2, backend(82, 17, BackendState::Removed)),
            // The endpoint of 3 serves another Service too.
            (3, backend(83, 6, BackendState::Removed)),
            (4, backend(83, 6, BackendState::Terminating)),
        ]
        .into();
        let mut connections: Vec<Connection> = (0..4).map(|i| connection(i, &backends, 100 + u64::from(i))).collect();
        connections.push(Connection { owner: 0, ..connections[1] });
        let expected = Doomed::from([(6, [101].into()), (17, [102].into())]);
        assert_eq!(doomed(&backends, &connections), [(5, expected)].into());
        assert_eq!(doomed(&backends, &connections[..1]), BTreeMap::new());
    }
}
