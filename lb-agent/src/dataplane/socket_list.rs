//! The node's connected sockets, from pinned iterators: whoever reads one runs it.
//!
//! The iterator of the sockets' storage finds just those that were connected to frontends, in all network namespaces. A kernel that is locked
//! down may refuse it; then all sockets of each namespace are gone through, which has to be done inside.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Btf,
    maps::Map,
    programs::{Iter, ProgramError},
};
use lb_common::{
    names::{NAMESPACE_SOCKET_LISTS, SOCKET_LIST, map, program},
    socket::Connection,
};

use super::{
    Error,
    bpf::{Bpf, find, kernel, loaded, missing},
    link,
};
use crate::node::namespaces::{self, Namespace};

/// The sockets that were connected to frontends and are still open, each counted by somebody or not. Brings the traffic of their
/// backends up to date. Empty without socket hooks. `known` are the namespaces that there are.
pub fn connections(pin_path: &Path, known: &[Namespace]) -> Result<Vec<Connection>, Error> {
    if let Some(connections) = read(&pin_path.join(SOCKET_LIST))? {
        return Ok(connections);
    }
    let lists = NAMESPACE_SOCKET_LISTS.map(|name| pin_path.join(name));
    if !lists.iter().any(|list| list.exists()) {
        return Ok(Vec::new());
    }
    let files: Vec<PathBuf> = known.iter().map(|namespace| namespace.path.clone()).collect();
    let found = namespaces::within(&files, |_| lists.iter().map(|list| read(list)).collect::<Result<Vec<_>, _>>());
    let found: Vec<_> = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(found.into_iter().flatten().flatten().flatten().collect())
}

/// What an iterator lists; `None` if it is not there.
fn read(path: &Path) -> Result<Option<Vec<Connection>>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(kernel(format!("read {}", path.display()), error)),
    };
    Ok(Some(bytes.chunks_exact(size_of::<Connection>()).map(connection).collect()))
}

fn connection(bytes: &[u8]) -> Connection {
    assert_eq!(bytes.len(), size_of::<Connection>(), "chunks are of this size");
    // SAFETY: as many bytes as the type has, and it is plain data.
    unsafe { bytes.as_ptr().cast::<Connection>().read_unaligned() }
}

/// Removes the pinned iterators.
pub(super) fn remove(pin_path: &Path) -> Result<(), Error> {
    for name in NAMESPACE_SOCKET_LISTS.into_iter().chain([SOCKET_LIST]) {
        let path = pin_path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(kernel(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Bpf {
    /// Loads and pins the iterator of the sockets' storage, or those of namespaces, in the place of older ones.
    pub(super) fn pin_socket_lists(&mut self) -> Result<(), Error> {
        let btf = Btf::from_sys_fs().map_err(|e| refused(program::LIST_SOCKETS, e.into()))?;
        remove(&self.pin_path)?;
        let Err(error) = self.pin_socket_list(program::LIST_SOCKETS, "bpf_sk_storage_map", SOCKET_LIST, &btf) else {
            return Ok(());
        };
        tracing::info!(%error, "open sockets are looked for in each network namespace");
        let [tcp, udp] = NAMESPACE_SOCKET_LISTS;
        self.pin_socket_list(program::LIST_TCP, "tcp", tcp, &btf)?;
        self.pin_socket_list(program::LIST_UDP, "udp", udp, &btf)
    }

    fn pin_socket_list(&mut self, name: &'static str, kind: &str, pin: &str, btf: &Btf) -> Result<(), Error> {
        let programs = loaded(&mut self.programs)?;
        let iterator: &mut Iter = find(programs, name)?;
        match iterator.load(kind, btf) {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(source) => return Err(refused(name, source)),
        }
        let iterator: &Iter =
            programs.program(name).and_then(|program| program.try_into().ok()).ok_or_else(|| missing(name))?;
        let storage: Option<BorrowedFd<'_>> = match programs.map(map::SOCKETS) {
            Some(Map::SkStorage(sockets)) => Some(sockets.fd().as_fd()).filter(|_| name == program::LIST_SOCKETS),
            _ => return Err(missing(map::SOCKETS)),
        };
        let iterator = iterator.fd().map_err(|source| refused(name, source))?;
        let path = self.pin_path.join(pin);
        link::pin_iterator(iterator, storage, &path).map_err(|e| kernel(format!("pin {}", path.display()), e))
    }
}

fn refused(name: &str, source: ProgramError) -> Error {
    Error::SocketHooks { what: format!("load program {name}"), source: Box::new(source) }
}
