//! The only code that knows it is BPF: maps, the kernel's side of [`lb_ebpf::env::Env`], and a program per hook.

mod env;
mod maintenance;
mod maps;
mod reach;
mod sock;
mod sock_list;
mod sock_ops;
mod sock_requests;
mod tc;
mod vlan;
mod words;
mod xdp;
