//! `weir drain` and `weir undrain`: no new connections for a backend on this node, whoever runs the agent and however often it restarts.

use std::collections::BTreeSet;

use lb_common::{BackendState, SocketKey};

use super::{Error, parse, view::View};

/// `weir drain`.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// The backend: ADDR:PORT[/PROTO], TCP if not said.
    #[arg(value_parser = parse::socket_key)]
    pub backend: SocketKey,
}

/// Fails unless the backend may be drained: it serves a Service, or served one and still has connections.
pub fn check_drain(view: &View, backend: SocketKey) -> Result<(), Error> {
    if view.backends().any(|(_, known)| known.key() == backend) {
        return Ok(());
    }
    let known: BTreeSet<SocketKey> = view
        .backends()
        .filter(|(_, known)| known.state != BackendState::Removed as u8)
        .map(|(_, known)| known.key())
        .collect();
    Err(Error::UnknownBackend { backend, known: known.iter().map(ToString::to_string).collect() })
}

/// Fails unless the backend is drained.
pub fn check_undrain(drains: &BTreeSet<SocketKey>, backend: SocketKey) -> Result<(), Error> {
    if drains.contains(&backend) {
        return Ok(());
    }
    Err(Error::NotDrained { backend, known: drains.iter().map(ToString::to_string).collect() })
}

/// What `weir drain` says.
pub fn drained(view: &View, backend: SocketKey, agent: bool) -> String {
    let active: u64 = view
        .backends()
        .filter(|(_, known)| known.key() == backend)
        .map(|(index, _)| view.counters(index).load.open())
        .sum();
    let remain = match active {
        0 => "it has no active connection".to_owned(),
        1 => "1 active connection remains until it ends".to_owned(),
        _ => format!("{active} active connections remain until they end"),
    };
    format!("{backend} drained: {remain}\n{}", effect(agent))
}

/// What `weir undrain` says.
pub fn undrained(backend: SocketKey, agent: bool) -> String {
    format!("{backend} takes new connections again, by its weight\n{}", effect(agent))
}

const fn effect(agent: bool) -> &'static str {
    if agent { "" } else { "no agent is running: this takes effect when `weir run` starts\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::sample::{self, key};

    #[test]
    fn known_backends_may_be_drained_and_say_what_remains() {
        let view = sample::view();
        check_drain(&view, key("10.1.0.1:8080")).unwrap();
        assert_eq!(
            drained(&view, key("10.1.0.1:8080"), true),
            "10.1.0.1:8080/TCP drained: 3 active connections remain until they end\n"
        );
        assert_eq!(
            drained(&view, key("10.1.0.3:8080"), true),
            "10.1.0.3:8080/TCP drained: 1 active connection remains until it ends\n"
        );
    }

    #[test]
    fn an_unknown_backend_lists_the_known() {
        let error = check_drain(&sample::view(), key("10.1.0.1:8080/UDP")).unwrap_err();
        assert_eq!(error.to_string(), "10.1.0.1:8080/UDP is no backend of this node");
        let remedy = error.remedy();
        assert!(remedy.contains("10.1.0.1:8080/TCP") && remedy.contains("10.1.0.9:53/UDP"), "{remedy}");
        assert!(!remedy.contains("10.1.0.3"), "a removed one is no offer: {remedy}");
    }

    #[test]
    fn only_what_is_drained_is_undrained() {
        let drains = BTreeSet::from([key("10.1.0.1:8080")]);
        check_undrain(&drains, key("10.1.0.1:8080")).unwrap();
        let error = check_undrain(&drains, key("10.1.0.2:8080")).unwrap_err();
        assert_eq!(error.to_string(), "10.1.0.2:8080/TCP is not drained");
        assert!(error.remedy().contains("10.1.0.1:8080/TCP"));
    }

    #[test]
    fn without_an_agent_it_says_when_it_takes_effect() {
        let text = undrained(key("10.1.0.1:8080"), false);
        assert!(text.ends_with("no agent is running: this takes effect when `weir run` starts\n"), "{text}");
        assert!(!undrained(key("10.1.0.1:8080"), true).contains("no agent"));
    }
}
