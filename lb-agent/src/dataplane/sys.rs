//! The few system calls that aya does not make: mapping a map into memory, waiting for a grace period, locking a folder.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    mem::{align_of, size_of},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};

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

    /// The elements below `end` that are not all zero.
    pub(super) fn nonzero(&self, end: usize) -> impl Iterator<Item = (u32, T)> + '_ {
        const { assert!(align_of::<T>() >= align_of::<u64>()) };
        let words = size_of::<T>() / size_of::<u64>();
        let is_used = move |index: &usize| {
            // SAFETY: in bounds and aligned: an element is so many words.
            let word = |i: usize| unsafe { self.start.as_ptr().add(*index).cast::<u64>().add(i).read_volatile() };
            (0..words).any(|i| word(i) != 0)
        };
        (0..end.min(self.len)).filter(is_used).filter_map(|index| Some((index as u32, self.get(index)?)))
    }

    /// Zeroes every element that is not.
    pub(super) fn clear(&self) {
        for (index, _) in self.nonzero(self.len) {
            // SAFETY: in bounds; plain data, for which zeroes are valid.
            unsafe { self.start.as_ptr().add(index as usize).write_bytes(0, 1) };
        }
    }

    /// Writes one word of an element, at so many bytes from its start; the others may be changing meanwhile.
    pub(super) fn set_word(&self, index: usize, offset: usize, value: u64) {
        const { assert!(align_of::<T>() >= align_of::<u64>()) };
        assert!(offset.is_multiple_of(size_of::<u64>()) && offset < size_of::<T>(), "a word of an element");
        if index < self.len {
            // SAFETY: in bounds and aligned.
            unsafe { self.start.as_ptr().add(index).byte_add(offset).cast::<u64>().write_volatile(value) };
        }
    }

    /// One word of an element, at so many bytes from its start, that programs change atomically.
    pub(super) fn atomic(&self, index: usize, offset: usize) -> Option<&AtomicU32> {
        const { assert!(align_of::<T>() >= align_of::<u32>()) };
        assert!(offset.is_multiple_of(size_of::<u32>()) && offset < size_of::<T>(), "a word of an element");
        // SAFETY: in bounds and aligned, and mapped as long as `self` lives; here it is reached in this way only.
        (index < self.len)
            .then(|| unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(index).byte_add(offset).cast()) })
    }

    /// Adds to one word of an element, at so many bytes from its start, wrapping, while programs add to it.
    pub(super) fn add(&self, index: usize, offset: usize, value: u64) {
        const { assert!(align_of::<T>() >= align_of::<u64>()) };
        assert!(offset.is_multiple_of(size_of::<u64>()) && offset < size_of::<T>(), "a word of an element");
        if index < self.len {
            // SAFETY: in bounds and aligned; programs change it by atomic additions too.
            let word = unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(index).byte_add(offset).cast()) };
            word.fetch_add(value, Ordering::Relaxed);
        }
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

/// A per-CPU array. aya reads the number of CPUs from a file for each element, which takes longer than everything else about it.
#[derive(Debug)]
pub(super) struct PerCpu<T> {
    map: MapData,
    cpus: usize,
    element: PhantomData<T>,
}

impl<T: Pod> PerCpu<T> {
    /// An open per-CPU array whose elements are of type `T`.
    pub(super) fn new(map: MapData) -> io::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let size = map.info().map_err(io::Error::other)?.value_size() as usize;
        if size != size_of::<T>() || !size.is_multiple_of(8) {
            return Err(io::Error::other(format!("values have {size} bytes, expected {}", size_of::<T>())));
        }
        Ok(Self { map, cpus, element: PhantomData })
    }

    /// An element, as each CPU has it.
    pub(super) fn get(&self, index: u32) -> io::Result<Vec<T>> {
        const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
        let mut values: Vec<T> = Vec::with_capacity(self.cpus);
        self.call(BPF_MAP_LOOKUP_ELEM, index, values.as_mut_ptr().cast())?;
        // SAFETY: the kernel has written one value for each possible CPU; all bit patterns are valid.
        unsafe { values.set_len(self.cpus) };
        Ok(values)
    }

    /// Sets an element on every CPU.
    pub(super) fn set(&mut self, index: u32, value: T) -> io::Result<()> {
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
        let mut values = vec![value; self.cpus];
        self.call(BPF_MAP_UPDATE_ELEM, index, values.as_mut_ptr().cast())
    }

    /// `bpf(2)` on an element, with room for one value of each possible CPU.
    fn call(&self, command: libc::c_long, index: u32, values: *mut libc::c_void) -> io::Result<()> {
        /// The part of `union bpf_attr` that is about one element.
        #[repr(C)]
        struct Element {
            map: u32,
            zero: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let map = self.map.fd().as_fd().as_raw_fd() as u32;
        let attributes = Element { map, zero: 0, key: (&raw const index) as u64, value: values as u64, flags: 0 };
        // SAFETY: all pointers are valid for the call, and `values` has room for one value of each possible CPU.
        match unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of::<Element>()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
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
