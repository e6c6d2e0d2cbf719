//! The list of connected sockets, as an iterator that the agent reads: brings the traffic of open connections up to date meanwhile.
//!
//! The kernel counts bytes and packets of a TCP connection itself, in a structure whose layout is its own affair: the agent looks up
//! where they are and sets it as constants.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::seq_file,
    helpers::generated::{bpf_seq_write, bpf_skc_to_tcp_sock},
};
use lb_common::{
    Traffic,
    socket::{Connection, OWNER_ESTABLISHED},
};
use lb_ebpf::{
    env::{Hook, Shared},
    socket,
};

use super::{env::Kernel, maps, sock::connection};

/// The kernel's `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    file: *mut seq_file,
}

/// The kernel's `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
pub(crate) struct Element {
    meta: *mut Meta,
    map: *mut c_void,
    socket: *mut c_void,
    value: *mut Connection,
}

/// An iterator's context.
struct Context(*mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// The kernel's `struct bpf_iter__tcp` and `struct bpf_iter__udp`, as far as they are the same.
#[repr(C)]
pub(crate) struct Listed {
    meta: *mut Meta,
    socket: *mut c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub(crate) extern "C" fn weir_list_sockets(element: *mut Element) -> i32 {
    let ctx = Context(element.cast());
    // SAFETY: the program's context.
    let (socket, value, meta) = unsafe {
        (read_volatile(&raw const (*element).socket), read_volatile(&raw const (*element).value), (*element).meta)
    };
    if socket.is_null() || value.is_null() {
        return 0;
    }
    if let Some(connection) = connection(socket) {
        bring_up_to_date(&ctx, socket, connection);
    }
    // SAFETY: the kernel's own sequence file, and a value of the size that is given.
    unsafe { bpf_seq_write((*meta).file, value.cast(), size_of::<Connection>() as u32) };
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub(crate) extern "C" fn weir_list_tcp(listed: *mut Listed) -> i32 {
    list(listed)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub(crate) extern "C" fn weir_list_udp(listed: *mut Listed) -> i32 {
    list(listed)
}

/// Lists one of all sockets of a network namespace, if it is connected to a frontend.
#[inline(always)]
fn list(listed: *mut Listed) -> i32 {
    let ctx = Context(listed.cast());
    // SAFETY: the program's context.
    let (socket, meta) = unsafe { (read_volatile(&raw const (*listed).socket), (*listed).meta) };
    if socket.is_null() {
        return 0;
    }
    let Some(connection) = connection(socket) else { return 0 };
    bring_up_to_date(&ctx, socket, connection);
    // SAFETY: the kernel's own sequence file, and a value of the size that is given.
    unsafe { bpf_seq_write((*meta).file, connection.ptr().cast(), size_of::<Connection>() as u32) };
    0
}

/// Counts what an open connection has carried.
#[inline(always)]
fn bring_up_to_date(ctx: &Context, socket: *mut c_void, connection: Shared<Connection>) {
    // SAFETY: in the storage of a socket that stays while the program runs; read once.
    let owner = unsafe { read_volatile(&raw const (*connection.ptr()).owner) };
    if owner & OWNER_ESTABLISHED != 0 {
        count(ctx, socket, connection);
    }
}

#[inline(always)]
fn count(ctx: &Context, socket: *mut c_void, connection: Shared<Connection>) {
    let at = [maps::tcp_bytes_acked(), maps::tcp_bytes_received(), maps::tcp_segs_out(), maps::tcp_segs_in()];
    if at[0] == 0 {
        return;
    }
    // SAFETY: a helper that checks its argument.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) }.cast::<u8>();
    if tcp.is_null() {
        return;
    }
    // SAFETY: fields of the kernel's structure, where it says they are.
    let total = unsafe {
        Traffic {
            bytes_in: read_volatile(tcp.add(at[0] as usize).cast::<u64>()),
            bytes_out: read_volatile(tcp.add(at[1] as usize).cast::<u64>()),
            packets_in: read_volatile(tcp.add(at[2] as usize).cast::<u32>()) as u64,
            packets_out: read_volatile(tcp.add(at[3] as usize).cast::<u32>()) as u64,
        }
    };
    let env = Kernel { ctx, interface: 0, hook: Hook::Egress };
    socket::count_traffic(&env, connection, &total);
}
