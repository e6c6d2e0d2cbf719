//! What this node has of what Weir asks of one: of its kernel, its settings and the capabilities that this process has on it. Each
//! feature says how that was found out; what cannot be found out (mostly for want of a privilege) is unknown, not absent.

use std::{io, path::Path};

use aya::{
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::is_program_supported,
};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use crate::{
    agent::sockets::{self, CgroupError, SocketLb},
    node::{check_forwarding, diag, namespaces},
};

/// What a kernel without one of these needs.
const NEWER: &str = "Linux 6.6 or newer is needed";

/// The capabilities: what each is for, and whether nothing goes without it.
const CAPABILITIES: [(&str, CapabilitySet, bool, &str); 5] = [
    ("CAP_BPF", CapabilitySet::BPF, true, "loading programs, reading and writing maps"),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, true, "attaching programs, neighbours, ending sockets"),
    ("CAP_PERFMON", CapabilitySet::PERFMON, true, "what the verifier allows the programs"),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW, false, "announcing addresses"),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN, false, "entering pods' network namespaces, listing programs by id"),
];

/// One thing that Weir asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there; null if that cannot be found out.
    pub supported: Option<bool>,
    /// Whether Weir can do nothing without it.
    pub required: bool,
    /// What Weir uses it for.
    pub purpose: &'static str,
    /// What helps where it is not there.
    pub remedy: &'static str,
    /// How it was found out, or why it was not.
    pub how: String,
}

/// The kernel's release, such as `6.18.44`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Asks the kernel for each feature; loads two-instruction programs at most, attaches nothing.
pub fn probe() -> Vec<Feature> {
    let mut all = vec![
        program("tc programs", ProgramType::SchedClassifier, true, "the packet path"),
        tcx(),
        program("XDP programs", ProgramType::Xdp, false, "the packet path on physical interfaces"),
        xdp_link(&release()),
        program("cgroup socket programs", ProgramType::CgroupSockAddr, false, "balancing at the socket"),
        enter(),
        end(),
        cgroup(),
        forwarding("IPv4 forwarding", Path::new("/proc"), true),
        forwarding("IPv6 forwarding", Path::new("/proc"), false),
    ];
    let held = capabilities(None).map(|sets| sets.effective);
    all.extend(CAPABILITIES.map(|(name, one, required, purpose)| capability(name, one, required, purpose, &held)));
    all
}

fn capability(
    name: &'static str,
    one: CapabilitySet,
    required: bool,
    purpose: &'static str,
    held: &Result<CapabilitySet, rustix::io::Errno>,
) -> Feature {
    let (supported, how) = match held {
        Ok(held) => (Some(held.contains(one)), "this process was looked at".to_owned()),
        Err(error) => (None, error.to_string()),
    };
    Feature { name, supported, required, purpose, remedy: "run as root, or add it to the container", how }
}

/// Where the agent attaches its socket programs unless it is told so.
fn cgroup() -> Feature {
    let (supported, how) = match sockets::resolve(Some(SocketLb::All), None) {
        Ok(config) => (Some(true), config.cgroup.map(|path| path.display().to_string()).unwrap_or_default()),
        Err(error @ CgroupError::OtherNamespace { .. }) => (None, error.to_string()),
        Err(error) => (Some(false), error.to_string()),
    };
    let remedy = "mount the cgroup v2 file system, or use --cgroup or --socket-lb off";
    Feature { name: "cgroup v2", supported, required: false, purpose: "balancing at the socket", remedy, how }
}

/// The agent refuses to start without it once a frontend has this family.
fn forwarding(name: &'static str, proc: &Path, v4: bool) -> Feature {
    let (supported, how) = match check_forwarding(proc, v4, !v4) {
        Ok(()) => (Some(true), "its sysctl was read".to_owned()),
        Err(crate::node::Error::NotForwarding { .. }) => (Some(false), "its sysctl was read".to_owned()),
        Err(error) => (None, error.to_string()),
    };
    let remedy = match v4 {
        true => "sysctl -w net.ipv4.ip_forward=1",
        false => "sysctl -w net.ipv6.conf.all.forwarding=1",
    };
    Feature { name, supported, required: false, purpose: "sending packets on", remedy, how }
}

