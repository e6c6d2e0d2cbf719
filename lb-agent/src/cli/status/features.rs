//! What this kernel can do of what Weir asks of one. Each feature says how that was found out; what cannot be found out (mostly for
//! want of a privilege) is unknown, not absent.

use std::io;

use aya::{
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::is_program_supported,
};
use serde::Serialize;

/// One feature of the kernel.
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
    /// How it was found out, or why it was not.
    pub how: String,
}

/// The kernel's release, such as `6.18.44`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Asks the kernel for each feature; loads two-instruction programs at most, attaches nothing.
pub fn probe() -> Vec<Feature> {
    vec![
        program("tc programs", ProgramType::SchedClassifier, true, "the packet path"),
        tcx(),
        program("XDP programs", ProgramType::Xdp, false, "the packet path on physical interfaces"),
        xdp_link(&release()),
        program("cgroup socket programs", ProgramType::CgroupSockAddr, false, "nothing in this version"),
    ]
}

fn program(name: &'static str, kind: ProgramType, required: bool, purpose: &'static str) -> Feature {
    let (supported, how) = match is_program_supported(kind) {
        Ok(supported) => (Some(supported), "a program was loaded".to_owned()),
        Err(error) => (None, reason(&error)),
    };
    Feature { name, supported, required, purpose, how }
}

fn tcx() -> Feature {
    let (supported, how) = match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => (Some(true), "lo was asked for its programs".to_owned()),
        Err(error) if errno(&error) == Some(libc::EINVAL) => (Some(false), "lo was asked for its programs".to_owned()),
        Err(error) => (None, reason(&error)),
    };
    Feature { name: "tcx links", supported, required: true, purpose: "attachment that outlives the agent", how }
}

/// The kernel cannot be asked for this without attaching something.
fn xdp_link(release: &str) -> Feature {
    let supported = version(release).map(|version| version >= (5, 9));
    let purpose = "XDP that outlives the agent";
    Feature { name: "XDP links", supported, required: false, purpose, how: "the kernel's version, 5.9 or newer".into() }
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
    fn an_error_number_is_found_under_its_wrappings() {
        let error = ProgramError::from(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(errno(&error), Some(libc::EPERM));
        assert!(reason(&error).contains("not permitted"), "{}", reason(&error));
    }
}
