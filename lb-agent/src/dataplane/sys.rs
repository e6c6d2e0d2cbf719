//! The few system calls that aya does not make: mapping a map into memory, waiting for a grace period, locking a folder.

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    ptr::NonNull,
};

use aya::Pod;

/// An array map (`BPF_F_MMAPABLE`) as memory. Programs change it meanwhile, so elements are copied out, never borrowed.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the memory belongs to the mapping, not to a thread, and is only reached by volatile copies.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps the `len` elements of an array map.
    pub(super) fn new(map: impl AsFd, len: usize) -> io::Result<Self> {
        let bytes = Self::bytes(len);
        // SAFETY: a new shared mapping of a valid descriptor; the kernel checks its length against the map's.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { start, len })
    }

    /// Arrays are mapped with elements of a multiple of eight bytes.
    fn bytes(len: usize) -> usize {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        len * size_of::<T>()
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A copy of an element.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        // SAFETY: in bounds; `Pod` has no invalid patterns.
        (index < self.len).then(|| unsafe { self.start.as_ptr().add(index).read_volatile() })
    }

    /// Writes an element; `false` if there is none of this index.
    pub(super) fn set(&self, index: usize, value: T) -> bool {
        if index < self.len {
            // SAFETY: in bounds.
            unsafe { self.start.as_ptr().add(index).write_volatile(value) };
        }
        index < self.len
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

/// Waits until every program that runs now has ended: `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU (membarrier(2)).
pub(super) fn grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the exclusive lock of a folder for as long as the file lives; `None` if somebody else has it.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an existing path is on a BPF file system.
pub(crate) fn is_bpffs(existing: &Path) -> io::Result<bool> {
    /// `BPF_FS_MAGIC` of `linux/magic.h`: 32 bits wide, the field that has it as wide as the machine's word.
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    Ok(rustix::fs::statfs(existing)?.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// The path, or the nearest folder above it that exists.
pub(crate) fn nearest_existing(path: &Path) -> &Path {
    let mut candidates = path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
    candidates.find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."))
}

/// The index of an interface of this network namespace.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The name of an interface of this network namespace.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: `name` has the size the call asks for.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) }.is_null() {
        return None;
    }
    std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// The id of the XDP program at an interface of this network namespace.
pub(super) fn xdp_program(interface: &str) -> Option<u32> {
    use futures::TryStreamExt;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
    let name = interface.to_owned();
    // Netlink here is asynchronous, this caller is not, and may itself be called from a runtime.
    let ask = move || -> Option<u32> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().ok()?;
            tokio::spawn(connection);
            let link = handle.link().get().match_name(name).execute().try_next().await.ok()??;
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => xdp.into_iter().find_map(|x| match x {
                    LinkXdp::ProgId(id) => Some(id),
                    _ => None,
                }),
                _ => None,
            })
        })
    };
    std::thread::scope(|scope| scope.spawn(ask).join().ok()?)
}
