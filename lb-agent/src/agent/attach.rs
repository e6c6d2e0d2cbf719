//! Attaching the programs to interfaces: the part of the kernel that is not maps.

use crate::{
    dataplane::{
        Error,
        attach::{Datapath, HookKind, Role},
        bpf::Bpf,
    },
    telemetry::InterfaceStatus,
};

/// Attaches what an interface needs.
pub trait Attach {
    /// Attaches what an interface of this role needs, or brings it up to date, and says how.
    fn attach(&mut self, interface: &str, role: Role, datapath: Datapath) -> Result<InterfaceStatus, Error>;
}

impl Attach for Bpf {
    fn attach(&mut self, interface: &str, role: Role, datapath: Datapath) -> Result<InterfaceStatus, Error> {
        let hooks = Self::attach(self, interface, role, datapath)?;
        let mode = mode(&hooks);
        Ok(InterfaceStatus { interface: interface.into(), mode: mode.into(), why: why(role, datapath, mode).into() })
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
        (Role::Backend, ..) => "backends are behind it",
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
        assert_eq!(why(Role::Backend, Datapath::Auto, "tc"), "backends are behind it");
    }
}
