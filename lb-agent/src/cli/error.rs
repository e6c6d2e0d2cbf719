//! Why a command failed: each error is one line of cause (`Display`) and one line of remedy.

use std::{io, path::PathBuf};

use lb_common::SocketKey;

use crate::dataplane;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pin path cannot hold pins.
    #[error("{path} is not on a bpf file system")]
    NotBpffs {
        /// The pin path.
        path: PathBuf,
    },
    /// Nothing is pinned.
    #[error("no Weir maps are pinned in {path}")]
    NotPinned {
        /// The pin path.
        path: PathBuf,
    },
    /// The pinned maps are of another version.
    #[error("the maps pinned in {path} have layout {found}, this program knows layout {known}")]
    Layout {
        /// The pin path.
        path: PathBuf,
        /// Their layout.
        found: String,
        /// Ours.
        known: u32,
    },
    /// The kernel refused for want of a privilege.
    #[error("{what}: permission denied")]
    Privilege {
        /// What was tried.
        what: String,
    },
    /// The maps could not be read or written.
    #[error(transparent)]
    Dataplane(dataplane::Error),
    /// No map has this name.
    #[error("there is no map {name:?}")]
    UnknownMap {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// No frontend has this address.
    #[error("{frontend} is no frontend of this node")]
    UnknownFrontend {
        /// What was asked for.
        frontend: SocketKey,
        /// What there is.
        known: Vec<String>,
    },
    /// No backend has this address.
    #[error("{backend} is no backend of this node")]
    UnknownBackend {
        /// What was asked for.
        backend: SocketKey,
        /// What there is.
        known: Vec<String>,
    },
    /// Not marked as drained.
    #[error("{backend} is not drained")]
    NotDrained {
        /// What was asked for.
        backend: SocketKey,
        /// What is.
        known: Vec<String>,
    },
    /// The client's family differs from the frontend's.
    #[error("a client {client} cannot reach the frontend {frontend}: one is IPv4, the other IPv6")]
    Family {
        /// `--from`.
        client: std::net::IpAddr,
        /// The frontend.
        frontend: SocketKey,
    },
    /// It is not known where a client is.
    #[error("the routes of this node cannot be read: {0}")]
    Routes(#[source] crate::node::Error),
    /// A command needs the agent, which does not answer.
    #[error("no agent answers for {path}: {reason}")]
    NoAgent {
        /// The pin path.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The agent has no such policy.
    #[error("the agent knows no policy {name:?}")]
    UnknownPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Several namespaces have a policy of this name.
    #[error("policy {name:?} is in several namespaces: {}", namespaces.join(", "))]
    AmbiguousPolicy {
        /// What was asked for.
        name: String,
        /// Where it is.
        namespaces: Vec<String>,
    },
    /// The agent's answer is not what this version understands.
    #[error("the agent's answer to {path} is not understood: {reason}")]
    Answer {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An agent holds the pin path.
    #[error("an agent is running for {path}{}", pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    AgentRunning {
        /// The pin path.
        path: PathBuf,
        /// The agent's process, where `/proc/locks` shows it.
        pid: Option<u32>,
    },
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing was fitted.
    #[error(transparent)]
    Fit(#[from] super::fit::FitError),
    /// `weir run` failed.
    #[error("{cause}")]
    Run {
        /// Why.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// The output could not be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// The output could not be put into the wanted form.
    #[error("writing the output as {format}: {reason}")]
    Format {
        /// `json` or `yaml`.
        format: &'static str,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// What to do about it, in one line.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotBpffs { .. } => "mount one (`mount -t bpf bpf /sys/fs/bpf`); `ip netns exec` hides it: enter a namespace with `nsenter --net=/run/netns/NAME`".into(),
            Self::NotPinned { .. } => "start `weir run`, or name the folder it uses with --pin-path".into(),
            Self::Layout { .. } => "use the `weir` that made them, or `weir detach` (which ends their connections)".into(),
            Self::Privilege { .. } => "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
            Self::Dataplane(_) => "`weir status` shows what is loaded; if the maps are of another version, use the `weir` that made them".into(),
            Self::UnknownMap { known, .. } => format!("name one of: {}", known.join(", ")),
            Self::UnknownFrontend { known, .. } => known_list("`weir get services` lists them", known),
            Self::UnknownBackend { known, .. } => known_list("`weir get backends` lists them", known),
            Self::NotDrained { known, .. } => known_list("`weir map dump drains` lists what is drained", known),
            Self::Family { .. } => "give --from an address of the frontend's family".into(),
            Self::Routes(_) => "run in the node's network namespace; --via socket needs no routes".into(),
            Self::NoAgent { .. } => "start `weir run`, or name its folder with --pin-path".into(),
            Self::UnknownPolicy { known, .. } => known_list("`weir get policies` lists them", known),
            Self::AmbiguousPolicy { .. } => "choose one with -n NAMESPACE".into(),
            Self::Answer { .. } => "use the `weir` of the agent's version".into(),
            Self::AgentRunning { .. } => "stop that agent first, or name another folder with --pin-path".into(),
            Self::File { .. } => "check that it exists and may be read".into(),
            Self::Fit(error) => error.remedy(),
            Self::Run { remedy, .. } => remedy.clone(),
            Self::Output(_) => "check where the output goes".into(),
            Self::Format { .. } => "try another -o".into(),
        }
    }

    /// An error whose text has both its cause and, after the last such mark, its remedy.
    pub(super) fn in_two(text: &str, mark: &str) -> Self {
        let (cause, remedy) = text.rsplit_once(mark).unwrap_or((text, "look at `weir status`"));
        Self::Run { cause: cause.into(), remedy: remedy.into() }
    }

    /// Whether the reader of our output has gone, as under `weir get ... | head`: no error of ours.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Names at most five of what there is.
fn known_list(hint: &str, known: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = known.len().saturating_sub(SHOWN);
    let shown = known.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match (known.is_empty(), more) {
        (true, _) => format!("{hint}; there are none"),
        (false, 0) => format!("{hint}; known: {shown}"),
        (false, more) => format!("{hint}; known: {shown} and {more} more"),
    }
}

impl From<dataplane::Error> for Error {
    fn from(error: dataplane::Error) -> Self {
        match error {
            dataplane::Error::NotPinned { path } => Self::NotPinned { path },
            dataplane::Error::NotBpffs { path } => Self::NotBpffs { path },
            dataplane::Error::AgentRunning { path } => Self::AgentRunning { pid: super::host::agent(&path), path },
            dataplane::Error::Abi { path, found, known } => Self::Layout { path, found, known },
            dataplane::Error::Map { map, operation, source }
                if matches!(source.kind(), io::ErrorKind::PermissionDenied) =>
            {
                Self::Privilege { what: format!("map {map}: {operation}") }
            }
            dataplane::Error::NoObject | dataplane::Error::NoInterface { .. } | dataplane::Error::XdpHeld { .. } => {
                Self::in_two(&error.to_string(), ": ")
            }
            dataplane::Error::Unsupported { .. } => Self::in_two(&error.to_string(), "; "),
            other => Self::Dataplane(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_shown_but_not_all_of_a_long_list() {
        let names = |n: usize| (0..n).map(|i| format!("b{i}")).collect::<Vec<_>>();
        assert_eq!(known_list("look", &names(0)), "look; there are none");
        assert_eq!(known_list("look", &names(2)), "look; known: b0, b1");
        assert_eq!(known_list("look", &names(7)), "look; known: b0, b1, b2, b3, b4 and 2 more");
    }

    #[test]
    fn a_refused_map_is_a_missing_privilege() {
        let refused = dataplane::Error::Map {
            map: "flows",
            operation: "open",
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let error = Error::from(refused);
        assert_eq!(error.to_string(), "map flows: open: permission denied");
        assert!(error.remedy().contains("CAP_BPF"));
    }

    #[test]
    fn errors_with_a_remedy_of_their_own_are_split() {
        let interface = "eth9".to_owned();
        for (error, remedy) in [
            (dataplane::Error::NoObject, "build it"),
            (dataplane::Error::NoInterface { interface: interface.clone() }, "name one of `ip link`"),
            (dataplane::Error::XdpHeld { interface, holder: "other (id 3)".into() }, "detach that"),
            (
                dataplane::Error::Unsupported { what: "load x".into(), source: Box::new(io::Error::other("no: way")) },
                "Weir needs Linux",
            ),
        ] {
            let error = Error::from(error);
            assert!(error.remedy().starts_with(remedy), "{error} / {}", error.remedy());
        }
    }

    #[test]
    fn cause_and_remedy_are_one_line_each() {
        let errors = [
            Error::NotBpffs { path: "/x".into() },
            Error::NotPinned { path: "/x".into() },
            Error::AgentRunning { path: "/x".into(), pid: Some(7) },
            Error::Routes(io::Error::other("no").into()),
            Error::UnknownMap { name: "m".into(), known: vec!["flows"] },
        ];
        for error in errors {
            assert!(!error.to_string().contains('\n'));
            assert!(!error.remedy().is_empty() && !error.remedy().contains('\n'));
        }
        assert_eq!(
            Error::AgentRunning { path: "/x".into(), pid: Some(7) }.to_string(),
            "an agent is running for /x (process 7)"
        );
    }
}
