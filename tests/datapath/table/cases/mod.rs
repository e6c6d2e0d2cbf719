//! The cases.

mod conversations;
mod edges;
mod errors;
mod full;
mod lives;
mod odd;
mod selection;
mod ways;

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
    let cases = [
        conversations::cases(),
        lives::cases(),
        errors::cases(),
        odd::cases(),
        ways::cases(),
        selection::cases(),
        full::cases(),
        edges::cases(),
    ]
    .concat();
    let names = cases.iter().map(|case| &case.name).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    cases
}
