//! Attaching the programs to interfaces: the part of the kernel that is not maps.

use std::collections::BTreeSet;

use crate::{
    dataplane::{
        Error,
        attach::{Datapath, HookKind},
        bpf::{Bpf, Loading, Programs},
    },
    node::{Role, link::Link},
    telemetry::InterfaceStatus,
};

/// Attaches what an interface needs.
pub trait Attach {
    /// What loads the programs while the maps are used; none if they are loaded.
    fn loading(&mut self) -> Option<Loading>;
    /// Takes the programs that were loaded; an earlier agent's serve until they are attached.
    fn set_programs(&mut self, programs: Programs) -> Result<(), Error>;
    /// Moves the flows into a table of another size, if the programs are loaded for one; until [`Self::thaw`] no flow begins or ends.
    fn move_flows(&mut self) -> Result<(), Error>;
    /// Has flows begin and end again, once everything is attached.
    fn thaw(&mut self) -> Result<(), Error>;
    /// Attaches what an interface of this role needs, or brings it up to date, and says how.
    fn attach(&mut self, link: &Link, role: Role, datapath: Datapath) -> Result<InterfaceStatus, Error>;
    /// Detaches everything from an interface, which may be gone.
    fn let_go(&mut self, index: u32) -> Result<(), Error>;
    /// The same for all that an earlier agent has hooked and that are not in `keep`.
    fn let_go_of_others(&mut self, keep: &BTreeSet<u32>) -> Result<(), Error>;
    /// Chooses how packets reach local backends: up the stack, or redirected. What is attached follows when it is attached again.
    fn set_delivery(&mut self, stack: bool) -> Result<(), Error>;
}

impl Attach for Bpf {
    fn loading(&mut self) -> Option<Loading> {
        Self::loading(self)
    }

    fn set_programs(&mut self, programs: Programs) -> Result<(), Error> {
        Self::set_programs(self, programs)
    }

    fn move_flows(&mut self) -> Result<(), Error> {
        Self::move_flows(self)
    }

    fn thaw(&mut self) -> Result<(), Error> {
        Self::thaw(self)
    }

    fn attach(&mut self, link: &Link, role: Role, datapath: Datapath) -> Result<InterfaceStatus, Error> {
        let hooks = Self::attach(self, link, role, datapath)?;
        let mode = mode(&hooks);
        Ok(InterfaceStatus { interface: link.name.clone(), mode: mode.into(), why: why(role, datapath, mode).into() })
    }

    fn let_go(&mut self, index: u32) -> Result<(), Error> {
        Self::let_go(self, index)
    }

    fn let_go_of_others(&mut self, keep: &BTreeSet<u32>) -> Result<(), Error> {
        Self::let_go_of_others(self, keep)
    }

    fn set_delivery(&mut self, stack: bool) -> Result<(), Error> {
        Self::set_delivery(self, stack)
    }
}

fn mode(hooks: &[HookKind]) -> &'static str {
    match hooks {
        _ if hooks.contains(&HookKind::XdpNative) => "xdp",
        _ if hooks.contains(&HookKind::XdpGeneric) => "xdp-generic",
        _ => "tc",
    }
}

fn why(role: Role, datapath: Datapath, mode: &str) -> &'static str {
    match (role, datapath, mode) {
        (Role::Inside, ..) => "pods are behind it",
        (Role::Transit, ..) => "replies of remote backends may come by it",
        (Role::Uplink, Datapath::Auto, "tc") => "auto: no driver XDP here, or another program holds it",
        (Role::Uplink, Datapath::Auto, _) => "auto: its driver runs XDP",
        (Role::Uplink, ..) => "--datapath asks for it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_reasons() {
        let tc = [HookKind::TcxIngress, HookKind::TcxEgress];
        assert_eq!(mode(&tc), "tc");
        assert_eq!(mode(&[HookKind::XdpNative, tc[0], tc[1]]), "xdp");
        assert_eq!(mode(&[HookKind::XdpGeneric, tc[0]]), "xdp-generic");
        assert!(why(Role::Uplink, Datapath::Auto, "tc").starts_with("auto"));
        assert_eq!(why(Role::Uplink, Datapath::Tc, "tc"), "--datapath asks for it");
        assert_eq!(why(Role::Inside, Datapath::Auto, "tc"), "pods are behind it");
    }
}
