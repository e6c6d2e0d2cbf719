//! A program of somebody else on an interface: the smallest XDP program there is, loaded and attached by bare system calls.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// The foreign program's name.
pub const NAME: &str = "other_xdp";

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// The attached program; dropping it detaches it.
#[derive(Debug)]
pub struct ForeignXdp {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// `bpf_attr` of BPF_PROG_LOAD up to `prog_name`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// `bpf_attr` of BPF_LINK_CREATE up to `flags`.
#[repr(C)]
struct Link {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl ForeignXdp {
    /// Attaches it to an interface, in native mode where the driver has one.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let interface = CString::new(interface)?;
        namespace.enter(|| attach(&interface))?.context("attach a foreign XDP program")
    }
}

fn attach(interface: &CString) -> io::Result<ForeignXdp> {
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    load.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    let program = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the pointer is to a string that ends with 0.
    let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let link = Link { program: program.as_raw_fd() as u32, interface: index, attach_type: BPF_XDP, flags: 0 };
    let link = bpf(BPF_LINK_CREATE, &link)?;
    Ok(ForeignXdp { _program: program, _link: link })
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are a prefix of the kernel's bpf_attr of this command, of the size given; what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new file descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
