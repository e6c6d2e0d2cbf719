//! The system calls on pinned links that aya does not make: what a cgroup's link is attached to, and another program in its place.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Commands of bpf(2).
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// The part of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The part for `BPF_LINK_CREATE` of an iterator.
#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_length: u32,
    padding: u32,
}

/// The part for `BPF_LINK_UPDATE`.
#[repr(C)]
#[derive(Default)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// `struct bpf_link_info` of a link at a cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    /// The program's id.
    pub(super) program: u32,
    padding: u32,
    /// The cgroup's id; 0 once the cgroup is gone.
    pub(super) cgroup: u64,
    attach_type: u32,
    padding2: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is the command's part of `union bpf_attr`, of the size that is given; what it points to lives as long.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes an iterator over a map's elements and pins it: opening the pin and reading is running it once.
pub(super) fn pin_iterator(program: impl AsFd, map: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<()> {
    const BPF_TRACE_ITER: u32 = 28;
    let map = map.map(|map| map.as_raw_fd() as u32);
    let mut create = Create {
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_TRACE_ITER,
        info: map.as_ref().map_or(0, |map| std::ptr::from_ref(map) as u64),
        info_length: map.map_or(0, |_| size_of::<u32>() as u32),
        ..Create::default()
    };
    let link = bpf(BPF_LINK_CREATE, &mut create)?;
    // SAFETY: a new descriptor that nobody else has.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Get { path: text.as_ptr() as u64, fd: link.as_raw_fd() as u32, flags: 0 };
    bpf(BPF_OBJ_PIN, &mut pin).map(drop)
}

/// A pinned link.
#[derive(Debug)]
pub(super) struct PinnedLink(OwnedFd);

impl PinnedLink {
    /// Opens a pin; `None` if there is none of this name.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let text = CString::new(path.as_os_str().as_bytes())?;
        let mut get = Get { path: text.as_ptr() as u64, ..Get::default() };
        match bpf(BPF_OBJ_GET, &mut get) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(fd) => Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the kernel says of it.
    pub(super) fn info(&self) -> io::Result<CgroupLinkInfo> {
        let mut info = CgroupLinkInfo::default();
        let mut get = GetInfo {
            fd: self.0.as_raw_fd() as u32,
            length: size_of::<CgroupLinkInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut get)?;
        Ok(info)
    }

    /// Puts another program into it; at no moment there is none.
    pub(super) fn update(&self, program: impl AsFd) -> io::Result<()> {
        let program = program.as_fd().as_raw_fd() as u32;
        let mut update = Update { link: self.0.as_raw_fd() as u32, program, ..Update::default() };
        bpf(BPF_LINK_UPDATE, &mut update).map(drop)
    }
}
