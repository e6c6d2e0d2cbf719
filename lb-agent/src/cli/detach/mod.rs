//! `weir detach`: ends the balancing on this node, or on every node of a cluster; nothing of Weir stays in the kernel.

pub mod everywhere;

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{Router, routing::get};
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Screen, host, status};
use crate::{
    dataplane::attach::{self, Detached},
    node::nexthop,
    telemetry::http,
};

/// `weir detach`.
#[derive(Clone, Debug, clap::Args)]
pub struct DetachArgs {
    /// Stays after that until told to stop, and answers /healthz and /readyz at this address: for pods
    #[arg(long, value_name = "ADDR")]
    pub hold: Option<SocketAddr>,
    /// Does so on every node instead: by turning the pods of this DaemonSet into ones that detach and hold
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "hold")]
    pub daemonset: Option<everywhere::Target>,
    /// How long all nodes together may take
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = humantime::parse_duration, requires = "daemonset")]
    pub timeout: Duration,
}

/// Does what was said.
pub fn run(args: &DetachArgs, pin_path: &Path, screen: &mut Screen<'_>) -> Result<(), Error> {
    match (args.hold, &args.daemonset) {
        (Some(hold), Some(target)) => {
            super::run::log_to_stderr();
            let done = runtime()?.block_on(everywhere::detach(target, hold, args.timeout));
            let done = done.map_err(|error| Error::in_two(&error.to_string(), "; "))?;
            screen.print(&format!("{done} nodes are detached\n"))
        }
        (Some(address), None) => {
            match detach(pin_path) {
                Ok(removed) => screen.print(&text(pin_path, &removed))?,
                // After a restart of the pod, or of the node.
                Err(Error::NotPinned { .. }) => screen.print("nothing is pinned\n")?,
                Err(error) => return Err(error),
            }
            runtime()?.block_on(hold(address))
        }
        _ => screen.print(&text(pin_path, &detach(pin_path)?)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Answers probes until told to stop.
async fn hold(address: SocketAddr) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = http::bind("--hold", address).await.map_err(|error| Error::in_two(&error.to_string(), "; "))?;
    let done = || get(async || "detached\n");
    let router = Router::new().route("/healthz", done()).route("/readyz", done());
    tokio::select! {
        result = axum::serve(listener, router) => Ok(result?),
        _ = terminate.recv() => Ok(()),
    }
}

/// Removes every program, link and map of a pin path, and the neighbours that are kept, unless an agent runs for it.
pub fn detach(pin_path: &Path) -> Result<Detached, Error> {
    host::check_bpffs(pin_path)?;
    let detached = attach::detach(pin_path)?;
    runtime()?.block_on(nexthop::release_all()).map_err(|error| Error::in_two(&error.to_string(), "; "))?;
    Ok(detached)
}

/// What was removed.
pub fn text(pin_path: &Path, removed: &Detached) -> String {
    let hooks = removed.hooks.iter().map(|hook| format!("removed {} from {}\n", hook.kind, status::interface(hook)));
    let sockets = removed.sockets.iter().map(|hook| format!("removed {} from {}\n", hook.name, status::cgroup(hook)));
    let mut text: String = hooks.chain(sockets).collect();
    text.push_str(&format!("removed {} maps and the folder {}\n", removed.maps, pin_path.display()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        attach::{Hook, HookKind},
        cgroup::SocketHook,
    };

    #[test]
    fn it_says_what_was_removed() {
        let hook =
            |interface: Option<&str>, kind| Hook { interface: interface.map(Into::into), index: 4, kind, program: 9 };
        let removed = Detached {
            hooks: vec![hook(Some("eth1"), HookKind::TcxIngress), hook(None, HookKind::XdpNative)],
            sockets: vec![SocketHook { name: "connect4", cgroup: 0, program: 3 }],
            maps: 19,
        };
        let expected = "\
removed tcx-ingress from eth1
removed xdp-native from #4
removed connect4 from a cgroup that is gone
removed 19 maps and the folder /sys/fs/bpf/weir
";
        assert_eq!(text(Path::new("/sys/fs/bpf/weir"), &removed), expected);
    }

    #[test]
    fn elsewhere_than_on_bpffs_nothing_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(detach(folder.path()), Err(Error::NotBpffs { .. })));
        assert!(folder.path().exists());
    }
}
