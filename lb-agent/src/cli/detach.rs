//! `weir detach`: ends the balancing on this node; nothing of Weir stays in the kernel.

use std::path::Path;

use super::{Error, host, status};
use crate::dataplane::attach::{self, Detached};

/// Removes every program, link and map of a pin path, unless an agent runs for it.
pub fn detach(pin_path: &Path) -> Result<Detached, Error> {
    host::check_bpffs(pin_path)?;
    Ok(attach::detach(pin_path)?)
}

/// What was removed.
pub fn text(pin_path: &Path, removed: &Detached) -> String {
    let hooks = removed.hooks.iter().map(|hook| format!("removed {} from {}\n", hook.kind, status::interface(hook)));
    let mut text: String = hooks.collect();
    text.push_str(&format!("removed {} maps and the folder {}\n", removed.maps, pin_path.display()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::attach::{Hook, HookKind};

    #[test]
    fn it_says_what_was_removed() {
        let hook =
            |interface: Option<&str>, kind| Hook { interface: interface.map(Into::into), index: 4, kind, program: 9 };
        let removed = Detached {
            hooks: vec![hook(Some("eth1"), HookKind::TcxIngress), hook(None, HookKind::XdpNative)],
            maps: 19,
        };
        let expected = "\
removed tcx-ingress from eth1
removed xdp-native from #4
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
