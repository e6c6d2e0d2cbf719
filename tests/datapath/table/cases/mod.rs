//! The cases.

mod conversations;

use lb_common::Protocol;
use lb_ebpf::env::Hook;

use super::{
    case::Case,
    net::{Family, Interface},
};

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Where packets of clients come.
pub(crate) const CLIENTS: (Hook, Interface) = (Hook::Ingress, Interface::Up0);

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [conversations::cases()].concat()
}
