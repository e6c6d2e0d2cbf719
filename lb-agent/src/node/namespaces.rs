//! The network namespaces of this machine, as far as they can be seen: who is in them, and work that has to be done inside.
//!
//! A thread of its own enters them (setns(2), CAP_SYS_ADMIN), because whoever enters one does not come back without another privilege.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Folders of named namespaces: iproute2's, and containerd's.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its file.
    pub path: PathBuf,
    /// Its cookie.
    pub cookie: u64,
    /// The address from which it speaks IPv4.
    pub v4: Option<IpAddr>,
    /// The same for IPv6.
    pub v6: Option<IpAddr>,
}

/// Every namespace that can be entered. Empty, not an error, where none may be.
pub fn all() -> Vec<Namespace> {
    all_with(|| ()).into_iter().map(|(namespace, ())| namespace).collect()
}

/// The same, each with what is seen from inside.
pub fn all_with<T: Send>(look: impl Fn() -> T + Sync) -> Vec<(Namespace, T)> {
    let visit = |path: &Path| {
        let namespace = Namespace { path: path.into(), cookie: cookie().ok()?, v4: source(true), v6: source(false) };
        Some((namespace, look()))
    };
    within(&files(), visit).into_iter().flatten().collect()
}

/// Runs a closure in each of these namespaces, on a thread of its own; leaves out what cannot be entered.
pub fn within<T: Send>(files: &[PathBuf], visit: impl Fn(&Path) -> T + Sync) -> Vec<T> {
    let work = || {
        let enter = |path: &PathBuf| {
            let file = File::open(path).ok()?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
            Some(visit(path))
        };
        files.iter().filter_map(enter).collect()
    };
    // A panic in there is a panic here.
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether namespaces can be entered.
pub fn can_enter() -> bool {
    !within(&["/proc/self/ns/net".into()], |_| ()).is_empty()
}

/// A file of each namespace that can be seen: named ones, and those of processes.
fn files() -> Vec<PathBuf> {
    let named = FOLDERS.iter().flat_map(|folder| entries(Path::new(folder)));
    let processes = entries(Path::new("/proc")).filter(|path| path.file_name().is_some_and(is_number));
    let mut known = BTreeSet::new();
    let files = named.chain(processes.map(|path| path.join("ns/net")));
    files.filter(|path| fs::metadata(path).is_ok_and(|m| known.insert((m.st_dev(), m.st_ino())))).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// The address from which this thread's namespace would speak to others: connecting a datagram socket sends nothing, and asks for the
/// route. The addresses asked for are for documentation (RFC 5737, RFC 3849): nobody has them.
fn source(v4: bool) -> Option<IpAddr> {
    let (any, far): (SocketAddr, SocketAddr) = match v4 {
        true => (([0, 0, 0, 0], 0).into(), ([192, 0, 2, 1], 9).into()),
        false => (([0_u16; 8], 0).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into()),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// The cookie of this thread's network namespace.
pub fn cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: an open socket, and a place of the length that is given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_namespace_has_a_cookie_and_a_file() {
        assert_ne!(cookie().unwrap(), 0);
        assert_eq!(cookie().unwrap(), cookie().unwrap());
        let own = fs::metadata("/proc/self/ns/net").unwrap().st_ino();
        assert!(files().iter().any(|path| fs::metadata(path).is_ok_and(|m| m.st_ino() == own)), "{:?}", files());
    }

    #[test]
    fn what_is_no_namespace_is_left_out() {
        assert_eq!(within(&["/dev/null".into(), "/gone".into()], |_| ()), []);
    }
}
