//! The flood: a packet socket that sends as fast as one CPU lets it, for a bounded time.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use weir_tests::syn::Syns;

/// Frames between two looks at the clock.
const BATCH: u32 = 512;
/// How long a full socket may hold the generator up.
const PATIENCE: Duration = Duration::from_millis(100);

/// What became of the frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// Frames that the interface took.
    pub(crate) taken: u64,
    /// Frames that it refused: the other end had no room.
    pub(crate) refused: u64,
}

/// Sends for so long by an interface of the calling thread's namespace.
pub(crate) fn flood(interface: &str, syns: &mut Syns, time: Duration) -> Result<Sent> {
    // Protocol 0: nothing is received.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.bind(&link(if_nametoindex(interface)?)).with_context(|| format!("bind to {interface}"))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let (mut sent, end) = (Sent::default(), Instant::now() + time);
    while Instant::now() < end {
        for _ in 0..BATCH {
            match socket.send(syns.frame()) {
                Ok(_) => sent.taken += 1,
                Err(error) if is_refusal(&error) => sent.refused += 1,
                Err(error) => return Err(error).context("send a frame"),
            }
        }
    }
    Ok(sent)
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// The address of an interface itself.
fn link(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain data that fits into the storage of every address, which says so itself.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_ifindex = interface as i32;
    // SAFETY: the storage holds a `sockaddr_ll`, of that size.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}