/// Without it pods are not told apart at the socket, and sockets of removed backends stay open.
fn enter() -> Feature {
    let entered = namespaces::can_enter();
    let how =
        if entered { "this one was entered".into() } else { "this one could not be entered: CAP_SYS_ADMIN".into() };
    let (name, purpose) = ("network namespaces", "pods' addresses at the socket, and ending their sockets");
    Feature { name, supported: entered.then_some(true), required: false, purpose, remedy: "add CAP_SYS_ADMIN", how }
}

fn end() -> Feature {
    let (supported, how) = match diag::can_end() {
        Ok(supported) => (Some(supported), "a socket that is not there was ended".to_owned()),
        Err(error) => (None, error.to_string()),
    };
    let (name, purpose) = ("SOCK_DESTROY", "ending sockets whose backend is gone");
    Feature { name, supported, required: false, purpose, remedy: NEWER, how }
}

fn program(name: &'static str, kind: ProgramType, required: bool, purpose: &'static str) -> Feature {
    let (supported, how) = match is_program_supported(kind) {
        Ok(supported) => (Some(supported), "a program was loaded".to_owned()),
        Err(error) => (None, reason(&error)),
    };
    Feature { name, supported, required, purpose, remedy: NEWER, how }
}

fn tcx() -> Feature {
    let (supported, how) = match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => (Some(true), "lo was asked for its programs".to_owned()),
        Err(error) if errno(&error) == Some(libc::EINVAL) => (Some(false), "lo was asked for its programs".to_owned()),
        Err(error) => (None, reason(&error)),
    };
    let purpose = "attachment that outlives the agent";
    Feature { name: "tcx links", supported, required: true, purpose, remedy: NEWER, how }
}

/// The kernel cannot be asked for this without attaching something.
fn xdp_link(release: &str) -> Feature {
    let supported = version(release).map(|version| version >= (5, 9));
    let purpose = "XDP that outlives the agent";
    let how = "the kernel's version, 5.9 or newer".into();
    Feature { name: "XDP links", supported, required: false, purpose, remedy: NEWER, how }
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn reason(error: &ProgramError) -> String {
    errno(error).map_or_else(|| error.to_string(), |code| io::Error::from_raw_os_error(code).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        for (release, expected) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.9.0", Some((5, 9))),
            ("6.1-rc3", Some((6, 1))),
            ("6", None),
            ("six.one", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn xdp_links_came_with_5_9() {
        assert_eq!(xdp_link("5.8.18").supported, Some(false));
        assert_eq!(xdp_link("5.9.0").supported, Some(true));
        assert_eq!(xdp_link("?").supported, None);
    }

    #[test]
    fn what_a_node_lacks_names_its_remedy() {
        let proc = tempfile::tempdir().unwrap();
        let file = proc.path().join("sys/net/ipv4/ip_forward");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert_eq!(forwarding("f", proc.path(), true).supported, None);
        for (value, supported) in [("0", false), ("1", true)] {
            std::fs::write(&file, value).unwrap();
            let feature = forwarding("f", proc.path(), true);
            assert_eq!((feature.supported, feature.remedy), (Some(supported), "sysctl -w net.ipv4.ip_forward=1"));
        }
        let held = Ok(CapabilitySet::BPF);
        assert_eq!(capability("a", CapabilitySet::BPF, true, "", &held).supported, Some(true));
        assert_eq!(capability("a", CapabilitySet::NET_ADMIN, true, "", &held).supported, Some(false));
    }

    #[test]
    fn an_error_number_is_found_under_its_wrappings() {
        let error = ProgramError::from(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(errno(&error), Some(libc::EPERM));
        assert!(reason(&error).contains("not permitted"), "{}", reason(&error));
    }
}
