//! The cases.

mod conversations;
mod echo;
mod edges;
mod errors;
mod forwarded;
mod fragments;
mod full;
mod inside;
mod limits;
mod lives;
mod neighbors;
mod odd;
mod refused;
mod requests;
mod selection;
mod stack;
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
        fragments::cases(),
        forwarded::cases(),
        edges::cases(),
        echo::cases(),
        inside::cases(),
        limits::cases(),
        refused::cases(),
        neighbors::cases(),
        requests::cases(),
    ]
    .concat();
    named_once(&cases);
    cases
}

/// Every case for programs that deliver by the stack.
pub(crate) fn by_stack() -> Vec<Case> {
    let cases = stack::cases();
    named_once(&cases);
    cases
}

fn named_once(cases: &[Case]) {
    let names = cases.iter().map(|case| &case.name).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
}
