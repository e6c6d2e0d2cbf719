//! What the node's kernel is set to.

use std::path::Path;

use super::Error;

/// Whether the kernel forwards what Weir asks it to route: without it, its routing table is closed to programs.
pub fn check_forwarding(proc: &Path, v4: bool, v6: bool) -> Result<(), Error> {
    let all = [
        (v4, "sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (v6, "sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    for (_, file, sysctl) in all.into_iter().filter(|(needed, ..)| *needed) {
        let path = proc.join(file);
        let shown = path.display().to_string();
        let value = std::fs::read_to_string(&path).map_err(|source| Error::Sysctl { path: shown.clone(), source })?;
        if value.trim() == "0" {
            return Err(Error::NotForwarding { path: shown, value: value.trim().into(), sysctl });
        }
    }
    Ok(())
}

/// The kernel's own range of source ports.
pub fn local_port_range(proc: &Path) -> Result<(u16, u16), Error> {
    let path = proc.join("sys/net/ipv4/ip_local_port_range");
    let failed = |source| Error::Sysctl { path: path.display().to_string(), source };
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u16>().unwrap_or_default());
    Ok((numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_off_names_the_sysctl() {
        let proc = tempfile::tempdir().unwrap();
        let write = |file: &str, value: &str| {
            let path = proc.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        write("sys/net/ipv4/ip_forward", "1\n");
        write("sys/net/ipv6/conf/all/forwarding", "0\n");
        assert!(check_forwarding(proc.path(), true, false).is_ok());
        let error = check_forwarding(proc.path(), true, true).unwrap_err().to_string();
        assert!(error.ends_with("run: sysctl -w net.ipv6.conf.all.forwarding=1"), "{error}");
        assert!(local_port_range(proc.path()).unwrap_err().to_string().contains("ip_local_port_range"));
        write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        assert_eq!(local_port_range(proc.path()).unwrap(), (32768, 60999));
    }
}
