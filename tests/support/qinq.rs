//! A link on which the client's packets carry two VLAN tags (IEEE 802.1ad): both its ends are taps of ours, between which a thread
//! puts the tags on and takes them off, as the switches of a provider do. The node has no VLAN interface: what it sends of its own accord
//! has no tag.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

/// The provider's tag, then the customer's.
const TAGS: [u8; 8] = [0x88, 0xa8, 0x20, 0x64, 0x81, 0x00, 0x60, 0xc8];
/// Bytes of the Ethernet addresses, behind which tags stand.
const ADDRESSES: usize = 12;
const LONGEST: usize = 2048;

/// The running link; dropping it ends it.
#[derive(Debug)]
pub struct Qinq {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Frames of the node with both tags as the client's have them, without any, and others.
    tagged: AtomicU64,
    bare: AtomicU64,
    odd: AtomicU64,
}

impl Qinq {
    /// Makes an interface of each namespace an end of the link, with these hardware addresses.
    pub fn new(client: (&Namespace, &str, &str), node: (&Namespace, &str, &str)) -> Result<Self> {
        let end = |(namespace, interface, address): (&Namespace, &str, &str)| -> Result<File> {
            let tap = namespace.enter(|| tap(interface))??;
            namespace.ip(&format!("link set {interface} address {address} mtu 1400 up"))?;
            Ok(tap)
        };
        let (client, node) = (end(client)?, end(node)?);
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let worker = thread::spawn(move || state.carry(&client, &node));
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Frames of the node since this was last asked: with both tags as the client's have them, and without any. Others are an error.
    pub fn from_node(&self) -> Result<[u64; 2]> {
        let odd = self.shared.odd.load(Ordering::Relaxed);
        ensure!(odd == 0, "{odd} frames of the node have other tags than the client's");
        Ok([&self.shared.tagged, &self.shared.bare].map(|count| count.swap(0, Ordering::Relaxed)))
    }
}

impl Drop for Qinq {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(self.worker.take().map(JoinHandle::join));
    }
}

impl Shared {
    fn carry(&self, client: &File, node: &File) {
        while !self.stop.load(Ordering::Relaxed) {
            wait([client, node]);
            // An end that cannot be read or written is one that goes away.
            drop(forward(client, node, |frame| drop(frame.splice(ADDRESSES..ADDRESSES, TAGS))));
            drop(forward(node, client, |frame| self.take_off(frame)));
        }
    }

    fn take_off(&self, frame: &mut Vec<u8>) {
        let tags = frame.get(ADDRESSES..ADDRESSES + TAGS.len()).unwrap_or_default();
        let is_tag = |kind: &[u8]| kind.starts_with(&TAGS[..2]) || kind.starts_with(&TAGS[4..6]);
        let count = if tags == TAGS {
            drop(frame.drain(ADDRESSES..ADDRESSES + TAGS.len()));
            &self.tagged
        } else if is_tag(tags) {
            &self.odd
        } else {
            &self.bare
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until a frame waits at an end, but not for long.
fn wait(ends: [&File; 2]) {
    const MILLISECONDS: libc::c_int = 50;
    let mut ends = ends.map(|end| libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: open files, and as many elements as the array has.
    unsafe { libc::poll(ends.as_mut_ptr(), ends.len() as libc::nfds_t, MILLISECONDS) };
}

/// Carries all frames that wait at an end to the other one.
fn forward(mut from: &File, mut to: &File, change: impl Fn(&mut Vec<u8>)) -> std::io::Result<()> {
    loop {
        let mut frame = vec![0; LONGEST];
        match from.read(&mut frame) {
            Ok(length) => frame.truncate(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        change(&mut frame);
        to.write_all(&frame)?;
    }
}

/// A new tap of the calling thread's namespace, which goes with its file.
fn tap(interface: &str) -> Result<File> {
    let tap = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let tap = tap.context("/dev/net/tun")?;
    // SAFETY: plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(interface.len() < request.ifr_name.len(), "{interface} is too long a name");
    for (to, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: an open file, and a request of the type that this call takes.
    let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(made == 0, "make {interface}: {}", std::io::Error::last_os_error());
    Ok(tap)
}
